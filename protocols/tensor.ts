/**
 * Secret tensors. A *share* [x] over Z_2^n: x0 + x1 = x. A *wire* <x>: m = x + r mod 2^n public to P0 and P1, r known to the helper, halves of r
 * with P0 and P1. Boolean tensors are the same with XOR in place of +. A tensor is flat; programs know its layout.
 *
 * What a process holds of it depends on its engine; absent parts are 0:
 *
 *   |           | share: lane | wire: lane | wire: mask               |
 *   | Evaluator | its half    | m          | its half of r, if dealt  |
 *   | Dealer    | -           | -          | r                        |
 *   | Fixed     | x           | x          | r                        |
 *
 * Lanes are u64 arrays in the engine's memory with arbitrary bits above n. Float and Fixed also keep `real`, the float64 value.
 */

export interface TensorSpec {
  readonly form: 'share' | 'wire';
  readonly size: number;
  /** n of the ring Z_2^n. */
  readonly bits: number;
  /** Fixed point: value v is the integer round(v 2^scale). */
  readonly scale: number;
  readonly boolean: boolean;
  /** The ring is meant to wrap: the consuming gate's domain bounds the value, not the ring. */
  readonly cyclic?: boolean;
}

export class Tensor implements TensorSpec {
  readonly form: 'share' | 'wire';
  readonly size: number;
  readonly bits: number;
  readonly scale: number;
  readonly boolean: boolean;
  readonly cyclic: boolean;
  lane = 0;
  mask = 0;
  /** Wires: the evaluators hold halves of the mask (root wires always; narrowed ones once dealt). Tracked alike by all engines. */
  halves = false;
  /** Opened wires: number of the opening, which names the mask's stream. */
  root = -1;
  real: Float64Array | undefined = undefined;

  constructor(spec: TensorSpec) {
    this.form = spec.form;
    this.size = spec.size;
    this.bits = spec.bits;
    this.scale = spec.scale;
    this.boolean = spec.boolean;
    this.cyclic = spec.cyclic ?? false;
  }

  /** Some of its elements, in place. A wire's part keeps the opening's number, not its place in that opening's stream: caches do not take it. */
  part(from: number, size: number): Tensor {
    const y = new Tensor({ form: this.form, size, bits: this.bits, scale: this.scale, boolean: this.boolean, cyclic: this.cyclic });
    y.lane = this.lane && this.lane + 8 * from;
    y.mask = this.mask && this.mask + 8 * from;
    y.halves = this.halves;
    y.root = this.root;
    y.real = this.real?.subarray(from, from + size);
    return y;
  }
}

export const share = (size: number, bits: number, scale: number): TensorSpec => ({ form: 'share', size, bits, scale, boolean: false });
export const wire = (size: number, bits: number, scale: number): TensorSpec => ({ form: 'wire', size, bits, scale, boolean: false });
export const booleanShare = (size: number, bits: number): TensorSpec => ({ form: 'share', size, bits, scale: 0, boolean: true });

/** A public constant: its integers, and where they lie in the engine's memory (0 where the engine has no use for them). */
export interface Constant<A extends ArrayBufferView = ArrayBufferView> {
  readonly pointer: number;
  readonly array: A;
}

/**
 * A private weight matrix W [cols, inner], integers at scale `fraction`, as a wire over Z_2^bits: m = W + r. Packed, bits / 8 bytes an element. `lane`:
 * at an evaluator its additive share of W (P0 m - r0, P1 -r1), at the dealer r, in Fixed W; `masked`: m, at the evaluators; `array`: W, for real numbers.
 */
export interface WeightWire {
  readonly cols: number;
  readonly inner: number;
  readonly fraction: number;
  readonly bits: 32 | 64;
  readonly masked: number;
  readonly lane: number;
  readonly array: Int32Array;
}

/** A public weight matrix [cols, inner] of int16 at scale `fraction`; `real` holds the unquantised weights where a reference run has them. */
export interface Matrix extends Constant<Int16Array> {
  readonly cols: number;
  readonly inner: number;
  readonly fraction: number;
  readonly real?: Float32Array;
}

/**
 * Fixed: the program on integers, without parties. Given a dealer's keys it replays its masks and halves and equals the protocol bit for bit, rounding
 * and ties included; it keeps a float64 shadow and fails loudly on any value that leaves its ring or a gate's domain. For calibration checks and tests.
 */
import type { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import type { FixedContext, Gate } from '../gates/gate.ts';
import { open } from '../gates/open.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import type { DealerKeys } from './dealer.ts';
import type { Program } from './effects.ts';
import type { SecretSource } from './engine.ts';
import { LocalEngine } from './local.ts';
import { highWords, Stream } from './streams.ts';

/** The dealer's keys that determine masks and halves, and the evaluators' public coins. */
export type FixedKeys = Pick<DealerKeys, 'mask0' | 'mask1' | 'dealt0' | 'tweak'> & { readonly coins: Uint8Array };

export class Fixed extends LocalEngine implements FixedContext {
  override readonly name = 'fixed';
  protected override readonly holds = { share: true, wire: true, mask: true, real: true, weights: true, tables: true };
  private readonly masks: readonly [Stream, Stream];
  private readonly halves: Stream;
  private readonly coinKey: number;
  private readonly next: (size: number) => Float64Array | undefined;
  private readonly emit: (values: Float64Array) => void;
  /** Told the range of every gate's operand that has a domain, and of every result in its ring: how far values stay from the edges. */
  onRange: ((what: string, layer: number, min: number, max: number, low: number, high: number) => void) | undefined;

  /** `next` gives the input values of each step, undefined where an answer ends early; `emit` takes its outputs. */
  constructor(o: { kernels: Kernels; arena: Arena; keys: FixedKeys; next: (size: number) => Float64Array | undefined; emit: (values: Float64Array) => void }) {
    super(o.kernels, o.arena, o.keys.tweak);
    this.masks = [new Stream(o.kernels, this.place(o.keys.mask0)), new Stream(o.kernels, this.place(o.keys.mask1))];
    this.halves = new Stream(o.kernels, this.place(o.keys.dealt0));
    this.coinKey = this.place(o.keys.coins);
    this.next = o.next;
    this.emit = o.emit;
  }

  override *input(size: number, scale: number, bits = 64): Program<Tensor> {
    return (yield* this.token(size, scale, bits))!;
  }

  override *token(size: number, scale: number, bits = 64): Program<Tensor | undefined> {
    const values = this.next(size);
    if (!values) return undefined;
    const x = this.tensor({ form: 'share', size, bits, scale, boolean: false }),
      lane = new BigInt64Array(this.kernels.memory.buffer, x.lane, size);
    for (let i = 0; i < size; i++) lane[i] = BigInt(Math.round(values[i]! * 2 ** scale));
    x.real!.set(values);
    return x;
  }

  override *output(x: Tensor): Program<void> {
    this.gateNumber++;
    this.emit(this.values(x));
  }

  /** The signed value of a tensor over its ring. */
  values(x: Tensor): Float64Array {
    const lane = new BigUint64Array(this.kernels.memory.buffer, x.lane, x.size);
    return Float64Array.from(lane, (v) => Number(BigInt.asIntN(x.bits, v)) / 2 ** x.scale);
  }

  override secretMatrix(shape: Pick<WeightWire, 'cols' | 'inner' | 'fraction' | 'bits'>, source: SecretSource): WeightWire {
    const array = source.matrix(),
      k = this.kernels;
    const lane = this.packed(source.elements, shape.bits, (dst, first, n) => {
      const values = new BigInt64Array(k.memory.buffer, dst, n);
      for (let i = 0; i < n; i++) values[i] = BigInt(array[first + i]!);
    });
    return { ...super.secretMatrix(shape, source), lane, array };
  }

  protected override loadWire(x: Tensor, source: SecretSource): void {
    const values = source.wire();
    new BigInt64Array(this.kernels.memory.buffer, x.lane, x.size).set(values);
    if (source.seeded) this.secretMask(x.mask, source, 0, x.bits, x.size);
    else this.kernels.fill(x.mask, 0, x.size);
    values.forEach((v, i) => (x.real![i] = Number(v) / 2 ** x.scale));
  }

  protected override *exchange(shares: readonly Tensor[], wires: readonly Tensor[]): Program<void> {
    wires.forEach((w, i) => {
      open.fixed(this.kernels, shares[i]!, w);
      w.real!.set(shares[i]!.real!);
      this.checkRing(open.name, w);
    });
  }

  protected override drawMasks(wires: readonly Tensor[]): void {
    this.drawWhole(this.masks, wires);
  }

  protected override run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void {
    inputs.forEach((x, i) => {
      const domain = gate.domain(params, inputs, i);
      if (domain && x.real) this.checkRange(gate.name, x, domain[0], domain[1], 'domain');
    });
    const top = this.mark();
    gate.fixed(this, params, inputs, outputs);
    this.release(top);
    gate.ideal(
      params,
      inputs.map((x) => x.real!),
      outputs.map((y) => y.real!),
    );
    outputs.forEach((y) => this.checkRing(gate.name, y));
  }

  protected override finishStep(): void {}

  protected override coins(): number {
    return this.coinKey;
  }

  // ---- see FixedContext -----------------------------------------------------------------------------------------------------------------
  readonly half = (dst: number, bits: number, n: number): void => this.halves.draw(dst, this.gateNumber, bits, n);

  readonly halfWide = (lo: number, hi: number, bits: number, n: number): void => {
    const top = this.mark();
    this.halves.drawWide(lo, hi, this.scratch(highWords(bits, n)), this.gateNumber, bits, n);
    this.release(top);
  };

  readonly masked = (dst: number, x: Tensor): void => {
    this.kernels.add(dst, x.lane, x.mask, x.size);
    this.kernels.reduce(dst, dst, x.bits, x.size);
  };

  private checkRing(step: string, x: Tensor): void {
    if (!x.boolean && !x.cyclic)
      this.checkRange(step, x, -(2 ** (x.bits - 1 - x.scale)), 2 ** (x.bits - 1 - x.scale), `ring of ${x.bits} bits at scale ${x.scale}`);
  }

  private checkRange(step: string, x: Tensor, low: number, high: number, what: string): void {
    let min = Infinity,
      max = -Infinity,
      bad: number | undefined;
    for (const v of x.real!) {
      if (v < min) min = v;
      if (v > max) max = v;
      if (!(v >= low && v < high)) bad ??= v;
    }
    this.onRange?.(`${step}, ${what}`, this.layer, min, max, low, high);
    if (bad !== undefined)
      throw new CachetError({
        code: 'range',
        party: 'fixed engine',
        step: `layer ${this.layer}, gate ${this.gateNumber}, ${step}`,
        what: `value outside its ${what}`,
        expected: `${low} <= v < ${high}`,
        got: String(bad),
        hint: 'prepare the model again with calibration text that covers this input',
      });
  }
}

/**
 * What every engine shares: programs call it, it makes the results' handles, keeps the running hash of (gate, shape) and the cost, and leaves the
 * data to the subclass. Program text is the same for all; so are the order of gates, their numbers (the nonces of all streams) and the cost.
 *
 * Memory is an arena: a program marks, computes a layer, releases; what outlives a layer (caches, the residual stream) is allocated before the mark.
 */
import type { Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { framedBytes } from '../frames.ts';
import { expTable, type ExpParams } from '../gates/expTable.ts';
import { fourier, type FourierParams } from '../gates/fourier.ts';
import type { Gate, DealtCost } from '../gates/gate.ts';
import { difference, rowSum, sum, type Linear } from '../gates/linear.ts';
import { mod } from '../gates/mod.ts';
import { mul, type Bilinear } from '../gates/mul.ts';
import { mul3, type Mul3 } from '../gates/mul3.ts';
import { maskShares, narrow } from '../gates/narrow.ts';
import { open } from '../gates/open.ts';
import { spline } from '../gates/spline.ts';
import { widen } from '../gates/widen.ts';
import { windowsIdeal, type WindowsParams } from '../gates/windows.ts';
import { share, Tensor, wire, type Constant, type TensorSpec, type WeightWire } from '../tensor.ts';
import { FLUSH_BYTES, type DesyncHash, type Program, type Turn, type TurnEffect } from './effects.ts';

/**
 * Cost of one step (the prefill, or one token), all parties together, headers included; `gates` splits the payload by gate. Dealt: what the dealer
 * sends; relayed: what P0 passes on to P1 of it, where the dealer sends what both need once. `parts`: payload, online and dealt, of the parts that the
 * program names; `partRounds`: their rounds.
 */
export interface StepCost {
  rounds: number;
  onlineBytes: number;
  dealtBytes: number;
  relayedBytes: number;
  gates: Map<string, { calls: number; online: number; dealt: number }>;
  parts: Map<string, number>;
  partRounds: Map<string, number>;
}

/** A tensor of a private model, as an artefact has it for one role: each part throws where the role does not have it. */
export interface SecretSource {
  readonly elements: number;
  /** Nonce of its masks' streams, whose keys are the seeds. */
  readonly index: number;
  /** m, little-endian elements of the ring's bytes. */
  masked(target: Uint8Array): void;
  /** Whether both seeds are there: an owner's values may come with those of one split, whose roundings Fixed then follows bit for bit. */
  readonly seeded: boolean;
  /** 32 bytes, from which that party's half of the mask is expanded. */
  seed(party: 0 | 1): Uint8Array;
  /** The values themselves, which the owner alone has. */
  matrix(): Int32Array;
  wire(): BigInt64Array;
}

/** Called after every gate, for tests: sees the tensors. */
export type Observer = (gate: number, name: string, outputs: readonly Tensor[], inputs: readonly Tensor[]) => void;

const NO_WEIGHTS = new Int16Array(0),
  NO_INTEGERS = new Int32Array(0);

/** What an engine holds of a step that it passes over. */
const NOTHING = { share: false, wire: false, mask: false, real: false, weights: false, tables: false };
/**
 * What a trace is told, of shapes and costs alone: after every gate, linear map and opening, and after every step. Bytes are those of `cost`: all parties
 * together, a gate's without headers. The owner of the hook has the clock; the engine calls it once for all tensors of an opening (`calls` of them).
 */
export interface Trace {
  gate(gate: number, name: string, layer: number, calls: number, elements: number, rounds: number, onlineBytes: number, dealtBytes: number): void;
  step(cost: StepCost): void;
}

export abstract class Engine {
  abstract readonly name: 'evaluator' | 'dealer' | 'fixed' | 'float' | 'meter';
  /** Which parts of tensors this engine holds; see tensor.ts. */
  protected abstract readonly holds: {
    readonly share: boolean;
    readonly wire: boolean;
    readonly mask: boolean;
    readonly real: boolean;
    readonly weights: boolean;
    readonly tables: boolean;
  };
  protected abstract readonly kernels: Kernels | undefined;
  observe: Observer | undefined;
  trace: Trace | undefined;
  /** Programs name values here (`note`), for calibration. */
  watch: ((name: string, x: Tensor) => void) | undefined;
  /** Layer that the program is in; for notes and error messages. */
  layer = 0;
  /** Part of the layer that the program is in, for StepCost.parts; '' where it names none. */
  part = '';
  readonly steps: StepCost[] = [];
  /** The dealer sends what both evaluators need to P0 alone, who relays it; what P0 and P1 need alone goes to each. */
  relay = false;
  /** The present step is passed over: gates are numbered, absorbed and counted, nothing is computed, sent or kept. */
  protected skipping = false;
  /** Of that: another engine over the same memory runs it. */
  protected following = false;
  /** Up to the first input, an attached engine finds what another one has placed. */
  protected attaching = false;
  protected gateNumber = 0;
  /** The gate or opening that the program is in. */
  protected readonly at = { layer: 0, gate: 0, name: '' };
  private hashLow = 0x9e3779b9 | 0;
  private hashHigh = 0x85ebca6b | 0;
  private step: StepCost = newStep();
  private dealt: [number, number] = [0, 0];

  private get has(): Engine['holds'] {
    return this.skipping ? NOTHING : this.holds;
  }

  // ---- memory -----------------------------------------------------------------------------------------------------------------
  protected abstract allocate(elements: number): number;
  abstract mark(): number;
  abstract release(mark: number): void;

  /** Places a public constant in the engine's memory, if it has use for it: 'weights' on shares, 'tables' wherever integers are computed. */
  constant<A extends ArrayBufferView>(kind: 'weights' | 'tables', array: A): Constant<A> {
    if (!this.kernels || !(kind === 'weights' ? this.has.weights : this.has.tables)) return { pointer: 0, array };
    const pointer = this.allocate(Math.ceil(array.byteLength / 8));
    if (this.attaching) return { pointer, array };
    new Uint8Array(this.kernels.memory.buffer, pointer, array.byteLength).set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return { pointer, array };
  }

  /** Public integer weights: read only by engines that use them, straight into the engine's memory, and once more for a shadow on real numbers. */
  weights(source: { readonly elements: number; copy(target: Uint8Array): void; read(): Int16Array }): Constant<Int16Array> {
    const { weights, real } = this.has,
      array = real ? source.read() : NO_WEIGHTS;
    if (!weights || !this.kernels) return { pointer: 0, array };
    const pointer = this.allocate(Math.ceil(source.elements / 4));
    if (!this.attaching) source.copy(new Uint8Array(this.kernels.memory.buffer, pointer, 2 * source.elements));
    return { pointer, array };
  }

  /** A private matrix: what this engine has use for of it, see tensor.ts. */
  secretMatrix(shape: Pick<WeightWire, 'cols' | 'inner' | 'fraction' | 'bits'>, _source: SecretSource): WeightWire {
    return { ...shape, masked: 0, lane: 0, array: NO_INTEGERS };
  }

  /** A private constant as a wire with halves: what this engine has use for of it. */
  secretWire(spec: Pick<TensorSpec, 'size' | 'bits' | 'scale'>, source: SecretSource): Tensor {
    const x = this.tensor({ form: 'wire', boolean: false, ...spec });
    x.halves = true;
    if (this.has.mask && !x.mask) x.mask = this.allocate(x.size);
    if (!this.attaching) this.loadWire(x, source);
    return x;
  }
  protected loadWire(_x: Tensor, _source: SecretSource): void {}

  /** A zero tensor that outlives layers: a cache (wire with halves, mask 0) or a slot for the residual stream (share). */
  zeros(spec: TensorSpec): Tensor {
    const x = this.tensor(spec);
    x.halves = spec.form === 'wire';
    if (x.halves && this.has.mask && !x.mask) x.mask = this.allocate(x.size);
    if (this.attaching) return x;
    if (x.lane) this.kernels!.fill(x.lane, 0, x.size);
    if (x.mask) this.kernels!.fill(x.mask, 0, x.size);
    return x;
  }

  /** Copies rows of src into dst, in place; for caches and slots. Offsets and strides in elements. */
  store(dst: Tensor, dstFrom: number, dstStride: number, src: Tensor, srcFrom: number, srcStride: number, rows: number, cols: number): void {
    if (src.form !== dst.form || src.bits !== dst.bits || src.scale !== dst.scale || (src.form === 'wire' && !src.halves))
      throw new CachetError({
        code: 'shape',
        step: 'store',
        what: 'tensor does not fit its slot',
        expected: `${dst.form} of ${dst.bits} bits at scale ${dst.scale}`,
        got: `${src.form} of ${src.bits} bits at scale ${src.scale}`,
      });
    this.absorb('store', rows, cols, dstFrom);
    if (this.attaching) return;
    if (this.skipping) return this.storeSkipped(dst, dstFrom, dstStride, src, srcFrom, srcStride, rows, cols);
    if (src.lane) this.kernels!.copyRows(dst.lane + 8 * dstFrom, dstStride, src.lane + 8 * srcFrom, srcStride, rows, cols);
    if (src.mask) this.kernels!.copyRows(dst.mask + 8 * dstFrom, dstStride, src.mask + 8 * srcFrom, srcStride, rows, cols);
    if (src.real)
      for (let r = 0; r < rows; r++) dst.real!.set(src.real.subarray(srcFrom + r * srcStride, srcFrom + r * srcStride + cols), dstFrom + r * dstStride);
  }

  /** What a cache keeps of a step that is passed over. */
  protected storeSkipped(
    _dst: Tensor,
    _dstFrom: number,
    _dstStride: number,
    _src: Tensor,
    _srcFrom: number,
    _srcStride: number,
    _rows: number,
    _cols: number,
  ) {}

  /** Writes public integers into a cache at an element offset (mask 0). */
  storePublic(dst: Tensor, from: number, values: BigInt64Array): void {
    this.absorb('storePublic', from, values.length, 0);
    if (this.attaching) return;
    if (dst.lane) new BigInt64Array(this.kernels!.memory.buffer, dst.lane + 8 * from, values.length).set(values);
    if (dst.real) values.forEach((v, i) => (dst.real![from + i] = Number(v) / 2 ** dst.scale));
  }

  // ---- inputs and outputs --------------------------------------------------------------------------------------------------------
  /** The client's shares over Z_2^bits, 64 or 32. */
  abstract input(size: number, scale: number, bits?: number): Program<Tensor>;
  /** The same for a token of an answer; undefined if the client has ended the turn. */
  *token(size: number, scale: number, bits = 64): Program<Tensor | undefined> {
    return yield* this.input(size, scale, bits);
  }
  /** The client's next turn; undefined at the end of the session. */
  *turn(): Program<Turn | undefined> {
    const effect: TurnEffect = { kind: 'turn', turn: undefined };
    yield effect;
    return effect.turn;
  }
  /** Shares for the client, re-randomised by a zero share. */
  abstract output(x: Tensor): Program<void>;

  /** Ends a step: cost is closed, the dealt streams are flushed or checked. */
  endStep(): void {
    this.frameDealt(0);
    this.frameDealt(1);
    this.steps.push(this.step);
    if (!this.skipping) this.trace?.step(this.step);
    this.step = newStep();
    if (!this.following) return this.finishStep(this.skipping);
    this.skipping = false;
    this.following = false;
  }
  protected abstract finishStep(skipped: boolean): void;

  /** Begins the step that fills a cache: an attached engine leaves it to the one that it is attached to. */
  beginFilling(): void {
    if (this.attaching) this.follow();
  }

  /** Up to the end of this step, gates are numbered, absorbed and counted alone: another engine over the same memory runs it. */
  protected follow(): void {
    this.skipping = true;
    this.following = true;
  }

  /** Makes what outlives a step: an engine that follows gives it the same places and writes nothing. */
  *placing<T>(make: Program<T>): Program<T> {
    const { following } = this;
    if (following) [this.skipping, this.attaching] = [false, true];
    const made = yield* make;
    if (following) [this.skipping, this.attaching] = [true, false];
    return made;
  }

  /** Passes over one step; the evaluators know that it does not come, the dealer does not. `program` must yield nothing then; `end` ends the step. */
  *skip(size: number, scale: number, bits: number, program: (x: Tensor) => Program<void>, end: () => Program<void>): Program<void> {
    this.skipping = true;
    yield* program(this.tensor({ form: 'share', size, bits, scale, boolean: false }));
    this.gateNumber++; // the output's
    yield* end();
    this.skipping = false;
  }

  private frameDealt(party: 0 | 1): void {
    const framed = framedBytes(this.dealt[party]);
    this.step.dealtBytes += framed;
    if (this.relay && party === 0) this.step.relayedBytes += framed;
    this.dealt[party] = 0;
  }

  /**
   * Cuts the dealt streams into frames here. Done before a gate that would make more than FLUSH_BYTES wait, so that neither evaluator ever lacks what the
   * other's full buffer holds back: all dealt material but that of the last FLUSH_BYTES and the present gate has always been sent to both.
   */
  private flushDealt(): void {
    for (const party of [0, 1] as const) if (this.dealt[party] > 0) this.frameDealt(party);
    this.cutDealt();
  }
  protected cutDealt(): void {}

  /**
   * A share of public random integers, uniform in [-2^range, 2^range): the coins of P0 and P1, all of it in P0's half. For benchmarks. Float, which has no
   * coins, takes a fixed sequence in the same range. Nothing is dealt or sent.
   */
  uniform(spec: Pick<TensorSpec, 'size' | 'bits' | 'scale'>, range: number): Tensor {
    const x = this.tensor({ form: 'share', boolean: false, ...spec }),
      k = this.kernels;
    this.absorb('uniform', x.size, x.bits, range);
    if (x.lane && this.constantHalf(x)) {
      k!.prg(x.lane, this.coins(), this.gateNumber, 0, 0, range + 1, x.size);
      k!.addScalar(x.lane, x.lane, -(2 ** range), x.size);
    } else if (x.lane) k!.fill(x.lane, 0, x.size);
    if (x.real && x.lane) x.real.set(Float64Array.from(new BigInt64Array(k!.memory.buffer, x.lane, x.size), (v) => Number(v) / 2 ** x.scale));
    else if (x.real) for (let i = 0; i < x.size; i++) x.real[i] = (2 * ((i * GOLDEN_RATIO) % 1) - 1) * 2 ** (range - x.scale);
    this.finished('uniform', [x], []);
    return x;
  }

  // ---- gates ------------------------------------------------------------------------------------------------------------------------
  /** Opens shares in one round, each over its own ring or `bits` of it, under a fresh mask or under one of `maskAhead`. */
  *open(items: readonly (Tensor | { x: Tensor; bits: number; mask?: Tensor | undefined })[]): Program<Tensor[]> {
    const shares = items.map((i) => (i instanceof Tensor ? i : i.x));
    const first = this.gateNumber;
    let bytes = 0;
    const wires = items.map((item, i) => {
      const spec = open.shape(shares[i]!, item.bits);
      this.absorb(open.name, spec.size, spec.bits, spec.scale);
      this.gateNumber++;
      const size = open.cost(spec),
        w = this.tensor(spec),
        ahead = item instanceof Tensor ? undefined : item.mask;
      w.halves = true;
      if (ahead) takeMask(w, ahead);
      else {
        w.root = first + i;
        if (this.has.mask && !w.mask) w.mask = this.allocate(w.size);
      }
      bytes += size;
      this.count(open.name, 2 * size, 0);
      return w;
    });
    if (this.skipping) return wires;
    this.step.rounds++;
    if (this.part !== '') this.step.partRounds.set(this.part, (this.step.partRounds.get(this.part) ?? 0) + 1);
    this.step.onlineBytes += 2 * framedBytes(bytes);
    this.drawMasks(wires.filter((w, i) => w.root === first + i));
    this.enter(open.name, first);
    yield* this.exchange(shares, wires, bytes);
    this.trace?.gate(first, open.name, this.layer, wires.length, elements(wires), 1, 2 * bytes, 0);
    if (this.observe) wires.forEach((w, i) => this.observe!(first + i, open.name, [w], [shares[i]!]));
    return wires;
  }

  private enter(name: string, gate: number): void {
    this.at.layer = this.layer;
    this.at.gate = gate;
    this.at.name = name;
  }

  protected abstract exchange(shares: readonly Tensor[], wires: readonly Tensor[], bytes: number): Program<void>;

  /** What this engine holds of the masks of wires, by the stream of the number in `root`. */
  protected drawMasks(_wires: readonly Tensor[]): void {}

  /** A mask before anything is opened under it: a wire without its public part. It serves one opening, of a tensor of its size over its ring. */
  maskAhead(size: number, bits: number): Tensor {
    const w = this.tensor(wire(size, bits, 0));
    w.halves = true;
    w.root = this.gateNumber;
    if (this.has.mask && !w.mask) w.mask = this.allocate(size);
    this.absorb('maskAhead', size, bits, 0);
    if (!this.skipping && !this.attaching) this.drawMasks([w]);
    this.finished('maskAhead', [w], []);
    return w;
  }

  /** [r_x] m_W of a wire whose public part is not there yet: what `mulWeights` takes of it. Local; nothing but the evaluators computes it. */
  *maskProduct(w: WeightWire, rows: number, x: Tensor): Program<Tensor> {
    const z = this.tensor(share(rows * w.cols, Math.min(x.bits, w.bits), 0));
    this.absorb('maskProduct', z.size, z.bits, x.size);
    if (z.lane && !this.skipping && !this.attaching) yield { kind: 'job', idle: true, run: () => this.weighMask(z, w, rows, x) };
    this.finished('maskProduct', [z], [x]);
    return z;
  }
  protected weighMask(_z: Tensor, _w: WeightWire, _rows: number, _x: Tensor): void {}

  narrow(x: Tensor, shift: number): Tensor {
    return shift === 0 ? x : this.apply(narrow, { shift }, [x])[0]!;
  }
  mod(x: Tensor, bits: number, cyclic = false): Tensor {
    return bits === x.bits ? x : this.apply(mod, { bits, cyclic }, [x])[0]!;
  }
  /** [x >> shift] over Z_2^64. */
  widen(x: Tensor, shift = 0): Tensor {
    return this.apply(widen, null, [this.narrow(x, shift)])[0]!;
  }
  /** Over the smaller of the two rings: the larger operand is read modulo it. */
  mul(op: Bilinear, x: Tensor, y: Tensor): Tensor {
    const a = this.withHalves(x),
      b = x === y ? a : this.withHalves(y);
    return this.apply(mul, op, [a, b])[0]!;
  }
  mul3(shape: Mul3, x: Tensor, y: Tensor, z: Tensor): Tensor {
    const bits = Math.min(x.bits, y.bits, z.bits);
    return this.apply(
      mul3,
      shape,
      [x, y, z].map((w) => this.mod(this.withHalves(w), bits)),
    )[0]!;
  }
  expTable(p: ExpParams, x: Tensor): Tensor[] {
    return this.apply(expTable, p, [x]);
  }
  fourier(p: FourierParams, x: Tensor): Tensor {
    return this.apply(fourier, p, [x, this.widen(x)])[0]!;
  }
  /** f(x) by one narrow spline per factor of 16. */
  windows(p: WindowsParams, x: Tensor): Tensor {
    const parts = p.splines.map((s) => this.apply(spline, s, [this.narrow(x, x.scale - s.inputScale)])[0]!);
    const result = parts.reduce((a, b) => this.add(a, b));
    // The splines' own reals are those of their tables, one a window; the composition's ideal is f itself.
    if (result.real) x.real!.forEach((v, i) => (result.real![i] = windowsIdeal(p, v)));
    return result;
  }

  /** Any gate by its file: results, cost, hash, data. */
  apply<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[]): Tensor[] {
    const outputs = gate.shape(params, inputs).map((spec) => this.tensor(spec));
    const cost = gate.cost(params, inputs);
    this.absorb(gate.name, inputs[0]!.size, inputs[0]!.bits, outputs[0]?.size ?? 0);
    for (const o of outputs) {
      o.halves = o.form === 'wire' && gate === (mod as Gate<never>) && inputs[0]!.halves;
      if (o.form === 'wire' && this.has.mask && !o.mask && (this.name !== 'evaluator' || o.halves)) o.mask = this.allocate(o.size);
    }
    const toP1 = this.relay ? cost.p1 - cost.p0 : cost.p1,
      waiting = this.dealt[0] + this.dealt[1];
    if (waiting > 0 && waiting + cost.p0 + toP1 > FLUSH_BYTES) this.flushDealt();
    this.dealt[0] += cost.p0;
    this.dealt[1] += toP1;
    this.count(gate.name, 0, cost.p0 + toP1);
    this.enter(gate.name, this.gateNumber);
    // Of gates before the first input an attached engine finds the results.
    if (this.skipping) this.skipDealt(cost);
    else if (!this.attaching) this.run(gate, params, inputs, outputs);
    this.finished(gate.name, outputs, inputs, cost.p0 + toP1);
    return outputs;
  }
  protected abstract run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void;

  protected skipDealt(_cost: DealtCost): void {}

  /** Deals the halves of a narrowed wire's mask, once. */
  withHalves(x: Tensor): Tensor {
    if (x.halves) return x;
    if (this.name === 'evaluator') x.mask = this.allocate(x.size);
    this.apply(maskShares, null, [x]);
    x.halves = true;
    return x;
  }

  /** The same where they were dealt before: those of `of`, a wire under the same mask. */
  withHalvesOf(x: Tensor, of: Tensor): Tensor {
    if (x.halves) return x;
    if (this.name === 'evaluator') x.mask = of.mask;
    x.halves = true;
    return x;
  }

  // ---- linear maps ---------------------------------------------------------------------------------------------------------------------
  linear(map: Linear, x: Tensor): Tensor {
    const y = this.tensor({ form: x.form, size: map.size, bits: map.bits ?? x.bits, scale: x.scale + (map.scale ?? 0), boolean: x.boolean, cyclic: x.cyclic });
    y.halves = x.halves;
    this.absorb(map.name, x.size, y.size, y.bits);
    const k = this.kernels;
    // A step that is passed over may still read what was made before it: there is nowhere to put the result.
    if (this.skipping) return this.passed(map.name, y, x);
    if (x.lane) map.integer(k!, y.lane, x.lane, this.coins(), this.gateNumber);
    if (x.mask) map.integer(k!, (y.mask ||= this.allocate(y.size)), x.mask, this.coins(), this.gateNumber);
    if (x.real) map.real(y.real!, x.real);
    this.finished(map.name, [y], [x]);
    return y;
  }
  /** The same as a job that an asynchronous backend may answer later: for products with weights. */
  *linearJob(map: Linear, x: Tensor): Program<Tensor> {
    let y: Tensor | undefined;
    const run = (): void => void (y = this.linear(map, x));
    if (this.kernels && x.lane) yield { kind: 'job', run };
    else run();
    return y!;
  }
  /** Two shares, or two wires of one ring: a wire's mask is combined like its value, with nothing dealt. */
  add(a: Tensor, b: Tensor): Tensor {
    return this.combine(sum, a, b);
  }
  sub(a: Tensor, b: Tensor): Tensor {
    return this.combine(difference, a, b);
  }
  private combine(map: typeof sum, a: Tensor, b: Tensor): Tensor {
    if (a.form !== b.form || a.boolean || b.boolean || a.bits !== b.bits || a.scale !== b.scale || a.size !== b.size)
      throw new CachetError({
        code: 'shape',
        step: map.name,
        what: 'operands differ',
        expected: `${a.form} of ${a.size} at ${a.bits} bits, scale ${a.scale}`,
        got: `${b.form} of ${b.size} at ${b.bits} bits, scale ${b.scale}`,
      });
    const y = this.tensor(a);
    y.halves = a.halves && b.halves;
    this.absorb(map.name, a.size, a.bits, a.scale);
    if (this.skipping) return this.passed(map.name, y, a);
    if (a.lane) map.integer(this.kernels!, y.lane, a.lane, b.lane, a.size);
    if (a.mask && b.mask) map.integer(this.kernels!, (y.mask ||= this.allocate(a.size)), a.mask, b.mask, a.size);
    if (a.real) for (let i = 0; i < a.size; i++) y.real![i] = a.real[i]! + map.sign * b.real![i]!;
    this.finished(map.name, [y], [a, b]);
    return y;
  }
  /** x + value (at x's scale): a public constant. */
  addConstant(x: Tensor, value: number): Tensor {
    const y = this.tensor(x),
      integer = Math.round(value * 2 ** x.scale);
    y.halves = x.halves;
    this.absorb('addConstant', x.size, x.bits, x.scale);
    if (this.skipping) return this.passed('addConstant', y, x);
    if (x.lane) this.kernels!.addScalar(y.lane, x.lane, this.constantHalf(x) ? integer : 0, x.size);
    if (x.mask) this.kernels!.copy((y.mask ||= this.allocate(x.size)), x.mask, x.size);
    if (x.real) for (let i = 0; i < x.size; i++) y.real![i] = x.real[i]! + value;
    this.finished('addConstant', [y], [x]);
    return y;
  }
  /** x[rows, cols] + a row, integers at x's scale: public, or `shared`: each evaluator has its share of it. The first `skip` elements of x stay as they are. */
  addRow(x: Tensor, row: Constant<BigInt64Array>, shared = false, skip = 0): Tensor {
    const cols = row.array.length,
      rows = (x.size - skip) / cols,
      y = this.tensor(x);
    if (x.form !== 'share' || !Number.isInteger(rows))
      throw new CachetError({
        code: 'shape',
        step: rowSum.name,
        what: 'operands differ',
        expected: `a share of rows of ${cols}`,
        got: `${x.form} of ${x.size}`,
      });
    this.absorb(rowSum.name, x.size, x.bits, x.scale);
    if (this.skipping) return this.passed(rowSum.name, y, x);
    if (x.lane) {
      this.kernels!.copy(y.lane, x.lane, shared || this.constantHalf(x) ? skip : x.size);
      if (shared || this.constantHalf(x)) rowSum.integer(this.kernels!, y.lane + 8 * skip, x.lane + 8 * skip, row.pointer, rows, cols);
    }
    if (x.real) for (let i = 0; i < x.size; i++) y.real![i] = x.real[i]! + (i < skip ? 0 : Number(row.array[(i - skip) % cols]!) / 2 ** x.scale);
    this.finished(rowSum.name, [y], [x]);
    return y;
  }
  /** The result of a map in a step that is passed over: a handle without data. */
  private passed(name: string, y: Tensor, x: Tensor): Tensor {
    this.finished(name, [y], [x]);
    return y;
  }
  /** Whether this engine adds public constants to that lane (of the evaluators' shares only P0's). */
  protected constantHalf(_x: Tensor): boolean {
    return true;
  }
  /** Pointer to the public coins' key. */
  protected coins(): number {
    return 0;
  }

  /** Names a value, for calibration and traces; no effect on the protocol. */
  note(name: string, x: Tensor): void {
    this.watch?.(`${this.layer}.${name}`, x);
  }

  // ---- bookkeeping ------------------------------------------------------------------------------------------------------------------------
  protected get hash(): DesyncHash {
    return { low: this.hashLow, high: this.hashHigh };
  }

  /** The gate is done: on to the next number. */
  private finished(name: string, outputs: readonly Tensor[], inputs: readonly Tensor[], dealt = 0): void {
    if (!this.skipping) this.trace?.gate(this.gateNumber, name, this.layer, 1, elements(outputs.length > 0 ? outputs : inputs), 0, 0, dealt);
    this.gateNumber++;
    this.observe?.(this.gateNumber - 1, name, outputs, inputs);
  }

  protected tensor(spec: TensorSpec): Tensor {
    const x = new Tensor(spec);
    if (spec.form === 'share' ? this.has.share : this.has.wire) x.lane = this.allocate(spec.size);
    if (this.has.real) x.real = new Float64Array(spec.size);
    return x;
  }

  /** Two multiply-xor lanes: a desync detector, not a security measure. */
  private absorb(name: string, a: number, b: number, c: number): void {
    let low = this.hashLow,
      high = this.hashHigh;
    for (let i = 0; i < name.length; i++) low = Math.imul(low ^ name.charCodeAt(i), 0x01000193);
    for (const v of [a, b, c, this.gateNumber]) {
      low = Math.imul(low ^ v, 0x85ebca6b) ^ (high >>> 13);
      high = Math.imul(high ^ low ^ (v >>> 7), 0xc2b2ae35) ^ (low >>> 16);
    }
    this.hashLow = low;
    this.hashHigh = high;
  }

  private count(name: string, online: number, dealt: number): void {
    const entry = this.step.gates.get(name) ?? { calls: 0, online: 0, dealt: 0 };
    entry.calls++;
    entry.online += online;
    entry.dealt += dealt;
    this.step.gates.set(name, entry);
    if (this.part !== '') this.step.parts.set(this.part, (this.step.parts.get(this.part) ?? 0) + online + dealt);
  }
}

/** Gives a wire the mask that was drawn ahead for it, which serves no other. */
function takeMask(w: Tensor, ahead: Tensor): void {
  if (ahead.root < 0 || ahead.size !== w.size || ahead.bits !== w.bits)
    throw new CachetError({
      code: 'internal',
      step: open.name,
      what: 'mask drawn ahead does not serve',
      expected: `an unused mask of ${w.size} elements over ${w.bits} bits`,
      got: ahead.root < 0 ? 'a used one' : `${ahead.size} over ${ahead.bits}`,
      hint: 'report this as a bug',
    });
  w.mask = ahead.mask;
  w.root = ahead.root;
  ahead.root = -1;
}

const elements = (tensors: readonly Tensor[]): number => tensors.reduce((n, t) => n + t.size, 0);
const newStep = (): StepCost => ({ rounds: 0, onlineBytes: 0, dealtBytes: 0, relayedBytes: 0, gates: new Map(), parts: new Map(), partRounds: new Map() });
/** Its multiples mod 1 are evenly spread. */
const GOLDEN_RATIO = (Math.sqrt(5) - 1) / 2;

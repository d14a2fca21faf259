/**
 * Evaluator: P0 or P1. Holds its half of every share, the public m of every wire and its half of the wire's mask; consumes dealt material in program
 * order and yields one round effect an opening. It sees masked values, its own halves, dealt halves and keys: nothing that depends on a secret alone.
 */
import type { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import type { EvaluateContext, Gate, DealtCost } from '../gates/gate.ts';
import { weighMask } from '../gates/mulWeights.ts';
import { open } from '../gates/open.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import { MAX_TAKE_BYTES, type DealtSource, type InputEffect, type Program } from './effects.ts';
import type { SecretSource } from './engine.ts';
import { LocalEngine } from './local.ts';
import { highWords, Stream } from './streams.ts';

/** 32-byte keys of one evaluator, one a purpose; `tweak` is public, 16 bytes. `dealt` is used by P0 alone. */
export interface EvaluatorKeys {
  readonly mask: Uint8Array;
  readonly dealt: Uint8Array;
  readonly root: Uint8Array;
  readonly zero: Uint8Array;
  readonly coins: Uint8Array;
  readonly tweak: Uint8Array;
}

/** Of an element that goes to the client: 4 where the ring's bits allow it. */
export const outputBytes = (bits: number): 4 | 8 => (bits <= 32 ? 4 : 8);

export class Evaluator extends LocalEngine implements EvaluateContext {
  override readonly name = 'evaluator';
  protected override readonly holds = { share: true, wire: true, mask: true, real: false, weights: true, tables: true };
  readonly party: 0 | 1;
  private readonly source: DealtSource;
  private readonly masks: Stream;
  private readonly halves: Stream;
  private readonly rootStream: Stream;
  private readonly zero: Stream;
  private readonly coinKey: number;

  /**
   * `attach`: to a memory in which another evaluator of the same program, party and arena has been set up, and waits. This one allocates the same and
   * writes nothing up to its first input; of each step its driver says whether it runs it or follows (effects.ts).
   */
  constructor(o: { party: 0 | 1; kernels: Kernels; arena: Arena; keys: EvaluatorKeys; dealt: DealtSource; attach?: boolean | undefined }) {
    super(o.kernels, o.arena, o.keys.tweak, o.attach);
    this.party = o.party;
    this.source = o.dealt;
    this.masks = new Stream(o.kernels, this.place(o.keys.mask));
    this.halves = new Stream(o.kernels, this.place(o.keys.dealt));
    this.rootStream = new Stream(o.kernels, this.place(o.keys.root));
    this.zero = new Stream(o.kernels, this.place(o.keys.zero));
    this.coinKey = this.place(o.keys.coins);
  }

  override *input(size: number, scale: number, bits = 64): Program<Tensor> {
    return (yield* this.receiveInput(size, scale, bits, false))!;
  }

  override *token(size: number, scale: number, bits = 64): Program<Tensor | undefined> {
    return yield* this.receiveInput(size, scale, bits, true);
  }

  private *receiveInput(size: number, scale: number, bits: number, optional: boolean): Program<Tensor | undefined> {
    const top = this.mark(),
      x = this.tensor({ form: 'share', size, bits, scale, boolean: false }),
      inner = this.mark(),
      packed = bits === 64 ? x.lane : this.arena.alloc((bits / 8) * size),
      effect: InputEffect = { kind: 'input', into: packed, bytes: (bits / 8) * size, optional, over: false, elsewhere: false };
    this.attaching = false;
    yield effect;
    if (effect.elsewhere) {
      this.release(top);
      this.follow();
      return this.tensor({ form: 'share', size, bits, scale, boolean: false });
    }
    if (!effect.over) {
      if (bits !== 64) this.kernels.unpack(x.lane, packed, bits, size);
      this.release(inner);
      return x;
    }
    this.release(top);
    return undefined;
  }

  override *output(x: Tensor): Program<void> {
    if (this.following) return void this.gateNumber++;
    const top = this.mark(),
      out = this.scratch(x.size);
    this.zero.draw(out, this.gateNumber++, x.bits, x.size);
    if (this.party === 0) this.kernels.add(out, x.lane, out, x.size);
    else this.kernels.sub(out, x.lane, out, x.size);
    const bytes = outputBytes(x.bits);
    let from = out;
    if (x.bits < 64) {
      from = this.arena.alloc(bytes * x.size);
      this.kernels.reduce(out, out, x.bits, x.size);
      this.kernels.pack(from, out, 8 * bytes, x.size);
    }
    yield { kind: 'output', out: from, bytes: bytes * x.size };
    this.release(top);
  }

  override secretMatrix(shape: Pick<WeightWire, 'cols' | 'inner' | 'fraction' | 'bits'>, source: SecretSource): WeightWire {
    const { elements } = source,
      { bits } = shape,
      k = this.kernels,
      masked = this.arena.alloc((elements * bits) / 8);
    if (!this.attaching) source.masked(this.bytesAt(masked, (elements * bits) / 8));
    const lane = this.packed(elements, bits, (dst, first, n) => {
      const m = this.scratch(n);
      if (this.party === 0) k.unpack(m, masked + (first * bits) / 8, bits, n);
      else k.fill(m, 0, n);
      this.drawSecret(dst, source, this.party, first, bits, n);
      k.sub(dst, m, dst, n);
    });
    return { ...super.secretMatrix(shape, source), masked, lane };
  }

  protected override loadWire(x: Tensor, source: SecretSource): void {
    source.masked(this.bytesAt(x.lane, 8 * x.size));
    this.drawSecret(x.mask, source, this.party, 0, x.bits, x.size);
  }

  protected override *exchange(shares: readonly Tensor[], wires: readonly Tensor[], bytes: number): Program<void> {
    const top = this.mark(),
      out = this.arena.alloc(bytes),
      into = this.arena.alloc(bytes);
    let at = 0,
      largest = 0;
    wires.forEach((w, i) => {
      open.evaluate(this.kernels, shares[i]!, w, out + at);
      at += open.cost(w);
      largest = Math.max(largest, w.size);
    });
    yield { kind: 'round', out, into, bytes, hash: this.hash, at: this.at };
    const temporary = this.scratch(largest);
    at = 0;
    for (const w of wires) {
      open.combine(this.kernels, w, into + at, temporary);
      at += open.cost(w);
    }
    this.release(top);
  }

  protected override drawMasks(wires: readonly Tensor[]): void {
    for (const w of wires) this.masks.draw(w.mask, w.root, w.bits, w.size);
  }

  protected override weighMask(z: Tensor, w: WeightWire, rows: number, x: Tensor): void {
    weighMask(this.kernels, z, w, rows, x);
  }

  protected override run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void {
    const top = this.mark();
    gate.evaluate(this, params, inputs, outputs);
    this.release(top);
  }

  protected override finishStep(skipped: boolean): void {
    this.source.endStep(this.hash, skipped);
  }

  protected override skipDealt(cost: DealtCost): void {
    if (this.following) return;
    const both = cost.p0;
    if (this.party === 0) this.source.discard(0, both);
    else this.source.discard(cost.p1 - both, both);
  }

  /**
   * A slot that no token fills must still be a wire under the dealer's mask, since products over the whole cache are dealt as one sum: public part 0, and
   * this evaluator's half of the mask if the slot is filled by an opened wire. Other slots (keys) keep zeros: what they give is not used.
   */
  protected override storeSkipped(
    dst: Tensor,
    dstFrom: number,
    dstStride: number,
    src: Tensor,
    srcFrom: number,
    srcStride: number,
    rows: number,
    cols: number,
  ): void {
    if (this.following || src.root < 0 || dst.form !== 'wire' || dst.mask === 0) return;
    const top = this.mark(),
      half = this.scratch(src.size);
    this.masks.first(half, src.root, src.bits, src.size);
    this.kernels.copyRows(dst.mask + 8 * dstFrom, dstStride, half + 8 * srcFrom, srcStride, rows, cols);
    this.release(top);
  }

  protected override constantHalf(x: Tensor): boolean {
    return x.form === 'wire' || this.party === 0;
  }

  protected override coins(): number {
    return this.coinKey;
  }

  // ---- what gates draw: see EvaluateContext -------------------------------------------------------------------------------------------
  readonly receive = (dst: number, bits: number, n: number): void => {
    if (this.party === 0) return this.halves.draw(dst, this.gateNumber, bits, n);
    const bytes = Math.ceil(bits / 8),
      most = Math.floor(MAX_TAKE_BYTES / bytes);
    for (let from = 0; from < n; from += most) {
      const count = Math.min(most, n - from);
      this.kernels.unpack(dst + 8 * from, this.source.take(count * bytes, this.at), bits === 1 ? 8 : bits, count);
    }
  };

  readonly receiveWide = (lo: number, hi: number, bits: number, n: number): void => {
    if (this.party === 0) {
      const top = this.mark();
      this.halves.drawWide(lo, hi, this.scratch(highWords(bits, n)), this.gateNumber, bits, n);
      this.release(top);
    } else this.kernels.unpackWide(lo, hi, this.source.take(Math.ceil(bits / 8) * n, this.at), bits - 64, n);
  };

  readonly receiveWords = (dst: number, n: number): void => this.receive(dst, 64, n);

  readonly receiveBoth = (bytes: number): number => this.source.takeBoth(bytes, this.at);

  readonly roots = (dst: number, n: number): void => this.rootStream.draw(dst, this.gateNumber, 64, 2 * n);
}

/**
 * Dealer: the helper H. Runs the program on masks alone and emits, in program order, what the evaluators need: the explicit halves of dealt values to
 * P1 (P0's are its stream) and correction words to both. It knows shapes and its own streams; nothing that it does depends on an online value.
 */
import type { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import type { DealContext, Gate } from '../gates/gate.ts';
import { open } from '../gates/open.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import type { DealtSink, Program } from './effects.ts';
import type { SecretSource } from './engine.ts';
import { LocalEngine } from './local.ts';
import { Stream } from './streams.ts';

/** 32-byte keys that the helper shares with P0 and with P1, one a purpose; `tweak` is public, 16 bytes. */
export interface DealerKeys {
  readonly mask0: Uint8Array;
  readonly mask1: Uint8Array;
  readonly dealt0: Uint8Array;
  readonly root0: Uint8Array;
  readonly root1: Uint8Array;
  readonly tweak: Uint8Array;
}

export class Dealer extends LocalEngine implements DealContext {
  override readonly name = 'dealer';
  protected override readonly holds = { share: false, wire: false, mask: true, real: false, weights: false, tables: true };
  private readonly sink: DealtSink;
  private readonly masks: readonly [Stream, Stream];
  private readonly halves: Stream;
  private readonly rootStreams: readonly [Stream, Stream];

  constructor(o: { kernels: Kernels; arena: Arena; keys: DealerKeys; sink: DealtSink }) {
    super(o.kernels, o.arena, o.keys.tweak);
    this.sink = o.sink;
    this.masks = [new Stream(o.kernels, this.place(o.keys.mask0)), new Stream(o.kernels, this.place(o.keys.mask1))];
    this.halves = new Stream(o.kernels, this.place(o.keys.dealt0));
    this.rootStreams = [new Stream(o.kernels, this.place(o.keys.root0)), new Stream(o.kernels, this.place(o.keys.root1))];
  }

  override *input(size: number, scale: number, bits = 64): Program<Tensor> {
    return this.tensor({ form: 'share', size, bits, scale, boolean: false });
  }

  override *output(): Program<void> {
    this.gateNumber++;
  }

  override secretMatrix(shape: Pick<WeightWire, 'cols' | 'inner' | 'fraction' | 'bits'>, source: SecretSource): WeightWire {
    const { bits } = shape;
    return { ...super.secretMatrix(shape, source), lane: this.packed(source.elements, bits, (dst, first, n) => this.secretMask(dst, source, first, bits, n)) };
  }

  protected override loadWire(x: Tensor, source: SecretSource): void {
    this.secretMask(x.mask, source, 0, x.bits, x.size);
    this.kernels.reduce(x.mask, x.mask, x.bits, x.size);
  }

  /** Both halves of a private tensor's mask together. */
  private secretMask(dst: number, source: SecretSource, first: number, bits: number, n: number): void {
    const top = this.mark(),
      other = this.scratch(n);
    this.drawSecret(dst, source, 0, first, bits, n);
    this.drawSecret(other, source, 1, first, bits, n);
    this.kernels.add(dst, dst, other, n);
    this.release(top);
  }

  protected override *exchange(_: readonly Tensor[], wires: readonly Tensor[], __: number, firstGate: number): Program<void> {
    const top = this.mark(),
      other = this.scratch(Math.max(...wires.map((w) => w.size)));
    wires.forEach((w, i) => {
      this.masks[0].draw(w.mask, firstGate + i, w.bits, w.size);
      this.masks[1].draw(other, firstGate + i, w.bits, w.size);
      open.deal(this.kernels, w, other);
    });
    this.release(top);
  }

  protected override run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void {
    const top = this.mark();
    gate.deal(this, params, inputs, outputs);
    this.release(top);
  }

  protected override finishStep(): void {
    this.sink.endStep(this.hash);
  }

  protected override cutDealt(): void {
    this.sink.flush();
  }

  // ---- what gates deal: see DealContext -----------------------------------------------------------------------------------------------
  readonly deal = (src: number, bits: number, n: number): void => {
    const top = this.mark(),
      half = this.scratch(n),
      k = this.kernels;
    this.halves.draw(half, this.gateNumber, bits, n);
    k.sub(half, src, half, n);
    k.reduce(half, half, bits, n);
    this.send(half, bits === 1 ? 8 : bits, n);
    this.release(top);
  };

  readonly dealWide = (lo: number, hi: number, bits: number, n: number): void => {
    const top = this.mark(),
      lo0 = this.scratch(n),
      hi0 = this.scratch(n),
      bytes = Math.ceil(bits / 8) * n,
      k = this.kernels;
    this.halves.draw(lo0, this.gateNumber, 64, n);
    this.halves.draw(hi0, this.gateNumber, bits - 64, n);
    k.subWide(lo, hi, lo0, hi0, bits - 64, n);
    const packed = this.arena.alloc(bytes);
    k.packWide(packed, lo, hi, bits - 64, n);
    this.sink.emit(packed, bytes);
    this.release(top);
  };

  readonly dealWords = (src: number, n: number): void => {
    const top = this.mark(),
      half = this.scratch(n);
    this.halves.draw(half, this.gateNumber, 64, n);
    this.kernels.xor(half, src, half, n);
    this.send(half, 64, n);
    this.release(top);
  };

  readonly dealBoth = (pointer: number, bytes: number): void => this.sink.emitBoth(pointer, bytes);

  readonly roots = (dst: number, party: 0 | 1, n: number): void => this.rootStreams[party].draw(dst, this.gateNumber, 64, 2 * n);

  private send(src: number, bits: number, n: number): void {
    const bytes = n * Math.ceil(bits / 8),
      packed = this.arena.alloc(bytes);
    this.kernels.pack(packed, src, bits, n);
    this.sink.emit(packed, bytes);
  }
}

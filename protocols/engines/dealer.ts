/**
 * Dealer: the helper H. Runs the program on masks alone and emits, in program order, what the evaluators need: the explicit halves of dealt values to
 * P1 (P0's are its stream) and correction words to both. It knows shapes and its own streams; nothing that it does depends on an online value.
 *
 * With a bulk backend, gates' bulk jobs are parked: a list of them, of all layers of a step as far as PARKED_BYTES of results and HELD_BYTES of operands go, is
 * computed at once, before any memory that it reads is given back or overwritten. Where nobody waits for a step, as in a store, further tokens' jobs join the list
 * as far as that goes. What is dealt meanwhile waits behind them, so that all bytes leave in program order, the same as without.
 */
import { readsWithin, runInPlace, type BulkJob, type BulkKind } from '../../kernels/bulk.ts';
import { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import type { DealContext, Gate } from '../gates/gate.ts';
import { open } from '../gates/open.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import type { BulkRunner, DealtSink, Program, Turn } from './effects.ts';
import type { SecretSource } from './engine.ts';
import { LocalEngine } from './local.ts';
import { highWords, Stream } from './streams.ts';

/** 32-byte keys that the helper shares with P0 and with P1, one a purpose; `tweak` is public, 16 bytes. */
export interface DealerKeys {
  readonly mask0: Uint8Array;
  readonly mask1: Uint8Array;
  readonly dealt0: Uint8Array;
  readonly root0: Uint8Array;
  readonly root1: Uint8Array;
  readonly tweak: Uint8Array;
}

/** Memory for the results of parked jobs and for what waits behind them. */
const PARKED_BYTES = 16 << 20;
/** Memory that a program has released and parked jobs may still read. */
const HELD_BYTES = 48 << 20;
/** What a bulk backend takes of the arena. */
export const BULK_BYTES = PARKED_BYTES + HELD_BYTES;
/** Elements of an opening from which its masks are drawn in bulk. */
const BULK_MASKS = 1 << 15;

/** Jobs that are still to be computed, and what follows them. */
interface Parked {
  readonly jobs: readonly BulkJob[];
  finish(): void;
}

export class Dealer extends LocalEngine implements DealContext {
  override readonly name = 'dealer';
  protected override readonly holds = { share: false, wire: false, mask: true, real: false, weights: false, tables: true };
  private readonly sink: DealtSink;
  private readonly masks: readonly [Stream, Stream];
  private readonly halves: Stream;
  /** The same stream for gates that deal by `later`, each with its own place in it: it is drawn when results are there, maybe between other gates' draws. */
  private readonly laterHalves = new Map<number, Stream>();
  private readonly dealtKey: number;
  private readonly rootStreams: readonly [Stream, Stream];

  private readonly bulk: { readonly runner: BulkRunner; readonly region: Arena; readonly start: number } | undefined;
  private parked: Parked[] = [];
  /** Runs of the arena that the program has released, each from its mark on. */
  private held: { readonly mark: number; readonly bytes: number }[] = [];
  /** Number of the gate whose results are being dealt by `later`. */
  private dealing: number | undefined;
  private inGate = false;
  private readonly stepsTogether: boolean;

  /** `stepsTogether`: nobody waits for a step before a turn's end. */
  constructor(o: { kernels: Kernels; arena: Arena; keys: DealerKeys; sink: DealtSink; bulk?: BulkRunner | undefined; stepsTogether?: boolean | undefined }) {
    super(o.kernels, o.arena, o.keys.tweak);
    this.sink = o.sink;
    this.stepsTogether = o.stepsTogether ?? false;
    this.masks = [new Stream(o.kernels, this.place(o.keys.mask0)), new Stream(o.kernels, this.place(o.keys.mask1))];
    this.dealtKey = this.place(o.keys.dealt0);
    this.halves = new Stream(o.kernels, this.dealtKey);
    this.rootStreams = [new Stream(o.kernels, this.place(o.keys.root0)), new Stream(o.kernels, this.place(o.keys.root1))];
    if (o.bulk) {
      const region = new Arena(o.kernels.memory, o.arena.alloc(PARKED_BYTES), PARKED_BYTES);
      this.bulk = { runner: o.bulk, region, start: region.mark() };
    }
  }

  override readonly release = (mark: number): void => {
    if (!this.inGate && this.parked.length > 0) {
      if (this.hold(mark)) return;
      this.settle();
    }
    this.held = this.held.filter((h) => h.mark < mark);
    this.arena.release(mark);
  };

  /** Keeps what is above the mark until a release from below it, if there is room for that. */
  private hold(mark: number): boolean {
    const held = [...this.held.filter((h) => h.mark < mark), { mark, bytes: this.arena.mark() - mark }];
    if (held.reduce((n, h) => n + h.bytes, 0) > HELD_BYTES) return false;
    this.held = held;
    return true;
  }

  override store(...a: Parameters<LocalEngine['store']>): void {
    const [dst, from, stride, , , , rows, cols] = a,
      first = dst.mask + 8 * from,
      end = first + 8 * ((rows - 1) * stride + cols);
    if (dst.mask && this.parked.some(({ jobs }) => jobs.some((j) => readsWithin(j, first, end)))) this.settle();
    super.store(...a);
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

  protected override *exchange(): Program<void> {}

  protected override drawMasks(wires: readonly Tensor[]): void {
    const top = this.mark();
    if (!this.drawInBulk(wires)) this.drawWhole(this.masks, wires);
    this.arena.release(top);
  }

  /** The masks of a large opening by the backend, if it does that; both halves of all wires at once. */
  private drawInBulk(wires: readonly Tensor[]): boolean {
    if (!this.bulk?.runner.kinds.includes('prg') || wires.reduce((n, w) => n + w.size, 0) < BULK_MASKS) return false;
    const others = wires.map((w) => this.scratch(w.size)),
      jobs = wires.flatMap((w, i) => [this.masks[0].job(w.mask, w.root, w.bits, w.size), this.masks[1].job(others[i]!, w.root, w.bits, w.size)]);
    if (!this.bulk.runner.run(jobs)) runInPlace(this.kernels, jobs);
    wires.forEach((w, i) => open.deal(this.kernels, w, others[i]!));
    return true;
  }

  protected override run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void {
    const top = this.mark();
    this.inGate = true;
    gate.deal(this, params, inputs, outputs);
    this.inGate = false;
    this.arena.release(top);
  }

  override *turn(): Program<Turn | undefined> {
    this.settle();
    return yield* super.turn();
  }

  protected override finishStep(): void {
    const { hash } = this;
    if (!this.stepsTogether) this.settle();
    this.inTurn(() => this.sink.endStep(hash));
  }

  protected override cutDealt(): void {
    this.inTurn(() => this.sink.flush());
  }

  /** Computes all parked jobs and deals what waits. */
  private settle(): void {
    if (this.parked.length === 0) return this.bulk?.region.release(this.bulk.start);
    const parked = this.parked,
      jobs = parked.flatMap((p) => p.jobs),
      { runner, region, start } = this.bulk!;
    this.parked = [];
    if (jobs.length > 0 && !runner.run(jobs)) runInPlace(this.kernels, jobs);
    for (const { finish } of parked) finish();
    region.release(start);
  }

  /** Does it when all that is parked has been dealt. */
  private inTurn(finish: () => void): void {
    if (this.parked.length === 0) finish();
    else this.parked.push({ jobs: [], finish });
  }

  /** Space for parked results; undefined where it would never fit. */
  private reserve(bytes: number): number | undefined {
    const { region, start } = this.bulk!;
    if (region.mark() + bytes + 16 > start + PARKED_BYTES - 16) this.settle();
    return region.mark() + bytes + 16 > start + PARKED_BYTES - 16 ? undefined : region.alloc(bytes);
  }

  /** Sends bytes, or a copy of them once what is parked has been dealt. */
  private emit(pointer: number, bytes: number, toBoth: boolean): void {
    const send = (at: number): void => (toBoth ? this.sink.emitBoth(at, bytes) : this.sink.emit(at, bytes)),
      at = this.parked.length > 0 ? this.reserve(bytes) : undefined;
    // Making room may have dealt all that was parked.
    if (at === undefined || this.parked.length === 0) {
      this.settle();
      return send(pointer);
    }
    new Uint8Array(this.kernels.memory.buffer).copyWithin(at, pointer, pointer + bytes);
    this.parked.push({ jobs: [], finish: () => send(at) });
  }

  // ---- what gates deal: see DealContext -----------------------------------------------------------------------------------------------
  readonly later = (
    kind: BulkKind,
    elements: number,
    jobs: (at: number) => readonly BulkJob[],
    then: (at: number) => void,
    inPlace: (at: number) => void = (at) => runInPlace(this.kernels, jobs(at)),
  ): void => {
    const gate = this.gateNumber;
    if (this.parked.length === 0) for (const done of this.laterHalves.keys()) if (done !== gate) this.laterHalves.delete(done);
    if (!this.laterHalves.has(gate)) this.laterHalves.set(gate, new Stream(this.kernels, this.dealtKey));
    const at = this.bulk?.runner.kinds.includes(kind) ? this.reserve(8 * elements) : undefined;
    const deal = (results: number): void => {
      const top = this.mark();
      this.dealing = gate;
      then(results);
      this.dealing = undefined;
      this.arena.release(top);
    };
    if (at !== undefined) return void this.parked.push({ jobs: jobs(at), finish: () => deal(at) });
    const top = this.mark(),
      here = this.scratch(elements);
    inPlace(here);
    deal(here);
    this.arena.release(top);
  };

  /** P0's half of what is being dealt. */
  private drawHalf(dst: number, bits: number, n: number): void {
    if (this.dealing === undefined) this.halves.draw(dst, this.gateNumber, bits, n);
    else this.laterHalves.get(this.dealing)!.draw(dst, this.dealing, bits, n);
  }

  readonly deal = (src: number, bits: number, n: number): void => {
    const top = this.mark(),
      half = this.scratch(n),
      bytes = n * Math.ceil(bits / 8),
      packed = this.arena.alloc(bytes);
    this.drawHalf(half, bits, n);
    this.kernels.subPack(packed, src, half, bits, n);
    this.emit(packed, bytes, false);
    this.arena.release(top);
  };

  readonly dealWide = (src: number, bits: number, n: number): void => {
    const top = this.mark(),
      words = highWords(bits, n),
      low = this.scratch(n),
      high = this.scratch(words),
      bytes = (bits / 8) * n,
      packed = this.arena.alloc(bytes);
    this.drawHalf(low, 64, n);
    this.drawHalf(high, 64, words);
    this.kernels.subPackWide(packed, src, low, high, bits - 64, n);
    this.emit(packed, bytes, false);
    this.arena.release(top);
  };

  readonly dealWords = (src: number, n: number): void => {
    const top = this.mark(),
      half = this.scratch(n);
    this.drawHalf(half, 64, n);
    this.kernels.xor(half, src, half, n);
    this.emit(half, 8 * n, false);
    this.arena.release(top);
  };

  readonly dealBoth = (pointer: number, bytes: number): void => this.emit(pointer, bytes, true);

  readonly roots = (dst: number, party: 0 | 1, n: number): void => this.rootStreams[party].draw(dst, this.gateNumber, 64, 2 * n);
}

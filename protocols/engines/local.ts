/** What the engines that compute on integers share: an arena of u64 elements and the scratch that gates use. */
import type { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import { open } from '../gates/open.ts';
import type { Tensor } from '../tensor.ts';
import { Engine, type SecretSource } from './engine.ts';
import type { Stream } from './streams.ts';

/** Elements of a private matrix that are worked on at a time. */
const CHUNK = 1 << 13;

export abstract class LocalEngine extends Engine {
  readonly kernels: Kernels;
  protected readonly arena: Arena;
  /** Pointer to the session's 16-byte node tweak. */
  readonly tweak: number;
  get gate(): number {
    return this.gateNumber;
  }

  constructor(kernels: Kernels, arena: Arena, tweak: Uint8Array, attach = false) {
    super();
    this.attaching = attach;
    this.kernels = kernels;
    this.arena = arena;
    this.tweak = this.place(tweak);
  }

  readonly scratch = (n: number): number => this.arena.alloc(8 * n);
  readonly mark = (): number => this.arena.mark();
  readonly release = (mark: number): void => this.arena.release(mark);

  /** Places a matrix of packed elements, a chunk at a time: `compute` puts u64[n], elements from `first` on, into `dst`. */
  protected packed(elements: number, bits: number, compute: (dst: number, first: number, n: number) => void): number {
    const size = bits / 8,
      pointer = this.arena.alloc(elements * size);
    if (this.attaching) return pointer;
    for (let first = 0; first < elements; first += CHUNK) {
      const top = this.mark(),
        n = Math.min(CHUNK, elements - first),
        chunk = this.scratch(n);
      compute(chunk, first, n);
      this.kernels.reduce(chunk, chunk, bits, n);
      this.kernels.pack(pointer + size * first, chunk, bits, n);
      this.release(top);
    }
    return pointer;
  }

  /** dst = a party's half of a private tensor's mask, elements from `first` on. */
  protected drawSecret(dst: number, source: SecretSource, party: 0 | 1, first: number, bits: number, n: number): void {
    const top = this.mark();
    this.kernels.prg(dst, this.place(source.seed(party)), source.index, 0, first, bits, n);
    this.release(top);
  }

  /** Masks of wires whole, from the streams of both halves. */
  protected drawWhole([first, second]: readonly [Stream, Stream], wires: readonly Tensor[]): void {
    const top = this.mark(),
      other = this.scratch(Math.max(0, ...wires.map((w) => w.size)));
    for (const w of wires) {
      first.draw(w.mask, w.root, w.bits, w.size);
      second.draw(other, w.root, w.bits, w.size);
      open.deal(this.kernels, w, other);
    }
    this.release(top);
  }

  /** Both halves of a private tensor's mask together. */
  protected secretMask(dst: number, source: SecretSource, first: number, bits: number, n: number): void {
    const top = this.mark(),
      other = this.scratch(n);
    this.drawSecret(dst, source, 0, first, bits, n);
    this.drawSecret(other, source, 1, first, bits, n);
    this.kernels.add(dst, dst, other, n);
    this.release(top);
  }

  protected bytesAt(pointer: number, bytes: number): Uint8Array {
    return new Uint8Array(this.kernels.memory.buffer, pointer, bytes);
  }

  protected allocate(elements: number): number {
    return this.arena.alloc(8 * elements);
  }

  protected place(bytes: Uint8Array): number {
    const pointer = this.arena.alloc(bytes.length);
    if (!this.attaching) new Uint8Array(this.kernels.memory.buffer, pointer, bytes.length).set(bytes);
    return pointer;
  }
}

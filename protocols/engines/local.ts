/** What the engines that compute on integers share: an arena of u64 elements and the scratch that gates use. */
import type { Arena } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import { Engine } from './engine.ts';

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

  protected allocate(elements: number): number {
    return this.arena.alloc(8 * elements);
  }

  protected place(bytes: Uint8Array): number {
    const pointer = this.arena.alloc(bytes.length);
    if (!this.attaching) new Uint8Array(this.kernels.memory.buffer, pointer, bytes.length).set(bytes);
    return pointer;
  }
}

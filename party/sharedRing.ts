/**
 * A byte ring in the engine's memory between one writer thread and one reader thread; positions are u32 counters that wrap, the size is a power of two.
 * The reader takes contiguous pieces: what wraps is copied behind the ring's end, where MAX_TAKE_BYTES are spare. Waiting is by Atomics on the counters.
 */
import { MAX_TAKE_BYTES } from '../protocols/engines/effects.ts';

export const RING_BYTES = 8 << 20;
/** With the spare part. */
export const RING_SPACE = RING_BYTES + MAX_TAKE_BYTES;

export class SharedRing {
  private readonly memory: Uint8Array;
  private readonly counters: Int32Array;
  private readonly base: number;

  /** `counters` is the address of two u32: bytes written, bytes read; `base` the ring's own. */
  constructor(memory: WebAssembly.Memory, counters: number, base: number) {
    this.memory = new Uint8Array(memory.buffer);
    this.counters = new Int32Array(memory.buffer, counters, 2);
    this.base = base;
  }

  get available(): number {
    return (Atomics.load(this.counters, 0) - Atomics.load(this.counters, 1)) >>> 0;
  }

  get free(): number {
    return RING_BYTES - this.available;
  }

  /** Writes as much as fits; returns how much. */
  write(source: Uint8Array): number {
    const n = Math.min(source.length, this.free),
      at = Atomics.load(this.counters, 0) & (RING_BYTES - 1),
      first = Math.min(n, RING_BYTES - at);
    this.memory.set(source.subarray(0, first), this.base + at);
    this.memory.set(source.subarray(first, n), this.base);
    Atomics.add(this.counters, 0, n);
    Atomics.notify(this.counters, 0);
    return n;
  }

  /** Address of the next n bytes, which must be available; they stay until `consume`. */
  peek(n: number): number {
    const at = Atomics.load(this.counters, 1) & (RING_BYTES - 1),
      over = at + n - RING_BYTES;
    if (over > 0) this.memory.copyWithin(this.base + RING_BYTES, this.base, this.base + over);
    return this.base + at;
  }

  consume(n: number): void {
    Atomics.add(this.counters, 1, n);
    Atomics.notify(this.counters, 1);
  }

  /** Reader thread: blocks until n bytes are there. */
  waitAvailable(n: number): void {
    for (;;) {
      const written = Atomics.load(this.counters, 0);
      if ((written - Atomics.load(this.counters, 1)) >>> 0 >= n) return;
      Atomics.wait(this.counters, 0, written);
    }
  }

  /** Writer thread: blocks until something is free. */
  waitFree(): void {
    for (;;) {
      const read = Atomics.load(this.counters, 1);
      if ((Atomics.load(this.counters, 0) - read) >>> 0 < RING_BYTES) return;
      Atomics.wait(this.counters, 1, read);
    }
  }
}

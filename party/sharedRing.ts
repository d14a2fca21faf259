/**
 * A byte ring in the engine's memory between one writer thread and one reader thread; positions are u32 counters that wrap, the size is a power of two.
 * A ring's memory is touched as far as it is used.
 * The reader takes contiguous pieces: what wraps is copied behind the ring's end, where MAX_TAKE_BYTES are spare. Waiting is by Atomics on the counters.
 */
import { ADDRESS } from './engineMessages.ts';
import { CachetError } from '../protocols/errors.ts';
import { MAX_TAKE_BYTES } from '../protocols/engines/effects.ts';

/** Bytes of an engine's two rings: powers of two, at least MIN_RING_BYTES, or 0 for one that is not used. */
export type RingSizes = readonly [number, number];

/** Several times what a dealer holds back of a stream (FLUSH_BYTES, a frame). */
export const MIN_RING_BYTES = 8 << 20;

/** Consumed bytes after which the dealer is told at the latest: what it may send ahead does not wait for a large ring's quarter. */
export const CREDIT_BYTES = 4 << 20;

/** Where the rings begin: behind the low page. */
const FIRST_RING = 1 << 16,
  COUNTERS = 1032;

/** With the spare part. */
const space = (bytes: number): number => (bytes > 0 ? bytes + MAX_TAKE_BYTES : 0);
/** Bytes of an engine's memory before its arena. */
export const ringsEnd = ([a, b]: RingSizes): number => FIRST_RING + space(a) + space(b);

const CHECK_MS = 500;

/** Sleeps while counters[index] is `value`. @throws CachetError 'cancelled' once the session is over for the engine. */
export function block(counters: Int32Array, index: number, value: number, cancelled: Int32Array): void {
  if (Atomics.load(cancelled, 0) !== 0) throw new CachetError({ code: 'cancelled', what: 'session is over' });
  // The time limit covers a cancellation between the look and the sleep.
  Atomics.wait(counters, index, value, CHECK_MS);
}

export class SharedRing {
  private readonly memory: Uint8Array;
  private readonly counters: Int32Array;
  private readonly cancelled: Int32Array;
  private readonly base: number;
  /** Bytes that it holds at most. */
  readonly size: number;

  /** Ring 0 or 1 of an engine's memory; its two u32 counters are bytes written and bytes read. */
  constructor(memory: WebAssembly.Memory, ring: 0 | 1, sizes: RingSizes) {
    this.size = sizes[ring];
    this.memory = new Uint8Array(memory.buffer);
    this.counters = new Int32Array(memory.buffer, COUNTERS + 8 * ring, 2);
    this.cancelled = new Int32Array(memory.buffer, ADDRESS.cancelled, 1);
    this.base = FIRST_RING + (ring === 0 ? 0 : space(sizes[0]));
  }

  get available(): number {
    return (Atomics.load(this.counters, 0) - Atomics.load(this.counters, 1)) >>> 0;
  }

  get free(): number {
    return this.size - this.available;
  }

  /** Writes as much as fits; returns how much. */
  write(source: Uint8Array): number {
    const n = Math.min(source.length, this.free),
      at = Atomics.load(this.counters, 0) & (this.size - 1),
      first = Math.min(n, this.size - at);
    this.memory.set(source.subarray(0, first), this.base + at);
    this.memory.set(source.subarray(first, n), this.base);
    Atomics.add(this.counters, 0, n);
    Atomics.notify(this.counters, 0);
    return n;
  }

  /** Address of the next n bytes, which must be available; they stay until `consume`. */
  peek(n: number): number {
    const at = Atomics.load(this.counters, 1) & (this.size - 1),
      over = at + n - this.size;
    if (over > 0) this.memory.copyWithin(this.base + this.size, this.base, this.base + over);
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
      block(this.counters, 0, written, this.cancelled);
    }
  }

  /** Writer thread: blocks until something is free. */
  waitFree(): void {
    for (;;) {
      const read = Atomics.load(this.counters, 1);
      if ((Atomics.load(this.counters, 0) - read) >>> 0 < this.size) return;
      block(this.counters, 1, read, this.cancelled);
    }
  }

  /** Wakes whoever waits, to look at the cancellation. */
  wake(): void {
    Atomics.notify(this.counters, 0);
    Atomics.notify(this.counters, 1);
  }
}

/**
 * Where a session's pseudorandom halves come from: one 32-byte key per purpose (keys.ts), the gate's number as nonce, and within a gate a running
 * element counter, so that sender and receiver draw the same elements by drawing in the same order. No element of a stream is ever used twice.
 */
import type { PrgJob } from '../../kernels/bulk.ts';
import type { Kernels } from '../../kernels/kernels.ts';

export class Stream {
  private readonly kernels: Kernels;
  private readonly key: number;
  private gate = -1;
  private next = 0;

  /** `key` points to 32 bytes in the kernels' memory. */
  constructor(kernels: Kernels, key: number) {
    this.kernels = kernels;
    this.key = key;
  }

  /** The next n elements of this gate's stream, mod 2^bits. */
  draw(dst: number, gate: number, bits: number, n: number): void {
    const { first } = this.job(dst, gate, bits, n);
    this.kernels.prg(dst, this.key, gate, 0, first, bits, n);
  }

  /**
   * The next n elements of 64 + hiBits bits (whole bytes): n elements of the stream for lo u64[n], then as many as hold the upper bytes one after another, for
   * hi u64[n]. `words`: space for u64[highWords].
   */
  drawWide(lo: number, hi: number, words: number, gate: number, bits: number, n: number): void {
    this.draw(lo, gate, 64, n);
    this.draw(words, gate, 64, highWords(bits, n));
    this.kernels.unpack(hi, words, bits - 64, n);
  }

  /** The same draw as a job for a bulk backend: they count as drawn. */
  job(dst: number, gate: number, bits: number, n: number): PrgJob {
    if (gate !== this.gate) {
      this.gate = gate;
      this.next = 0;
    }
    const first = this.next;
    this.next += n;
    return { kind: 'prg', dst, key: this.key, gate, sub: 0, first, bits, n };
  }

  /** The first n elements of a gate's stream, for a tensor that was not kept when they were drawn. */
  first(dst: number, gate: number, bits: number, n: number): void {
    this.kernels.prg(dst, this.key, gate, 0, 0, bits, n);
  }
}

/** Elements of a stream that hold the bytes above 64 bits of n elements. */
export const highWords = (bits: number, n: number): number => Math.ceil(((bits - 64) * n) / 64);

/**
 * linear: public linear maps, applied to every lane of a tensor: 0 rounds, nothing sent or dealt, exact over the ring, no leakage. On shares the helper
 * does nothing, which is the usual choice for weights; on wires it maps the mask, and mask halves stay mask halves.
 *
 * Source: linearity of additive sharing. A map gives its integer form on one lane and its real form; `Engine.linear` applies it.
 */
import { SET, type Kernels } from '../../kernels/kernels.ts';
import { realProduct } from '../realProduct.ts';
import type { Constant, Matrix } from '../tensor.ts';

export interface Linear {
  readonly name: string;
  /** Elements of the result. */
  readonly size: number;
  /** Bits added to the scale. */
  readonly scale?: number;
  /** Ring of the result, if not the operand's. */
  readonly bits?: number;
  /** coins: pointer to the public coin key of P0 and P1 (also Fixed), gate: nonce. Only `parities` uses them. */
  integer(k: Kernels, dst: number, src: number, coins: number, gate: number): void;
  real(dst: Float64Array, src: Float64Array): void;
}

/** Columns from .. from + cols - 1 of rows with `stride` columns. */
export const columns = (rows: number, stride: number, from: number, cols: number): Linear => ({
  name: 'columns',
  size: rows * cols,
  integer: (k, dst, src) => k.copyRows(dst, cols, src + 8 * from, stride, rows, cols),
  real(dst, src) {
    for (let r = 0; r < rows; r++) dst.set(src.subarray(r * stride + from, r * stride + from + cols), r * cols);
  },
});

/** [rows, cols] -> [cols, rows]; for a few rows. */
export const transpose = (rows: number, cols: number): Linear => ({
  name: 'transpose',
  size: rows * cols,
  integer(k, dst, src) {
    for (let r = 0; r < rows; r++) k.copyRows(dst + 8 * r, rows, src + 8 * r * cols, 1, cols, 1);
  },
  real(dst, src) {
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) dst[c * rows + r] = src[r * cols + c]!;
  },
});

/** x[rows, inner] W^T -> [rows, cols], 2^fraction finer; `bits`: ring of x and of the result. */
export const matmul = (w: Matrix, rows: number, bits: number): Linear => ({
  name: 'matmul',
  size: rows * w.cols,
  scale: w.fraction,
  integer: (k, dst, src) => k.gemmI16(dst, src, w.pointer, rows, w.inner, w.cols, bits),
  real: (dst, src) => realProduct(dst, src, w, rows),
});

export interface RopeTables {
  /** int32 [positions, dim / 2] at scale `fraction`. */
  readonly cos: Constant<Int32Array>;
  readonly sin: Constant<Int32Array>;
  readonly fraction: number;
}

/** Rotary embedding (half rotation) of the `heads` heads that start at column `from` of rows with `stride` columns. */
export const rope = (t: RopeTables, rows: number, stride: number, from: number, heads: number, dim: number, position: number): Linear => ({
  name: 'rope',
  size: rows * heads * dim,
  scale: t.fraction,
  integer: (k, dst, src) => k.rope(dst, src + 8 * from, stride, t.cos.pointer, t.sin.pointer, position, rows, heads, dim),
  real(dst, src) {
    const half = dim / 2,
      unit = 2 ** -t.fraction;
    for (let r = 0; r < rows; r++)
      for (let h = 0; h < heads; h++)
        for (let j = 0; j < half; j++) {
          const a = src[r * stride + from + h * dim + j]!,
            b = src[r * stride + from + h * dim + j + half]!;
          const c = t.cos.array[(position + r) * half + j]! * unit,
            s = t.sin.array[(position + r) * half + j]! * unit,
            o = (r * heads + h) * dim + j;
          dst[o] = a * c - b * s;
          dst[o + half] = b * c + a * s;
        }
  },
});

/** Sums of consecutive runs. */
export const segmentSum = (lengths: Constant<Uint32Array>): Linear => ({
  name: 'segmentSum',
  size: lengths.array.length,
  integer: (k, dst, src) => k.segmentSum(dst, src, lengths.pointer, lengths.array.length),
  real(dst, src) {
    let at = 0;
    lengths.array.forEach((n, s) => {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += src[at++]!;
      dst[s] = sum;
    });
  },
});

/** Spreads one value a run over the run, its integer times 2^shift: result in Z_2^bits, `scale` bits finer (hence 2^(shift - scale) times the value). */
export const segmentSpread = (lengths: Constant<Uint32Array>, size: number, shift: number, bits: number, scale = shift): Linear => ({
  name: 'segmentSpread',
  size,
  scale,
  bits,
  integer: (k, dst, src) => k.segmentSpread(dst, src, lengths.pointer, lengths.array.length, 2 ** shift, SET),
  real(dst, src) {
    let at = 0;
    lengths.array.forEach((n, s) => dst.fill(src[s]! * 2 ** (shift - scale), at, (at += n)));
  },
});

/** Bits of a word of parities: a bucket that is not empty is missed with probability 2^-WORD_BITS. */
export const WORD_BITS = 7;

/** Per run of 64-bit words and bit position first .. first + count - 1: public random parities, as one word each. Real numbers: word = its highest set bit. */
export const parities = (lengths: Constant<Uint32Array>, first: number, count: number): Linear => ({
  name: 'parities',
  size: lengths.array.length * count,
  bits: WORD_BITS,
  integer: (k, dst, src, coins, gate) => k.parities(dst, src, lengths.pointer, lengths.array.length, first, count, coins, gate, 0),
  real(dst, src) {
    let at = 0;
    lengths.array.forEach((n, s) => {
      let top = -1;
      for (let i = 0; i < n; i++) top = Math.max(top, src[at++]!);
      for (let b = 0; b < count; b++) dst[s * count + b] = first + b <= top ? 1 : 0;
    });
  },
});

/** Ranges of slots of a cache, from .. to - 1, that no token fills. */
export type Slots = readonly (readonly [from: number, to: number])[];

/** Packed rows of the given lengths; a slot that no token fills takes its row's first element: neither the row's maximum nor its range changes. */
export const repeatFirst = (lengths: Constant<Uint32Array>, size: number, unused: Slots): Linear => ({
  name: 'repeatFirst',
  size,
  integer(k, dst, src) {
    k.copy(dst, src, size);
    eachUnused(lengths, unused, (row, from, n) => k.copyRows(dst + 8 * from, 1, src + 8 * row, 0, n, 1));
  },
  real(dst, src) {
    dst.set(src);
    eachUnused(lengths, unused, (row, from, n) => dst.fill(src[row]!, from, from + n));
  },
});

/** Packed rows of the given lengths; 0 in slots that no token fills. */
export const clearUnused = (lengths: Constant<Uint32Array>, size: number, unused: Slots): Linear => ({
  name: 'clearUnused',
  size,
  integer(k, dst, src) {
    k.copy(dst, src, size);
    eachUnused(lengths, unused, (_, from, n) => k.fill(dst + 8 * from, 0, n));
  },
  real(dst, src) {
    dst.set(src);
    eachUnused(lengths, unused, (_, from, n) => dst.fill(0, from, from + n));
  },
});

function eachUnused(lengths: Constant<Uint32Array>, unused: Slots, visit: (row: number, from: number, n: number) => void): void {
  let row = 0;
  for (const length of lengths.array) {
    for (const [from, to] of unused) if (from < length) visit(row, row + from, Math.min(to, length) - from);
    row += length;
  }
}

/** The same values, 2^bits finer. */
export const refine = (size: number, bits: number): Linear => ({
  name: 'refine',
  size,
  scale: bits,
  integer: (k, dst, src) => k.mulScalar(dst, src, 2 ** bits, size, SET),
  real: (dst, src) => dst.set(src),
});

/** One of the rows of an activation: [rows, width] -> [width]. */
export const row = (index: number, width: number): Linear => ({
  name: 'row',
  size: width,
  integer: (k, dst, src) => k.copy(dst, src + 8 * index * width, width),
  real: (dst, src) => dst.set(src.subarray(index * width, (index + 1) * width)),
});

/** Two-operand sums; `Engine.combine` applies them to shares of one ring and scale. */
export const sum = { name: 'sum', integer: (k: Kernels, dst: number, a: number, b: number, n: number): void => k.add(dst, a, b, n), sign: 1 };
export const difference = { name: 'difference', integer: (k: Kernels, dst: number, a: number, b: number, n: number): void => k.sub(dst, a, b, n), sign: -1 };

/** x[rows, cols] + one row, integers at x's scale. `Engine.addRow` applies it to shares. */
export const rowSum = {
  name: 'addRow',
  integer: (k: Kernels, dst: number, src: number, row: number, rows: number, cols: number): void => {
    for (let r = 0; r < rows; r++) k.add(dst + 8 * r * cols, src + 8 * r * cols, row, cols);
  },
};

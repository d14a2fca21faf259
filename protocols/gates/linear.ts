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

/** `rows` pieces of `cols` elements, from one place to another; strides from one piece to the next. */
export interface Move {
  readonly dst: number;
  readonly dstStride: number;
  readonly src: number;
  readonly srcStride: number;
  readonly rows: number;
  readonly cols: number;
}

/** Elements in another order, by moves that fill the whole result. */
export const rearrange = (name: string, size: number, moves: readonly Move[]): Linear => ({
  name,
  size,
  integer(k, dst, src) {
    for (const m of moves) k.copyRows(dst + 8 * m.dst, m.dstStride, src + 8 * m.src, m.srcStride, m.rows, m.cols);
  },
  real(dst, src) {
    for (const m of moves)
      for (let r = 0; r < m.rows; r++) dst.set(src.subarray(m.src + r * m.srcStride, m.src + r * m.srcStride + m.cols), m.dst + r * m.dstStride);
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

/** The same integers in units of 2^unit: 2^-unit times the value, at a scale that is finer by `unit` (which may be negative). */
export const inUnits = (size: number, unit: number): Linear => ({
  name: 'inUnits',
  size,
  scale: unit,
  integer: (k, dst, src) => k.copy(dst, src, size),
  real: (dst, src) => src.forEach((v, i) => (dst[i] = v * 2 ** -unit)),
});

/** Real numbers take the integer below, as integers do where a wire is narrowed; integers stay. */
export const whole = (size: number): Linear => ({
  name: 'whole',
  size,
  integer: (k, dst, src) => k.copy(dst, src, size),
  real: (dst, src) => src.forEach((v, i) => (dst[i] = Math.floor(v))),
});

/** Sums of the elements before each one in its row: [rows, count] -> [rows, count]. */
export const sumsBefore = (rows: number, count: number): Linear => ({
  name: 'sumsBefore',
  size: rows * count,
  integer(k, dst, src) {
    for (let r = 0; r < rows; r++) {
      const from = src + 8 * r * count,
        to = dst + 8 * r * count;
      k.fill(to, 0, 1);
      for (let j = 1; j < count; j++) k.add(to + 8 * j, to + 8 * (j - 1), from + 8 * (j - 1), 1);
    }
  },
  real(dst, src) {
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let j = r * count; j < (r + 1) * count; j++) {
        dst[j] = sum;
        sum += src[j]!;
      }
    }
  },
});

/** Each element times its public place, first + j in its row. */
export const timesPlace = (rows: number, count: number, first: number): Linear => ({
  name: 'timesPlace',
  size: rows * count,
  integer(k, dst, src) {
    for (let r = 0; r < rows * count; r += count) for (let j = 0; j < count; j++) k.mulScalar(dst + 8 * (r + j), src + 8 * (r + j), first + j, 1, SET);
  },
  real: (dst, src) => src.forEach((v, i) => (dst[i] = v * (first + (i % count)))),
});

/** One-hot rows [count, places] -> how many of them lie at each place or above: [places]. */
export const countsFrom = (count: number, places: number): Linear => ({
  name: 'countsFrom',
  size: places,
  integer(k, dst, src) {
    k.fill(dst, 0, places);
    for (let r = 0; r < count; r++) k.add(dst, dst, src + 8 * r * places, places);
    for (let b = places - 2; b >= 0; b--) k.add(dst + 8 * b, dst + 8 * b, dst + 8 * (b + 1), 1);
  },
  real(dst, src) {
    dst.fill(0);
    src.forEach((v, i) => (dst[i % places]! += v));
    for (let b = places - 2; b >= 0; b--) dst[b]! += dst[b + 1]!;
  },
});

/** How much each element of a row is below the one before it, 0 for the first: [rows, count] -> [rows, count]. */
export const drops = (rows: number, count: number): Linear => ({
  name: 'drops',
  size: rows * count,
  integer(k, dst, src) {
    k.fill(dst, 0, 1);
    k.sub(dst + 8, src, src + 8, rows * count - 1);
    for (let r = 1; r < rows; r++) k.fill(dst + 8 * r * count, 0, 1);
  },
  real: (dst, src) => dst.forEach((_, i) => (dst[i] = i % count === 0 ? 0 : src[i - 1]! - src[i]!)),
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

/** Rotary embedding (half rotation) of the `heads` heads that start at column `from` of rows with `stride` columns. Rows before position 0 are at position 0. */
export const rope = (t: RopeTables, rows: number, stride: number, from: number, heads: number, dim: number, position: number): Linear => ({
  name: 'rope',
  size: rows * heads * dim,
  scale: t.fraction,
  integer(k, dst, src) {
    const before = Math.min(rows, Math.max(0, -position)),
      turn = (first: number, count: number, at: number): void =>
        k.rope(dst + 8 * first * heads * dim, src + 8 * (first * stride + from), stride, t.cos.pointer, t.sin.pointer, at, count, heads, dim);
    for (let r = 0; r < before; r++) turn(r, 1, 0);
    if (before < rows) turn(before, rows - before, position + before);
  },
  real(dst, src) {
    const half = dim / 2,
      unit = 2 ** -t.fraction;
    for (let r = 0; r < rows; r++)
      for (let h = 0; h < heads; h++)
        for (let j = 0; j < half; j++) {
          const a = src[r * stride + from + h * dim + j]!,
            b = src[r * stride + from + h * dim + j + half]!;
          const at = Math.max(0, position + r) * half + j,
            c = t.cos.array[at]! * unit,
            s = t.sin.array[at]! * unit,
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

/** `factor` (an integer) times the value, at a scale finer by `shift`: the integer times factor 2^shift, over the same ring. */
export const times = (size: number, factor: number, shift: number): Linear => ({
  name: 'times',
  size,
  scale: shift,
  integer: (k, dst, src) => k.mulScalar(dst, src, factor * 2 ** shift, size, SET),
  real(dst, src) {
    for (let i = 0; i < size; i++) dst[i] = factor * src[i]!;
  },
});

/** The rows of each group combined: [groups, rows, cols] -> [groups, cols]. */
const grouped = (
  name: string,
  groups: number,
  rows: number,
  cols: number,
  combine: 'add' | 'xor',
  real: { readonly first: number; next(a: number, b: number): number },
): Linear => ({
  name,
  size: groups * cols,
  integer(k, dst, src) {
    for (let g = 0; g < groups; g++) {
      const to = dst + 8 * g * cols,
        from = src + 8 * g * rows * cols;
      k.copy(to, from, cols);
      for (let r = 1; r < rows; r++) k[combine](to, to, from + 8 * r * cols, cols);
    }
  },
  real(dst, src) {
    for (let g = 0; g < groups; g++)
      for (let c = 0; c < cols; c++) {
        let all = real.first;
        for (let r = 0; r < rows; r++) all = real.next(all, src[(g * rows + r) * cols + c]!);
        dst[g * cols + c] = all;
      }
  },
});

/** Sums of the rows of each group: [groups, rows, cols] -> [groups, cols]. */
export const rowSums = (groups: number, rows: number, cols: number): Linear =>
  grouped('rowSums', groups, rows, cols, 'add', { first: 0, next: (a, b) => a + b });

export const pairsOf = (count: number): number => (count * (count - 1)) / 2;

/** Differences x_a - x_b of all pairs a < b of each row: [rows, count] -> [rows, pairs], in lexicographic order. On wires of few bits: the operands of a comparison. */
export const pairDifferences = (rows: number, count: number): Linear => ({
  name: 'pairDifferences',
  size: rows * pairsOf(count),
  integer: (k, dst, src) => k.pairDifferences(dst, src, rows, count),
  real(dst, src) {
    let at = 0;
    for (let r = 0; r < rows * count; r += count) for (let a = 0; a < count; a++) for (let b = a + 1; b < count; b++) dst[at++] = src[r + a]! - src[r + b]!;
  },
});

/** The transposed map, [rows, pairs] -> [rows, count]: of [x_a < x_b] it gives, for each element, the number of elements before it less its own index. */
export const pairSums = (rows: number, count: number): Linear => ({
  name: 'pairSums',
  size: rows * count,
  integer: (k, dst, src) => k.pairSums(dst, src, rows, count),
  real(dst, src) {
    let at = 0;
    dst.fill(0);
    for (let r = 0; r < rows * count; r += count)
      for (let a = 0; a < count; a++)
        for (let b = a + 1; b < count; b++, at++) {
          dst[r + a]! += src[at]!;
          dst[r + b]! -= src[at]!;
        }
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

/** Words of parities of each group of rows, added up: whether one of the rows has a parity that is not 0, with its own rows' probability. Of real numbers the largest. */
export const anyOf = (groups: number, rows: number, cols: number): Linear => grouped('anyOf', groups, rows, cols, 'xor', { first: -Infinity, next: Math.max });

/** Ranges of slots of a cache, from .. to - 1, that no token fills. */
export type Slots = readonly (readonly [from: number, to: number])[];

/** Packed rows of the given lengths; a slot that no token fills takes its row's first element of one that is filled: neither the row's maximum nor its range changes. */
export const repeatFirst = (lengths: Constant<Uint32Array>, size: number, unused: Slots): Linear => ({
  name: 'repeatFirst',
  size,
  integer(k, dst, src) {
    k.copy(dst, src, size);
    eachUnused(lengths, unused, (first, from, n) => k.copyRows(dst + 8 * from, 1, src + 8 * first, 0, n, 1));
  },
  real(dst, src) {
    dst.set(src);
    eachUnused(lengths, unused, (first, from, n) => dst.fill(src[first]!, from, from + n));
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

/** `first`: the row's first slot that is filled; where none is, its first. */
function eachUnused(lengths: Constant<Uint32Array>, unused: Slots, visit: (first: number, from: number, n: number) => void): void {
  const start = firstFilled(unused);
  let row = 0;
  for (const length of lengths.array) {
    for (const [from, to] of unused) if (from < Math.min(to, length)) visit(row + (start < length ? start : 0), row + from, Math.min(to, length) - from);
    row += length;
  }
}

function firstFilled(unused: Slots): number {
  let slot = 0;
  for (const [from, to] of unused.toSorted((a, b) => a[0] - b[0])) if (from <= slot) slot = Math.max(slot, to);
  return slot;
}

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

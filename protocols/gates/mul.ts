/**
 * mul: any bilinear operation on two wires -> share, local:
 *   x op y = m_x op m_y - r_x op m_y - m_x op r_y + r_x op r_y; H deals r_x op r_y, whose size is the output's size. P0 and P1 take their halves of the
 *   masks; P0 has m_x op m_y as well, as (r_x - m_x) in the place of r_x.
 *
 * Source: Beaver 1991 in masked-wire form (ABY2.0, Turbospeedz; Cachet DESIGN 2). Exact over Z_2^n, n the smaller of the operands' rings; the value
 * must satisfy |x op y| < 2^(n-1) at scale s_x + s_y. Dealt: ceil(n / 8) bytes an output to P1 (keys with public mask 0: none). Leakage: none.
 * Both operands' mask halves must be with the evaluators (`Engine.mul` deals those of narrowed wires).
 */
import type { GemmJob } from '../../kernels/bulk.ts';
import { ADD, SET, SUB, type Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

export interface Bilinear {
  readonly name: string;
  readonly xSize: number;
  readonly ySize: number;
  readonly size: number;
  /** Results whose product of masks is not 0 for sure, hence dealt; `size` unless masks are publicly 0. */
  readonly dealtSize: number;
  integer(k: Kernels, dst: number, x: number, y: number, bits: number, mode: number): void;
  /** r_x op r_y of the dealt results only, packed; and adding them to the full result. Absent: all results are dealt. */
  dealt?: { integer(k: Kernels, dst: number, x: number, y: number, bits: number): void; add(k: Kernels, dst: number, src: number): void };
  /** r_x op r_y of the dealt results, packed, as products in bulk; absent where it is not one. */
  jobs?(dst: number, x: number, y: number, bits: number): readonly GemmJob[];
  real(dst: Float64Array, x: Float64Array, y: Float64Array): void;
}

export const mul: Gate<Bilinear> = {
  name: 'mul',
  shape(op, [x, y]) {
    if (x!.size < op.xSize || y!.size < op.ySize)
      throw new CachetError({
        code: 'shape',
        step: `mul ${op.name}`,
        what: 'operand too small',
        expected: `${op.xSize} and ${op.ySize} elements`,
        got: `${x!.size} and ${y!.size}`,
      });
    return [share(op.size, Math.min(x!.bits, y!.bits), x!.scale + y!.scale)];
  },
  cost: (op, [x, y]) => ({ p0: 0, p1: op.dealtSize * bytesOf(Math.min(x!.bits, y!.bits)) }),
  domain: () => undefined,
  ideal(op, [x, y], [z]) {
    op.real(z!, x!, y!);
  },
  fixed({ kernels: k }, op, [x, y], [z]) {
    op.integer(k, z!.lane, x!.lane, y!.lane, z!.bits, SET);
  },
  deal({ kernels: k, scratch, deal, later }, op, [x, y], [z]) {
    const { bits } = z!,
      compute = (product: number): void =>
        op.dealt ? op.dealt.integer(k, product, x!.mask, y!.mask, bits) : op.integer(k, product, x!.mask, y!.mask, bits, SET),
      dealIt = (product: number): void => deal(product, bits, op.dealtSize);
    if (op.jobs) return later('gemm', op.dealtSize, (product) => op.jobs!(product, x!.mask, y!.mask, bits), dealIt, compute);
    const product = scratch(op.dealtSize);
    compute(product);
    dealIt(product);
  },
  evaluate({ kernels: k, scratch, receive, party }, op, [x, y], [z]) {
    if (op.dealt) {
      const dealt = scratch(op.dealtSize);
      receive(dealt, z!.bits, op.dealtSize);
      k.fill(z!.lane, 0, op.size);
      op.dealt.add(k, z!.lane, dealt);
    } else receive(z!.lane, z!.bits, op.size);
    // P0's m_x op m_y goes with one of the other two products, in the operand that is smaller: a cache of keys is only read.
    const onX = op.xSize <= op.ySize;
    let [a, b] = [x!.mask, y!.mask];
    if (party === 0) {
      const half = scratch(onX ? op.xSize : op.ySize);
      if (onX) k.sub(half, a, x!.lane, op.xSize);
      else k.sub(half, b, y!.lane, op.ySize);
      if (onX) a = half;
      else b = half;
    }
    op.integer(k, z!.lane, a, y!.lane, z!.bits, SUB);
    op.integer(k, z!.lane, x!.lane, b, z!.bits, SUB);
  },
};

/** Element-wise product of n elements. */
export const hadamard = (n: number): Bilinear => ({
  name: 'hadamard',
  xSize: n,
  ySize: n,
  size: n,
  dealtSize: n,
  integer: (k, dst, x, y, _, mode) => k.hadamard(dst, x, y, n, mode),
  real: (dst, x, y) => dst.forEach((_, i) => (dst[i] = x[i]! * y[i]!)),
});

/** x[rows, cols] times y[rows], row by row. */
export const scaleRows = (rows: number, cols: number): Bilinear => ({
  name: 'scaleRows',
  xSize: rows * cols,
  ySize: rows,
  size: rows * cols,
  dealtSize: rows * cols,
  integer: (k, dst, x, y, _, mode) => k.scaleRows(dst, x, y, rows, cols, mode),
  real: (dst, x, y) => dst.forEach((_, i) => (dst[i] = x[i]! * y[Math.floor(i / cols)]!)),
});

/** x in rows of the given lengths, times y[rows], row by row. */
export const scaleRuns = (lengths: Uint32Array): Bilinear => {
  const size = lengths.reduce((n, length) => n + length, 0),
    each = (visit: (row: number, at: number, length: number) => void): void => {
      let at = 0;
      lengths.forEach((n, r) => {
        visit(r, at, n);
        at += n;
      });
    };
  return {
    name: 'scaleRuns',
    xSize: size,
    ySize: lengths.length,
    size,
    dealtSize: size,
    integer: (k, dst, x, y, _, mode) => each((r, at, n) => k.scaleRows(dst + 8 * at, x + 8 * at, y + 8 * r, 1, n, mode)),
    real: (dst, x, y) =>
      each((r, at, n) => {
        for (let i = at; i < at + n; i++) dst[i] = x[i]! * y[r]!;
      }),
  };
};

/** Inner product of each of `rows` rows of length cols. */
export const dotRows = (rows: number, cols: number): Bilinear => ({
  name: 'dotRows',
  xSize: rows * cols,
  ySize: rows * cols,
  size: rows,
  dealtSize: rows,
  integer: (k, dst, x, y, _, mode) => k.dotRows(dst, x, y, rows, cols, mode),
  real(dst, x, y) {
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let c = r * cols; c < (r + 1) * cols; c++) sum += x[c]! * y[c]!;
      dst[r] = sum;
    }
  },
});

/** Shape of causal attention: query i of `queries` sees the keys 0 .. past + i of caches [heads / group, capacity, dim]; see kernels.ts, scores. */
export interface AttentionShape {
  readonly queries: number;
  readonly heads: number;
  readonly group: number;
  readonly dim: number;
  readonly past: number;
  readonly capacity: number;
  /** The first of the key/value heads in the caches: `heads` may be a tile of them. */
  readonly firstKv: number;
  /** The first `prefix` keys and values are public (mask 0). */
  readonly prefix: number;
}

export const packedRow = (a: AttentionShape, i: number): number => i * a.past + (i * (i + 1)) / 2;
export const packedSize = (a: AttentionShape): number => a.heads * packedRow(a, a.queries);

/** Logits q k^T, packed causal rows; q [queries, heads, dim]. */
export const scores = (a: AttentionShape): Bilinear => {
  const { queries, heads, group, dim, past, capacity, firstKv, prefix } = a,
    base = firstKv * capacity * dim;
  const size = packedSize(a),
    dealtSize = size - queries * heads * prefix;
  return {
    name: 'scores',
    xSize: queries * heads * dim,
    ySize: base + (heads / group) * capacity * dim,
    size,
    dealtSize,
    integer: (k, dst, x, y, bits, mode) => k.scores(dst, x, y + 8 * base, queries, heads, group, dim, past, capacity, bits, mode),
    dealt: {
      integer: (k, dst, x, y, bits) => k.scores(dst, x, y + 8 * (base + prefix * dim), queries, heads, group, dim, past - prefix, capacity, bits, SET),
      add: (k, dst, src) => k.addTails(dst, src, queries, heads, past, prefix),
    },
    jobs: (dst, x, y, bits) => attentionJobs({ ...a, past: past - prefix }, { logits: dst, rows: x, cache: y + 8 * (base + prefix * dim), bits }, 'scores'),
    real(dst, x, y) {
      let at = 0;
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < queries; i++)
          for (let t = 0; t <= past + i; t++) {
            const q = (i * heads + h) * dim,
              c = base + (Math.floor(h / group) * capacity + t) * dim;
            let sum = 0;
            for (let d = 0; d < dim; d++) sum += x[q + d]! * y[c + d]!;
            dst[at++] = sum;
          }
    },
  };
};

/** Packed causal rows times values [heads / group, capacity, dim] -> [queries, heads, dim]. */
export const mix = (a: AttentionShape): Bilinear => {
  const { queries, heads, group, dim, past, capacity, firstKv } = a,
    base = firstKv * capacity * dim;
  return {
    name: 'mix',
    xSize: packedSize(a),
    ySize: base + (heads / group) * capacity * dim,
    size: queries * heads * dim,
    dealtSize: queries * heads * dim,
    integer: (k, dst, x, y, _, mode) => k.mix(dst, x, y + 8 * base, queries, heads, group, dim, past, capacity, mode),
    jobs: (dst, x, y, bits) => attentionJobs(a, { logits: x, rows: dst, cache: y + 8 * base, bits }, 'mix'),
    real(dst, x, y) {
      dst.fill(0);
      let at = 0;
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < queries; i++)
          for (let t = 0; t <= past + i; t++) {
            const p = x[at++]!,
              o = (i * heads + h) * dim,
              c = base + (Math.floor(h / group) * capacity + t) * dim;
            for (let d = 0; d < dim; d++) dst[o + d]! += p * y[c + d]!;
          }
    },
  };
};

/**
 * One product a query: a batch has the query's heads over one cache. `scores`: logits = rows times keys; `mix`: rows = logits times values. `rows`:
 * [queries, heads, dim]; `logits`: packed causal rows; `cache`: [heads / group, capacity, dim].
 */
function attentionJobs(
  { queries, heads, group, dim, past, capacity }: AttentionShape,
  at: { readonly logits: number; readonly rows: number; readonly cache: number; readonly bits: number },
  product: 'scores' | 'mix',
): GemmJob[] {
  const head = queries * past + (queries * (queries + 1)) / 2;
  return Array.from({ length: queries }, (_, i): GemmJob => {
    const keys = past + i + 1,
      logits = at.logits + 8 * (i * past + (i * (i + 1)) / 2),
      row = at.rows + 8 * i * heads * dim,
      common = { kind: 'gemm', y: at.cache, yBatch: capacity * dim, yBits: 64, batch: heads / group, rows: group, bits: at.bits } as const;
    return product === 'scores'
      ? { ...common, dst: logits, dstBatch: group * head, dstRow: head, x: row, xBatch: group * dim, xRow: dim, transposed: false, inner: dim, cols: keys }
      : { ...common, dst: row, dstBatch: group * dim, dstRow: dim, x: logits, xBatch: group * head, xRow: head, transposed: true, inner: keys, cols: dim };
  });
}

/**
 * Attention that the last `voters` queries pay to each key from `skip` on: packed causal rows of probabilities times one weight a row, y [queries, heads],
 * summed over queries and heads -> [keys], or with `perHead` over queries alone -> [heads, keys].
 */
export const weighRows = (a: AttentionShape, voters: number, skip: number, perHead: boolean): Bilinear => {
  const { queries, heads, past } = a,
    keys = past + queries - skip,
    size = (perHead ? heads : 1) * keys,
    each = (visit: (row: number, weight: number, length: number, to: number) => void): void => {
      for (let h = 0; h < heads; h++)
        for (let i = queries - voters; i < queries; i++)
          visit(h * packedRow(a, queries) + packedRow(a, i) + skip, i * heads + h, past + i + 1 - skip, perHead ? h * keys : 0);
    };
  return {
    name: 'weighRows',
    xSize: packedSize(a),
    ySize: queries * heads,
    size,
    dealtSize: size,
    integer(k, dst, x, y, _, mode) {
      if (mode === SET) k.fill(dst, 0, size);
      each((row, weight, n, to) => k.scaleRows(dst + 8 * to, x + 8 * row, y + 8 * weight, 1, n, mode === SUB ? SUB : ADD));
    },
    real(dst, x, y) {
      dst.fill(0);
      each((row, weight, n, to) => {
        for (let t = 0; t < n; t++) dst[to + t]! += x[row + t]! * y[weight]!;
      });
    },
  };
};

/** Part of a selector matrix that is 0 elsewhere: rows row .. row + rows - 1, columns column .. column + columns - 1. */
export interface Block {
  readonly row: number;
  readonly rows: number;
  readonly column: number;
  readonly columns: number;
}

/**
 * A selector times a cache [kvHeads, capacity, dim], whose row of the selector's column 0 is `first`: x holds the selector's blocks one after another, each
 * [rows, columns]. Result [kvHeads, rows, dim].
 */
export const selectRows = (blocks: readonly Block[], rows: number, kvHeads: number, capacity: number, first: number, dim: number): Bilinear => {
  const size = kvHeads * rows * dim,
    each = (visit: (block: Block, at: number, to: number, from: number) => void): void => {
      for (let g = 0; g < kvHeads; g++) {
        let at = 0;
        for (const b of blocks) {
          visit(b, at, (g * rows + b.row) * dim, (g * capacity + first + b.column) * dim);
          at += b.rows * b.columns;
        }
      }
    };
  return {
    name: 'selectRows',
    xSize: blocks.reduce((n, b) => n + b.rows * b.columns, 0),
    ySize: kvHeads * capacity * dim,
    size,
    dealtSize: size,
    integer(k, dst, x, y, _, mode) {
      if (mode === SET) k.fill(dst, 0, size);
      each((b, at, to, from) => k.mix(dst + 8 * to, x + 8 * at, y + 8 * from, 1, b.rows, b.rows, dim, b.columns - 1, capacity, mode === SUB ? SUB : ADD));
    },
    real(dst, x, y) {
      dst.fill(0);
      each((b, at, to, from) => {
        for (let r = 0; r < b.rows; r++)
          for (let c = 0; c < b.columns; c++) {
            const s = x[at + r * b.columns + c]!;
            if (s !== 0) for (let d = 0; d < dim; d++) dst[to + r * dim + d]! += s * y[from + c * dim + d]!;
          }
      });
    },
  };
};

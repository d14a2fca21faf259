/**
 * Causal grouped-query attention over a cache of wires, for `rows` new tokens (a prefill, or one decoded token). 12 rounds with the opening of the new
 * residual stream. Logits exist for key <= query only, packed row by row. A row's softmax is taken relative to a reference near its maximum (rowMax).
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { columns, matmul, rope, segmentSpread, segmentSum, transpose } from '../gates/linear.ts';
import { mix, packedSize, scaleRows, scores, type AttentionShape } from '../gates/mul.ts';
import { wire, type Constant, type Tensor } from '../tensor.ts';
import { norm } from './norm.ts';
import { BUCKET_SHIFT, RING, SCALE, type LayerPlan, type LlamaPlan } from './plan.ts';
import { rowMax } from './rowMax.ts';

/** Keys (rotated, 2^12 in Z_2^32) and values (2^8 in Z_2^64) of one layer: [kvHeads, capacity, headDim]. */
export interface LayerCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly capacity: number;
}

/** Lengths of the packed rows, one constant per step shape. */
export interface RowLengths {
  /** Of each row (head, query). */
  readonly rows: Constant<Uint32Array>;
  /** 64 for each row. */
  readonly buckets: Constant<Uint32Array>;
}

export function createCache(e: Engine, plan: LlamaPlan, capacity: number): LayerCache[] {
  const { kvHeads, headDim } = plan.shape,
    prefix = plan.prefixIds.length;
  return plan.layers.map((_, l) => {
    const keys = e.zeros(wire(kvHeads * capacity * headDim, RING.logits, SCALE.activation));
    const values = e.zeros(wire(kvHeads * capacity * headDim, 64, SCALE.value));
    for (let h = 0; h < kvHeads; h++)
      for (let t = 0; t < prefix; t++) {
        const from = (t * kvHeads + h) * headDim,
          to = (h * capacity + t) * headDim;
        e.storePublic(keys, to, plan.prefixKeys[l]!.subarray(from, from + headDim));
        e.storePublic(values, to, plan.prefixValues[l]!.subarray(from, from + headDim));
      }
    return { keys, values, capacity };
  });
}

export function rowLengths(e: Engine, heads: number, queries: number, past: number): RowLengths {
  const rows = Uint32Array.from({ length: heads * queries }, (_, i) => past + (i % queries) + 1);
  return { rows: e.constant('tables', rows), buckets: e.constant('tables', new Uint32Array(heads * queries).fill(64)) };
}

/**
 * x: residual stream, wire [rows, width] 2^24. `past` cached tokens; `queries` of the new tokens, the last ones, attend (all, or 1 where only the last
 * position's output is wanted). Returns the attention's output, share [queries, width] 2^24 in Z_2^64.
 */
export function* attention(
  e: Engine,
  plan: LlamaPlan,
  layer: LayerPlan,
  cache: LayerCache,
  x: Tensor,
  rows: number,
  past: number,
  queries: number,
): Program<Tensor> {
  const { width, heads, kvHeads, headDim } = plan.shape,
    qSize = heads * headDim,
    kSize = kvHeads * headDim,
    stride = qSize + kSize;
  const h = yield* norm(e, layer.norm1, x, rows, width, 'squares');
  const [y] = yield* e.open([yield* e.linearJob(matmul(layer.qkv, rows), h)]);
  const qk = e.widen(e.linear(columns(rows, stride + kSize, 0, stride), y!), 30);
  const v = e.widen(e.linear(columns(rows, stride + kSize, stride, kSize), y!), 42 - SCALE.value);
  e.note('qk', qk);
  e.note('v', v);
  const last = queries === rows ? qk : e.linear(columns(queries, stride, (rows - queries) * stride, stride), qk);
  const q = e.linear(rope(plan.rope, queries, stride, 0, heads, headDim, past + rows - queries), last);
  const k = e.linear(rope(plan.rope, rows, stride, qSize, kvHeads, headDim, past), qk);
  const [qw, kw, vw] = yield* e.open([{ x: q, bits: 44 }, { x: k, bits: 44 }, v]);

  const key = e.withHalves(e.narrow(kw!, SCALE.activation));
  for (let g = 0; g < kvHeads; g++) {
    e.store(cache.keys, (g * cache.capacity + past) * headDim, headDim, key, g * headDim, kSize, rows, headDim);
    e.store(cache.values, (g * cache.capacity + past) * headDim, headDim, vw!, g * headDim, kSize, rows, headDim);
  }
  const shape: AttentionShape = {
    queries,
    heads,
    group: heads / kvHeads,
    dim: headDim,
    past: past + rows - queries,
    capacity: cache.capacity,
    prefix: plan.prefixIds.length,
  };
  const z = e.mul(scores(shape), e.narrow(qw!, SCALE.activation), cache.keys);
  e.note('logits', z);
  const [zw] = yield* e.open([z]);

  const mark = rowLengths(e, heads, queries, shape.past);
  const top = yield* rowMax(e, zw!, mark.rows, mark.buckets, layer.lowBucket, plan.nonzero);
  // The reference alone is opened, one small value a row; the logits' wire is shifted by it without another opening.
  const [reference] = yield* e.open([top]);
  const fine = e.narrow(e.sub(zw!, e.linear(segmentSpread(mark.rows, packedSize(shape), BUCKET_SHIFT, RING.logits, z.scale), reference!)), 12);
  e.note('relative', fine);
  const [p] = yield* e.open(e.expTable(layer.exp, fine));
  const sums = e.linear(segmentSum(mark.rows), p!);
  e.note('sums', sums);
  const [o, r] = yield* e.open([e.mul(mix(shape), p!, cache.values), e.linear(transpose(heads, queries), e.windows(layer.reciprocal, sums))]);
  const [on] = yield* e.open([e.mul(scaleRows(queries * heads, headDim), o!, r!)]);
  e.note('attention', on!);
  return yield* e.linearJob(matmul(layer.o, queries), e.widen(on!, SCALE.probability + SCALE.value + SCALE.reciprocal - SCALE.activation));
}

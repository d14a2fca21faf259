/**
 * Causal grouped-query attention over a cache of wires, for `rows` new tokens (a prefill, or one decoded token). 12 rounds with the opening of the new
 * residual stream. Logits exist for key <= query only, packed row by row. A row's softmax is taken relative to a reference near its maximum (rowMax).
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { clearUnused, columns, matmul, repeatFirst, rope, segmentSpread, segmentSum, transpose, type Slots } from '../gates/linear.ts';
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

/** What the caches hold already. A session of several turns has slots that no token fills: what an answer did not need of its allowance. */
export interface Past {
  /** Slots in use or passed over. */
  readonly slots: number;
  /** Tokens, hence the next token's position. */
  readonly position: number;
  /** Not known to the dealer, on whom nothing depends; undefined in a session's first turn. */
  readonly unused: Slots | undefined;
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
 * x: residual stream, wire [rows, width] 2^24. `queries` of the new tokens, the last ones, attend (all, or 1 where only the last position's output is
 * wanted). Slots that no token fills: their logits are replaced by their row's first one (so they change no reference and leave no domain), their
 * probabilities by 0, both on shares, where the dealer has nothing to do. Returns the attention's output, share [queries, width] 2^24 in Z_2^64.
 */
export function* attention(
  e: Engine,
  plan: LlamaPlan,
  layer: LayerPlan,
  cache: LayerCache,
  x: Tensor,
  rows: number,
  past: Past,
  queries: number,
): Program<Tensor> {
  const { width, heads, kvHeads, headDim } = plan.shape,
    qSize = heads * headDim,
    kSize = kvHeads * headDim,
    stride = qSize + kSize;
  const h = yield* norm(e, layer.norm1, x, rows, width, 'squares');
  e.part = 'attention';
  const [y] = yield* e.open([yield* e.linearJob(matmul(layer.qkv, rows), h)]);
  const qk = e.widen(e.linear(columns(rows, stride + kSize, 0, stride), y!), 30);
  const v = e.widen(e.linear(columns(rows, stride + kSize, stride, kSize), y!), 42 - SCALE.value);
  e.note('qk', qk);
  e.note('v', v);
  const last = queries === rows ? qk : e.linear(columns(queries, stride, (rows - queries) * stride, stride), qk);
  const q = e.linear(rope(plan.rope, queries, stride, 0, heads, headDim, past.position + rows - queries), last);
  const k = e.linear(rope(plan.rope, rows, stride, qSize, kvHeads, headDim, past.position), qk);
  const [qw, kw, vw] = yield* e.open([{ x: q, bits: 44 }, { x: k, bits: 44 }, v]);

  const key = e.withHalves(e.narrow(kw!, SCALE.activation));
  for (let g = 0; g < kvHeads; g++) {
    e.store(cache.keys, (g * cache.capacity + past.slots) * headDim, headDim, key, g * headDim, kSize, rows, headDim);
    e.store(cache.values, (g * cache.capacity + past.slots) * headDim, headDim, vw!, g * headDim, kSize, rows, headDim);
  }
  const shape: AttentionShape = {
    queries,
    heads,
    group: heads / kvHeads,
    dim: headDim,
    past: past.slots + rows - queries,
    capacity: cache.capacity,
    prefix: plan.prefixIds.length,
  };
  const mark = rowLengths(e, heads, queries, shape.past),
    products = e.mul(scores(shape), e.narrow(qw!, SCALE.activation), cache.keys),
    z = past.unused ? e.linear(repeatFirst(mark.rows, packedSize(shape), past.unused), products) : products;
  e.note('logits', z);
  const [zw] = yield* e.open([z]);

  const top = yield* rowMax(e, zw!, mark.rows, mark.buckets, layer.lowBucket, plan.nonzero);
  // The reference alone is opened, one small value a row; the logits' wire is shifted by it without another opening.
  const [reference] = yield* e.open([top]);
  const fine = e.narrow(e.sub(zw!, e.linear(segmentSpread(mark.rows, packedSize(shape), BUCKET_SHIFT, RING.logits, z.scale), reference!)), 12);
  e.note('relative', fine);
  const [exp] = e.expTable(layer.exp, fine),
    [p] = yield* e.open([past.unused ? e.linear(clearUnused(mark.rows, packedSize(shape), past.unused), exp!) : exp!]);
  const sums = e.linear(segmentSum(mark.rows), p!);
  e.note('sums', sums);
  const [o, r] = yield* e.open([e.mul(mix(shape), p!, cache.values), e.linear(transpose(heads, queries), e.windows(layer.reciprocal, sums))]);
  const [on] = yield* e.open([e.mul(scaleRows(queries * heads, headDim), o!, r!)]);
  e.note('attention', on!);
  const mixed = e.widen(on!, SCALE.probability + SCALE.value + SCALE.reciprocal - SCALE.activation);
  e.part = '';
  return yield* e.linearJob(matmul(layer.o, queries), mixed);
}

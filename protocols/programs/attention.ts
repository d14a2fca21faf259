/**
 * Causal grouped-query attention over a cache of wires, for `rows` new tokens (a prefill, or one decoded token). Logits exist for key <= query only, packed row
 * by row. A row's softmax is taken relative to a public constant (8 rounds in all, before the residual's opening) or to a reference near its own maximum
 * (10, `rowMax`). Heads go in tiles of bounded size, one after another, so that a long prefill's logits never live all at once.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { clearUnused, columns, repeatFirst, rope, row, segmentSpread, segmentSum, transpose, type Slots } from '../gates/linear.ts';
import { mix, packedSize, scaleRows, scores, type AttentionShape } from '../gates/mul.ts';
import { share, wire, type Tensor } from '../tensor.ts';
import { norm } from './norm.ts';
import { BUCKET_SHIFT, RING, SCALE, type LayerPlan, type ModelPlan } from './plan.ts';
import { operand, project } from './project.ts';
import { rowMax } from './rowMax.ts';

/** Keys (rotated, 2^12 in Z_2^32) and values (2^10 in Z_2^a) of one layer: [kvHeads, capacity, headDim]. */
export interface LayerCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly capacity: number;
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

export function createCache(e: Engine, plan: ModelPlan, capacity: number): LayerCache[] {
  const { kvHeads, headDim } = plan.shape,
    prefix = plan.prefixIds.length;
  return plan.layers.map((layer, l) => {
    const keys = e.zeros(wire(kvHeads * capacity * headDim, RING.logits, SCALE.activation));
    const values = e.zeros(wire(kvHeads * capacity * headDim, layer.attention.bits, SCALE.value));
    for (let h = 0; h < kvHeads; h++)
      for (let t = 0; t < prefix; t++) {
        const from = (t * kvHeads + h) * headDim,
          to = (h * capacity + t) * headDim;
        if (plan.secret) {
          e.store(keys, to, headDim, plan.secret.prefix[l]!.keys, from, headDim, 1, headDim);
          e.store(values, to, headDim, plan.secret.prefix[l]!.values, from, headDim, 1, headDim);
          continue;
        }
        e.storePublic(keys, to, plan.prefixKeys[l]!.subarray(from, from + headDim));
        e.storePublic(values, to, plan.prefixValues[l]!.subarray(from, from + headDim));
      }
    return { keys, values, capacity };
  });
}

/** Logits of a tile of heads, about: 320 bytes each live at the peak. */
export const TILE_LOGITS = 1 << 19;

/** Key/value heads that go together: as many as keep a tile's logits below TILE_LOGITS, at least one. */
export function tileHeads(shape: { readonly heads: number; readonly kvHeads: number }, queries: number, past: number): number {
  const each = (shape.heads / shape.kvHeads) * (queries * past + (queries * (queries + 1)) / 2);
  let tile = Math.max(1, Math.min(shape.kvHeads, Math.floor(TILE_LOGITS / each)));
  while (shape.kvHeads % tile !== 0) tile--;
  return tile;
}

/**
 * x: residual stream, wire [rows, width] 2^R. `queries` of the new tokens, the last ones, attend (all, or 1 where only the last position's output is
 * wanted). Slots that no token fills: their logits are replaced by their row's first one (so they change no reference and leave no domain), their
 * probabilities by 0, both on shares, where the dealer has nothing to do. Returns the attention's output, share [queries, width] 2^R in Z_2^64.
 */
export function* attention(
  e: Engine,
  plan: ModelPlan,
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
    { bits } = layer.attention,
    h = yield* operand(e, layer.q, yield* norm(e, layer.norm1, x, rows, width, 'squares'));
  e.part = 'attention';
  const hq = queries === rows ? h : e.linear(row(rows - 1, width), h),
    [yq, yk, yv] = yield* e.open([yield* project(e, layer.q, hq, queries), yield* project(e, layer.k, h, rows), yield* project(e, layer.v, h, rows)]);
  const [q, k] = [yq!, yk!].map((y) => e.widen(y, y.scale - SCALE.activation)),
    v = e.widen(yv!, yv!.scale - SCALE.value);
  e.note('q', q!);
  e.note('k', k!);
  e.note('v', v);
  const turned = (y: Tensor, count: number, n: number, position: number): { x: Tensor; bits: number } =>
    plan.rope ? { x: e.linear(rope(plan.rope, count, n * headDim, 0, n, headDim, position), y), bits: 44 } : { x: y, bits: RING.logits };
  const [qw, kw, vw] = yield* e.open([turned(q!, queries, heads, past.position + rows - queries), turned(k!, rows, kvHeads, past.position), { x: v, bits }]);
  const key = e.withHalves(e.narrow(kw!, kw!.scale - SCALE.activation)),
    query = e.withHalves(e.narrow(qw!, qw!.scale - SCALE.activation));
  for (let g = 0; g < kvHeads; g++) {
    e.store(cache.keys, (g * cache.capacity + past.slots) * headDim, headDim, key, g * headDim, kSize, rows, headDim);
    e.store(cache.values, (g * cache.capacity + past.slots) * headDim, headDim, vw!, g * headDim, kSize, rows, headDim);
  }
  const group = heads / kvHeads,
    before = past.slots + rows - queries,
    tile = tileHeads(plan.shape, queries, before),
    tiled = tile < kvHeads,
    outputScale = plan.residualScale - layer.o.fraction;
  const all = tiled ? e.zeros(share(queries * qSize, 64, outputScale)) : undefined;
  for (let first = 0; first < kvHeads; first += tile) {
    const mark = e.mark(),
      shape: AttentionShape = {
        queries,
        heads: tile * group,
        group,
        dim: headDim,
        past: before,
        capacity: cache.capacity,
        firstKv: first,
        prefix: plan.secret ? 0 : plan.prefixIds.length,
      },
      part = tiled ? e.linear(columns(queries, qSize, first * group * headDim, tile * group * headDim), query) : query,
      on = yield* softmax(e, plan, layer, cache, part, shape, past),
      output = e.widen(on, on.scale - outputScale);
    if (!all) {
      e.part = '';
      return yield* project(e, layer.o, yield* operand(e, layer.o, output), queries);
    }
    e.store(all, first * group * headDim, qSize, output, 0, tile * group * headDim, queries, tile * group * headDim);
    e.release(mark);
  }
  e.part = '';
  return yield* project(e, layer.o, yield* operand(e, layer.o, all!), queries);
}

/** softmax(q k^T) v of some heads: wire [queries, heads, dim] at the attention's output scale. */
function* softmax(e: Engine, plan: ModelPlan, layer: LayerPlan, cache: LayerCache, query: Tensor, shape: AttentionShape, past: Past): Program<Tensor> {
  const { heads, queries, dim } = shape,
    { reference, exp: table, reciprocal, reciprocalScale, bits } = layer.attention,
    more = reciprocal.outputScale - reciprocalScale,
    size = packedSize(shape),
    rows = e.constant(
      'tables',
      Uint32Array.from({ length: heads * queries }, (_, i) => shape.past + (i % queries) + 1),
    ),
    products = e.mul(scores(shape), query, cache.keys),
    z = past.unused ? e.linear(repeatFirst(rows, size, past.unused), products) : products;
  e.note('logits', z);
  let [zw] = yield* e.open([z]);
  if (reference.kind === 'buckets') {
    const groups = e.constant('tables', new Uint32Array(heads * queries).fill(reference.count)),
      top = yield* rowMax(e, zw!, rows, groups, reference, plan.nonzero);
    // The reference alone is opened, one small value a row; the logits' wire is shifted by it without another opening.
    const [shift] = yield* e.open([top]);
    zw = e.sub(zw!, e.linear(segmentSpread(rows, size, BUCKET_SHIFT, RING.logits, z.scale), shift!));
  }
  const fine = e.narrow(zw!, z.scale - table.inputScale);
  e.note('relative', fine);
  const [exp] = e.expTable(table, fine),
    [p] = yield* e.open([{ x: past.unused ? e.linear(clearUnused(rows, size, past.unused), exp!) : exp!, bits }]);
  const sums = e.linear(segmentSum(rows), p!);
  e.note('sums', sums);
  const [o, r] = yield* e.open([
    e.mul(mix(shape), p!, cache.values),
    { x: e.linear(transpose(heads, queries), e.windows(reciprocal, sums)), bits: bits + more },
  ]);
  const [on] = yield* e.open([e.mul(scaleRows(queries * heads, dim), o!, e.narrow(r!, more))]);
  e.note('attention', on!);
  return on!;
}

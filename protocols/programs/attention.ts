/**
 * Causal grouped-query attention over a cache of wires, for `rows` new tokens (a prefill, or one decoded token). Logits exist for key <= query only, packed row
 * by row. A row's softmax is taken relative to a public constant (8 rounds in all, before the residual's opening) or to a reference near its own maximum
 * (10, `rowMax`). Heads go in tiles of bounded size, one after another, so that a long prefill's logits never live all at once.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { clearUnused, columns, repeatFirst, rope, segmentSpread, segmentSum, transpose, type Slots } from '../gates/linear.ts';
import { mix, packedSize, scaleRows, scores, weighRows, type AttentionShape } from '../gates/mul.ts';
import type { Policy } from '../policy.ts';
import { share, wire, type Tensor } from '../tensor.ts';
import type { Choice } from './mpcache/attending.ts';
import { equalRuns, selections, type LayerSelection } from './mpcache/clusters.ts';
import { emptyRepresentatives, represent, type Represented, type Representatives } from './mpcache/representatives.ts';
import { keyForm, representativeScale } from './mpcache/scores.ts';
import { chosenAttention, reusedChoice, type Reused } from './mpcache/selection.ts';
import { norm } from './norm.ts';
import { RING, SCALE, type LayerPlan, type ModelPlan } from './plan.ts';
import { operand, project } from './project.ts';
import { bucketShift, rowMax } from './rowMax.ts';

/** Keys (rotated, 2^12 or coarser in Z_2^32 or more) and values (2^10 in Z_2^a) of one layer: [kvHeads, capacity, headDim]. */
export interface LayerCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly capacity: number;
  /** Of steps of one token; undefined where they attend to everything. */
  readonly selection: LayerSelection | undefined;
  /** Where a choice serves several tokens. */
  readonly reused: Reused | undefined;
  /** Of a layer that chooses by `minmax`. */
  readonly representatives: Representatives | undefined;
  /** Slots given up by static eviction: later tokens' slots move down by as many. */
  dropped: number;
  /** While set, attention adds up what the last queries pay to each key. */
  votes: Votes | undefined;
}

/** Attention that the last queries of the prompt pay to the keys from `from` on: a sum a tile of heads, or one a head. */
export interface Votes {
  readonly queries: number;
  readonly from: number;
  readonly perHead: boolean;
  /** Share [tiles or heads, keys] that takes it. */
  readonly into: Tensor;
  /** Bits of 1 / sum that are left out, so that the ring holds the sum. */
  readonly coarser: number;
}

/** What the caches hold already. A session of several turns has slots that no token fills: what an answer did not need of its allowance. */
export interface Past {
  /** Slots in use or passed over. */
  readonly slots: number;
  /** Tokens, hence the next token's position. */
  readonly position: number;
  /** Not known to the dealer, on whom nothing depends; undefined in a session's first turn, unless its prompt may be padded. */
  readonly unused: Slots | undefined;
  /** Slots of the first turn that only pad its prompt, before it; of them a layer's eviction drops as many as it may. Not known to the dealer either. */
  readonly padded?: readonly [from: number, to: number] | undefined;
  /** The first ones of the new rows that are among them. @default 0 */
  readonly padding?: number;
}

/**
 * Caches of all layers, each with room for so many slots, the public prefix in the first ones. Sums of logits that score clusters need room: their keys are at a
 * coarser scale.
 */
export function createCache(e: Engine, plan: ModelPlan, slots: number | ((layer: number) => number), policy?: Policy): LayerCache[] {
  const { kvHeads, headDim } = plan.shape,
    prefix = plan.prefixIds.length,
    chosen = selections(policy, plan.shape.layers),
    // One scale for all layers, whose representatives are made together.
    representatives = Math.min(
      ...chosen.flatMap((s, l) => (s?.leader === l && s.dynamic.score === 'minmax' ? representativeScale(plan, plan.layers[l]!, s.dynamic) : [])),
    );
  return plan.layers.map((layer, l) => {
    const capacity = typeof slots === 'number' ? slots : slots(l),
      selection = chosen[l],
      { bits, scale } = keyForm(plan, layer, selection),
      coarser = BigInt(SCALE.activation - scale),
      secret = plan.secret?.prefix[l],
      secretKeys = secret && e.mod(e.withHalves(e.narrow(secret.keys, SCALE.activation - scale)), bits),
      keys = e.zeros(wire(kvHeads * capacity * headDim, bits, scale));
    const values = e.zeros(wire(kvHeads * capacity * headDim, layer.attention.bits, SCALE.value));
    for (let h = 0; h < kvHeads; h++)
      for (let t = 0; t < prefix; t++) {
        const from = (t * kvHeads + h) * headDim,
          to = (h * capacity + t) * headDim;
        if (secret) {
          e.store(keys, to, headDim, secretKeys!, from, headDim, 1, headDim);
          e.store(values, to, headDim, secret.values, from, headDim, 1, headDim);
          continue;
        }
        e.storePublic(
          keys,
          to,
          plan.prefixKeys[l]!.subarray(from, from + headDim).map((v) => v >> coarser),
        );
        e.storePublic(values, to, plan.prefixValues[l]!.subarray(from, from + headDim));
      }
    return {
      keys,
      values,
      capacity,
      selection,
      representatives:
        selection && selection.leader === l && selection.dynamic.score === 'minmax'
          ? emptyRepresentatives(e, plan, selection.dynamic, capacity, representatives)
          : undefined,
      dropped: 0,
      votes: undefined,
      reused: selection && selection.leader === l && selection.dynamic.reuse > 1 ? reusedChoice(e, plan, selection, capacity) : undefined,
    };
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
 * x: residual stream, wire [rows, width] 2^R. `queries` of the new tokens, the last ones, attend (all, or fewer where only the last
 * positions' output is wanted). Slots that no token fills: their logits are replaced by their row's first one (so they change no reference and leave no
 * domain), their probabilities by 0, both on shares, where the dealer has nothing to do. A layer that has dropped slots has the later ones so much further
 * down. Returns the attention's output, share [queries, width] 2^R in Z_2^64.
 */
export function* attention(
  e: Engine,
  plan: ModelPlan,
  layer: LayerPlan,
  cache: LayerCache,
  x: Tensor,
  rows: number,
  session: Past,
  queries: number,
  choice?: Choice,
): Program<Tensor> {
  const past = pastOf(cache, session),
    { width, heads, kvHeads, headDim } = plan.shape,
    qSize = heads * headDim,
    kSize = kvHeads * headDim,
    { bits } = layer.attention,
    normed = yield* norm(e, layer.norm1, x, rows, width, 'squares');
  e.part = 'projections';
  const h = yield* operand(e, plan, layer.q, normed),
    hq = queries === rows ? h : e.linear(columns(1, rows * width, (rows - queries) * width, queries * width), h),
    // Of the first new row: behind padding the prompt begins where it would without.
    position = past.position - (past.padding ?? 0),
    [yq, yk, yv] = yield* e.open([
      yield* project(e, plan, layer.q, hq, queries),
      yield* project(e, plan, layer.k, h, rows),
      yield* project(e, plan, layer.v, h, rows),
    ]);
  const [q, k] = [yq!, yk!].map((y) => e.widen(y, y.scale - SCALE.activation)),
    v = e.widen(yv!, yv!.scale - SCALE.value);
  e.note('q', q!);
  e.note('k', k!);
  e.note('v', v);
  // Keys are cached as their layer's scores need them; a query has as many bits where it scores clusters.
  const more = cache.keys.bits - RING.logits,
    turned = (y: Tensor, count: number, n: number, position: number, extra: number): { x: Tensor; bits: number } =>
      plan.rope ? { x: e.linear(rope(plan.rope, count, n * headDim, 0, n, headDim, position), y), bits: 44 + extra } : { x: y, bits: RING.logits + extra },
    [qw, kw, vw] = yield* e.open([
      turned(q!, queries, heads, position + rows - queries, choice && !choice.taken ? more : 0),
      turned(k!, rows, kvHeads, position, more + SCALE.activation - cache.keys.scale),
      { x: v, bits },
    ]);
  const key = e.withHalves(e.narrow(kw!, kw!.scale - cache.keys.scale)),
    query = e.withHalves(e.narrow(qw!, qw!.scale - SCALE.activation));
  e.note('query', query);
  for (let g = 0; g < kvHeads; g++) {
    e.store(cache.keys, (g * cache.capacity + past.slots) * headDim, headDim, key, g * headDim, kSize, rows, headDim);
    e.store(cache.values, (g * cache.capacity + past.slots) * headDim, headDim, vw!, g * headDim, kSize, rows, headDim);
  }
  const missing = choice && !choice.taken ? representedBy(cache, past, rows) : undefined;
  if (missing) yield* represent(e, plan, [missing]);
  e.part = 'attention';
  const group = heads / kvHeads,
    before = past.slots + rows - queries,
    tile = tileHeads(plan.shape, queries, before),
    tiled = tile < kvHeads,
    // Keys and values of the public prefix are wires as others where they depend on private weights.
    prefix = plan.secret ? 0 : plan.prefixIds.length,
    outputScale = plan.residualScale - layer.o.fraction;
  if (choice) {
    const shape = { queries, heads, group, dim: headDim, past: before, capacity: cache.capacity, firstKv: 0, prefix },
      on = yield* chosenAttention(e, plan, layer, cache.keys, cache.values, query, shape, past.unused, choice),
      output = e.widen(on, on.scale - outputScale);
    e.part = '';
    return yield* project(e, plan, layer.o, yield* operand(e, plan, layer.o, output), queries);
  }
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
        prefix,
      },
      part = tiled ? e.linear(columns(queries, qSize, first * group * headDim, tile * group * headDim), query) : query,
      on = yield* softmax(e, plan, layer, cache, part, shape, past),
      output = e.widen(on, on.scale - outputScale);
    if (!all) {
      e.part = '';
      return yield* project(e, plan, layer.o, yield* operand(e, plan, layer.o, output), queries);
    }
    e.store(all, first * group * headDim, qSize, output, 0, tile * group * headDim, queries, tile * group * headDim);
    e.release(mark);
  }
  e.part = '';
  return yield* project(e, plan, layer.o, yield* operand(e, plan, layer.o, all!), queries);
}

/** What a layer's cache holds: what the session has, without what the layer has dropped. */
export const pastOf = ({ dropped }: LayerCache, past: Past): Past => ({
  ...past,
  slots: past.slots - dropped,
  unused: past.unused && [
    ...(past.padded ? [[past.padded[0], Math.max(past.padded[0], past.padded[1] - dropped)] as const] : []),
    ...past.unused.map(([from, to]) => [from - dropped, to - dropped] as const),
  ],
  padded: undefined,
});

/** What the clusters of a layer that chooses by `minmax` represent after a step of `rows` tokens; `past`: the layer's own, before it. */
export const representedBy = ({ representatives: of, keys, capacity }: LayerCache, past: Past, rows: number): Represented | undefined =>
  of && { of, keys, capacity, slots: past.slots + rows, unused: past.unused };

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
    const groups = e.constant('tables', equalRuns(heads * queries, reference.count)),
      top = yield* rowMax(e, zw!, rows, groups, reference, plan.nonzero);
    // The reference alone is opened, one small value a row; the logits' wire is shifted by it without another opening.
    const [shift] = yield* e.open([top]);
    zw = e.sub(zw!, e.linear(segmentSpread(rows, size, bucketShift(z), RING.logits, z.scale), shift!));
  }
  const fine = e.narrow(zw!, z.scale - table.inputScale);
  e.note('relative', fine);
  const [exp] = e.expTable(table, fine),
    [p] = yield* e.open([{ x: past.unused ? e.linear(clearUnused(rows, size, past.unused), exp!) : exp!, bits }]);
  const sums = e.linear(segmentSum(rows), p!);
  e.note('sums', sums);
  let inverse = e.linear(transpose(heads, queries), e.windows(reciprocal, sums));
  // Rows that pad the prompt have no vote.
  if (cache.votes && past.unused) {
    const padding = Math.max(0, (past.padding ?? 0) - (shape.past - past.slots));
    inverse = e.linear(clearUnused(e.constant('tables', Uint32Array.of(inverse.size)), inverse.size, [[0, padding * heads]]), inverse);
  }
  const [o, r] = yield* e.open([e.mul(mix(shape), p!, cache.values), { x: inverse, bits: bits + more }]);
  if (cache.votes) vote(e, cache.votes, shape, p!, r!, more);
  const [on] = yield* e.open([e.mul(scaleRows(queries * heads, dim), o!, e.narrow(r!, more))]);
  e.note('attention', on!);
  return on!;
}

/** Adds what the last queries of a tile of heads pay to each key: p packed probabilities, r [queries, heads] 1 / sum with `more` bits too many. */
function vote(e: Engine, { queries, from, perHead, into, coarser }: Votes, shape: AttentionShape, p: Tensor, r: Tensor, more: number): void {
  const part = e.part,
    keys = shape.past + shape.queries - from,
    first = (shape.firstKv * shape.group) / (perHead ? 1 : shape.heads);
  e.part = 'eviction';
  const paid = e.mul(weighRows(shape, queries, from, perHead), p, e.narrow(r, more + coarser));
  e.store(into, first * keys, paid.size, paid, 0, paid.size, 1, paid.size);
  e.part = part;
}

/**
 * Representatives of clusters for the score `minmax`: per channel alpha max + (1 - alpha) min of a cluster's keys, whose product with a query bounds its logits
 * there, about. Maximum and minimum come from a tournament on the cached wires: [a < b] by truth tables over the low 8 bits of narrowed differences,
 * max(a, b) = a + [a < b] (b - a), and the minimum is the maximum of the negated keys; the first round of both is one comparison, min(a, b) = b - [a < b] (b - a).
 * Keys whose difference is less than a step may be taken for one another; what is taken is always a key of the cluster. Coarser levels go on where finer ones end.
 *
 * Source: MPCache (arXiv 2501.06807, section 4.1). Nothing is revealed: comparisons, bits and products are opened under fresh masks. Rounds: 3 ceil(log2 n) for each
 * step from one size to the next, and 1; 1 more in turns after the first. Dealt 40 bytes, opened about 17, a comparison; 3 n / 2 - 2 of them a channel of n keys.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { b2a } from '../../gates/b2a.ts';
import { negativeTable } from '../../gates/less.ts';
import { columns, inUnits, repeatFirst, rowSums, times, type Linear, type Slots } from '../../gates/linear.ts';
import { hadamard, scores } from '../../gates/mul.ts';
import { truthTable } from '../../gates/truthTable.ts';
import type { DynamicPolicy } from '../../policy.ts';
import { wire, type Constant, type Tensor } from '../../tensor.ts';
import { RING, type ModelPlan } from '../plan.ts';
import { equalRuns, inSteps, rowsOfChoosing, unusedRow, type HeadRun, type Layout } from './clusters.ts';

/** Ring in which keys are compared. */
const CODE_BITS = 8;
/** Largest difference of two keys of a channel that is compared exactly, where the policy gives none. */
const KEY_SPREAD = 31;
/** Fraction bits of alpha. */
export const ALPHA_BITS = 8;
/** Elements of keys at once, about: 200 bytes each live at the peak. */
const TILE = 1 << 19;

/** Representatives of a layer's clusters, counted from the cache's first slot; all of it public but the wires. */
export interface Representatives {
  readonly dynamic: DynamicPolicy;
  /** By level of the policy's sizes: wire [kvHeads, clusters, headDim] over Z_2^32. */
  readonly levels: readonly Tensor[];
  /** Clusters of the coarsest size that have them. */
  made: number;
  /** Of these, those made in steps that are never passed over. */
  settled: number;
}

/** Room for the representatives of a cache of so many slots, at a scale. */
export function emptyRepresentatives(e: Engine, { shape }: ModelPlan, dynamic: DynamicPolicy, slots: number, scale: number): Representatives {
  const coarse = dynamic.sizes[0]!,
    most = Math.max(1, Math.floor(slots / coarse));
  return {
    dynamic,
    levels: dynamic.sizes.map((size) => e.zeros(wire(shape.kvHeads * ((most * coarse) / size) * shape.headDim, RING.logits, scale))),
    made: 0,
    settled: 0,
  };
}

/** Memory in bytes, about, of representatives in the making. */
export const REPRESENTATIVES_BYTES = 200 * TILE;

/** A cache, and how many of its slots are there to be represented; `unused` in its own slots. */
export interface Represented {
  readonly of: Representatives;
  /** Wire [kvHeads, capacity, headDim] over Z_2^32. */
  readonly keys: Tensor;
  readonly capacity: number;
  readonly slots: number;
  readonly unused: Slots | undefined;
}

/** Clusters `from` .. `from + count - 1` of the coarsest size. */
interface Piece extends Represented {
  readonly from: number;
  readonly count: number;
}

/** Makes what is missing up to the last complete cluster of the coarsest size, all caches together. `tile`: elements of keys at once; bounds the memory. */
export function* represent(e: Engine, plan: ModelPlan, caches: readonly Represented[], tile = TILE): Program<void> {
  const { kvHeads, headDim } = plan.shape,
    part = e.part;
  e.part = 'representatives';
  let batch: Piece[] = [],
    room = tile;
  for (const cache of caches) {
    const { of } = cache,
      coarse = of.dynamic.sizes[0]!,
      each = kvHeads * coarse * headDim,
      end = Math.floor(cache.slots / coarse);
    while (of.made < end) {
      if (room < each && batch.length > 0) {
        yield* make(e, plan, batch);
        batch = [];
        room = tile;
      }
      const count = Math.min(end - of.made, Math.max(1, Math.floor(room / each)));
      batch.push({ ...cache, from: of.made, count });
      of.made += count;
      room -= count * each;
    }
  }
  if (batch.length > 0) yield* make(e, plan, batch);
  e.part = part;
}

/** Scores of a level's clusters for one query, a share [selectors, clusters] over Z_2^32, summed over the heads that choose together. `runs`: where some stream. */
export function representativeScores(
  e: Engine,
  plan: ModelPlan,
  { dynamic, levels }: Representatives,
  l: Layout,
  width: number,
  query: Tensor,
  selectors: number,
  runs: readonly HeadRun[] | undefined,
  unused: { readonly slots: Slots; readonly nats: number } | undefined,
): Tensor {
  const { heads, kvHeads, headDim: dim } = plan.shape,
    size = width * l.size,
    clusters = l.head / size + l.candidates / width,
    level = levels[dynamic.sizes.indexOf(size)]!,
    capacity = level.size / (kvHeads * dim),
    own = e.mul(scores({ queries: 1, heads, group: heads / kvHeads, dim, past: clusters - 1, capacity, firstKv: 0, prefix: 0 }), query, level),
    choosing = runs ? runs.reduce((n, r) => n + (r.streams ? 0 : r.count), 0) : heads,
    group = choosing / selectors;
  let all = runs ? e.linear(rowsOfChoosing(runs, choosing, clusters), own) : own;
  if (group > 1) all = e.linear(rowSums(selectors, group, clusters), all);
  if (unused) {
    const empty = emptyClusters(unused.slots, size);
    all = e.linear(repeatFirst(e.constant('tables', equalRuns(selectors, clusters)), all.size, empty), all);
    all = e.addRow(all, e.constant('tables', unusedRow(clusters, empty, -unused.nats * group, all.scale)));
  }
  return e.linear(columns(selectors, clusters, l.head / size, l.candidates / width), all);
}

/** Clusters of which no slot is filled. */
const emptyClusters = (unused: Slots, size: number): Slots =>
  unused.map(([from, to]) => [Math.ceil(from / size), Math.floor(to / size)] as const).filter(([from, to]) => to > from);

/** Representatives of all levels of some clusters. */
function* make(e: Engine, plan: ModelPlan, pieces: readonly Piece[]): Program<void> {
  const { kvHeads, headDim: dim } = plan.shape,
    { dynamic, levels } = pieces[0]!.of,
    { sizes } = dynamic,
    coarse = sizes[0]!,
    block = coarse * dim,
    { bits, scale } = pieces[0]!.keys,
    top = e.mark(),
    total = pieces.reduce((n, p) => n + kvHeads * p.count * block, 0),
    x = e.zeros(wire(total, bits, scale)),
    mark = e.mark(),
    own = pieces.map((p) => e.linear(columns(kvHeads, p.capacity * dim, p.from * block, p.count * block), p.keys)),
    // H does not know the slots that no token fills: the evaluators put others in their place, on shares.
    keys = pieces[0]!.unused ? yield* e.open(own.map((k, i) => ({ x: e.linear(replaceUnused(pieces[i]!, sizes, kvHeads, dim), e.widen(k)), bits }))) : own;
  let at = 0;
  for (const k of keys) {
    e.store(x, at, k.size, k, 0, k.size, 1, k.size);
    at += k.size;
  }
  e.release(mark);
  const negative = e.constant('tables', negativeTable(CODE_BITS)),
    step = Math.floor(Math.log2((2 ** (CODE_BITS - 1) - 1) / (dynamic.keySpread ?? KEY_SPREAD))),
    shares: Tensor[] = [];
  let y = x,
    finer = 1;
  for (let i = sizes.length - 1; i >= 0; i--) {
    y = yield* extremes(e, y, sizes[i]! / finer, dim, negative, scale - step, i === sizes.length - 1);
    finer = sizes[i]!;
    const n = y.size / 2,
      weight = Math.round(dynamic.alpha * 2 ** ALPHA_BITS),
      highest = e.linear(times(n, weight, 0), e.linear(columns(1, 2 * n, 0, n), y)),
      lowest = e.linear(times(n, 2 ** ALPHA_BITS - weight, 0), e.linear(columns(1, 2 * n, n, n), y)),
      r = e.linear(inUnits(n, ALPHA_BITS), e.sub(highest, lowest));
    shares[i] = e.widen(r, r.scale - levels[i]!.scale);
  }
  const made = yield* e.open(shares.map((s) => ({ x: s, bits: RING.logits })));
  made.forEach((r, i) => {
    const fan = coarse / sizes[i]!;
    let from = 0;
    for (const p of pieces) {
      const into = p.of.levels[i]!,
        capacity = into.size / kvHeads,
        length = p.count * fan * dim;
      e.store(into, p.from * fan * dim, capacity, r, from, length, kvHeads, length);
      from += kvHeads * length;
    }
  });
  e.release(top);
}

/**
 * Of each n keys, one after another in x, wire [rows, n, dim], the largest by channel. `first`: x holds keys, and of these both the largest and the negated smallest
 * are found, wire [2, rows, dim]. 3 rounds for each halving.
 */
function* extremes(e: Engine, x: Tensor, n: number, dim: number, negative: Constant<Uint8Array>, shift: number, first: boolean): Program<Tensor> {
  let y = x,
    both = first;
  for (let left = n; left > 1 || both; left = Math.ceil(left / 2)) {
    const half = Math.floor(left / 2),
      next = left - half,
      rows = y.size / (left * dim),
      result = e.zeros(wire((both ? 2 : 1) * rows * next * dim, y.bits, y.scale)),
      mark = e.mark(),
      cut = (from: number, count: number): Tensor => e.linear(columns(rows, left * dim, from * dim, count * dim), y),
      put = (part: 0 | 1, from: number, count: number, v: Tensor): void =>
        e.store(result, (part * rows * next + from) * dim, next * dim, v, 0, count * dim, rows, count * dim);
    if (half > 0) {
      const [a, b] = [cut(0, half), cut(half, half)],
        raised = yield* raise(e, a, b, negative, shift);
      put(0, 0, half, e.add(a, raised));
      if (both) put(1, 0, half, e.sub(raised, b));
    }
    if (next > half) {
      const odd = cut(2 * half, 1);
      put(0, half, 1, odd);
      if (both) put(1, half, 1, e.linear(times(odd.size, -1, 0), odd));
    }
    e.release(mark);
    y = result;
    both = false;
  }
  return y;
}

/** [a < b] (b - a), wire. 3 rounds. */
function* raise(e: Engine, a: Tensor, b: Tensor, negative: Constant<Uint8Array>, shift: number): Program<Tensor> {
  const apart = e.mod(e.narrow(e.sub(a, b), shift), CODE_BITS, true),
    steps = e.linear(inSteps(apart.size, apart.scale), apart),
    [flag] = yield* e.open(e.apply(truthTable, { bits: CODE_BITS, table: negative }, [steps])),
    [less] = yield* e.open(e.apply(b2a, { bits: a.bits }, [flag!])),
    [raised] = yield* e.open([e.mul(hadamard(a.size), less!, e.sub(b, a))]);
  return raised!;
}

/**
 * Keys of clusters [kvHeads, slots, dim]: in a slot that no token fills, those of the first filled slot of its cluster, of the finest size that has one;
 * 0 where the coarsest has none.
 */
function replaceUnused({ from, count, unused }: Piece, sizes: readonly number[], kvHeads: number, dim: number): Linear {
  const coarse = sizes[0]!,
    slots = count * coarse,
    size = kvHeads * slots * dim,
    start = from * coarse,
    filled = Array.from({ length: slots }, (_, t) => !unused!.some(([a, b]) => start + t >= a && start + t < b)),
    sources = filled.map((is, t) => {
      if (is) return t;
      for (const n of [...sizes].reverse()) {
        const first = Math.floor(t / n) * n,
          found = filled.indexOf(true, first);
        if (found >= 0 && found < first + n) return found;
      }
      return -1;
    });
  return {
    name: 'replaceUnused',
    size,
    integer(k, dst, src) {
      k.copy(dst, src, size);
      sources.forEach((s, t) => {
        if (s < 0) for (let g = 0; g < kvHeads; g++) k.fill(dst + 8 * (g * slots + t) * dim, 0, dim);
        else if (s !== t) k.copyRows(dst + 8 * t * dim, slots * dim, src + 8 * s * dim, slots * dim, kvHeads, dim);
      });
    },
    real(dst, src) {
      for (let g = 0; g < kvHeads; g++)
        sources.forEach((s, t) => {
          const to = (g * slots + t) * dim;
          if (s < 0) dst.fill(0, to, to + dim);
          else dst.set(src.subarray((g * slots + s) * dim, (g * slots + s + 1) * dim), to);
        });
    },
  };
}

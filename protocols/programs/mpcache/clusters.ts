/**
 * Clusters of a row of slots, for a step of one query: which slots always compete for nothing, which clusters are candidates, how many of them are chosen. All of
 * it is public: a function of the policy and of the number of slots. Source: MPCache (arXiv 2501.06807), section 4.2.
 */
import { CachetError } from '../../errors.ts';
import { rearrange, type Linear, type Move, type Slots } from '../../gates/linear.ts';
import type { AttentionShape } from '../../gates/mul.ts';
import { chooserOf, type DynamicPolicy, type Policy } from '../../policy.ts';

/** What a layer's steps of one token attend to. */
export interface LayerSelection {
  readonly dynamic: DynamicPolicy;
  /** By level: the share of clusters that is kept; at the finest level of all slots, the always attended ones included. */
  readonly ratio: readonly number[];
  /** The layer whose choice this one takes; its own number where it chooses itself. */
  readonly leader: number;
  /** Whether other layers take this layer's choice. */
  readonly leads: boolean;
  /** Key/value heads that attend to the always attended slots alone. */
  readonly streaming: readonly number[];
}

/** By layer; undefined where a layer attends to everything. @throws CachetError 'policy' for what these programs cannot do. */
export function selections(policy: Policy | undefined, layers: number): readonly (LayerSelection | undefined)[] {
  const dynamic = policy?.dynamic,
    skipped = new Set(policy?.skipLayers),
    leaders = Array.from({ length: layers }, (_, l) => (policy ? chooserOf(policy, l, layers) : l));
  return leaders.map((leader, l) =>
    dynamic && !skipped.has(l)
      ? {
          dynamic: { ...dynamic, spread: policy.layers[leader]?.spread ?? dynamic.spread },
          ratio: policy.layers[l]?.ratio ?? dynamic.ratio,
          leader,
          leads: leaders.some((other, m) => m !== l && other === l && !skipped.has(m)),
          streaming: streamingHeads(policy, l, leader),
        }
      : undefined,
  );
}

/** Streaming heads of a layer: those of the layer whose choice it takes, which has none for others. */
function streamingHeads({ streaming }: Policy, layer: number, leader: number): readonly number[] {
  const [own, its] = [layer, leader].map((l) => [...(streaming[l] ?? [])].sort((a, b) => a - b)) as [number[], number[]];
  if (own.join() !== its.join())
    throw new CachetError({
      code: 'policy',
      what: `layer ${layer} takes the choice of layer ${leader} and has other streaming heads`,
      expected: `streaming heads ${its.join(' ') || 'none'}`,
      got: own.join(' ') || 'none',
      hint: 'the same heads in both layers, or no sharing between them',
    });
  return own;
}

/** Heads of a layer that choose, and their key/value heads. */
export function choosingHeads(
  { heads, kvHeads }: { readonly heads: number; readonly kvHeads: number },
  { streaming }: Pick<LayerSelection, 'streaming'>,
): { readonly heads: number; readonly kvHeads: number } {
  const left = kvHeads - streaming.length;
  return { heads: (heads / kvHeads) * left, kvHeads: left };
}

/** Neighbouring heads that all stream or all do not, and where their rows begin: among all heads, among those that choose, in the packed rows. */
export interface HeadRun {
  readonly streams: boolean;
  readonly first: number;
  readonly count: number;
  readonly choosing: number;
  /** In rows of logits: all slots of a head that chooses, head and tail of one that streams. */
  readonly logits: number;
  /** In rows of attended slots. */
  readonly attended: number;
}

/** The heads of a layer in runs. */
export function headRuns(l: Layout, shape: { readonly heads: number; readonly kvHeads: number }, { streaming }: Pick<LayerSelection, 'streaming'>): HeadRun[] {
  const group = shape.heads / shape.kvHeads,
    runs: HeadRun[] = [];
  let [choosing, logits, row] = [0, 0, 0];
  for (let kv = 0; kv < shape.kvHeads; kv++) {
    const streams = streaming.includes(kv),
      last = runs.at(-1);
    if (last?.streams === streams) runs[runs.length - 1] = { ...last, count: last.count + group };
    else runs.push({ streams, first: kv * group, count: group, choosing, logits, attended: row });
    choosing += streams ? 0 : group;
    logits += group * (streams ? l.head + l.tail : l.slots);
    row += group * (streams ? l.head + l.tail : attended(l));
  }
  return runs;
}

/** Lengths of the packed rows: of logits, or of attended slots. */
export const rowLengths = (l: Layout, runs: readonly HeadRun[], choosing: number): Uint32Array<ArrayBuffer> =>
  Uint32Array.from(runs.flatMap(({ streams, count }) => Array.from({ length: count }, () => (streams ? l.head + l.tail : choosing))));

/** [heads, slots] -> packed rows of the logits that are needed. */
export function neededLogits(l: Layout, runs: readonly HeadRun[], size: number): Linear {
  const { slots, head, tail } = l,
    moves = runs.flatMap(({ streams, first, count, logits }): Move[] => {
      const whole = { dst: logits, dstStride: slots, src: first * slots, srcStride: slots, rows: count, cols: slots };
      if (!streams) return [whole];
      return [
        { ...whole, dstStride: head + tail, cols: head },
        { ...whole, dst: logits + head, dstStride: head + tail, src: first * slots + slots - tail, cols: tail },
      ];
    });
  return rearrange('neededLogits', size, moves);
}

/** Packed rows of logits -> those of the always attended slots, [heads, head and tail]. */
export function alwaysAttended(l: Layout, runs: readonly HeadRun[], heads: number): Linear {
  const { slots, head, tail } = l,
    n = head + tail,
    moves = runs.flatMap(({ streams, first, count, logits }): Move[] => {
      const length = streams ? n : slots,
        part = { dstStride: n, srcStride: length, rows: count };
      return [
        { ...part, dst: first * n, src: logits, cols: head },
        { ...part, dst: first * n + head, src: logits + length - tail, cols: tail },
      ];
    });
  return rearrange('alwaysAttended', heads * n, moves);
}

/** Packed rows of logits -> [choosing heads, slots]. */
export function choosingRows(l: Layout, runs: readonly HeadRun[], count: number): Linear {
  const moves = runs
    .filter((r) => !r.streams)
    .map((r): Move => ({ dst: r.choosing * l.slots, dstStride: l.slots, src: r.logits, srcStride: l.slots, rows: r.count, cols: l.slots }));
  return rearrange('choosingRows', count * l.slots, moves);
}

/** Packed rows of attended slots -> the chosen clusters' of the choosing heads, [choosing heads, chosen, size]. */
export function chosenPart(l: Layout, runs: readonly HeadRun[], count: number): Linear {
  const cols = l.chosen * l.size,
    moves = runs
      .filter((r) => !r.streams)
      .map((r): Move => ({ dst: r.choosing * cols, dstStride: cols, src: r.attended + l.head, srcStride: attended(l), rows: r.count, cols }));
  return rearrange('chosenPart', count * cols, moves);
}

/** One row per head of [heads, cols], of those that choose. */
export function rowsOfChoosing(runs: readonly HeadRun[], count: number, cols: number): Linear {
  const moves = runs
    .filter((r) => !r.streams)
    .map((r): Move => ({ dst: r.choosing * cols, dstStride: cols, src: r.first * cols, srcStride: cols, rows: r.count, cols }));
  return rearrange('rowsOfChoosing', count * cols, moves);
}

/** One level of a choice: of `count` clusters, `keep` are kept. */
export interface Level {
  readonly count: number;
  readonly keep: number;
  /** Finest clusters in one of this level. */
  readonly width: number;
}

/** A row of `slots` slots: `head` of them, then `candidates` clusters of `size`, then `tail` slots. Head and tail are always attended to, and `chosen` clusters. */
export interface Layout {
  readonly slots: number;
  readonly size: number;
  readonly head: number;
  readonly candidates: number;
  readonly chosen: number;
  readonly tail: number;
  /**
   * Coarsest first; each but the first ranks the children of what the one before kept. The last keeps `chosen` clusters of `size`. None where all candidates are
   * attended to by the heads that do not stream.
   */
  readonly levels: readonly Level[];
}

/**
 * The layout of a row, or undefined where every head attends to everything. The budget is the last ratio of all finest clusters, the last, incomplete one included; the
 * always attended ones count in it, and at least one candidate is chosen. Candidates fill clusters of the coarsest size: what is left over is always attended to.
 */
export function layoutOf({ dynamic, ratio, streaming }: LayerSelection, slots: number): Layout | undefined {
  const { sizes, always } = dynamic,
    size = sizes.at(-1)!,
    coarse = sizes[0]! / size,
    complete = Math.floor(slots / size),
    first = Math.min(Math.ceil(always.first / coarse) * coarse, complete),
    candidates = Math.max(0, Math.floor((complete - always.recent - first) / coarse) * coarse),
    all = Math.ceil(slots / size),
    chosen = Math.min(candidates, Math.max(1, Math.round(ratio.at(-1)! * all) - (all - candidates)));
  if (candidates === 0 || (chosen === candidates && streaming.length === 0)) return undefined;
  const levels: Level[] = [];
  sizes.forEach((s, i) => {
    const width = s / size,
      above = levels.at(-1),
      count = above ? (above.keep * above.width) / width : candidates / width,
      keep = i === sizes.length - 1 ? chosen : Math.max(Math.ceil(chosen / width), Math.round((ratio[i]! * candidates) / width));
    if (keep < count) levels.push({ count, keep, width });
  });
  return { slots, size, head: first * size, candidates, chosen, tail: slots - (first + candidates) * size, levels };
}

/** The same choice when slots have been added: they join the tail. */
export const grown = (l: Layout, slots: number): Layout => ({ ...l, slots, tail: l.tail + slots - l.slots });

/** Whether heads that do not stream attend to everything: there is nothing to choose. */
export const attendsToAll = (l: Layout): boolean => l.levels.length === 0;

/** Slots that a query attends to. */
export const attended = (l: Layout): number => l.head + l.chosen * l.size + l.tail;

/** [heads, slots] -> the candidates' slots by selector head, [selectors, candidates, group, size]. */
export function candidateBlocks(l: Layout, selectors: number, group: number): Linear {
  const { slots, size, head, candidates } = l,
    moves: Move[] = [];
  for (let h = 0; h < selectors * group; h++) {
    const [g, a] = [Math.floor(h / group), h % group];
    moves.push({ dst: (g * candidates * group + a) * size, dstStride: group * size, src: h * slots + head, srcStride: size, rows: candidates, cols: size });
  }
  return rearrange('candidateBlocks', selectors * candidates * group * size, moves);
}

/** [selectors, clusters, group, size] -> [selectors, group, clusters, size]: each head's slots in one piece. */
export function byHead(selectors: number, clusters: number, group: number, size: number): Linear {
  const moves: Move[] = [];
  for (let g = 0; g < selectors; g++)
    for (let a = 0; a < group; a++)
      moves.push({
        dst: (g * group + a) * clusters * size,
        dstStride: size,
        src: (g * clusters * group + a) * size,
        srcStride: group * size,
        rows: clusters,
        cols: size,
      });
  return rearrange('byHead', selectors * group * clusters * size, moves);
}

/** The inverse of `byHead`. */
export function byCluster(selectors: number, clusters: number, group: number, size: number): Linear {
  const moves = Array.from({ length: selectors * group }, (_, h): Move => {
    const [g, a] = [Math.floor(h / group), h % group];
    return { dst: (g * clusters * group + a) * size, dstStride: group * size, src: h * clusters * size, srcStride: size, rows: clusters, cols: size };
  });
  return rearrange('byCluster', selectors * clusters * group * size, moves);
}

/**
 * Rows of a level as one operand of the product with those of the level above: [count, chosen, kept * width] -> [count, chosen, width, kept], where a place is
 * (kept cluster, child).
 */
export function childRows(count: number, chosen: number, kept: number, width: number): Linear {
  const moves = Array.from({ length: count * chosen }, (_, i): Move[] =>
    Array.from({ length: width }, (_, u) => ({
      dst: (i * width + u) * kept,
      dstStride: 1,
      src: i * kept * width + u,
      srcStride: width,
      rows: kept,
      cols: 1,
    })),
  ).flat();
  return rearrange('childRows', count * chosen * width * kept, moves);
}

/** [count, chosen, width, clusters] -> [count, chosen, clusters * width]: places in the level above and children, in position order. */
export function inOrder(count: number, chosen: number, width: number, clusters: number): Linear {
  const moves = Array.from({ length: count * chosen }, (_, i): Move[] =>
    Array.from({ length: width }, (_, u) => ({
      dst: i * clusters * width + u,
      dstStride: width,
      src: (i * width + u) * clusters,
      srcStride: 1,
      rows: clusters,
      cols: 1,
    })),
  ).flat();
  return rearrange('inOrder', count * chosen * width * clusters, moves);
}

/** [count, rows, cols] -> [count, cols, rows]. */
export function transposed(count: number, rows: number, cols: number): Linear {
  const moves: Move[] = [];
  for (let i = 0; i < count; i++)
    for (let r = 0; r < rows; r++) moves.push({ dst: i * rows * cols + r, dstStride: rows, src: (i * rows + r) * cols, srcStride: 1, rows: cols, cols: 1 });
  return rearrange('transposed', count * rows * cols, moves);
}

/** One-hot rows [heads, from] times blocks [heads / group, from, dim]. */
export const pick = (count: number, group: number, from: number, dim: number): AttentionShape => ({
  queries: 1,
  heads: count,
  group,
  dim,
  past: from - 1,
  capacity: from,
  firstKv: 0,
  prefix: 0,
});

/** The same integers at scale 0: values in steps of 2^-scale. */
export const inSteps = (size: number, scale: number): Linear => ({
  name: 'inSteps',
  size,
  scale: -scale,
  integer: (k, dst, src) => k.copy(dst, src, size),
  real(dst, src) {
    for (let i = 0; i < size; i++) dst[i] = src[i]! * 2 ** scale;
  },
});

/** Lengths of equal runs, for `segmentSum` and the like. */
export const equalRuns = (runs: number, length: number): Uint32Array<ArrayBuffer> => new Uint32Array(runs).fill(length);

/** A public constant for the slots that no token fills, 0 elsewhere: integers of one row at a scale. */
export function unusedRow(slots: number, unused: Slots, value: number, scale: number): BigInt64Array<ArrayBuffer> {
  const row = new BigInt64Array(slots);
  for (const [from, to] of unused) row.fill(BigInt(Math.round(value * 2 ** scale)), Math.min(from, slots), Math.min(to, slots));
  return row;
}

/** The slots that no token fills, counted from the first candidate's. */
export const unusedCandidates = (l: Layout, unused: Slots): Slots => within(unused, l.head, l.slots - l.tail).map(([from, to]) => [from - l.head, to - l.head]);

/** The attended slots that no token fills, those of chosen clusters apart, as places in the packed rows of attended slots: head, chosen where the head chooses, tail. */
export function unusedAttended(l: Layout, runs: readonly HeadRun[], unused: Slots): Slots {
  const [head, tail] = [within(unused, 0, l.head), within(unused, l.slots - l.tail, l.slots)];
  return runs.flatMap(({ streams, count, attended: start }) => {
    const length = streams ? l.head + l.tail : attended(l),
      between = streams || !attendsToAll(l) ? [] : within(unused, l.head, l.slots - l.tail),
      moved = (ranges: Slots, by: number) => ranges.map(([from, to]) => [from + by, to + by] as const);
    return Array.from({ length: count }, (_, i) => [
      ...moved([...head, ...between], start + i * length),
      ...moved(tail, start + (i + 1) * length - l.slots),
    ]).flat();
  });
}

const within = (ranges: Slots, low: number, high: number): (readonly [from: number, to: number])[] =>
  ranges.map(([from, to]) => [Math.max(from, low), Math.min(to, high)] as const).filter(([from, to]) => to > from);

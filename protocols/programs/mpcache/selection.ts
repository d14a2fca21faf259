/**
 * Attention of one query to chosen clusters of the cache. All logits are computed and opened; clusters are scored by linear maps of them, ranked, and one-hot rows
 * gather the chosen clusters' logits. The softmax is over exactly the attended slots; its probabilities, normalised, are scattered back by the same rows, so keys
 * and values never move. The second layer of a sharing group takes the first's rows and ranks nothing. Source: MPCache (arXiv 2501.06807), section 4; Cachet DESIGN 2.
 *
 * Rounds from the logits to the output: logits, comparisons, ranks, rows, gathered logits, reference, exponentials, scattered ones and 1 / sum, their product with
 * values, output: 10, one less with a public reference, 5 more for each further level of clusters; 7 with another layer's rows, and 2 for a reference. Nothing is
 * revealed: which clusters are chosen, their order and ties stay secret; how many is public.
 *
 * A row's reference is near the maximum of its attended slots, whatever the others hold. Its words of parities are made cluster by cluster and opened beside the
 * comparisons; with the rows, [is chosen] of each cluster is opened; the words of chosen clusters, and of the slots that are always attended to, are added up. A layer
 * with a public reference keeps it: its output fades where all attended logits lie several nats below those of the other rows.
 *
 * With `gather: 'values'`, as in the paper, the same rows gather keys and values (`gather.ts`): scores, comparisons, ranks, rows, keys and values, logits, a reference
 * (2), exponentials, 1 / sum, probabilities, output: 10 and the reference; 6 and the reference with another layer's rows.
 *
 * Streaming heads rank nothing and attend to head and tail: their other logits are computed (the product is one for all heads) but never opened.
 *
 * Scales. Where a layer ranks: exponentials 2^13, values 2^10, 1 / sum 2^sr, all in Z_2^48. With another layer's rows, or gathered values: exponentials 2^sp in Z_2^n,
 * 1 / sum 2^sr, probabilities 2^(sp + sr) in Z_2^n, narrowed to 2^13 in Z_2^a; with values 2^10 in Z_2^a.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { CachetError } from '../../errors.ts';
import { and } from '../../gates/and.ts';
import { negativeTable } from '../../gates/less.ts';
import { anyOf, clearUnused, columns, repeatFirst, rowSums, segmentSpread, segmentSum, times, whole, WORD_BITS, type Slots } from '../../gates/linear.ts';
import { dotRows, hadamard, mix, packedSize, scaleRows, scaleRuns, scores, type AttentionShape } from '../../gates/mul.ts';
import { windowsBelow } from '../../gates/windows.ts';
import type { DynamicPolicy } from '../../policy.ts';
import { booleanShare, wire, type Constant, type Tensor } from '../../tensor.ts';
import { RING, SCALE, type AttentionPlan, type LayerPlan, type ModelPlan } from '../plan.ts';
import { bucketShift, bucketsOf, rowMax, rowTop, wordsOf, type Buckets } from '../rowMax.ts';
import {
  attended,
  chosenPart,
  choosingHeads,
  choosingRows,
  headRuns,
  neededLogits,
  rowLengths,
  type HeadRun,
  byCluster,
  byHead,
  candidateBlocks,
  equalRuns,
  inSteps,
  transposed,
  unusedAttended,
  unusedCandidates,
  unusedRow,
  childRows,
  inOrder,
  pick,
  alwaysAttended,
  type Layout,
  type LayerSelection,
  type Level,
} from './clusters.ts';
import { compareAll, oneHotRows, rankBits, ranksOf } from './ranking.ts';
import { attendedSlots, logitsOfAttended, outputOfAttended, scoresOfKeys, type Moved } from './gather.ts';
import { representativeScores, type Representatives } from './representatives.ts';
import { slotsByHistogram } from './slots.ts';

/** What a layer's step attends to, and where its choice is kept for the layers that share it. */
export interface Choice {
  readonly selection: LayerSelection;
  readonly layout: Layout;
  /** Rows of the choice, wire [selectors, chosen, candidates] over Z_2^32: found here where another layer has chosen, to be written where this one leads. */
  readonly rows: Tensor | undefined;
  readonly taken: boolean;
  /** For scores by `minmax`, of the layer that chooses. */
  readonly representatives: Representatives | undefined;
}

const heads = (shape: { readonly heads: number; readonly kvHeads: number }, d: DynamicPolicy): { selectors: number; group: number } => {
  const selectors = d.perHead === 'kv' ? shape.kvHeads : shape.heads;
  return { selectors, group: shape.heads / selectors };
};

/** A place for a layer's rows that outlives the layer. */
export function keptRows(e: Engine, plan: ModelPlan, selection: LayerSelection, { chosen, candidates }: Pick<Layout, 'chosen' | 'candidates'>): Tensor {
  return e.zeros(wire(heads(choosingHeads(plan.shape, selection), selection.dynamic).selectors * chosen * candidates, RING.logits, 0));
}

/** A choice that serves several tokens of an answer. Public but for its rows. */
export interface Reused {
  readonly rows: Tensor;
  layout: Layout | undefined;
  /** Tokens that it has yet to serve. */
  left: number;
}

/** A place for the choice of a layer that serves several tokens, for up to `capacity` slots. */
export function reusedChoice(e: Engine, plan: ModelPlan, selection: LayerSelection, capacity: number): Reused {
  const all = Math.ceil(capacity / selection.dynamic.sizes.at(-1)!);
  return {
    rows: keptRows(e, plan, selection, { candidates: all, chosen: Math.max(1, Math.round(selection.ratio.at(-1)! * all)) }),
    layout: undefined,
    left: 0,
  };
}

/** Nats between the scores of a row, at most: given, or what the layer's exponential covers. */
function spreadOf(d: DynamicPolicy, { reference, exp }: AttentionPlan): number {
  const logits = (reference.kind === 'buckets' ? -exp.low : 2 ** exp.domainBits - 2 ** (exp.domainBits - exp.cellsLog2)) / 2 ** exp.inputScale;
  // A cluster's variance is at most a quarter of its logits' spread, squared. A representative is no key: its product is not bounded by logits, but near them.
  return d.spread ?? (d.score === 'meanvar' ? logits + logits ** 2 / 8 : d.score === 'minmax' ? 2 * logits : logits);
}

/** What a cluster's score in nats is multiplied by in its integer form: sums over n logits of each head of a group, or 2 n^2 (mean + variance / 2), or 1 (minmax). */
const unitOf = (shape: { readonly heads: number; readonly kvHeads: number }, d: DynamicPolicy, size: number): number =>
  heads(shape, d).group * (d.score === 'meanvar' ? 2 * size ** 2 : d.score === 'minmax' ? 1 : size);

/** Of the 2^b steps of a score, so many may lie between two of them: half, less what narrowing may add. */
const steps = (bits: number): number => 2 ** (bits - 1) - 2;

/** The histogram's 64 levels, in a ring for their differences: a row's first cluster is in the middle, the others at most so many steps away. */
const LEVEL_BITS = 7;
const MIDDLE = 32;
const LEVEL_STEPS = MIDDLE - 2;

/** Bits that the coarsest clusters' scores leave below one unit, in Z_2^32. */
const roomOf = (plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number =>
  RING.logits +
  Math.log2(d.ranking === 'pairs' ? steps(d.bits) / 2 ** d.bits : LEVEL_STEPS / 2 ** LEVEL_BITS) -
  Math.log2(spreadOf(d, layer.attention) * unitOf(plan.shape, d, d.sizes[0]!));

/** Scale of the logits whose squares make scores; scores are at twice that scale. */
const squareScale = (plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number => Math.min(8, Math.floor(roomOf(plan, layer, d) / 2));

/** Ring of cached keys, and of logits, where scores are made of squares. */
const SQUARES_RING = 48;

/** Ring and scale of a layer's cached keys: their logits' sums, or squares, must lie within half of Z_2^32. @throws CachetError 'range' where they cannot. */
export function keyForm(plan: ModelPlan, layer: LayerPlan, selection: LayerSelection | undefined): { bits: number; scale: number } {
  if (!selection || selection.dynamic.score === 'minmax') return { bits: RING.logits, scale: SCALE.activation };
  const d = selection.dynamic,
    squares = d.score === 'meanvar',
    most = squares ? SQUARES_RING - RING.logits + squareScale(plan, layer, d) : Math.floor(roomOf(plan, layer, d)),
    scale = Math.min(SCALE.activation, most - SCALE.activation);
  if (scale < 4 || (squares && squareScale(plan, layer, d) < 3))
    throw new CachetError({
      code: 'range',
      what: 'scores of clusters would overflow',
      expected: `clusters, groups of heads and a spread of scores whose product leaves keys 4 fraction bits`,
      got: `clusters of ${d.sizes[0]}, a spread of ${spreadOf(d, layer.attention).toFixed(0)} nats: ${scale} bits`,
      hint: 'smaller clusters, or a smaller spread',
    });
  return { bits: squares ? SQUARES_RING : RING.logits, scale };
}

/** Finest scale of representatives. */
const REPRESENTATIVE_SCALE = 10;
/** Nats that a representative's product with a query may reach, as logits may. */
const MOST_NATS = 128;

/** Scale of a layer's representatives: their products with queries, summed over a group, and differences of them lie within Z_2^32. @throws CachetError 'range' where they cannot. */
export function representativeScale(plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number {
  const sums = RING.logits - 1 - Math.log2(MOST_NATS * heads(plan.shape, d).group),
    scale = Math.min(REPRESENTATIVE_SCALE, Math.floor(Math.min(roomOf(plan, layer, d), sums)) - SCALE.activation);
  if (scale < 4)
    throw new CachetError({
      code: 'range',
      what: 'scores of clusters would overflow',
      expected: 'a spread of scores that leaves representatives 4 fraction bits',
      got: `a spread of ${spreadOf(d, layer.attention).toFixed(0)} nats: ${scale} bits`,
      hint: 'a smaller spread, or choices per query head',
    });
  return scale;
}

/** Scale of normalised probabilities, where the values leave room for it. */
const PROBABILITY_SCALE = 13;
/** Bits of 1 / sum where the sum is largest. */
const RECIPROCAL_BITS = 6;

/** Rings and scales of the softmax over `n` attended slots. */
export function budget(
  p: AttentionPlan,
  n: number,
): { ring: number; expScale: number; reciprocalScale: number; scale: number; outputRing: number; high: number } {
  const valueBits = p.bits - 2 - p.exp.outputScale - SCALE.value - p.reciprocalScale,
    scale = Math.min(PROBABILITY_SCALE, RING.logits - 2 - SCALE.value - valueBits),
    outputRing = scale + SCALE.value + valueBits + 2,
    // All logits at the reference's upper end, one bucket of it missed.
    high = p.reference.kind === 'buckets' ? Math.min(p.reciprocal.high, 2 ** Math.ceil(Math.log2(n * Math.exp(4)))) : p.reciprocal.high,
    expScale = p.exp.outputScale - 3;
  // Probabilities before they are narrowed: 2^(expScale + reciprocalScale), the output's ring and no more.
  const wanted = outputRing - scale + expScale + Math.ceil(Math.log2(high)) + RECIPROCAL_BITS,
    ring = Math.min(64, 8 * Math.ceil(wanted / 8)),
    reciprocalScale = Math.min(ring - outputRing + scale - expScale, p.reciprocal.outputScale);
  return { ring, expScale, reciprocalScale, scale, outputRing, high };
}

/** A step of one query, as the parts of it need it. */
interface Attending {
  readonly e: Engine;
  readonly plan: ModelPlan;
  readonly layer: LayerPlan;
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly query: Tensor;
  readonly shape: AttentionShape;
  readonly unused: Slots | undefined;
  readonly choice: Choice;
  readonly choosing: ReturnType<typeof choosingHeads>;
  readonly selectors: number;
  /** Heads that choose together. */
  readonly group: number;
  readonly streams: boolean;
  readonly parts: readonly HeadRun[];
  /** Attended slots of each head. */
  readonly lengths: Uint32Array<ArrayBuffer>;
  readonly runs: Constant<Uint32Array>;
}

/** Packed rows of attended logits, each relative to its reference, and what weights make of the values: a share [heads, dim]. */
interface Attended {
  readonly row: Tensor;
  /** Whether weights are normalised last. */
  readonly late: boolean;
  /** Of packed rows of weights those of the candidates, [choosing heads, candidates, size]: a share; undefined where nothing is to be scattered. */
  scatter(weights: Tensor): Tensor | undefined;
  output(weights: Tensor, back: Tensor | undefined): Tensor;
}

/** Ring of a choice's rows, and of exponentials and output, where these are normalised last. */
const LATE_RING = 48;

/** Rings and scales where weights are normalised last: 2^(expScale + 10) of values and 2^reciprocalScale in one ring, two bits spare. */
function lateBudget(p: AttentionPlan, n: number): { ring: number; expScale: number; reciprocalScale: number; high: number } {
  const { high } = budget(p, n),
    valueBits = p.bits - 2 - p.exp.outputScale - SCALE.value - p.reciprocalScale,
    reciprocalScale = Math.min(LATE_RING - 2 - PROBABILITY_SCALE - SCALE.value - valueBits, p.reciprocal.outputScale);
  return { ring: LATE_RING, expScale: PROBABILITY_SCALE, reciprocalScale, high };
}

/** softmax(q k^T) v over the attended slots of one query: wire [heads, dim]. */
export function* chosenAttention(
  e: Engine,
  plan: ModelPlan,
  layer: LayerPlan,
  keys: Tensor,
  values: Tensor,
  query: Tensor,
  shape: AttentionShape,
  unused: Slots | undefined,
  choice: Choice,
): Program<Tensor> {
  const { layout: l, selection } = choice,
    choosing = choosingHeads(plan.shape, selection),
    parts = headRuns(l, plan.shape, selection),
    lengths = rowLengths(l, parts, attended(l)),
    a: Attending = {
      e,
      plan,
      layer,
      keys,
      values,
      query,
      shape,
      unused,
      choice,
      choosing,
      parts,
      lengths,
      ...heads(choosing, selection.dynamic),
      streams: selection.streaming.length > 0,
      runs: e.constant('tables', lengths),
    },
    found = yield* selection.dynamic.gather === 'values' ? byValues(a) : byLogits(a),
    result = yield* found.late ? normalisedLast(a, found) : normalisedFirst(a, found);
  e.note('attention', result);
  return result;
}

/** Scores of a layer's clusters by their representatives, to be opened; undefined where they are made of logits. */
function representativesOf({ e, plan, query, unused, choice, choosing, selectors, streams, parts }: Attending): Tensor[] | undefined {
  const { layout: l, representatives, taken } = choice;
  if (taken || !representatives || choosing.heads === 0) return undefined;
  return l.levels.map(({ width }) =>
    representativeScores(e, plan, representatives, l, width, query, selectors, streams ? parts : undefined, unused && { slots: unused, nats: UNUSED_NATS }),
  );
}

/** Logits of all slots, packed rows over the keys' ring: of a head that streams, those of head and tail; and the `scores`, opened with them. */
function* allLogits(
  { e, keys, query, shape, unused, choice, streams, parts }: Attending,
  scored: readonly Tensor[] = [],
): Program<{ opened: Tensor; scored: readonly Tensor[] }> {
  const { layout: l } = choice,
    all = e.constant('tables', equalRuns(shape.heads, l.slots));
  let z = e.mul(scores(shape), query, keys);
  if (unused) {
    z = e.linear(repeatFirst(all, packedSize(shape), unused), z);
    z = e.addRow(z, e.constant('tables', unusedRow(l.slots, unused, -UNUSED_NATS, z.scale)));
  }
  e.note('logits', z);
  if (streams)
    z = e.linear(
      neededLogits(
        l,
        parts,
        rowLengths(l, parts, l.slots).reduce((sum, length) => sum + length, 0),
      ),
      z,
    );
  const [opened, ...rest] = yield* e.open([z, ...scored]);
  return { opened: opened!, scored: rest };
}

/** Of packed rows of all logits those of heads that choose: [choosing heads, slots]. */
const ofChoosing = ({ e, choice, choosing, streams, parts }: Attending, x: Tensor): Tensor =>
  streams ? e.linear(choosingRows(choice.layout, parts, choosing.heads), x) : x;

/** The candidates of the heads that choose, from opened logits: [selectors, candidates, group, size] over Z_2^32. */
const blocksOf = (a: Attending, opened: Tensor): Tensor =>
  a.e.linear(candidateBlocks(a.choice.layout, a.selectors, a.group), ofChoosing(a, a.e.mod(opened, RING.logits)));

/** Rows of the choice, written where they are to be kept. */
function* chooseAndKeep({ e, plan, layer, choice }: Attending, scored: readonly Tensor[], bits: number, words: Tensor | undefined): Program<Chosen> {
  const chosen = yield* choose(e, plan, layer, choice.selection, choice.layout, scored, bits, words),
    { size } = chosen.rows;
  if (choice.rows) e.store(choice.rows, 0, size, e.mod(chosen.rows, RING.logits), 0, size, 1, size);
  return chosen;
}

/** Gathers logits, scatters weights. */
function* byLogits(a: Attending): Program<Attended> {
  const { e, plan, layer, values, shape, unused, choice, choosing, selectors, group, streams, parts, runs } = a,
    { layout: l } = choice,
    chooses = choosing.heads > 0,
    { opened, scored } = yield* allLogits(a, representativesOf(a)),
    zw = e.mod(opened, RING.logits),
    blocks = chooses ? blocksOf(a, opened) : undefined,
    { reference } = layer.attention,
    here = !choice.taken && blocks !== undefined,
    buckets = here && reference.kind === 'buckets' ? lowered(reference) : undefined;
  let { rows } = choice,
    words: Tensor | undefined,
    gathered: Tensor | undefined;
  if (here) {
    const reached = buckets && bucketsOf(e, zw, buckets),
      ofClusters = reached && clusterWords(a, reached, buckets),
      chosen = yield* chooseAndKeep(a, scored.length > 0 ? scored : yield* scoresOf(a, opened, blocks), LATE_RING, ofClusters);
    ({ rows } = chosen);
    if (reached) words = attendedWords(a, reached, chosen, buckets);
  }
  const cluster = group * l.size;
  let shift: Tensor | undefined;
  if (blocks) {
    e.note('chosen', rows!);
    const product = e.mul(mix(pick(selectors * l.chosen, l.chosen, l.candidates, cluster)), rows!, blocks),
      [chosen, found] = yield* e.open(words ? [product, words] : [product]);
    gathered = group > 1 ? e.linear(byHead(selectors, l.chosen, group, l.size), chosen!) : chosen;
    if (found) [shift] = yield* e.open([rowTop(e, found, e.constant('tables', equalRuns(shape.heads, buckets!.count)), buckets!, plan.nonzero)]);
  }
  return {
    row: yield* relative(a, attendedRow(e, l, parts, runs.array, zw, gathered), shift),
    late: here,
    scatter(weights) {
      if (!blocks) return undefined;
      const chosen = e.linear(streams ? chosenPart(l, parts, choosing.heads) : columns(shape.heads, attended(l), l.head, l.chosen * l.size), weights),
        grouped = group === 1 ? chosen : e.linear(byCluster(selectors, l.chosen, group, l.size), chosen),
        scattered = e.mul(
          mix(pick(selectors * l.candidates, l.candidates, l.chosen, cluster)),
          e.linear(transposed(selectors, l.chosen, l.candidates), rows!),
          grouped,
        ),
        spread = group === 1 ? scattered : e.linear(byHead(selectors, l.candidates, group, l.size), scattered),
        candidates = e.constant('tables', equalRuns(choosing.heads, l.candidates * l.size));
      return unused ? e.linear(clearUnused(candidates, spread.size, unusedCandidates(l, unused)), spread) : spread;
    },
    output: (weights, back) => e.mul(mix(shape), wholeRow(e, l, parts, shape.heads, weights, back), values),
  };
}

/** Buckets below those of any row's maximum in which that of the attended slots may lie. */
const LOWER_BUCKETS = 5;

/** Buckets for the maxima of attended slots: they may be lower than those of all slots. */
function lowered({ kind, low, first, count }: Buckets): Buckets {
  const from = Math.max(low, first - LOWER_BUCKETS);
  return { kind, low, first: from, count: count + first - from };
}

/** Words of parities of each candidate, from which buckets its logits reach: share [selectors, candidates, group, buckets]. */
function clusterWords(a: Attending, reached: Tensor, buckets: Buckets): Tensor {
  const { e, choice, choosing, selectors, group } = a,
    { layout: l } = choice,
    slots = e.linear(columns(choosing.heads, l.slots, l.head, l.candidates * l.size), ofChoosing(a, reached)),
    words = wordsOf(e, slots, e.constant('tables', equalRuns(choosing.heads * l.candidates, l.size)), buckets);
  return group > 1 ? e.linear(byCluster(selectors, l.candidates, group, buckets.count), words) : words;
}

/** Words of parities of the attended slots: those of chosen candidates, and of the slots that are always attended to. Share [heads, buckets]. */
function attendedWords({ e, shape, choice, group, selectors, parts }: Attending, reached: Tensor, { words, isChosen }: Chosen, buckets: Buckets): Tensor {
  const { layout: l } = choice,
    cols = group * buckets.count,
    always = l.head + l.tail,
    rows = l.candidates + (always > 0 ? 1 : 0),
    all = e.zeros(booleanShare((shape.heads / group) * rows * cols, WORD_BITS)),
    [ofChosen] = e.apply(and, { rows: selectors * l.candidates, cols: group * buckets.count }, [isChosen!, words!]),
    own = l.candidates * cols;
  for (const r of parts)
    if (!r.streams) e.store(all, (r.first / group) * rows * cols, rows * cols, ofChosen!, (r.choosing / group) * own, own, r.count / group, own);
  if (always > 0) {
    const slots = e.linear(alwaysAttended(l, parts, shape.heads), reached),
      ofAlways = wordsOf(e, slots, e.constant('tables', equalRuns(shape.heads, always)), buckets);
    e.store(all, own, rows * cols, ofAlways, 0, cols, shape.heads / group, cols);
  }
  return e.linear(anyOf(shape.heads / group, rows, cols), all);
}

/** Gathers keys and values, as the paper does: only scores that are made of logits need all of these. */
function* byValues(a: Attending): Program<Attended> {
  const { e, keys, values, query, shape, unused, choice, choosing, selectors, group, parts } = a,
    { layout } = choice,
    empty = unused && { slots: unused, nats: UNUSED_NATS },
    moved: Moved = { layout, runs: parts, shape, choosing, selectors, group },
    chooses = choosing.heads > 0;
  let { rows } = choice;
  if (!choice.taken && chooses) {
    const ofRepresentatives = representativesOf(a),
      scored = ofRepresentatives
        ? yield* e.open(ofRepresentatives)
        : choice.selection.dynamic.score === 'mean'
          ? yield* scoresOfKeys(e, moved, keys, query, empty)
          : yield* scoresOfLogits(a);
    ({ rows } = yield* chooseAndKeep(a, scored, RING.logits, undefined));
  }
  if (chooses) e.note('chosen', rows!);
  const [k, v] = yield* attendedSlots(e, moved, chooses ? rows : undefined, [keys, values], RING.logits),
    [row] = yield* e.open([logitsOfAttended(e, moved, chooses ? rows : undefined, k!, query, empty)]);
  e.note('logits', row!);
  return {
    row: yield* relative(a, row!, undefined),
    late: false,
    scatter: () => undefined,
    output: (weights) => outputOfAttended(e, moved, weights, v!),
  };
}

/** Scores from logits that nothing else needs. */
function* scoresOfLogits(a: Attending): Program<readonly Tensor[]> {
  const { opened } = yield* allLogits(a);
  return yield* scoresOf(a, opened, blocksOf(a, opened));
}

/** Packed rows of attended logits, less the row's reference: `shift`, where it is there already, or one that is found here in 2 rounds. */
function* relative({ e, plan, layer, shape, runs }: Attending, row: Tensor, shift: Tensor | undefined): Program<Tensor> {
  const { reference } = layer.attention,
    buckets = !shift && reference.kind === 'buckets' ? lowered(reference) : undefined;
  if (buckets) [shift] = yield* e.open([yield* rowMax(e, row, runs, e.constant('tables', equalRuns(shape.heads, buckets.count)), buckets, plan.nonzero)]);
  return shift ? e.sub(row, e.linear(segmentSpread(runs, row.size, bucketShift(row), RING.logits, row.scale), shift)) : row;
}

/** Exponentials of packed rows of attended logits, relative to their references, over Z_2^ring, and the rows' sums. 1 round. */
function* exponentials(
  { e, layer, shape, unused, choice, parts, runs }: Attending,
  row: Tensor,
  { ring, expScale }: { ring: number; expScale: number },
): Program<{ p: Tensor; sums: Tensor }> {
  const { exp: table } = layer.attention,
    fine = e.narrow(row, row.scale - table.inputScale);
  e.note('relative', fine);
  const [exp] = e.expTable({ ...table, outputScale: expScale }, fine),
    filled = unused
      ? e.linear(clearUnused(e.constant('tables', Uint32Array.of(exp!.size)), exp!.size, unusedAttended(choice.layout, parts, unused)), exp!)
      : exp!,
    [p] = yield* e.open([{ x: filled, bits: ring }]),
    sums = e.linear(times(shape.heads, 1, table.outputScale - expScale), e.linear(segmentSum(runs), p!));
  e.note('sums', sums);
  return { p: p!, sums };
}

/** Probabilities, normalised before they meet values, over a small ring: 1 / sum, probabilities, what is scattered, output. 4 or 5 rounds. */
function* normalisedFirst(a: Attending, { row, scatter, output }: Attended): Program<Tensor> {
  const { e, layer, shape, choice, streams, lengths } = a,
    { reciprocal } = layer.attention,
    n = attended(choice.layout),
    form = budget(layer.attention, n),
    { p, sums } = yield* exponentials(a, row, form),
    more = reciprocal.outputScale - form.reciprocalScale,
    [r] = yield* e.open([{ x: e.windows(windowsBelow(reciprocal, form.high), sums), bits: Math.min(64, form.ring + more) }]),
    [weights] = yield* e.open([e.mul(streams ? scaleRuns(lengths) : scaleRows(shape.heads, n), p, e.narrow(r!, more))]),
    probability = e.mod(e.withHalves(e.narrow(weights!, weights!.scale - form.scale)), form.outputRing),
    scattered = scatter(probability),
    [back] = scattered ? yield* e.open([scattered]) : [],
    [result] = yield* e.open([output(probability, back)]);
  return result!;
}

/** Exponentials meet values first, and 1 / sum comes with what is scattered: 4 rounds over a ring that holds the product of both. */
function* normalisedLast(a: Attending, { row, scatter, output }: Attended): Program<Tensor> {
  const { e, layer, shape, choice } = a,
    { reciprocal } = layer.attention,
    form = lateBudget(layer.attention, attended(choice.layout)),
    { p, sums } = yield* exponentials(a, row, form),
    more = reciprocal.outputScale - form.reciprocalScale,
    [r, back] = yield* e.open([{ x: e.windows(windowsBelow(reciprocal, form.high), sums), bits: Math.min(64, form.ring + more) }, scatter(p)!]),
    [sum] = yield* e.open([output(p, back)]),
    [result] = yield* e.open([e.mul(scaleRows(shape.heads, shape.dim), sum!, e.narrow(r!, more))]);
  return result!;
}

/** Slots that no token fills lie so far below their row's first logit: within the exponential's margin, and of no weight. */
const UNUSED_NATS = 9;

/**
 * Scores of all candidates by level, wires [selectors, clusters] over Z_2^32 in the units of `unitOf`. opened: packed logits over the keys' ring, blocks: the candidates'
 * of them. Means are local; mean + variance / 2 takes a round: 2 n sum(z) + n sum(z^2) - sum(z)^2, whose products are opened, added up over a group.
 */
function* scoresOf(a: Attending, opened: Tensor, blocks: Tensor): Program<readonly Tensor[]> {
  const { e, plan, layer, choice, choosing, selectors, group } = a,
    { layout: l, selection } = choice,
    { dynamic } = selection,
    z = ofChoosing(a, opened),
    count = choosing.heads,
    runs = (rows: number, length: number) => segmentSum(e.constant('tables', equalRuns(rows, length)));
  if (dynamic.score === 'mean') return l.levels.map(({ width }) => e.linear(runs((selectors * l.candidates) / width, width * l.size * group), blocks));
  const scale = squareScale(plan, layer, dynamic),
    own = e.linear(columns(count, l.slots, l.head, l.candidates * l.size), z),
    fine = e.withHalves(e.narrow(e.mod(own, RING.logits + own.scale - scale), own.scale - scale)),
    squares = e.mul(dotRows(count * l.candidates, l.size), fine, fine),
    together = (rows: number, x: Tensor): Tensor => (group === 1 ? x : e.linear(rowSums(selectors, group, rows), x)),
    levels = l.levels.map(({ width }) => {
      const clusters = l.candidates / width,
        n = width * l.size,
        sums = e.linear(runs(count * clusters, n), fine),
        spread = e.sub(
          e.linear(times(count * clusters, n, 0), e.linear(runs(count * clusters, width), squares)),
          e.mul(hadamard(count * clusters), sums, sums),
        );
      return { sums: e.linear(times(selectors * clusters, 2 * n, scale), together(clusters, sums)), spread: together(clusters, spread) };
    }),
    spreads = yield* e.open(levels.map((x) => x.spread));
  return levels.map((x, i) => e.add(x.sums, spreads[i]!));
}

interface Chosen {
  /** Rows of the finest level, wire [selectors, chosen, candidates]. */
  readonly rows: Tensor;
  /** What was opened beside the ranking. */
  readonly words: Tensor | undefined;
  /** Where words are opened: whether a candidate is chosen, wire [selectors, candidates] over Z_2. */
  readonly isChosen: Tensor | undefined;
}

/**
 * Level by level: scores of the clusters, their ranks, one-hot rows of the best; then the scores of their children. Rows of the finest level over Z_2^bits.
 * 3 rounds (9 by histogram), and 2 more than that for each further level: the children's scores and the product of both levels' rows are opened too. `words`: a share
 * that is opened in the first level's rounds.
 */
function* choose(
  e: Engine,
  plan: ModelPlan,
  layer: LayerPlan,
  selection: LayerSelection,
  l: Layout,
  scores: readonly Tensor[],
  bits: number,
  words: Tensor | undefined,
): Program<Chosen> {
  const { dynamic } = selection,
    { selectors } = heads(choosingHeads(plan.shape, selection), dynamic),
    negative = e.constant('tables', negativeTable(dynamic.bits)),
    isChosen = (rows: Tensor): { x: Tensor; bits: number }[] => (words ? [{ x: rows, bits: FLAG_BITS }] : []);
  let rows: Tensor | undefined, above: Level | undefined, opened: Tensor | undefined, flags: Tensor | undefined;
  for (const [i, level] of l.levels.entries()) {
    const { count, keep, width } = level,
      fan = above ? above.width / width : 1;
    let score = scores[i]!;
    if (above) [score] = (yield* e.open([e.mul(mix(pick(selectors * above.keep, above.keep, l.candidates / above.width, fan)), rows!, score)])) as [Tensor];
    const extra = above ? undefined : words,
      spread = spreadOf(dynamic, layer.attention) * unitOf(plan.shape, dynamic, width * l.size),
      ranked =
        dynamic.ranking === 'pairs'
          ? yield* byPairs(e, quantised(e, score, dynamic.bits, spread), selectors, count, negative, extra)
          : yield* byHistogram(e, levelled(e, score, selectors, count, spread), selectors, count, keep, extra),
      places = oneHotRows(e, ranked.places, count, keep, bits),
      last = i === l.levels.length - 1,
      [found, flag] = yield* e.open([
        places,
        ...(last && !above ? isChosen(e.linear(segmentSum(e.constant('tables', equalRuns(selectors * count, keep))), places)) : []),
      ]),
      own = e.linear(transposed(selectors, count, keep), found!);
    flags ??= flag;
    opened ??= ranked.words;
    if (above) {
      const clusters = l.candidates / above.width,
        product = e.mul(mix(pick(selectors * keep * fan, keep * fan, above.keep, clusters)), e.linear(childRows(selectors, keep, above.keep, fan), own), rows!),
        ordered = e.linear(inOrder(selectors, keep, fan, clusters), product);
      [rows, flags] = (yield* e.open([ordered, ...(last ? isChosen(e.linear(rowSums(selectors, keep, l.candidates), ordered)) : [])])) as [Tensor, Tensor?];
    } else rows = own;
    above = level;
  }
  return { rows: rows!, words: opened, isChosen: flags && e.mod(flags, 1, true) };
}

/** Ring in which [is chosen] is opened: it holds 0 and 1. */
const FLAG_BITS = 2;

/** Where each cluster goes, wire [rows, count], and what was opened beside it. */
interface Ranked {
  readonly places: Tensor;
  readonly words: Tensor | undefined;
}

/** Places are ranks by all pairs: 2 rounds. */
function* byPairs(e: Engine, scores: Tensor, rows: number, count: number, negative: Constant<Uint8Array>, extra: Tensor | undefined): Program<Ranked> {
  const compared = compareAll(e, scores, rows, count, negative),
    [flags, words] = yield* e.open(extra ? [compared, extra] : [compared]),
    [places] = yield* e.open([ranksOf(e, flags!, rows, count)]);
  return { places: places!, words };
}

/** Places are slots in position order, the kept ones' first: 8 rounds. */
function* byHistogram(e: Engine, levels: Tensor, rows: number, count: number, keep: number, extra: Tensor | undefined): Program<Ranked> {
  const slots = { x: yield* slotsByHistogram(e, levels, rows, count, keep), bits: rankBits(count) + 1 },
    [places, words] = yield* e.open(extra ? [slots, extra] : [slots]);
  return { places: e.mod(places!, rankBits(count), true), words };
}

/** Sums whose differences stay within `spread`, as whole levels 0 .. 63, wire over Z_2^7: a row's first cluster is in the middle. */
function levelled(e: Engine, sums: Tensor, rows: number, count: number, spread: number): Tensor {
  const lengths = e.constant('tables', equalRuns(rows, count)),
    first = e.linear(columns(rows, count, 0, 1), sums),
    apart = e.sub(sums, e.linear(segmentSpread(lengths, sums.size, 0, sums.bits), first)),
    shift = Math.max(0, Math.ceil(Math.log2((spread * 2 ** sums.scale) / LEVEL_STEPS))),
    coarse = e.mod(e.narrow(apart, shift), LEVEL_BITS),
    levels = e.linear(whole(coarse.size), e.linear(inSteps(coarse.size, coarse.scale), coarse));
  return e.addConstant(levels, MIDDLE);
}

/** Sums whose differences stay within `spread`, as a wire over Z_2^bits at scale 0, in steps as fine as that allows. */
function quantised(e: Engine, sums: Tensor, bits: number, spread: number): Tensor {
  const shift = Math.max(0, Math.ceil(Math.log2((spread * 2 ** sums.scale) / steps(bits)))),
    coarse = e.mod(e.narrow(sums, shift), bits, true);
  return e.linear(inSteps(coarse.size, coarse.scale), coarse);
}

/** Head, chosen clusters (of heads that choose) and tail of each row, one after another, rows of the given lengths. `all`: packed rows of the needed logits. */
function attendedRow(e: Engine, l: Layout, runs: readonly HeadRun[], lengths: Uint32Array, all: Tensor, chosen: Tensor | undefined): Tensor {
  const n = attended(l),
    { head, tail, slots } = l,
    middle = l.chosen * l.size,
    row = e.zeros(
      wire(
        lengths.reduce((sum, length) => sum + length, 0),
        all.bits,
        all.scale,
      ),
    );
  for (const r of runs)
    if (r.streams) e.store(row, r.attended, head + tail, all, r.logits, head + tail, r.count, head + tail);
    else {
      e.store(row, r.attended, n, all, r.logits, slots, r.count, head);
      e.store(row, r.attended + head, n, chosen!, r.choosing * middle, middle, r.count, middle);
      e.store(row, r.attended + head + middle, n, all, r.logits + slots - tail, slots, r.count, tail);
    }
  return row;
}

/** The same for all slots: wire [heads, slots]; 0 where a head streams. `candidates`: [choosing heads, candidates, size]. */
function wholeRow(e: Engine, l: Layout, runs: readonly HeadRun[], count: number, attendedOnes: Tensor, candidates: Tensor | undefined): Tensor {
  const { head, tail, slots } = l,
    middle = l.candidates * l.size,
    row = e.zeros(wire(count * slots, attendedOnes.bits, attendedOnes.scale));
  for (const r of runs) {
    const n = r.streams ? head + tail : attended(l),
      to = r.first * slots;
    e.store(row, to, slots, attendedOnes, r.attended, n, r.count, head);
    if (!r.streams) e.store(row, to + head, slots, candidates!, r.choosing * middle, middle, r.count, middle);
    e.store(row, to + slots - tail, slots, attendedOnes, r.attended + n - tail, n, r.count, tail);
  }
  return row;
}

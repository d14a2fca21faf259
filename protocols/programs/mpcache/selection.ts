/**
 * Attention of one query to chosen clusters of the cache. All logits are computed and opened; clusters are scored by linear maps of them, ranked, and one-hot rows
 * gather the chosen clusters' logits. The softmax is over exactly the attended slots; its probabilities, normalised, are scattered back by the same rows, so keys
 * and values never move. The second layer of a sharing group takes the first's rows and ranks nothing. Source: MPCache (arXiv 2501.06807), section 4; Cachet DESIGN 2.
 *
 * Rounds from the logits to the output: logits, comparisons, ranks, rows, gathered logits, reference, exponentials, scattered ones and 1 / sum, their product with
 * values, output: 10, one less with a public reference, 2 or 5 more for each further level of clusters; 7 with another layer's rows, and 2 for a reference. Nothing is
 * revealed: which clusters are chosen, their order and ties stay secret; how many is public.
 *
 * A row's reference is near the maximum of its attended slots, whatever the others hold. Its words of parities are made cluster by cluster and opened beside the
 * comparisons; with the rows, [is chosen] of each cluster is opened; the words of chosen clusters, and of the slots that are always attended to, are added up. A layer
 * with a public reference keeps it: its output fades where all attended logits lie several nats below those of the other rows.
 *
 * With `gather: 'values'`, as in the paper, the same rows gather keys and values (`gather.ts`): scores, comparisons, ranks, rows, keys and values, logits, a reference
 * (2), exponentials, 1 / sum, probabilities, output: 10 and the reference; 6 and the reference with another layer's rows.
 *
 * Streaming heads rank nothing and attend to head and tail: their other logits are computed (the product is one for all heads) but never opened. Where the other
 * heads attend to everything, nothing is ranked in the layer: 4 rounds, and 2 for a reference.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { and } from '../../gates/and.ts';
import { anyOf, clearUnused, columns, repeatFirst, WORD_BITS, type Slots } from '../../gates/linear.ts';
import { mix, packedSize, scores, type AttentionShape } from '../../gates/mul.ts';
import { booleanShare, wire, type Tensor } from '../../tensor.ts';
import { RING, type LayerPlan, type ModelPlan } from '../plan.ts';
import { bucketsOf, rowTop, wordsOf, type Buckets } from '../rowMax.ts';
import { ofChoosing, type Attended, type Attending, type Choice } from './attending.ts';
import { choose, type Chosen } from './choosing.ts';
import {
  alwaysAttended,
  attended,
  attendsToAll,
  byCluster,
  byHead,
  candidateBlocks,
  chosenPart,
  choosingHeads,
  equalRuns,
  headRuns,
  neededLogits,
  pick,
  rowLengths,
  transposed,
  unusedCandidates,
  unusedRow,
  type HeadRun,
  type Layout,
  type LayerSelection,
} from './clusters.ts';
import { attendedSlots, logitsOfAttended, outputOfAttended, scoresOfKeys, type Moved } from './gather.ts';
import { representativeScores } from './representatives.ts';
import { scoresOf, selectorsOf } from './scores.ts';
import { LATE_RING, lowered, normalisedFirst, normalisedLast, relative } from './softmax.ts';

/** A place for a layer's rows that outlives the layer. */
export function keptRows(e: Engine, plan: ModelPlan, selection: LayerSelection, { chosen, candidates }: Pick<Layout, 'chosen' | 'candidates'>): Tensor {
  return e.zeros(wire(selectorsOf(choosingHeads(plan.shape, selection), selection.dynamic).selectors * chosen * candidates, RING.logits, 0));
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
    choosing = attendsToAll(l) ? { heads: 0, kvHeads: 0 } : choosingHeads(plan.shape, selection),
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
      ...selectorsOf(choosing, selection.dynamic),
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
    late: here || !blocks,
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
    [ofChosen] = e.apply(and, { rows: selectors * l.candidates, cols }, [isChosen!, words!]),
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

/** Slots that no token fills lie so far below their row's first logit: within the exponential's margin, and of no weight. */
const UNUSED_NATS = 9;

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
    else if (attendsToAll(l)) e.store(row, r.attended, n, all, r.logits, n, r.count, n);
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
    if (!r.streams && attendsToAll(l)) {
      e.store(row, to, slots, attendedOnes, r.attended, n, r.count, n);
      continue;
    }
    e.store(row, to, slots, attendedOnes, r.attended, n, r.count, head);
    if (!r.streams) e.store(row, to + head, slots, candidates!, r.choosing * middle, middle, r.count, middle);
    e.store(row, to + slots - tail, slots, attendedOnes, r.attended + n - tail, n, r.count, tail);
  }
  return row;
}

/** Which clusters a step attends to, level by level: from scores to one-hot rows. */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { negativeTable } from '../../gates/less.ts';
import { rowSums, segmentSum } from '../../gates/linear.ts';
import { mix } from '../../gates/mul.ts';
import { onehot } from '../../gates/onehot.ts';
import type { Constant, Tensor } from '../../tensor.ts';
import type { LayerPlan, ModelPlan } from '../plan.ts';
import { childRows, choosingHeads, equalRuns, inOrder, pick, transposed, type Layout, type LayerSelection, type Level } from './clusters.ts';
import { comparedTogether, placesOfAll } from './levels.ts';
import { compareAll, oneHotRows, rankBits, ranksOf } from './ranking.ts';
import { apartOf, levelled, quantised, selectorsOf } from './scores.ts';
import { slotsByHistogram } from './slots.ts';

export interface Chosen {
  /** Rows of the finest level, wire [selectors, chosen, candidates]. */
  readonly rows: Tensor;
  /** What was opened beside the ranking. */
  readonly words: Tensor | undefined;
  /** Where words are opened: whether a candidate is chosen, wire [selectors, candidates] over Z_2. */
  readonly isChosen: Tensor | undefined;
}

/**
 * Level by level: scores of the clusters, their ranks, one-hot rows of the best; then the scores of their children. Rows of the finest level over Z_2^bits.
 * 3 rounds (9 by histogram), and 2 more than that for each further level: the children's scores and the product of both levels' rows are opened too; but by pairs, where
 * clusters are few, all levels are compared at once: 3 rounds, and 2 for each further level. `words`: a share that is opened in the first level's rounds.
 */
export function* choose(
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
    { selectors } = selectorsOf(choosingHeads(plan.shape, selection), dynamic),
    negative = e.constant('tables', negativeTable(dynamic.bits)),
    isChosen = (rows: Tensor): { x: Tensor; bits: number }[] => (words ? [{ x: rows, bits: FLAG_BITS }] : []),
    spread = (width: number): number => apartOf(plan.shape, layer, dynamic, width * l.size);
  if (dynamic.ranking === 'pairs' && comparedTogether(l, selectors, dynamic.bits)) {
    const { keep, width } = l.levels.at(-1)!,
      count = l.candidates / width,
      quants = l.levels.map((level, i) => quantised(e, scores[i]!, dynamic.bits, spread(level.width))),
      placed = yield* placesOfAll(e, l, quants, selectors, negative, words),
      [places] = e.apply(onehot, { bits: placed.places.bits, span: keep, outBits: bits }, [placed.places]),
      [found, flag] = yield* e.open([places!, ...isChosen(e.linear(segmentSum(e.constant('tables', equalRuns(selectors * count, keep))), places!))]);
    return { rows: e.linear(transposed(selectors, count, keep), found!), words: placed.words, isChosen: flag && e.mod(flag, 1, true) };
  }
  let rows: Tensor | undefined, above: Level | undefined, opened: Tensor | undefined, flags: Tensor | undefined;
  for (const [i, level] of l.levels.entries()) {
    const { count, keep, width } = level,
      fan = above ? above.width / width : 1;
    let score = scores[i]!;
    if (above) [score] = (yield* e.open([e.mul(mix(pick(selectors * above.keep, above.keep, l.candidates / above.width, fan)), rows!, score)])) as [Tensor];
    const extra = above ? undefined : words,
      ranked =
        dynamic.ranking === 'pairs'
          ? yield* byPairs(e, quantised(e, score, dynamic.bits, spread(width)), selectors, count, negative, extra)
          : yield* byHistogram(e, levelled(e, score, selectors, count, spread(width)), selectors, count, keep, extra),
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

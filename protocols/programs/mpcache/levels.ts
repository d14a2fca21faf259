/**
 * Several levels of clusters, all compared in one round. In turn, a level costs 5 rounds: its scores are gathered, compared, ranked, made rows and multiplied by the rows
 * above. Here the pairs of all clusters of all levels are compared at once, and whether a cluster's parent is kept decides which comparisons count:
 *
 *   place(c) = sum over c' of kept(parent(c')) [c' before c], and `keep` more where c's own parent is not kept.
 *
 * For clusters with a kept parent that is their rank among these, exactly the rule of the paper; all others come after the last that is kept. With t = [score a < score b]
 * of a pair a < b, a's place takes t kept(b), b's takes (1 - t) kept(a): two products of an opened bit and a wire (`bitMul`). 2 rounds a further level: [is kept] and places.
 * One-hot rows of the last level are over all candidates: no product of rows. Among equals the lower place wins. Dealt: a comparison more for each pair of clusters
 * that are not both children of kept ones, about 2^b / 8 bytes.
 *
 * Source: MPCache (arXiv 2501.06807, section 4.2: hierarchical selection); the joint comparison is Cachet's.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { bitMul } from '../../gates/bitMul.ts';
import { pairDifferences, pairsOf, pairSums, segmentSpread, segmentSum, sumsBefore, times } from '../../gates/linear.ts';
import { lookup } from '../../gates/lookup.ts';
import type { Constant, Tensor } from '../../tensor.ts';
import { equalRuns, type Layout } from './clusters.ts';
import { compareAll, rankBits, ranksOf } from './ranking.ts';

/** Dealt and opened bytes that a round is worth: between half a round trip of a LAN and of a WAN, at their rates. */
const ROUND_BYTES = 150e3;

/** Whether comparing all levels at once saves more in rounds than its comparisons cost; `bits` of a score. A function of public lengths. */
export function comparedTogether(l: Layout, selectors: number, bits: number): boolean {
  const further = l.levels.slice(1),
    more = further.reduce((n, { count, width }) => n + pairsOf(l.candidates / width) - pairsOf(count), 0);
  return further.length > 0 && selectors * more * (2 ** bits / 8 + 5) < 3 * further.length * ROUND_BYTES;
}

/** Bits of a level's places, with a sign. */
const placeBits = ({ count, keep }: Layout['levels'][number]): number => rankBits(count + keep + 1) + 1;

/**
 * scores: wires [selectors, clusters] of all levels, quantised. Places of the last level's clusters: wire [selectors, clusters] over Z_2^n, below `keep` where chosen;
 * and what was opened beside the comparisons.
 */
export function* placesOfAll(
  e: Engine,
  l: Layout,
  scores: readonly Tensor[],
  selectors: number,
  negative: Constant<Uint8Array>,
  beside: Tensor | undefined,
): Program<{ places: Tensor; words: Tensor | undefined }> {
  const { levels, candidates } = l,
    flags = yield* e.open([...scores.map((x, i) => compareAll(e, x, selectors, candidates / levels[i]!.width, negative)), ...(beside ? [beside] : [])]);
  let [places] = yield* e.open([ranksOf(e, flags[0]!, selectors, levels[0]!.count)]);
  for (const [i, level] of levels.entries()) {
    if (i === 0) continue;
    const { width, keep } = levels[i - 1]!,
      bits = placeBits(level),
      { bits: from } = places!,
      table = e.constant(
        'tables',
        Uint8Array.from({ length: 2 ** from }, (_, p) => (p < keep ? 1 : 0)),
      ),
      [kept] = e.apply(lookup, { bits: from, outBits: bits, table }, [places!]),
      [keptWire] = yield* e.open([kept!]),
      [next] = yield* e.open([placesAmongKept(e, flags[i]!, kept!, keptWire!, selectors, candidates / level.width, width / level.width, level.keep)]);
    places = e.mod(next!, bits - 1, true);
  }
  return { places: places!, words: beside && flags.at(-1)! };
}

/** Places of a level's clusters, share [selectors, count]: by its opened comparisons and by which of the level above, of `fan` children each, are kept. */
function placesAmongKept(e: Engine, flags: Tensor, kept: Tensor, keptWire: Tensor, selectors: number, count: number, fan: number, keep: number): Tensor {
  const size = selectors * count,
    { bits } = kept,
    children = e.constant('tables', equalRuns(size / fan, fan)),
    of = (x: Tensor): Tensor => e.linear(segmentSpread(children, size, 0, bits), x),
    // Pairs a < b in order, by a.
    byFirst = e.constant(
      'tables',
      Uint32Array.from({ length: size }, (_, i) => count - 1 - (i % count)),
    ),
    wires = of(keptWire),
    own = of(kept),
    [difference] = e.apply(bitMul, null, [flags, e.linear(pairDifferences(selectors, count), wires)]),
    [first] = e.apply(bitMul, null, [flags, e.linear(segmentSpread(byFirst, selectors * pairsOf(count), 0, bits), wires)]),
    among = e.add(e.sub(e.linear(pairSums(selectors, count), first!), e.linear(segmentSum(byFirst), difference!)), e.linear(sumsBefore(selectors, count), own));
  return e.addConstant(e.sub(among, e.linear(times(size, keep, 0), own)), keep);
}

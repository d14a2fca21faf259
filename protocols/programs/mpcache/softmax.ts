/**
 * Softmax over attended logits, and what it makes of values: relative to a reference near each row's maximum, normalised before or after values are weighed.
 *
 * Scales. Normalised last (where a layer ranks or nothing is scattered): exponentials 2^13, values 2^10, 1 / sum 2^sr, all in Z_2^48. Normalised first (with another layer's rows, or gathered
 * values): exponentials 2^sp in Z_2^n, 1 / sum 2^sr, probabilities 2^(sp + sr) in Z_2^n, narrowed to 2^13 in Z_2^a; with values 2^10 in Z_2^a.
 */
import type { Program } from '../../engines/effects.ts';
import { clearUnused, segmentSpread, segmentSum, times } from '../../gates/linear.ts';
import { scaleRows, scaleRuns } from '../../gates/mul.ts';
import { windowsBelow } from '../../gates/windows.ts';
import type { Tensor } from '../../tensor.ts';
import { RING, SCALE, type AttentionPlan } from '../plan.ts';
import { bucketShift, rowMax, type Buckets } from '../rowMax.ts';
import type { Attended, Attending } from './attending.ts';
import { attended, equalRuns, unusedAttended } from './clusters.ts';

/** Scale of normalised probabilities, where the values leave room for it. */
const PROBABILITY_SCALE = 13;
/** Bits of 1 / sum where the sum is largest. */
const RECIPROCAL_BITS = 6;

/** Integer bits of what attention makes of values. */
const valueBitsOf = (p: AttentionPlan): number => p.bits - 2 - p.exp.outputScale - SCALE.value - p.reciprocalScale;

/** The largest sum of `n` exponentials: all logits at the reference's upper end, one bucket of it missed. */
const highestSum = ({ reference, reciprocal }: AttentionPlan, n: number): number =>
  reference.kind === 'buckets' ? Math.min(reciprocal.high, 2 ** Math.ceil(Math.log2(n * Math.exp(4)))) : reciprocal.high;

/** Rings and scales of the softmax over `n` attended slots. */
function budget(p: AttentionPlan, n: number): { ring: number; expScale: number; reciprocalScale: number; scale: number; outputRing: number; high: number } {
  const valueBits = valueBitsOf(p),
    scale = Math.min(PROBABILITY_SCALE, RING.logits - 2 - SCALE.value - valueBits),
    outputRing = scale + SCALE.value + valueBits + 2,
    high = highestSum(p, n),
    expScale = p.exp.outputScale - 3;
  // Probabilities before they are narrowed: 2^(expScale + reciprocalScale), the output's ring and no more.
  const wanted = outputRing - scale + expScale + Math.ceil(Math.log2(high)) + RECIPROCAL_BITS,
    ring = Math.min(64, 8 * Math.ceil(wanted / 8)),
    reciprocalScale = Math.min(ring - outputRing + scale - expScale, p.reciprocal.outputScale);
  return { ring, expScale, reciprocalScale, scale, outputRing, high };
}

/** Ring of a choice's rows, and of exponentials and output, where these are normalised last. */
export const LATE_RING = 48;

/** Rings and scales where weights are normalised last: 2^(expScale + 10) of values and 2^reciprocalScale in one ring, two bits spare. */
function lateBudget(p: AttentionPlan, n: number): { ring: number; expScale: number; reciprocalScale: number; high: number } {
  const reciprocalScale = Math.min(LATE_RING - 2 - PROBABILITY_SCALE - SCALE.value - valueBitsOf(p), p.reciprocal.outputScale);
  return { ring: LATE_RING, expScale: PROBABILITY_SCALE, reciprocalScale, high: highestSum(p, n) };
}

/** Buckets below those of any row's maximum in which that of the attended slots may lie. */
const LOWER_BUCKETS = 5;

/** Buckets for the maxima of attended slots: they may be lower than those of all slots. */
export function lowered({ kind, low, first, count }: Buckets): Buckets {
  const from = Math.max(low, first - LOWER_BUCKETS);
  return { kind, low, first: from, count: count + first - from };
}

/** Packed rows of attended logits, less the row's reference: `shift`, where it is there already, or one that is found here in 2 rounds. */
export function* relative({ e, plan, layer, shape, runs }: Attending, row: Tensor, shift: Tensor | undefined): Program<Tensor> {
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
export function* normalisedFirst(a: Attending, { row, scatter, output }: Attended): Program<Tensor> {
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

/** Exponentials meet values first, and 1 / sum comes with what is scattered: 4 rounds, 3 without, over a ring that holds the product of both. */
export function* normalisedLast(a: Attending, { row, scatter, output }: Attended): Program<Tensor> {
  const { e, layer, shape, choice } = a,
    { reciprocal } = layer.attention,
    form = lateBudget(layer.attention, attended(choice.layout)),
    { p, sums } = yield* exponentials(a, row, form),
    more = reciprocal.outputScale - form.reciprocalScale,
    inverse = { x: e.windows(windowsBelow(reciprocal, form.high), sums), bits: Math.min(64, form.ring + more) },
    scattered = scatter(p),
    [r, found] = yield* e.open([inverse, scattered ?? output(p, undefined)]),
    [sum] = scattered ? yield* e.open([output(p, found)]) : [found],
    [result] = yield* e.open([e.mul(scaleRows(shape.heads, shape.dim), sum!, e.narrow(r!, more))]);
  return result!;
}

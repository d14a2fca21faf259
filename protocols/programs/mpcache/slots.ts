/**
 * Slots for the `kept` highest of each row's scores, in the order of their places, exactly so many: a score that is kept gets the number of kept ones before it, any
 * other one a slot from `kept` on, so that the slots of a row are a permutation. Among equals the lower place wins. Nothing is revealed.
 *
 * By the histogram: point functions give each level's count, a threshold level is found among 64, and only the scores at that level compare places with how many of them
 * are to be kept. By pairs: from ranks; dearer beyond a few hundred places. Scores are whole levels in 0 .. 63. Source: the executable specification's `compact` and
 * Cachet DESIGN 2 (ranking by histogram).
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { CachetError } from '../../errors.ts';
import { b2a } from '../../gates/b2a.ts';
import { negativeTable } from '../../gates/less.ts';
import { columns, countsFrom, drops, segmentSpread, segmentSum, sumsBefore, timesPlace } from '../../gates/linear.ts';
import { lookup } from '../../gates/lookup.ts';
import { dotRows, hadamard } from '../../gates/mul.ts';
import { onehot } from '../../gates/onehot.ts';
import { truthTable } from '../../gates/truthTable.ts';
import { share, type Constant, type Tensor } from '../../tensor.ts';
import { equalRuns } from './clusters.ts';
import { compareAll, rankBits, ranksOf } from './ranking.ts';

/** Levels of a score; their ring has one bit more, for differences. */
const PLACES = 64;
/** Ring of counts. */
const COUNT_BITS = 16;
const MOST = 2 ** (COUNT_BITS - 1) - 1;
/** Places of a row whose ranks are found by pairs: their tables stay below 2^10 entries. */
export const MOST_BY_PAIRS = 1024;

/**
 * scores: wire [rows, count] of 7 bits with its mask's halves. Slots, a share [rows, count] over Z_2^16, of which rankBits(count) are to be opened. 7 rounds;
 * opened about 17 bytes a score; dealt 784 + 2^(log2 count + 2) / 8 bytes a score, and 64 times 2^(log2 count + 1) / 8 a row.
 * @throws CachetError 'limit' beyond 32767 places.
 */
export function* slotsByHistogram(e: Engine, scores: Tensor, rows: number, count: number, kept: number): Program<Tensor> {
  if (count > MOST)
    throw new CachetError({ code: 'limit', step: 'slotsByHistogram', what: 'too many tokens to choose from', expected: `at most ${MOST}`, got: String(count) });
  const { bits } = scores,
    size = rows * count,
    counts = e.zeros(share(rows * PLACES, COUNT_BITS, 0));
  for (let r = 0; r < rows; r++) {
    const mark = e.mark(),
      [hot] = e.apply(onehot, { bits, span: PLACES, outBits: COUNT_BITS }, [e.linear(columns(1, size, r * count, count), scores)]);
    e.store(counts, r * PLACES, PLACES, e.linear(countsFrom(count, PLACES), hot!), 0, PLACES, 1, PLACES);
    e.release(mark);
  }
  const [from] = yield* e.open([counts]);
  // Whether at least `kept` scores are at a level or above; the highest such level is the threshold.
  const enough = yield* flags(e, from!, tableBits(count), (n) => n >= kept),
    levels = e.constant('tables', equalRuns(rows, PLACES)),
    threshold = e.addConstant(e.linear(segmentSum(levels), enough), -1),
    [step, t] = yield* e.open([e.linear(drops(rows, PLACES), enough), { x: threshold, bits }]);
  const lengths = e.constant('tables', equalRuns(rows, count)),
    above = e.mul(dotRows(rows, PLACES), from!, step!),
    over = e.sub(scores, e.linear(segmentSpread(lengths, size, 0, bits), t!)),
    [higher, equal] = [(d: number): boolean => d > 0, (d: number): boolean => d === 0].map(
      (f) => e.apply(lookup, { bits, outBits: COUNT_BITS, table: e.constant('tables', entries(bits, f)) }, [over])[0]!,
    ),
    [same, taken] = yield* e.open([equal!, above]);
  // Of the scores at the threshold, those before which there are fewer than `kept` less the number of higher ones.
  const place = e.add(e.linear(sumsBefore(rows, count), same!), e.linear(segmentSpread(lengths, size, 0, COUNT_BITS), taken!)),
    early = yield* flags(e, e.addConstant(place, -kept), tableBits(2 * count), undefined),
    [first] = yield* e.open([early]);
  return yield* slotsOfKept(e, e.add(higher!, e.mul(hadamard(size), same!, first!)), rows, count, kept);
}

/**
 * The same from ranks by pairs, row by row: 5 rounds a row, and 2. Dealt 18 bytes a pair.
 * @throws CachetError 'limit' beyond 1024 places.
 */
export function* slotsByPairs(e: Engine, scores: Tensor, rows: number, count: number, kept: number): Program<Tensor> {
  if (count > MOST_BY_PAIRS)
    throw new CachetError({
      code: 'limit',
      step: 'slotsByPairs',
      what: 'too many tokens to compare in pairs',
      expected: `at most ${MOST_BY_PAIRS}`,
      got: String(count),
      hint: 'ranking "histogram" in the policy\'s static part',
    });
  const bits = rankBits(count),
    keep = e.zeros(share(rows * count, COUNT_BITS, 0)),
    negative = e.constant('tables', negativeTable(scores.bits)),
    table = e.constant(
      'tables',
      Uint8Array.from({ length: 2 ** bits }, (_, i) => (i < kept ? 1 : 0)),
    );
  for (let r = 0; r < rows; r++) {
    const mark = e.mark(),
      [less] = yield* e.open([compareAll(e, e.linear(columns(1, rows * count, r * count, count), scores), 1, count, negative)]),
      [ranks] = yield* e.open([ranksOf(e, less!, 1, count)]),
      [own] = e.apply(lookup, { bits, outBits: COUNT_BITS, table }, [ranks!]);
    e.store(keep, r * count, count, own!, 0, count, 1, count);
    e.release(mark);
  }
  return yield* slotsOfKept(e, keep, rows, count, kept);
}

/** keep: share [rows, count] of 0 and 1, `kept` ones a row. Slot: p where kept, kept + j - p elsewhere, with p the number kept before j. 1 round. */
function* slotsOfKept(e: Engine, keep: Tensor, rows: number, count: number, kept: number): Program<Tensor> {
  const [k] = yield* e.open([keep]),
    before = e.linear(sumsBefore(rows, count), keep),
    both = e.mul(hadamard(rows * count), k!, e.linear(sumsBefore(rows, count), k!)),
    moved = e.sub(e.sub(e.add(both, both), before), e.linear(timesPlace(rows, count, kept), keep));
  return e.addRow(
    moved,
    e.constant(
      'tables',
      BigInt64Array.from({ length: count }, (_, j) => BigInt(kept + j)),
    ),
  );
}

/** Bits of a table over 0 .. count. */
const tableBits = (count: number): number => Math.max(6, rankBits(count + 1));

/** [f(x)] as a share over Z_2^16, for x of `bits` bits; without f: [x < 0]. 1 round. */
function* flags(e: Engine, x: Tensor, bits: number, f: ((x: number) => boolean) | undefined): Program<Tensor> {
  const table = f ? Uint8Array.from({ length: 2 ** (bits - 3) }, (_, i) => byteOf((b) => f(8 * i + b))) : negativeTable(bits),
    bound: Constant<Uint8Array> = e.constant('tables', table),
    [flag] = e.apply(truthTable, { bits, table: bound, signed: f === undefined }, [e.mod(x, bits, f !== undefined)]),
    [opened] = yield* e.open([flag!]);
  return e.apply(b2a, { bits: COUNT_BITS }, [opened!])[0]!;
}

/** Eight bits, lowest first. */
function byteOf(f: (bit: number) => boolean): number {
  let byte = 0;
  for (let b = 0; b < 8; b++) if (f(b)) byte |= 1 << b;
  return byte;
}

/** f of signed values as a table of 0 and 1. */
const entries = (bits: number, f: (x: number) => boolean): Uint8Array =>
  Uint8Array.from({ length: 2 ** bits }, (_, i) => (f(i < 2 ** (bits - 1) ? i : i - 2 ** bits) ? 1 : 0));

/**
 * A reference near each row's maximum, as a share over Z_2^7 in buckets of 2 nats. 1 round.
 *
 * Per bucket b in which a row's maximum may lie, WORD_BITS public random parities of "some logit of the row is >= b" are opened masked as one word; a dealt table
 * gives shares of [word is not 0], which are summed. A bucket that is not empty is missed with probability 2^-WORD_BITS, each independently: the reference
 * is then one bucket (2 nats) low. It is never above the maximum by more than the stochastic rounding of one bucket, and a row whose maximum lies below all
 * of the buckets takes the one below them. Nothing is revealed: words are opened under fresh masks. Source: Cachet DESIGN 2, `bucketMax`.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { bucket, BUCKETS } from '../gates/bucket.ts';
import { parities, segmentSum } from '../gates/linear.ts';
import { lookup, type LookupTable } from '../gates/lookup.ts';
import type { Constant, Tensor } from '../tensor.ts';
import type { Reference } from './plan.ts';

/** A bucket of 2 nats, as a shift of logits at their scale. */
export const bucketShift = (z: Tensor): number => z.scale + 1;

/** z: logits wire over Z_2^32, rows of the given lengths; `groups` holds `reference.count` per row. */
export function* rowMax(
  e: Engine,
  z: Tensor,
  rows: Constant<Uint32Array>,
  groups: Constant<Uint32Array>,
  reference: Buckets,
  nonzero: LookupTable,
): Program<Tensor> {
  const [words] = yield* e.open([rowWords(e, z, rows, reference)]);
  return rowTop(e, words!, groups, reference, nonzero);
}

export type Buckets = Extract<Reference, { kind: 'buckets' }>;

/** The first half of `rowMax`, up to its opening: words of parities, share over Z_2^WORD_BITS, `reference.count` a row. */
const rowWords = (e: Engine, z: Tensor, rows: Constant<Uint32Array>, reference: Buckets): Tensor => wordsOf(e, bucketsOf(e, z, reference), rows, reference);

/** Of each logit which buckets it reaches, Boolean share of 64 bits. */
export function bucketsOf(e: Engine, z: Tensor, reference: Buckets): Tensor {
  const index = e.mod(e.narrow(z, bucketShift(z)), Math.log2(BUCKETS), true);
  return e.apply(bucket, { low: reference.low, inputScale: index.scale }, [index])[0]!;
}

/** Words of parities of runs of logits, `reference.count` a run. */
export const wordsOf = (e: Engine, reached: Tensor, runs: Constant<Uint32Array>, reference: Buckets): Tensor =>
  e.linear(parities(runs, reference.first - reference.low, reference.count), reached);

/** The second half: from the opened words to the references. */
export function rowTop(e: Engine, words: Tensor, groups: Constant<Uint32Array>, reference: Buckets, nonzero: LookupTable): Tensor {
  const [flags] = e.apply(lookup, nonzero, [words]);
  return e.addConstant(e.linear(segmentSum(groups), flags!), reference.first - 1);
}

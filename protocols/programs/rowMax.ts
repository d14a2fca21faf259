/**
 * A reference near each row's maximum, as a share over Z_2^7 in buckets of 2 nats. 2 rounds.
 *
 * Per bucket b, TAU public random parities of "some logit of the row is >= b" are opened masked, tested for zero by truth table, converted, summed. A
 * non-empty bucket is missed with probability 2^-TAU, each independently: the reference is then one bucket (2 nats) low. Never above the maximum by more
 * than the stochastic rounding of one bucket. Nothing is revealed: parities are opened under fresh masks. Source: Cachet DESIGN 2, `bucketMax`.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { b2a } from '../gates/b2a.ts';
import { bucket, BUCKETS } from '../gates/bucket.ts';
import { parities, segmentSum } from '../gates/linear.ts';
import { truthTable, type TruthTable } from '../gates/truthTable.ts';
import type { Constant, Tensor } from '../tensor.ts';
import { BUCKET_SHIFT } from './plan.ts';

/** Ring of the reference: 2^25 times it is taken mod 2^32. */
const TOP_BITS = 32 - BUCKET_SHIFT;

/** z: logits wire over Z_2^32 at scale 24, rows of the given lengths; `lowBucket` is the lowest bucket in use. `buckets` holds 64 per row. */
export function* rowMax(
  e: Engine,
  z: Tensor,
  rows: Constant<Uint32Array>,
  buckets: Constant<Uint32Array>,
  lowBucket: number,
  nonzero: TruthTable,
): Program<Tensor> {
  const index = e.mod(e.narrow(z, BUCKET_SHIFT), Math.log2(BUCKETS), true);
  const [suffix] = e.apply(bucket, { low: lowBucket, inputScale: index.scale }, [index]);
  const [words] = yield* e.open([e.linear(parities(rows), suffix!)]);
  const [bits] = yield* e.open(e.apply(truthTable, nonzero, [words!]));
  const [flags] = e.apply(b2a, { bits: TOP_BITS }, [bits!]);
  return e.addConstant(e.linear(segmentSum(buckets), flags!), lowBucket - 1);
}

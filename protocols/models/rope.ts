/** Rotary positions: the angle by which a step in position turns each pair (j, j + headDim / 2) of a head's numbers. */
import type { ModelShape, RopeScaling } from './config.ts';

/** Radians a position, [headDim / 2]: theta^(-2 j / headDim), divided by the scaling's factor where there is one. */
export const ropeFrequencies = ({ theta, scaling }: NonNullable<ModelShape['rope']>, headDim: number): Float64Array<ArrayBuffer> =>
  Float64Array.from({ length: headDim / 2 }, (_, j) => {
    const frequency = theta ** ((-2 * j) / headDim);
    return scaling ? frequency / ropeFactor(scaling, frequency) : frequency;
  });

/**
 * By how much Llama 3 divides a frequency (transformers, `_compute_llama3_parameters`): `factor` for wavelengths above originalMaxPositions / lowFreqFactor, 1 below
 * originalMaxPositions / highFreqFactor, in between 1 / factor and 1 are blended linearly in the frequency.
 */
export function ropeFactor({ factor, lowFreqFactor, highFreqFactor, originalMaxPositions }: RopeScaling, frequency: number): number {
  const turns = (originalMaxPositions * frequency) / (2 * Math.PI);
  if (turns < lowFreqFactor) return factor;
  if (turns > highFreqFactor) return 1;
  const kept = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return 1 / ((1 - kept) / factor + kept);
}

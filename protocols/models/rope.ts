/** Rotary embeddings' frequencies. Source: RoFormer (Su et al. 2021); Llama 3's scaling as in its reference implementation. */
import type { ModelShape } from './config.ts';

/** Radians a position, for each of the headDim / 2 pairs. @throws never for shapes without RoPE: they have none. */
export function ropeFrequencies({ headDim, rope }: Pick<ModelShape, 'headDim' | 'rope'>): Float64Array {
  const { theta, scaling } = rope!;
  return Float64Array.from({ length: headDim / 2 }, (_, j) => {
    const plain = theta ** ((-2 * j) / headDim);
    if (!scaling) return plain;
    const wavelength = (2 * Math.PI) / plain,
      turns = scaling.originalMaxPositions / wavelength,
      smooth = Math.min(1, Math.max(0, (turns - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor)));
    return (1 - smooth) * (plain / scaling.factor) + smooth * plain;
  });
}

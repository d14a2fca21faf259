/** Token and position embeddings, the model's ends that only the client computes. */
import type { ModelWeights } from './weights.ts';

/**
 * Embeddings [ids.length, width] of tokens at positions `position` .., positions added where they are learned. In models with LayerNorm each is centred: the
 * residual stream is read through norms alone, which do not see its mean, and every matrix that writes to it is centred too.
 */
export function embedTokens(w: Pick<ModelWeights, 'shape' | 'embed' | 'positions'>, ids: readonly number[], position: number): Float64Array {
  const { width, norm } = w.shape,
    out = new Float64Array(ids.length * width);
  ids.forEach((id, i) => {
    const row = out.subarray(i * width, (i + 1) * width);
    row.set(w.embed.subarray(id * width, (id + 1) * width));
    if (w.positions) for (let c = 0; c < width; c++) row[c]! += w.positions[Math.max(0, position + i) * width + c]!;
    if (norm === 'layer') centre(row);
  });
  return out;
}

/** Subtracts the mean, in place. */
export function centre(x: Float64Array | Float32Array): void {
  let sum = 0;
  for (const v of x) sum += v;
  const mean = sum / x.length;
  for (let i = 0; i < x.length; i++) x[i]! -= mean;
}

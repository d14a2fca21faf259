/** The model's last norm, with gain and bias, in float64: the client's. */
import type { ModelWeights } from './weights.ts';

/** Of one position's residual stream [width]. */
export function finalNorm(w: Pick<ModelWeights, 'shape' | 'finalNorm' | 'finalNormBias'>, x: Float64Array): Float64Array {
  const { norm, eps, width } = w.shape;
  let sum = 0,
    squares = 0;
  for (const v of x) sum += v;
  const mean = norm === 'layer' ? sum / width : 0;
  for (const v of x) squares += (v - mean) ** 2;
  const scale = 1 / Math.sqrt(squares / width + eps);
  return x.map((v, i) => (v - mean) * scale * w.finalNorm[i]! + (w.finalNormBias?.[i] ?? 0));
}

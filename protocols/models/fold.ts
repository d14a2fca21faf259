/**
 * A layer's matrices as the protocol applies them: norm gains and biases and 1 / sqrt(headDim) folded in, so that what is left of a norm is x / rms(x).
 * LayerNorm becomes that too: whatever writes to the residual stream is centred, so its mean is 0 and its variance the mean of squares.
 */
import { centre } from './embedding.ts';
import type { LayerWeights, ModelWeights } from './weights.ts';

export interface FoldedMatrix {
  /** [cols, inner] */
  readonly weights: Float32Array;
  readonly inner: number;
  readonly cols: number;
  readonly bias: Float64Array | undefined;
}

export const PROJECTIONS = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const;
export type ProjectionName = (typeof PROJECTIONS)[number];
/** `gate` is there in gated MLPs alone. */
export type FoldedLayer = Readonly<Record<Exclude<ProjectionName, 'gate'>, FoldedMatrix>> & { readonly gate: FoldedMatrix | undefined };

export function foldLayer(w: ModelWeights, l: LayerWeights): FoldedLayer {
  const { width, inner, heads, headDim, norm } = w.shape,
    unit = headDim ** -0.5,
    centred = norm === 'layer';
  /** W (gain x + shift) + b */
  const reads = (m: Float32Array, gain: Float32Array, shift?: Float32Array, b?: Float32Array, factor = 1): FoldedMatrix => {
    const cols = m.length / width,
      weights = new Float32Array(m.length),
      bias = shift || b ? new Float64Array(cols) : undefined;
    for (let c = 0, at = 0; c < cols; c++) {
      let sum = b?.[c] ?? 0;
      for (let i = 0; i < width; i++, at++) {
        weights[at] = m[at]! * gain[i]! * factor;
        if (shift) sum += m[at]! * shift[i]!;
      }
      if (bias) bias[c] = sum * factor;
    }
    return { weights, inner: width, cols, bias };
  };
  const writes = (m: Float32Array, size: number, b?: Float32Array): FoldedMatrix => {
    const weights = m.slice(),
      bias = b && Float64Array.from(b);
    if (centred) {
      // The mean over outputs, column by column.
      const mean = new Float64Array(size);
      for (let at = 0; at < m.length; at++) mean[at % size]! += m[at]! / width;
      for (let at = 0; at < m.length; at++) weights[at]! -= mean[at % size]!;
      if (bias) centre(bias);
    }
    return { weights, inner: size, cols: width, bias };
  };
  return {
    q: reads(l.q, l.inputNorm, l.inputNormBias, l.qBias, unit),
    k: reads(l.k, l.inputNorm, l.inputNormBias, l.kBias),
    v: reads(l.v, l.inputNorm, l.inputNormBias, l.vBias),
    o: writes(l.o, heads * headDim, l.oBias),
    gate: l.gate && reads(l.gate, l.postNorm, l.postNormBias, l.gateBias),
    up: reads(l.up, l.postNorm, l.postNormBias, l.upBias),
    down: writes(l.down, inner, l.downBias),
  };
}

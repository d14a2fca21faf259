/** A model's weights in float32, whatever file they came from; matrices are [out, in], row by row. */
import type { ModelShape } from './config.ts';

export interface LayerWeights {
  /** Gain, and bias where the norm is a LayerNorm, before attention and before the MLP. */
  readonly inputNorm: Float32Array;
  readonly inputNormBias?: Float32Array;
  readonly postNorm: Float32Array;
  readonly postNormBias?: Float32Array;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly o: Float32Array;
  readonly qBias?: Float32Array;
  readonly kBias?: Float32Array;
  readonly vBias?: Float32Array;
  readonly oBias?: Float32Array;
  /** Gated MLPs alone: down(act(gate x) * up x); others: down(act(up x)). */
  readonly gate?: Float32Array;
  readonly up: Float32Array;
  readonly upBias?: Float32Array;
  readonly down: Float32Array;
  readonly downBias?: Float32Array;
}

export interface ModelWeights {
  readonly shape: ModelShape;
  readonly layers: readonly LayerWeights[];
  /** [vocab, width] */
  readonly embed: Float32Array;
  /** Learned positions [maxPositions, width], where the model has no RoPE. */
  readonly positions?: Float32Array;
  readonly finalNorm: Float32Array;
  readonly finalNormBias?: Float32Array;
  /** [vocab, width]; the embedding itself where tied. */
  readonly head: Float32Array;
}

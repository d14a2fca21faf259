/** A model's weights in float32, whatever file they came from; matrices are [out, in], row by row. */
import { usualBiases, type Biases, type ModelShape } from './config.ts';

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
  readonly gateBias?: Float32Array;
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

/** A tensor of one layer, or one of the model as a whole. */
export type Role = keyof LayerWeights | Exclude<keyof ModelWeights, 'shape' | 'layers'>;

/** How a format gives a tensor of the dimensions, finite numbers row by row; `layer` is undefined for tensors of the whole model. */
export type ReadRole = (role: Role, dimensions: readonly number[], layer: number | undefined) => Float32Array;

/** Asks for every tensor that a model of this shape and these biases has, layer by layer. */
export function assemble(shape: ModelShape, biases: Biases, read: ReadRole): ModelWeights {
  const { width, inner, vocab } = shape,
    q = shape.heads * shape.headDim,
    kv = shape.kvHeads * shape.headDim,
    gated = shape.activation === 'silu',
    centred = shape.norm === 'layer';
  const layers = Array.from({ length: shape.layers }, (_, layer): LayerWeights => {
    const get = (role: keyof LayerWeights, ...dimensions: number[]): Float32Array => read(role, dimensions, layer);
    return {
      inputNorm: get('inputNorm', width),
      ...(centred && { inputNormBias: get('inputNormBias', width) }),
      q: get('q', q, width),
      k: get('k', kv, width),
      v: get('v', kv, width),
      o: get('o', width, q),
      ...(biases.qkv && { qBias: get('qBias', q), kBias: get('kBias', kv), vBias: get('vBias', kv) }),
      ...(biases.o && { oBias: get('oBias', width) }),
      postNorm: get('postNorm', width),
      ...(centred && { postNormBias: get('postNormBias', width) }),
      ...(gated && { gate: get('gate', inner, width) }),
      up: get('up', inner, width),
      down: get('down', width, inner),
      ...(gated && biases.mlp && { gateBias: get('gateBias', inner) }),
      ...(biases.mlp && { upBias: get('upBias', inner), downBias: get('downBias', width) }),
    };
  });
  const embed = read('embed', [vocab, width], undefined);
  return {
    shape,
    layers,
    embed,
    ...(shape.rope === null && { positions: read('positions', [shape.maxPositions, width], undefined) }),
    finalNorm: read('finalNorm', [width], undefined),
    ...(centred && { finalNormBias: read('finalNormBias', [width], undefined) }),
    head: shape.tied ? embed : read('head', [vocab, width], undefined),
  };
}

/** Numbers in all tensors, with the architecture's usual biases; a tied head is counted once. */
export function parameterCount(shape: ModelShape): number {
  let sum = 0;
  const none = new Float32Array();
  assemble(shape, usualBiases(shape.architecture), (_, dimensions) => {
    sum += dimensions.reduce((a, b) => a * b);
    return none;
  });
  return sum;
}

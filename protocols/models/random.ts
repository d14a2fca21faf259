/**
 * Random models of named shapes, for benchmarks: what a protocol costs depends on shapes alone. Weights are public and the same everywhere: a fixed seed for each
 * tensor. Their sizes keep activations ordinary: residual stream of about 1 to 10, attention logits within about 8, inputs of activations within about 5.
 */
import { CachetError } from '../errors.ts';
import { checkShape, usualBiases, type ModelShape } from './config.ts';
import { assemble, type ModelWeights, type Role } from './weights.ts';

const llama = (shape: Omit<ModelShape, 'architecture' | 'norm' | 'activation' | 'tied' | 'bosId' | 'eosIds'>): ModelShape => ({
  architecture: 'llama',
  norm: 'rms',
  activation: 'silu',
  tied: true,
  bosId: 1,
  eosIds: [2],
  ...shape,
});
/** Positions up to 8192 instead of the original 1024, for benchmarks of longer contexts. */
const gpt2 = (shape: Pick<ModelShape, 'layers' | 'width' | 'heads' | 'vocab'>): ModelShape => ({
  architecture: 'gpt2',
  ...shape,
  kvHeads: shape.heads,
  headDim: shape.width / shape.heads,
  inner: 4 * shape.width,
  maxPositions: 8192,
  rope: null,
  norm: 'layer',
  eps: 1e-5,
  activation: 'gelu-tanh',
  tied: true,
  bosId: 0,
  eosIds: [0],
});
const plainRope = (theta: number): ModelShape['rope'] => ({ theta, scaling: null });

/** By the name after `random:`. */
export const RANDOM_SHAPES: Readonly<Record<string, ModelShape>> = {
  gpt2: gpt2({ layers: 12, width: 768, heads: 12, vocab: 50257 }),
  'gpt2-medium': gpt2({ layers: 24, width: 1024, heads: 16, vocab: 50257 }),
  'gpt2-tiny': gpt2({ layers: 2, width: 64, heads: 4, vocab: 512 }),
  tiny: llama({
    layers: 2,
    width: 64,
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    inner: 128,
    vocab: 512,
    maxPositions: 8192,
    rope: plainRope(10000),
    eps: 1e-5,
  }),
  smollm2: llama({
    layers: 30,
    width: 576,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    inner: 1536,
    vocab: 49152,
    maxPositions: 8192,
    rope: plainRope(100000),
    eps: 1e-5,
  }),
  'qwen2-0.5b': {
    ...llama({
      layers: 24,
      width: 896,
      heads: 14,
      kvHeads: 2,
      headDim: 64,
      inner: 4864,
      vocab: 151936,
      maxPositions: 32768,
      rope: plainRope(1e6),
      eps: 1e-6,
    }),
    architecture: 'qwen2',
  },
  'llama-1b': llama({
    layers: 16,
    width: 2048,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    inner: 8192,
    vocab: 128256,
    maxPositions: 131072,
    rope: { theta: 500000, scaling: { factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 } },
    eps: 1e-5,
  }),
};

/** @throws CachetError 'usage' listing the names. */
export function randomShape(name: string): ModelShape {
  const shape = Object.hasOwn(RANDOM_SHAPES, name) ? RANDOM_SHAPES[name] : undefined;
  if (!shape)
    throw new CachetError({ code: 'usage', what: 'no such random model', expected: `random: and ${Object.keys(RANDOM_SHAPES).join(', ')}`, got: name });
  return checkShape(shape, 'random model');
}

/** Weights of the shape; deterministic, about 3 ns a number. */
export function randomWeights(shape: ModelShape): ModelWeights {
  return assemble(shape, usualBiases(shape.architecture), (role, dimensions, layer) => {
    const { mean, deviation } = init(role, dimensions.at(-1)!);
    return fill(
      dimensions.reduce((a, b) => a * b),
      mean,
      deviation,
      seedOf(role, layer ?? 0),
    );
  });
}

/** Normalised activations have deviation 1, so a sum over `inner` of them times weights of deviation s has s sqrt(inner). */
function init(role: Role, inner: number): { readonly mean: number; readonly deviation: number } {
  switch (role) {
    case 'inputNorm':
    case 'postNorm':
    case 'finalNorm':
      return { mean: 1, deviation: 0.1 };
    case 'q':
    case 'k':
      // Logits of deviation 1.5.
      return { mean: 0, deviation: Math.sqrt(1.5 / inner) };
    case 'v':
    case 'up':
    case 'gate':
      return { mean: 0, deviation: Math.sqrt(1 / inner) };
    case 'o':
      return { mean: 0, deviation: 0.25 / Math.sqrt(inner) };
    case 'down':
      // What comes out of the activation has a deviation of about 0.6.
      return { mean: 0, deviation: 0.4 / Math.sqrt(inner) };
    case 'embed':
    case 'head':
      return { mean: 0, deviation: 0.25 };
    default:
      return { mean: 0, deviation: 0.1 };
  }
}

/** FNV-1a of the tensor's place. */
function seedOf(role: Role, layer: number): number {
  let hash = 0x811c9dc5;
  for (const c of `${role} ${layer}`) hash = Math.imul(hash ^ c.charCodeAt(0), 0x01000193);
  return hash >>> 0 || 1;
}

/** Sums of two uniform halves of a xorshift32 word: a triangle within mean +- 2.45 deviations. */
function fill(count: number, mean: number, deviation: number, seed: number): Float32Array {
  const out = new Float32Array(count),
    scale = (deviation * Math.sqrt(6)) / 65536;
  let state = seed;
  for (let i = 0; i < count; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[i] = mean + scale * ((state & 0xffff) + (state >>> 16) - 65535);
  }
  return out;
}

/**
 * Models in GGUF files: the shape from the metadata, and weights under llama.cpp's names, for Llama, Qwen2 and GPT-2. For Llama alone, llama.cpp stores the rows of
 * q and k in another order, 2 j + s instead of j + s headDim / 2 within each head (interleaved rotation); they are put back.
 */
import { CachetError } from '../errors.ts';
import { ARCHITECTURES, checkShape, usualBiases, type Architecture, type Biases, type ModelShape, type RopeScaling } from './config.ts';
import type { Gguf } from './gguf.ts';
import { ropeFactor, ropeFrequencies } from './rope.ts';
import { readTensor } from './source.ts';
import { assemble, type ModelWeights, type Role } from './weights.ts';

/** Without `blk.N.` where the tensor is a layer's. */
const NAMES: Readonly<Record<Role, string>> = {
  inputNorm: 'attn_norm.weight',
  inputNormBias: 'attn_norm.bias',
  q: 'attn_q.weight',
  k: 'attn_k.weight',
  v: 'attn_v.weight',
  o: 'attn_output.weight',
  qBias: 'attn_q.bias',
  kBias: 'attn_k.bias',
  vBias: 'attn_v.bias',
  oBias: 'attn_output.bias',
  postNorm: 'ffn_norm.weight',
  postNormBias: 'ffn_norm.bias',
  gate: 'ffn_gate.weight',
  gateBias: 'ffn_gate.bias',
  up: 'ffn_up.weight',
  upBias: 'ffn_up.bias',
  down: 'ffn_down.weight',
  downBias: 'ffn_down.bias',
  embed: 'token_embd.weight',
  positions: 'position_embd.weight',
  finalNorm: 'output_norm.weight',
  finalNormBias: 'output_norm.bias',
  head: 'output.weight',
};
/** GPT-2's fused projection, by rows. */
const FUSED: Readonly<Partial<Record<Role, number>>> = { q: 0, k: 1, v: 2, qBias: 0, kBias: 1, vBias: 2 };
const ROPE_FREQS = 'rope_freqs.weight';

const unsupported = (step: string, expected: string, got: string): CachetError =>
  new CachetError({ code: 'model', step: `GGUF, ${step}`, what: 'unsupported model', expected, got, hint: 'cachet models lists what is supported' });

/** @throws CachetError 'model' naming the metadata that is missing or unsupported. */
export function ggufShape(file: Gguf): ModelShape {
  const { metadata } = file,
    architecture = ARCHITECTURES.find((a) => a === metadata.get('general.architecture'));
  if (!architecture) throw unsupported('general.architecture', ARCHITECTURES.join(', '), String(metadata.get('general.architecture')));
  const parts = metadata.get('split.count') ?? 1;
  if (parts !== 1) throw unsupported('split.count', 'a file that is not split', `one of ${String(parts)} parts`);
  /** A number, or one for each layer that is the same in all. */
  const number = (key: string, otherwise?: number): number => {
    const value = metadata.get(`${architecture}.${key}`) ?? otherwise,
      all = Array.isArray(value) ? [...new Set(value as unknown[])] : [value];
    if (all.length !== 1 || typeof all[0] !== 'number' || !(all[0] >= 0))
      throw unsupported(
        `${architecture}.${key}`,
        'a number, equal in all layers',
        value === undefined ? 'none' : Array.isArray(value) ? 'several' : String(value),
      );
    return all[0];
  };
  const learned = architecture === 'gpt2',
    width = number('embedding_length'),
    heads = number('attention.head_count'),
    headDim = number('attention.key_length', width / heads),
    maxPositions = number('context_length');
  const refuse = (key: string, supported: number): void => {
    const got = number(key, supported);
    if (got !== supported) throw unsupported(`${architecture}.${key}`, String(supported), String(got));
  };
  refuse('attention.value_length', headDim);
  refuse('expert_count', 0);
  refuse('rope.scale_linear', 1);
  if (!learned) refuse('rope.dimension_count', headDim);
  const window = number('attention.sliding_window', 0);
  if (window > 0 && window < maxPositions) throw unsupported(`${architecture}.attention.sliding_window`, 'full attention', String(window));
  const vocab = file.shape(NAMES.embed)[0]!,
    rope = learned ? null : { theta: number('rope.freq_base', 10000), scaling: null };
  const token = (key: string): number[] => {
    const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
    return typeof id === 'number' ? [id] : [];
  };
  return checkShape(
    {
      architecture,
      layers: number('block_count'),
      width,
      heads,
      kvHeads: number('attention.head_count_kv', heads),
      headDim,
      inner: number('feed_forward_length'),
      vocab,
      maxPositions,
      rope: rope && { ...rope, scaling: readScaling(file, architecture, ropeFrequencies(rope, headDim)) },
      norm: learned ? 'layer' : 'rms',
      // Written in float32 from a short decimal.
      eps: Number(number(`attention.layer_norm_${learned ? '' : 'rms_'}epsilon`).toPrecision(7)),
      activation: learned ? 'gelu-tanh' : 'silu',
      tied: !file.names.includes(NAMES.head),
      bosId: token('bos')[0] ?? null,
      eosIds: [...new Set([...token('eos'), ...token('eot')])],
    },
    'GGUF',
  );
}

/** @throws CachetError 'model' naming the tensor that is missing, of another shape or type, or not finite. */
export function readGgufWeights(shape: ModelShape, file: Gguf): ModelWeights {
  const has = (role: Role): boolean => file.names.includes(`blk.0.${NAMES[role]}`),
    usual = usualBiases(shape.architecture);
  const biases: Biases = { qkv: usual.qkv || has('qBias'), o: usual.o || has('oBias'), mlp: usual.mlp || has('downBias') };
  // The fused projection of the layer that is being read.
  let fused: { readonly name: string; readonly data: Float32Array } | undefined;
  return assemble(shape, biases, (role, dimensions, layer) => {
    const at = (name: string): string => (layer === undefined ? name : `blk.${layer}.${name}`),
      [rows, cols = 1] = dimensions as [number, number | undefined],
      part = FUSED[role];
    if (shape.architecture === 'gpt2' && part !== undefined) {
      const name = at(`attn_qkv.${dimensions.length === 2 ? 'weight' : 'bias'}`);
      if (fused?.name !== name) fused = { name, data: readTensor(file, name, [3 * rows, ...dimensions.slice(1)]) };
      return fused.data.slice(part * rows * cols, (part + 1) * rows * cols);
    }
    const data = readTensor(file, at(NAMES[role]), dimensions),
      rotated = role === 'q' || role === 'k' || role === 'qBias' || role === 'kBias';
    return shape.architecture === 'llama' && rotated ? halfRotation(data, shape.headDim, cols) : data;
  });
}

/** Rows (head, j, s) to rows (head, s, j). */
function halfRotation(x: Float32Array, headDim: number, cols: number): Float32Array {
  const out = new Float32Array(x.length),
    half = headDim / 2;
  for (let row = 0; row < x.length / cols; row++) {
    const within = row % headDim,
      from = row - within + 2 * (within % half) + Math.floor(within / half);
    out.set(x.subarray(from * cols, (from + 1) * cols), row * cols);
  }
  return out;
}

/**
 * Llama 3's scaling comes as a tensor of divisors without the parameters that it was made from; they are found by trying the ones in use (1, 4, and 8192 positions or
 * the number in the metadata) with the largest divisor as factor, to a relative 1e-5.
 */
function readScaling(file: Gguf, architecture: Architecture, frequencies: Float64Array): RopeScaling | null {
  const type = file.metadata.get(`${architecture}.rope.scaling.type`) ?? 'none';
  if (type !== 'none') throw unsupported(`${architecture}.rope.scaling.type`, `none, or Llama 3's scaling as ${ROPE_FREQS}`, String(type));
  if (!file.names.includes(ROPE_FREQS)) return null;
  const divisors = readTensor(file, ROPE_FREQS, [frequencies.length]),
    factor = divisors.reduce((a, b) => Math.max(a, b)),
    written = file.metadata.get(`${architecture}.rope.scaling.original_context_length`);
  for (const originalMaxPositions of [...(typeof written === 'number' ? [written] : []), 8192]) {
    const scaling = { factor, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions };
    if (divisors.every((d, j) => Math.abs(ropeFactor(scaling, frequencies[j]!) / d - 1) < 1e-5)) return scaling;
  }
  throw unsupported(ROPE_FREQS, "Llama 3's scaling with low factor 1, high factor 4, 8192 original positions", 'other divisors');
}

/** A model's shape, and how it is read from a Hugging Face `config.json`. What the programs do not implement is refused by name. */
import { z } from 'zod';
import { CachetError } from '../errors.ts';

/** `model_type` of what the programs implement. */
export const ARCHITECTURES = ['llama', 'qwen2', 'gpt2'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

/** Frequencies of Llama 3's RoPE: long wavelengths are stretched by `factor`, short ones kept, those between blended. */
export interface RopeScaling {
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPositions: number;
}

export interface ModelShape {
  readonly architecture: Architecture;
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly inner: number;
  readonly vocab: number;
  readonly maxPositions: number;
  /** Null: positions are learned, added to the embedding by the client. */
  readonly rope: { readonly theta: number; readonly scaling: RopeScaling | null } | null;
  readonly norm: 'rms' | 'layer';
  readonly eps: number;
  /** Of the MLP: SiLU in gated ones, GELU (exact, or its tanh form) in plain ones. */
  readonly activation: 'silu' | 'gelu' | 'gelu-tanh';
  /** The head is the embedding. */
  readonly tied: boolean;
  readonly bosId: number | null;
  readonly eosIds: readonly number[];
}

/** Projections that have biases; `mlp` in all matrices of the MLP, its gate included. */
export interface Biases {
  readonly qkv: boolean;
  readonly o: boolean;
  readonly mlp: boolean;
}

/** What checkpoints of the architecture have unless their configuration says otherwise. */
export const usualBiases = (architecture: Architecture): Biases => ({
  qkv: architecture !== 'llama',
  o: architecture === 'gpt2',
  mlp: architecture === 'gpt2',
});

const count = z.number().int().positive(),
  tokenId = z.number().int().nonnegative();
const scalingType = z.enum(['default', 'llama3']);
const scaling = z
  .object({
    rope_type: scalingType.optional(),
    type: scalingType.optional(),
    rope_theta: z.number().positive().optional(),
    factor: z.number().positive().optional(),
    low_freq_factor: z.number().positive().optional(),
    high_freq_factor: z.number().positive().optional(),
    original_max_position_embeddings: count.optional(),
  })
  .nullish();
const tokens = {
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  quantization_config: z.null().optional(),
};
const gated = {
  ...tokens,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  vocab_size: count,
  max_position_embeddings: count,
  rope_theta: z.number().positive().optional(),
  rms_norm_eps: z.number().positive(),
  rope_scaling: scaling,
  rope_parameters: scaling,
  partial_rotary_factor: z.literal(1).optional(),
  hidden_act: z.literal('silu'),
  tie_word_embeddings: z.boolean().default(false),
};
const schema = z.discriminatedUnion('model_type', [
  z.object({ model_type: z.literal('llama'), ...gated, attention_bias: z.boolean().default(false), mlp_bias: z.boolean().default(false) }),
  z.object({ model_type: z.literal('qwen2'), ...gated, use_sliding_window: z.literal(false).default(false) }),
  z.object({
    model_type: z.literal('gpt2'),
    ...tokens,
    n_embd: count,
    n_head: count,
    n_layer: count,
    n_inner: count.nullish(),
    n_positions: count,
    vocab_size: count,
    layer_norm_epsilon: z.number().positive().default(1e-5),
    activation_function: z.enum(['gelu_new', 'gelu_pytorch_tanh', 'gelu']).default('gelu_new'),
    scale_attn_weights: z.literal(true).default(true),
    scale_attn_by_inverse_layer_idx: z.literal(false).default(false),
    reorder_and_upcast_attn: z.literal(false).default(false),
    add_cross_attention: z.literal(false).default(false),
    tie_word_embeddings: z.boolean().default(true),
  }),
]);
type Config = z.infer<typeof schema>;

/** What a configuration may say, for error texts. */
const SUPPORTED: Readonly<Record<Architecture, string>> = {
  llama: 'a Llama with SiLU, RoPE without scaling or scaled as Llama 3',
  qwen2: 'a Qwen2 with SiLU, full attention, RoPE without scaling or scaled as Llama 3',
  gpt2: 'a GPT-2 with GELU (gelu, gelu_new, gelu_pytorch_tanh) and plain scaled attention',
};

/** @throws CachetError 'model' naming the first field that is missing or unsupported. */
export const readConfig = (json: unknown): ModelShape => readCheckpointConfig(json).shape;

/** The shape, and which biases the checkpoint must have. @throws CachetError 'model' naming the first field that is missing or unsupported. */
export function readCheckpointConfig(json: unknown): { readonly shape: ModelShape; readonly biases: Biases } {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!,
      type = (json as { model_type?: unknown } | null)?.model_type,
      known = ARCHITECTURES.find((a) => a === type);
    throw new CachetError({
      code: 'model',
      step: `config.json, ${issue.path.join('.') || 'top level'}`,
      what: 'unsupported model',
      expected: known ? SUPPORTED[known] : `model_type ${ARCHITECTURES.join(', ')}`,
      got: known || type === undefined ? issue.message : JSON.stringify(type),
      hint: 'cachet models lists what is supported',
    });
  }
  const c = parsed.data,
    shape = checkShape(c.model_type === 'gpt2' ? gpt2Shape(c) : gatedShape(c), 'config.json');
  return { shape, biases: c.model_type === 'llama' ? { qkv: c.attention_bias, o: c.attention_bias, mlp: c.mlp_bias } : usualBiases(c.model_type) };
}

/** What all formats must satisfy; `step` names the file. @throws CachetError 'model' naming the dimension. */
export function checkShape(s: ModelShape, step: string): ModelShape {
  const bad = (field: string, expected: string, got: number): CachetError =>
    new CachetError({ code: 'model', step: `${step}, ${field}`, what: 'unsupported shape', expected, got: String(got) });
  if (!Number.isInteger(s.headDim) || (s.rope !== null && s.headDim % 2 !== 0)) throw bad('head_dim', s.rope ? 'an even integer' : 'an integer', s.headDim);
  if (s.heads % s.kvHeads !== 0) throw bad('num_key_value_heads', `a divisor of ${s.heads}`, s.kvHeads);
  for (const [field, v] of [
    ['hidden_size', s.width],
    ['intermediate_size', s.inner],
    ['num_attention_heads * head_dim', s.heads * s.headDim],
  ] as const)
    if (v % 8 !== 0) throw bad(field, 'a multiple of 8', v);
  for (const id of [...s.eosIds, ...(s.bosId === null ? [] : [s.bosId])]) if (id >= s.vocab) throw bad('bos or eos token', `below ${s.vocab}`, id);
  return s;
}

function gatedShape(c: Extract<Config, { model_type: 'llama' | 'qwen2' }>): ModelShape {
  const rope = c.rope_parameters ?? c.rope_scaling;
  return {
    architecture: c.model_type,
    layers: c.num_hidden_layers,
    width: c.hidden_size,
    heads: c.num_attention_heads,
    kvHeads: c.num_key_value_heads ?? c.num_attention_heads,
    headDim: c.head_dim ?? c.hidden_size / c.num_attention_heads,
    inner: c.intermediate_size,
    vocab: c.vocab_size,
    maxPositions: c.max_position_embeddings,
    rope: { theta: c.rope_theta ?? rope?.rope_theta ?? 10000, scaling: rope ? readScaling(rope) : null },
    norm: 'rms',
    eps: c.rms_norm_eps,
    activation: 'silu',
    tied: c.tie_word_embeddings,
    ...endTokens(c),
  };
}

function gpt2Shape(c: Extract<Config, { model_type: 'gpt2' }>): ModelShape {
  return {
    architecture: 'gpt2',
    layers: c.n_layer,
    width: c.n_embd,
    heads: c.n_head,
    kvHeads: c.n_head,
    headDim: c.n_embd / c.n_head,
    inner: c.n_inner ?? 4 * c.n_embd,
    vocab: c.vocab_size,
    maxPositions: c.n_positions,
    rope: null,
    norm: 'layer',
    eps: c.layer_norm_epsilon,
    activation: c.activation_function === 'gelu' ? 'gelu' : 'gelu-tanh',
    tied: c.tie_word_embeddings,
    ...endTokens(c),
  };
}

const endTokens = (c: Config): Pick<ModelShape, 'bosId' | 'eosIds'> => ({
  bosId: c.bos_token_id ?? null,
  eosIds: c.eos_token_id == null ? [] : [c.eos_token_id].flat(),
});

function readScaling(s: NonNullable<z.infer<typeof scaling>>): RopeScaling | null {
  if ((s.rope_type ?? s.type ?? 'default') === 'default') return null;
  const { factor, low_freq_factor: lowFreqFactor, high_freq_factor: highFreqFactor, original_max_position_embeddings: originalMaxPositions } = s;
  if (
    factor === undefined ||
    lowFreqFactor === undefined ||
    highFreqFactor === undefined ||
    originalMaxPositions === undefined ||
    !(lowFreqFactor < highFreqFactor)
  )
    throw new CachetError({
      code: 'model',
      step: 'config.json, rope_scaling',
      what: 'incomplete scaling',
      expected: 'factor, low_freq_factor < high_freq_factor, original_max_position_embeddings',
      got: JSON.stringify(s),
    });
  return { factor, lowFreqFactor, highFreqFactor, originalMaxPositions };
}

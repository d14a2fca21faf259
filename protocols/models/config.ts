/** A model's shape, from a Hugging Face `config.json`. What the protocol does not implement is refused by name. */
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

const count = z.number().int().positive();
const schema = z.object({
  model_type: z.literal('llama'),
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.optional(),
  head_dim: count.nullish(),
  vocab_size: count,
  max_position_embeddings: count,
  rope_theta: z.number().positive().default(10000),
  rms_norm_eps: z.number().positive(),
  rope_scaling: z.null().optional(),
  hidden_act: z.literal('silu'),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.literal(false).default(false),
  mlp_bias: z.literal(false).default(false),
  bos_token_id: z.number().int().nullish(),
  eos_token_id: z.union([z.number().int(), z.array(z.number().int())]).nullish(),
});

/** @throws CachetError 'model' naming the first field that is missing or unsupported. */
export function readConfig(json: unknown): ModelShape {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!,
      field = issue.path.join('.');
    throw new CachetError({
      code: 'model',
      step: `config.json, ${field || 'top level'}`,
      what: 'unsupported model',
      expected: 'a Llama with SiLU, without biases and RoPE scaling',
      got: issue.message,
      hint: 'a model of the Llama family',
    });
  }
  const c = parsed.data,
    kvHeads = c.num_key_value_heads ?? c.num_attention_heads,
    headDim = c.head_dim ?? c.hidden_size / c.num_attention_heads;
  const bad = (field: string, expected: string, got: number): CachetError =>
    new CachetError({ code: 'model', step: `config.json, ${field}`, what: 'unsupported shape', expected, got: String(got) });
  if (!Number.isInteger(headDim) || headDim % 2 !== 0) throw bad('head_dim', 'an even integer', headDim);
  if (c.num_attention_heads % kvHeads !== 0) throw bad('num_key_value_heads', `a divisor of ${c.num_attention_heads}`, kvHeads);
  for (const [field, v] of [
    ['hidden_size', c.hidden_size],
    ['intermediate_size', c.intermediate_size],
    ['num_attention_heads * head_dim', c.num_attention_heads * headDim],
  ] as const)
    if (v % 8 !== 0) throw bad(field, 'a multiple of 8', v);
  return {
    architecture: 'llama',
    layers: c.num_hidden_layers,
    width: c.hidden_size,
    heads: c.num_attention_heads,
    kvHeads,
    headDim,
    inner: c.intermediate_size,
    vocab: c.vocab_size,
    maxPositions: c.max_position_embeddings,
    rope: { theta: c.rope_theta, scaling: null },
    norm: 'rms',
    eps: c.rms_norm_eps,
    activation: 'silu',
    tied: c.tie_word_embeddings,
    bosId: c.bos_token_id ?? null,
    eosIds: c.eos_token_id == null ? [] : [c.eos_token_id].flat(),
  };
}

/** Weights of Llama and Qwen2 under the names of a Hugging Face checkpoint. */
import type { Biases, ModelShape } from './config.ts';
import { readTensor, type TensorSource } from './source.ts';
import { assemble, type ModelWeights, type Role } from './weights.ts';

/** Without `model.layers.N.` where the tensor is a layer's. */
const NAMES: Readonly<Partial<Record<Role, string>>> = {
  inputNorm: 'input_layernorm.weight',
  q: 'self_attn.q_proj.weight',
  k: 'self_attn.k_proj.weight',
  v: 'self_attn.v_proj.weight',
  o: 'self_attn.o_proj.weight',
  qBias: 'self_attn.q_proj.bias',
  kBias: 'self_attn.k_proj.bias',
  vBias: 'self_attn.v_proj.bias',
  oBias: 'self_attn.o_proj.bias',
  postNorm: 'post_attention_layernorm.weight',
  gate: 'mlp.gate_proj.weight',
  up: 'mlp.up_proj.weight',
  down: 'mlp.down_proj.weight',
  gateBias: 'mlp.gate_proj.bias',
  upBias: 'mlp.up_proj.bias',
  downBias: 'mlp.down_proj.bias',
  embed: 'model.embed_tokens.weight',
  finalNorm: 'model.norm.weight',
  head: 'lm_head.weight',
};

/** @throws CachetError 'model' naming the tensor that is missing, of another shape or type, or not finite. */
export const readLlama = (shape: ModelShape, biases: Biases, tensors: TensorSource): ModelWeights =>
  assemble(shape, biases, (role, dimensions, layer) =>
    readTensor(tensors, layer === undefined ? NAMES[role]! : `model.layers.${layer}.${NAMES[role]!}`, dimensions),
  );

/** What checkpoints are read: one line an architecture for Hugging Face folders; GGUF files have one mapping for all. */
import type { Architecture, Biases, ModelShape } from './config.ts';
import { readGpt2 } from './gpt2.ts';
import { GGUF_TENSOR_TYPES } from './gguf.ts';
import { readLlama } from './llama.ts';
import { WEIGHT_TYPES } from './safetensors.ts';
import type { TensorSource } from './source.ts';
import type { ModelWeights } from './weights.ts';

/** Weights under the names of a Hugging Face checkpoint. */
export const HUGGING_FACE: Readonly<Record<Architecture, (shape: ModelShape, biases: Biases, tensors: TensorSource) => ModelWeights>> = {
  llama: readLlama,
  qwen2: readLlama,
  gpt2: readGpt2,
};

/** File formats, and the types of tensor that are read from each. */
export const FORMATS: readonly { readonly format: string; readonly tensorTypes: readonly string[] }[] = [
  { format: 'safetensors', tensorTypes: WEIGHT_TYPES },
  { format: 'gguf', tensorTypes: GGUF_TENSOR_TYPES },
];

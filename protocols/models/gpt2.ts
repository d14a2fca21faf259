/**
 * Weights of GPT-2 under the names of a Hugging Face checkpoint, with or without the `transformer.` prefix. Its matrices are stored [in, out] (Conv1D), those of
 * queries, keys and values side by side in one.
 */
import type { Biases, ModelShape } from './config.ts';
import { readTensor, transpose, type TensorSource } from './source.ts';
import { assemble, type ModelWeights, type Role } from './weights.ts';

/** Without `h.N.` where the tensor is a layer's. */
const NAMES: Readonly<Partial<Record<Role, string>>> = {
  inputNorm: 'ln_1.weight',
  inputNormBias: 'ln_1.bias',
  o: 'attn.c_proj.weight',
  oBias: 'attn.c_proj.bias',
  postNorm: 'ln_2.weight',
  postNormBias: 'ln_2.bias',
  up: 'mlp.c_fc.weight',
  upBias: 'mlp.c_fc.bias',
  down: 'mlp.c_proj.weight',
  downBias: 'mlp.c_proj.bias',
  embed: 'wte.weight',
  positions: 'wpe.weight',
  finalNorm: 'ln_f.weight',
  finalNormBias: 'ln_f.bias',
};

/** Place in the fused projection. */
const FUSED: Readonly<Partial<Record<Role, number>>> = { q: 0, k: 1, v: 2, qBias: 0, kBias: 1, vBias: 2 };

/** @throws CachetError 'model' naming the tensor that is missing, of another shape or type, or not finite. */
export function readGpt2(shape: ModelShape, biases: Biases, tensors: TensorSource): ModelWeights {
  const prefix = tensors.names.some((name) => name.startsWith('transformer.')) ? 'transformer.' : '';
  /** [out, in] of a matrix stored [in, out]. */
  const matrix = (name: string, out: number, into: number): Float32Array => transpose(readTensor(tensors, name, [into, out]), into, out);
  // The fused projection of the layer that is being read.
  let fused: { readonly name: string; readonly data: Float32Array } | undefined;
  return assemble(shape, biases, (role, dimensions, layer) => {
    const [rows, cols] = dimensions as [number, number | undefined],
      at = (name: string): string => prefix + (layer === undefined ? name : `h.${layer}.${name}`),
      part = FUSED[role];
    // The head is no part of what the prefix names.
    if (role === 'head') return readTensor(tensors, 'lm_head.weight', dimensions);
    if (part !== undefined) {
      const name = at(`attn.c_attn.${cols ? 'weight' : 'bias'}`);
      if (fused?.name !== name) fused = { name, data: cols ? matrix(name, 3 * rows, cols) : readTensor(tensors, name, [3 * rows]) };
      const size = rows * (cols ?? 1);
      return fused.data.slice(part * size, (part + 1) * size);
    }
    const name = at(NAMES[role]!);
    return layer !== undefined && cols ? matrix(name, rows, cols) : readTensor(tensors, name, dimensions);
  });
}

/** What the client computes in the clear: the embedding of its tokens, and the logits from the final hidden state that only it can rebuild. */
import type { Kernels } from '../kernels/kernels.ts';
import { Arena, reserveMemory, WORKING_BYTES } from '../kernels/memory.ts';
import { createKernels } from '../kernels/registry.ts';
import { clientTensors, type Artefact } from '../protocols/artefact.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { finalNorm } from '../protocols/models/finalNorm.ts';

/** Embeddings of tokens at positions `position` .., [ids.length, width], as fixed point integers at the residual stream's scale. */
export function embed(a: Artefact, ids: readonly number[], position: number): BigInt64Array<ArrayBuffer> {
  const values = embedTokens({ shape: a.shape, ...clientTensors(a) }, ids, position),
    unit = 2 ** a.residualScale,
    out = new BigInt64Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = BigInt(Math.round(values[i]! * unit));
  return out;
}

/** Final norm and head: float32 logits over the vocabulary from the last position's residual stream; valid until the next call for this artefact. */
export function logitsOf(a: Artefact, hidden: Float64Array): Float32Array {
  let head = heads.get(a);
  if (!head) heads.set(a, (head = new Head(a)));
  return head.logits(finalNorm({ shape: a.shape, ...clientTensors(a) }, hidden));
}

const heads = new WeakMap<Artefact, Head>();

/** The head's weights in a memory of the kernels' own: placed at the first token, freed with the artefact. */
class Head {
  private readonly kernels: Kernels;
  private readonly weights: number;
  private readonly input: Float32Array;
  private readonly output: Float32Array;

  constructor(a: Artefact) {
    const { width } = a.shape,
      { head } = clientTensors(a),
      words = head.length + width + head.length / width,
      memory = reserveMemory(WORKING_BYTES + 4 * words + 64),
      arena = new Arena(memory, WORKING_BYTES, 4 * words + 64),
      place = (n: number): Float32Array => new Float32Array(memory.buffer, arena.alloc(4 * n), n);
    this.kernels = createKernels('wasm', memory);
    const weights = place(head.length);
    weights.set(head);
    this.weights = weights.byteOffset;
    this.input = place(width);
    this.output = place(head.length / width);
  }

  /** Each within (width / 8 + 4) 2^-24 sum |x w| of the exact product of float32 values. */
  logits(x: Float64Array): Float32Array {
    this.input.set(x);
    this.kernels.gemmF32(this.output.byteOffset, this.input.byteOffset, this.weights, 1, x.length, this.output.length);
    return this.output;
  }
}

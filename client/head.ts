/** What the client computes in the clear: the embedding of its tokens, and the logits from the final hidden state that only it can rebuild. */
import { clientTensors, type Artefact } from '../protocols/artefact.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { finalNorm } from '../protocols/models/finalNorm.ts';
import { product } from '../protocols/models/plain.ts';

/** Embeddings of tokens at positions `position` .., [ids.length, width], as fixed point integers at the residual stream's scale. */
export function embed(a: Artefact, ids: readonly number[], position: number): BigInt64Array<ArrayBuffer> {
  const values = embedTokens({ shape: a.shape, ...clientTensors(a) }, ids, position),
    unit = 2 ** a.residualScale,
    out = new BigInt64Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = BigInt(Math.round(values[i]! * unit));
  return out;
}

/** Final norm and head: logits over the vocabulary from the last position's residual stream. */
export function logitsOf(a: Artefact, hidden: Float64Array): Float64Array {
  const w = { shape: a.shape, ...clientTensors(a) };
  return product(w.head, finalNorm(w, hidden));
}

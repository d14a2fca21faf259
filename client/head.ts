/** What the client computes in the clear: the embedding of its tokens, and the logits from the final hidden state that only it can rebuild. */
import type { Artefact } from '../protocols/artefact.ts';
import { product, rmsNorm } from '../protocols/models/plain.ts';

/** Embedding rows of the tokens, [ids.length, width], as fixed point integers at 2^scale. */
export function embed(a: Artefact, ids: readonly number[], scale: number): BigInt64Array<ArrayBuffer> {
  const { width } = a.shape,
    out = new BigInt64Array(ids.length * width);
  ids.forEach((id, i) => {
    for (let c = 0; c < width; c++) out[i * width + c] = BigInt(Math.round(a.embed[id * width + c]! * 2 ** scale));
  });
  return out;
}

/** Final norm and head: logits over the vocabulary from the last position's residual stream. */
export const logitsOf = (a: Artefact, hidden: Float64Array): Float64Array => product(a.head, rmsNorm(hidden, a.finalNorm, a.shape.eps));

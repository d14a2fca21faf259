/** What the client computes in the clear: the embedding of its tokens, and the logits from the final hidden state that only it can rebuild. */
import type { Kernels } from '../kernels/kernels.ts';
import { Arena, reserveMemory, WORKING_BYTES } from '../kernels/memory.ts';
import { createKernels } from '../kernels/registry.ts';
import { CachetError } from '../protocols/errors.ts';
import { clientTensors, type Artefact } from '../protocols/artefact.ts';
import { outputBytes } from '../protocols/engines/evaluator.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { randomWords } from '../protocols/randomWords.ts';
import { sampler, type Sampling } from './sampling.ts';
import { clientEnds, weightsOf } from '../protocols/session.ts';
import { finalNorm } from '../protocols/models/finalNorm.ts';

/**
 * Both shares of what the evaluators get for tokens at positions `position` .. (those before 0 count as at 0): of their embeddings, integers at the residual stream's scale over Z_2^64; where
 * weights are private, of one-hot rows over the vocabulary, over Z_2^32.
 */
export function inputShares(a: Artefact, ids: readonly number[], position: number): readonly [Uint8Array, Uint8Array] {
  if (weightsOf(a) === 'open') {
    const values = embed(a, ids, position),
      mask = randomWords(values.length);
    for (let i = 0; i < values.length; i++) values[i] = values[i]! - mask[i]!;
    return [new Uint8Array(values.buffer), new Uint8Array(mask.buffer)];
  }
  const { elements } = clientEnds(a).input,
    mask = new Int32Array(randomWords(Math.ceil((elements * ids.length) / 2)).buffer, 0, elements * ids.length),
    values = mask.map((v) => -v);
  ids.forEach((id, i) => values[i * elements + id]!++);
  return [new Uint8Array(values.buffer), new Uint8Array(mask.buffer, 0, mask.byteLength)];
}

/** What the evaluators' shares of a step's result add up to: the last position's residual stream, or with private weights its logits. */
export function resultOf(a: Artefact, shares: readonly [Uint8Array, Uint8Array]): Float64Array {
  const { elements, bits, scale } = clientEnds(a).output,
    words = shares.map((s) =>
      outputBytes(bits) === 4 ? new Int32Array(s.buffer, s.byteOffset, elements) : new BigInt64Array(s.buffer, s.byteOffset, elements),
    );
  return Float64Array.from({ length: elements }, (_, i) => Number(BigInt.asIntN(bits, BigInt(words[0]![i]!) + BigInt(words[1]![i]!))) / 2 ** scale);
}

/** Bytes of one evaluator's share of a step's result. */
export function resultBytes(a: Artefact): number {
  const { elements, bits } = clientEnds(a).output;
  return outputBytes(bits) * elements;
}

/** Embeddings of tokens at positions `position` .., [ids.length, width], as fixed point integers at the residual stream's scale. */
function embed(a: Artefact, ids: readonly number[], position: number): BigInt64Array<ArrayBuffer> {
  const values = embedTokens({ shape: a.shape, ...clientTensors(a) }, ids, position),
    unit = 2 ** a.residualScale,
    out = new BigInt64Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = BigInt(Math.round(values[i]! * unit));
  return out;
}

/**
 * Chooses the next token from a step's result: by its logits, or as it is where a model hides those.
 * @throws CachetError 'usage' for a parameter of sampling outside its range, or one where there is nothing to sample from.
 */
export function chooser(a: Artefact, sampling?: Sampling): (result: Float64Array) => number {
  const choose = sampler(sampling);
  if (!a.header.secret?.hideLogits) return (result) => choose(logitsOf(a, result));
  if (sampling?.temperature)
    throw new CachetError({
      code: 'usage',
      what: 'sampling from a model that hides its logits',
      expected: 'temperature 0: the most likely token is all that a client gets',
      got: String(sampling.temperature),
      hint: '--temperature 0',
    });
  return ([id]) => id!;
}

/**
 * Float32 logits over the vocabulary from a step's result: final norm and head of the last position's residual stream, valid until the next call for this
 * artefact; with private weights the result itself. @throws CachetError 'usage' for a model that hides them.
 */
export function logitsOf(a: Artefact, hidden: Float64Array): Float32Array {
  if (a.header.secret?.hideLogits)
    throw new CachetError({ code: 'usage', what: 'logits of a model that hides them', expected: 'a model split without --hide-logits', got: a.header.name });
  if (weightsOf(a) === 'private') return Float32Array.from(hidden);
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

/** Choosing the next token from logits: greedy, temperature, top-k, top-p; reproducible with a seed. */
import { CachetError } from '../protocols/errors.ts';

export interface Sampling {
  /** 0: greedy. @default 0 */
  readonly temperature?: number;
  /** Only the k best tokens; 0: all. @default 0 */
  readonly topK?: number;
  /** Only the best tokens whose probabilities reach p together. @default 1 */
  readonly topP?: number;
  /** Without one, the cryptographic generator is used. */
  readonly seed?: number;
}

export type Logits = Float32Array | Float64Array;

/** A chooser of tokens, which keeps its buffers: one call at a time. @throws CachetError 'usage' for a parameter outside its range. */
export function sampler(s: Sampling = {}): (logits: Logits) => number {
  const { temperature = 0, topK = 0, topP = 1 } = s;
  const bad = (what: string, expected: string, got: number): CachetError => new CachetError({ code: 'usage', what: `bad ${what}`, expected, got: String(got) });
  if (!(temperature >= 0 && Number.isFinite(temperature))) throw bad('temperature', 'a number from 0', temperature);
  if (!Number.isInteger(topK) || topK < 0) throw bad('top-k', 'an integer from 0', topK);
  if (!(topP > 0 && topP <= 1)) throw bad('top-p', 'more than 0, at most 1', topP);
  if (s.seed !== undefined && !Number.isInteger(s.seed)) throw bad('seed', 'an integer', s.seed);
  const next = s.seed === undefined ? cryptographic : seeded(s.seed);
  let order = new Uint32Array(0),
    weights = new Float64Array(0);
  return (logits) => {
    const best = argmax(logits);
    if (temperature === 0) return best;
    if (order.length !== logits.length) [order, weights] = [new Uint32Array(logits.length), new Float64Array(logits.length)];
    for (let i = 0; i < order.length; i++) order[i] = i;
    order.sort((a, b) => logits[b]! - logits[a]!);
    const most = Math.min(topK || order.length, order.length);
    let total = 0;
    for (let i = 0; i < most; i++) total += weights[i] = Math.exp((logits[order[i]!]! - logits[best]!) / temperature);
    let kept = 0,
      mass = 0;
    while (kept < most && mass < topP * total) mass += weights[kept++]!;
    let at = next() * mass;
    for (let i = 0; i < kept; i++) if ((at -= weights[i]!) < 0) return order[i]!;
    return order[kept - 1]!;
  };
}

/** Index of the first largest logit. */
function argmax(logits: Logits): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** Uniform in [0, 1) from the cryptographic generator. */
function cryptographic(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2)) as unknown as [number, number];
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** Uniform in [0, 1), the same for the same seed (mulberry32): good enough to make a sample repeatable; never used for anything secret. */
export function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

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

/** @throws CachetError 'usage' for a parameter outside its range. */
export function sampler(s: Sampling = {}): (logits: Float64Array) => number {
  const { temperature = 0, topK = 0, topP = 1 } = s;
  const bad = (what: string, expected: string, got: number): CachetError => new CachetError({ code: 'usage', what: `bad ${what}`, expected, got: String(got) });
  if (!(temperature >= 0 && Number.isFinite(temperature))) throw bad('temperature', 'a number from 0', temperature);
  if (!Number.isInteger(topK) || topK < 0) throw bad('top-k', 'an integer from 0', topK);
  if (!(topP > 0 && topP <= 1)) throw bad('top-p', 'more than 0, at most 1', topP);
  if (s.seed !== undefined && !Number.isInteger(s.seed)) throw bad('seed', 'an integer', s.seed);
  const next = s.seed === undefined ? cryptographic : seeded(s.seed);
  return (logits) => {
    const best = logits.reduce((a, v, i) => (v > logits[a]! ? i : a), 0);
    if (temperature === 0) return best;
    const ids = Array.from(logits.keys())
      .sort((a, b) => logits[b]! - logits[a]!)
      .slice(0, topK || logits.length);
    const weights = ids.map((id) => Math.exp((logits[id]! - logits[best]!) / temperature)),
      total = weights.reduce((a, b) => a + b, 0);
    let kept = 0,
      mass = 0;
    while (kept < ids.length && mass < topP * total) mass += weights[kept++]!;
    let at = next() * mass;
    for (let i = 0; i < kept; i++) if ((at -= weights[i]!) < 0) return ids[i]!;
    return ids[kept - 1]!;
  };
}

/** Uniform in [0, 1) from the cryptographic generator. */
function cryptographic(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2)) as unknown as [number, number];
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** mulberry32: good enough to make a sampled answer repeatable; never used for anything secret. */
function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

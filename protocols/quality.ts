/**
 * What cache policies cost in quality: the same texts, questions and weights under every policy, against the full cache, by the programs of the protocol on the
 * Float engine. A text's keys and values are computed once and fill the caches of all runs; a run then takes the rest of its prompt as one batch, evicts and
 * goes on token by token as a session does. Texts are teacher-forced, answers greedy. All integers of the artefact are used, roundings of the protocol are not:
 * `evaluate` measures those.
 */
import { bindPlan, clientTensors, type Artefact } from './artefact.ts';
import { Float } from './engines/float.ts';
import { describe, drive, headLogits } from './evaluate.ts';
import { embedTokens } from './models/embedding.ts';
import type { ModelWeights } from './models/weights.ts';
import { canonicalPolicy, FULL, votingQueries, type Policy } from './policy.ts';
import { createCache } from './programs/attention.ts';
import type { ModelPlan } from './programs/plan.ts';
import { forward, session } from './programs/transformer.ts';

/** A text that several runs begin with, as token ids that begin with the artefact's public prefix, and what comes after it. */
export interface QualityText {
  readonly ids: readonly number[];
  readonly items: readonly QualityItem[];
}

/** Tokens that complete the prompt, then either tokens to predict, or an answer of at most so many tokens that is right or not. */
export type QualityItem =
  | { readonly kind: 'text'; readonly prompt: readonly number[]; readonly continuation: readonly number[] }
  | { readonly kind: 'question'; readonly prompt: readonly number[]; readonly most: number; readonly right: (ids: readonly number[]) => boolean };

export interface PolicyQuality {
  readonly policy: Policy;
  /** Predicted tokens of texts; the next three are of these, null without any. */
  readonly positions: number;
  readonly perplexity: { readonly full: number; readonly policy: number; readonly change: number } | null;
  /** Mean Kullback-Leibler divergence from the full cache's distribution, nats. */
  readonly divergence: number | null;
  /** Share of positions with the same most likely token. */
  readonly top1Agreement: number | null;
  readonly questions: number;
  /** Answered rightly over the full cache, under the policy, and of the former not under the policy. */
  readonly answeredFull: number;
  readonly answered: number;
  readonly lost: number;
  readonly seconds: number;
}

export interface QualityOptions {
  readonly artefact: Artefact;
  readonly policies: readonly Policy[];
  readonly texts: readonly QualityText[];
  readonly onProgress?: ((text: string) => void) | undefined;
}

/** A prediction: logarithms of all tokens' probabilities, and the most likely one. */
interface Prediction {
  readonly logs: Float32Array;
  readonly best: number;
}

/** Sums of one policy. */
interface Tally {
  positions: number;
  loss: number;
  fullLoss: number;
  divergence: number;
  agreed: number;
  questions: number;
  answeredFull: number;
  answered: number;
  lost: number;
  ms: number;
}

/** One row a policy, in their order. */
export function measureQuality(o: QualityOptions): PolicyQuality[] {
  const { artefact, policies, texts } = o,
    model: Model = {
      artefact,
      client: { shape: artefact.shape, ...clientTensors(artefact) },
      plan: bindPlan(new Float({ next: noInput, emit: noOutput }), artefact),
    },
    tallies = policies.map((): Tally => ({
      positions: 0,
      loss: 0,
      fullLoss: 0,
      divergence: 0,
      agreed: 0,
      questions: 0,
      answeredFull: 0,
      answered: 0,
      lost: 0,
      ms: 0,
    })),
    isFull = policies.map((p) => canonicalPolicy({ ...p, name: FULL.name }) === canonicalPolicy(FULL));
  for (const [t, text] of texts.entries()) {
    const say = (what: string): void => o.onProgress?.(`text ${t + 1} of ${texts.length}, ${what}`);
    say(`${text.ids.length} tokens`);
    const cached = cacheText(model, text.ids);
    for (const [i, item] of text.items.entries()) {
      const run = (policy: Policy): Prediction[] => {
        say(`${item.kind} ${i + 1} of ${text.items.length}, ${policy.name}`);
        return runPolicy(model, policy, cached, [...text.ids, ...item.prompt], item);
      };
      const full = run(FULL);
      for (const [n, policy] of policies.entries()) {
        const started = performance.now(),
          got = isFull[n] ? full : run(policy);
        tallies[n]!.ms += performance.now() - started;
        add(tallies[n]!, item, full, got);
      }
    }
  }
  return tallies.map((tally, n) => summarise(policies[n]!, tally));
}

function add(tally: Tally, item: QualityItem, full: readonly Prediction[], got: readonly Prediction[]): void {
  if (item.kind === 'question') {
    const [before, now] = [full, got].map((predictions) => item.right(predictions.map((p) => p.best)));
    tally.questions++;
    if (before) tally.answeredFull++;
    if (now) tally.answered++;
    if (before && !now) tally.lost++;
    return;
  }
  item.continuation.forEach((target, at) => {
    const [p, q] = [full[at]!, got[at]!];
    tally.positions++;
    tally.fullLoss -= p.logs[target]!;
    tally.loss -= q.logs[target]!;
    if (p.best === q.best) tally.agreed++;
    for (let v = 0; v < p.logs.length; v++) tally.divergence += Math.exp(p.logs[v]!) * (p.logs[v]! - q.logs[v]!);
  });
}

function summarise(policy: Policy, t: Tally): PolicyQuality {
  const mean = (sum: number): number | null => (t.positions > 0 ? sum / t.positions : null),
    [full, own] = [t.fullLoss, t.loss].map((sum) => Math.exp(sum / t.positions)) as [number, number];
  return {
    policy,
    positions: t.positions,
    perplexity: t.positions > 0 ? { full, policy: own, change: own / full - 1 } : null,
    divergence: mean(t.divergence),
    top1Agreement: mean(t.agreed),
    questions: t.questions,
    answeredFull: t.answeredFull,
    answered: t.answered,
    lost: t.lost,
    seconds: t.ms / 1e3,
  };
}

// ---- runs -------------------------------------------------------------------------------------------------------------------------------

interface Model {
  readonly artefact: Artefact;
  readonly client: Pick<ModelWeights, 'shape' | 'embed' | 'positions' | 'finalNorm' | 'finalNormBias' | 'head'>;
  readonly plan: ModelPlan;
}

/** Keys and values of a text's private tokens, a layer each: [tokens, kvHeads * headDim]. */
interface CachedText {
  readonly keys: readonly Float64Array[];
  readonly values: readonly Float64Array[];
}

const noInput = (): undefined => undefined,
  noOutput = (): void => undefined;

function cacheText({ artefact, client, plan }: Model, ids: readonly number[]): CachedText {
  const past = artefact.prefixIds.length,
    rows = ids.length - past,
    { width, kvHeads, headDim } = artefact.shape,
    float = new Float({ next: () => embedTokens(client, ids.slice(past), past), emit: noOutput }),
    caches = createCache(float, plan, ids.length);
  drive(
    (function* () {
      const x = yield* float.input(rows * width, plan.residualScale);
      yield* forward(float, plan, caches, x, rows, { slots: past, position: past, unused: undefined });
    })(),
  );
  const byToken = (real: Float64Array): Float64Array =>
    Float64Array.from({ length: rows * kvHeads * headDim }, (_, i) => {
      const d = i % headDim,
        h = Math.floor(i / headDim) % kvHeads,
        t = Math.floor(i / (headDim * kvHeads));
      return real[(h * ids.length + past + t) * headDim + d]!;
    });
  return { keys: caches.map((c) => byToken(c.keys.real!)), values: caches.map((c) => byToken(c.values.real!)) };
}

/**
 * A session: `prompt` whose beginning is cached, further tokens of it as one batch (all that vote, where the policy evicts), its last one alone, then the item's
 * tokens: every prediction is under the policy.
 */
function runPolicy({ artefact, client, plan }: Model, policy: Policy, cached: CachedText, whole: readonly number[], item: QualityItem): Prediction[] {
  const past = artefact.prefixIds.length,
    { kvHeads, headDim, eosIds } = artefact.shape,
    prompt = whole.slice(0, -1),
    tokens = prompt.length - past,
    batch = Math.max(item.prompt.length - 1, policy.static ? votingQueries(policy.static, tokens) : 1),
    filled = tokens - batch,
    most = item.kind === 'text' ? item.continuation.length : item.most,
    predictions: Prediction[] = [];
  // In the order of programs/filled.ts: layers, blocks of tokens, keys before values.
  let layer = 0,
    at = 0,
    keysNext = true;
  const filling = (size: number): Float64Array => {
    if (at === filled * kvHeads * headDim) {
      layer++;
      at = 0;
    }
    const part = (keysNext ? cached.keys : cached.values)[layer]!.subarray(at, at + size);
    if (!keysNext) at += size;
    keysNext = !keysNext;
    return part;
  };
  let fed = 0;
  const token = (): number | undefined => {
    const last = predictions.at(-1)?.best;
    if (last === undefined) return whole.at(-1);
    if (item.kind === 'text') return item.continuation[predictions.length - 1];
    return eosIds.includes(last) ? undefined : last;
  };
  const next = (): Float64Array | undefined => {
    if (fed === 0) return embedTokens(client, prompt.slice(-batch), (fed = prompt.length) - batch);
    const id = token();
    return id === undefined ? undefined : embedTokens(client, [id], fed++);
  };
  let steps = 0;
  const emit = (hidden: Float64Array): void => {
    if (steps++ === 0) return;
    const z = headLogits(client, hidden, 1),
      { best, logSum } = describe(z);
    predictions.push({ best, logs: item.kind === 'text' ? Float32Array.from(z, (v) => v - logSum) : new Float32Array(0) });
  };
  drive(session(new Float({ next, emit, filling }), plan, { tokens: batch, answer: most + 1 }, batch + most, filled, policy, true));
  return predictions;
}

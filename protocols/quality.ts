/**
 * What cache policies cost in quality: the same texts, questions and weights under every policy, against the full cache, on the Float engine. A text's keys and
 * values are computed once; its prompts' ends once for all policies; then the tokens after a prompt go as one batch for several policies, each row under its
 * policy's mask (`qualityAttention.ts`). Texts are teacher-forced. Answers are greedy, by drafts: a batch tells how far a draft is what a policy says, which goes
 * on from there with the rest of the draft. All integers of the artefact are used, roundings of the protocol are not: `evaluate` measures those.
 */
import { bindPlan, clientTensors, type Artefact } from './artefact.ts';
import { policyCost } from './cost.ts';
import { Float } from './engines/float.ts';
import { describe, drive, headLogits } from './evaluate.ts';
import { embedTokens } from './models/embedding.ts';
import type { ModelShape } from './models/config.ts';
import type { ModelWeights } from './models/weights.ts';
import { chooserOf, FULL, PRESETS, votingQueries, type Policy } from './policy.ts';
import type { ModelPlan } from './programs/plan.ts';
import { attendedShare, Branch, Importance, newAttentionTally, type AttentionTally, type Measured } from './qualityAttention.ts';
import { realCaches, realForward, softmaxRow, type Attend, type Logits, type RealCache } from './qualityForward.ts';

/** A text that several runs begin with, as token ids that begin with the artefact's public prefix, and what comes after it. */
export interface QualityText {
  readonly ids: readonly number[];
  readonly items: readonly QualityItem[];
}

/** Tokens that complete the prompt, then either tokens to predict, or an answer of at most so many tokens that is right or not. */
export type QualityItem =
  | { readonly kind: 'text'; readonly prompt: readonly number[]; readonly continuation: readonly number[] }
  | {
      readonly kind: 'question';
      readonly prompt: readonly number[];
      readonly most: number;
      /** What the model may answer: the closer, the less there is to compute. */
      readonly draft: readonly number[];
      readonly right: (ids: readonly number[]) => boolean;
    };

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
  /** Tokens that a token attends to, of those before eviction and itself: mean over layers, heads and prompts. */
  readonly attended: number;
  /** Share of full attention's mass that is on attended tokens, mean over layers, heads and queries. */
  readonly recall: number;
  /** The same by layer. */
  readonly recallByLayer: readonly number[];
  /** The least of a query, by layer and key/value head: a head that looks something up far away shows here. */
  readonly leastRecall: readonly number[];
  /** Share of a head's choice that its neighbour in the layer before chose as well, where both choose; null where no two do. */
  readonly overlap: number | null;
  /** Largest difference of a row's cluster scores, nats, by layer; empty without selection. */
  readonly spans: readonly number[];
  /** Rankings whose scores lay further apart than the quantiser takes, of so many. */
  readonly outside: number;
  readonly rankings: number;
  /** Of a token at the longest prompt, all parties together, headers included; the eviction's once. */
  readonly cost: {
    readonly promptTokens: number;
    readonly rounds: number;
    readonly onlineBytes: number;
    readonly dealtBytes: number;
    readonly evictionBytes: number;
  };
  readonly seconds: number;
}

export interface QualityOptions extends Measured {
  readonly artefact: Artefact;
  readonly policies: readonly Policy[];
  readonly texts: readonly QualityText[];
  /** Texts' keys and values, kept from one call to the next. */
  readonly kept?: Map<QualityText, readonly RealCache[]> | undefined;
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
  readonly attention: AttentionTally;
}

/** Rows of a batch, about, unless one policy has more. */
const BATCH_ROWS = 192;

/** One row a policy, in their order. */
export function measureQuality(o: QualityOptions): PolicyQuality[] {
  const { artefact, policies, texts } = o,
    model: Model = {
      artefact,
      client: { shape: artefact.shape, ...clientTensors(artefact) },
      plan: bindPlan(new Float({ next: () => undefined, emit: noOutput }), artefact),
      how: { exact: o.exact, shadow: o.shadow },
    },
    runs = policies.map((policy): Run => ({ policy, tally: newTally(artefact.shape) }));
  const prompts: number[] = [];
  for (const [t, text] of texts.entries()) {
    const say = (what: string): void => o.onProgress?.(`text ${t + 1} of ${texts.length}, ${what}`);
    say(`${text.ids.length} tokens`);
    const cached = o.kept?.get(text) ?? cacheText(model, text);
    o.kept?.set(text, cached);
    for (const [i, item] of text.items.entries()) {
      say(`${item.kind} ${i + 1} of ${text.items.length}, ${policies.length} policies`);
      const prompt = readPrompt(model, cached, text, item, policies);
      prompts.push(prompt.slots - artefact.prefixIds.length);
      measureItem(model, prompt, item, runs);
    }
  }
  return runs.map((run) => summarise(artefact, run, prompts));
}

/** A measured difference of scores times so much is what the quantiser takes, and at least so many nats. */
const SPREAD_FACTOR = 2,
  LEAST_SPREAD = 8;

/**
 * Policies whose scores are quantised as finely as they may be: those without a spread of their own get for each choosing layer twice the largest difference of a
 * row's scores on these texts, in whole nats. A later row that leaves it is ranked wrongly, in that head and for that token.
 */
export function withSpreads(o: QualityOptions): Policy[] {
  const bare = o.policies.filter((p) => p.dynamic && p.dynamic.spread === undefined),
    rows = bare.length > 0 ? measureQuality({ ...o, policies: bare, exact: true }) : [],
    { layers } = o.artefact.shape;
  return o.policies.map((p) => {
    const row = rows[bare.indexOf(p)];
    if (!row) return p;
    const own = row.spans.flatMap((span, l): [string, Policy['layers'][string]][] =>
      p.skipLayers.includes(l) || chooserOf(p, l, layers) !== l
        ? []
        : [[String(l), { ...p.layers[l], spread: p.layers[l]?.spread ?? Math.max(LEAST_SPREAD, Math.ceil(SPREAD_FACTOR * span)) }]],
    );
    return { ...p, layers: { ...p.layers, ...Object.fromEntries(own) } };
  });
}

/** Clusters of 16 that streaming layers attend to: the first, which hold the public prefix and the sink, and the newest. */
const STREAMING = { first: 2, recent: 16 };
/** Shares of the key/value heads that stream. */
const STREAMING_SHARES = [0.1, 0.2, 0.35, 0.5];

/**
 * Policies under which some key/value heads attend to the beginning and the newest 256 tokens alone, the others to everything: those heads that pay least
 * attention to anything else on these texts. Nothing is ranked, and the other logits of streaming heads are neither opened nor exponentiated.
 */
export function streamingPolicies(o: Omit<QualityOptions, 'policies'>): Policy[] {
  const { layers, kvHeads } = o.artefact.shape,
    heads = count(0, layers * kvHeads),
    policy = (name: string, chosen: readonly number[]): Policy => {
      const of = (l: number): number[] => chosen.filter((h) => Math.floor(h / kvHeads) === l).map((h) => h % kvHeads);
      return {
        ...PRESETS.mpcache,
        name,
        dynamic: { ...PRESETS.mpcache.dynamic!, ratio: [1], score: 'mean', perHead: 'kv', always: STREAMING },
        skipLayers: count(0, layers).filter((l) => of(l).length === 0),
        streaming: Object.fromEntries(count(0, layers).flatMap((l) => (of(l).length > 0 ? [[String(l), of(l)]] : []))),
      };
    },
    [row] = measureQuality({ ...o, policies: [policy('streaming', heads)], shadow: true }),
    order = heads.toSorted((a, b) => row!.leastRecall[b]! - row!.leastRecall[a]!);
  return STREAMING_SHARES.map((share) => {
    const chosen = order.slice(0, Math.max(1, Math.round(share * heads.length))).sort((a, b) => a - b);
    return policy(`streaming-${chosen.length}`, chosen);
  });
}

const newTally = (shape: ModelShape): Tally => ({
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
  attention: newAttentionTally(shape),
});

function measureItem(model: Model, prompt: Prompt, item: QualityItem, runs: readonly Run[]): void {
  const full: Run = { policy: FULL, tally: newTally(model.plan.shape) };
  if (item.kind === 'question') {
    const answers = answer(model, prompt, item, item.draft, [full]),
      before = item.right(answers[0]!);
    answer(model, prompt, item, answers[0]!, runs).forEach((ids, n) => {
      const { tally } = runs[n]!,
        now = item.right(ids);
      tally.questions++;
      if (before) tally.answeredFull++;
      if (now) tally.answered++;
      if (before && !now) tally.lost++;
    });
    return;
  }
  const fed = [prompt.last, ...item.continuation.slice(0, -1)],
    [reference] = predict(model, prompt, [{ run: full, ids: fed }], 'logs');
  for (const run of runs) {
    const [predictions] = predict(model, prompt, [{ run, ids: fed }], 'logs'),
      { tally } = run;
    item.continuation.forEach((target, at) => {
      const [p, q] = [reference![at]!, predictions![at]!];
      tally.positions++;
      tally.fullLoss -= p.logs[target]!;
      tally.loss -= q.logs[target]!;
      if (p.best === q.best) tally.agreed++;
      for (let v = 0; v < p.logs.length; v++) tally.divergence += Math.exp(p.logs[v]!) * (p.logs[v]! - q.logs[v]!);
    });
  }
}

function summarise(artefact: Artefact, { policy, tally: t }: Run, prompts: readonly number[]): PolicyQuality {
  const mean = (sum: number): number | null => (t.positions > 0 ? sum / t.positions : null),
    [full, own] = [t.fullLoss, t.loss].map((sum) => Math.exp(sum / t.positions)) as [number, number],
    { attention: a } = t,
    promptTokens = Math.max(...prompts) + 1,
    { token, eviction } = policyCost(artefact, policy, promptTokens);
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
    attended: prompts.reduce((sum, n) => sum + attendedShare(policy, artefact, n), 0) / prompts.length,
    recall: a.recall.reduce((x, y) => x + y, 0) / a.rows,
    recallByLayer: a.recall.map((sum) => (sum * a.recall.length) / a.rows),
    leastRecall: a.leastRecall,
    overlap: a.compared > 0 ? a.overlap / a.compared : null,
    spans: policy.dynamic ? a.spans : [],
    outside: a.outside,
    rankings: a.choosing,
    cost: { promptTokens, rounds: token.rounds, onlineBytes: token.onlineBytes, dealtBytes: token.dealtBytes, evictionBytes: eviction?.bytes ?? 0 },
    seconds: t.ms / 1e3,
  };
}

// ---- runs -------------------------------------------------------------------------------------------------------------------------------

interface Model {
  readonly artefact: Artefact;
  readonly client: Pick<ModelWeights, 'shape' | 'embed' | 'positions' | 'finalNorm' | 'finalNormBias' | 'head'>;
  readonly plan: ModelPlan;
  readonly how: Measured;
}

interface Run {
  readonly policy: Policy;
  readonly tally: Tally;
}

/** A prompt without its last token, in caches that have room for what comes after. */
interface Prompt {
  readonly caches: readonly RealCache[];
  readonly slots: number;
  readonly last: number;
  readonly importance: readonly Importance[];
}

const noOutput = (): void => undefined;

/** Tokens of a batch and the positions they stand at. */
interface Rows {
  readonly ids: readonly number[];
  readonly positions: readonly number[];
}

/** Hidden states [rows, width] of tokens that come after the first `slots` slots. */
function run({ client, plan }: Model, caches: readonly RealCache[], slots: number, { ids, positions }: Rows, attend: Attend): Float64Array {
  const { width } = plan.shape,
    float = new Float({
      next: () => {
        const x = new Float64Array(ids.length * width);
        ids.forEach((id, i) => x.set(embedTokens(client, [id], positions[i]!), i * width));
        return x;
      },
      emit: noOutput,
    });
  let hidden: Float64Array | undefined;
  drive(
    (function* () {
      const x = yield* float.input(ids.length * width, plan.residualScale);
      hidden = (yield* realForward(float, plan, caches, x, positions, slots, attend)).real;
    })(),
  );
  return hidden!;
}

function causal({ z, stride, past, queries }: Logits): void {
  for (let row = 0; row < z.length / stride; row++) softmaxRow(z, row * stride, past + (row % queries) + 1);
}

/** Tokens of a text that go in one batch. */
const TEXT_ROWS = 256;

const count = (from: number, n: number): number[] => Array.from({ length: n }, (_, i) => from + i);

function cacheText(model: Model, { ids }: QualityText): RealCache[] {
  const past = model.artefact.prefixIds.length,
    caches = realCaches(model.plan, ids.length);
  for (let at = past; at < ids.length; at += TEXT_ROWS) {
    const part = ids.slice(at, at + TEXT_ROWS);
    run(model, caches, at, { ids: part, positions: count(at, part.length) }, (_, tile) => causal(tile));
  }
  return caches;
}

/** The prompt's end as one batch, all tokens that vote under a policy in it. */
function readPrompt(model: Model, cached: readonly RealCache[], text: QualityText, item: QualityItem, policies: readonly Policy[]): Prompt {
  const { plan, artefact } = model,
    { kvHeads, headDim } = plan.shape,
    whole = [...text.ids, ...item.prompt],
    slots = whole.length - 1,
    tokens = slots - artefact.prefixIds.length,
    most = item.kind === 'text' ? item.continuation.length : item.most,
    caches = realCaches(plan, slots + Math.max(BATCH_ROWS, most + 1)),
    importance: Importance[] = [];
  for (const { static: rule } of policies) if (rule && !importance.some((i) => i.serves(rule))) importance.push(new Importance(rule, plan, tokens));
  caches.forEach((c, l) => {
    for (let h = 0; h < kvHeads; h++) {
      const { capacity } = cached[l]!,
        part = (x: Float32Array): Float32Array => x.subarray(h * capacity * headDim, (h + 1) * capacity * headDim);
      c.keys.set(part(cached[l]!.keys), h * c.capacity * headDim);
      c.values.set(part(cached[l]!.values), h * c.capacity * headDim);
    }
  });
  const batch = Math.max(slots - text.ids.length, ...importance.map((i) => votingQueries(i.rule, tokens)));
  run(model, caches, slots - batch, { ids: whole.slice(slots - batch, slots), positions: count(slots - batch, batch) }, (layer, tile) => {
    causal(tile);
    for (const i of importance) i.add(layer, tile);
  });
  return { caches, slots, last: whole[slots]!, importance };
}

/** What is predicted after each of the tokens that follow a prompt, for several policies in one batch. */
function predict(
  model: Model,
  { caches, slots, importance }: Prompt,
  jobs: readonly { readonly run: Run; readonly ids: readonly number[] }[],
  what: 'logs' | 'best',
): Prediction[][] {
  const started = performance.now(),
    { plan, client } = model,
    { vocab } = plan.shape,
    branches: Branch[] = [];
  let rows = 0;
  for (const job of jobs) {
    const { policy, tally } = job.run,
      rule = policy.static;
    branches.push(new Branch(policy, plan, slots, job.ids.length, rows, rule ? importance.find((i) => i.serves(rule)) : undefined, tally.attention, model.how));
    rows += job.ids.length;
  }
  const hidden = run(
      model,
      caches,
      slots,
      { ids: jobs.flatMap((j) => j.ids), positions: jobs.flatMap((j) => count(slots, j.ids.length)) },
      (layer, tile, cache) => {
        for (const b of branches) b.attend(layer, tile, cache);
      },
    ),
    z = headLogits(client, hidden, rows);
  let at = 0;
  const predictions = jobs.map((job) =>
    job.ids.map((): Prediction => {
      const own = z.subarray(at * vocab, ++at * vocab),
        { best, logSum } = describe(own);
      return { best, logs: what === 'logs' ? Float32Array.from(own, (v) => v - logSum) : new Float32Array(0) };
    }),
  );
  const each = (performance.now() - started) / jobs.length;
  for (const { run: r } of jobs) r.tally.ms += each;
  return predictions;
}

/** Greedy answers of several policies, to the end-of-sequence token or to their length: `draft` is tried, and again what is left of it after each difference. */
function answer(
  model: Model,
  prompt: Prompt,
  { most }: Extract<QualityItem, { kind: 'question' }>,
  draft: readonly number[],
  runs: readonly Run[],
): number[][] {
  const { eosIds } = model.artefact.shape,
    said: number[][] = runs.map(() => []),
    done = (ids: readonly number[]): boolean => ids.length >= most || eosIds.includes(ids.at(-1)!);
  for (let open = runs.map((_, n) => n); open.length > 0; open = open.filter((n) => !done(said[n]!))) {
    const tried = open.map((n) => [...said[n]!, ...draft.slice(said[n]!.length, most - 1)]),
      each = Math.max(...tried.map((ids) => ids.length + 1)),
      size = Math.max(1, Math.floor(BATCH_ROWS / each));
    for (let first = 0; first < open.length; first += size) {
      const part = open.slice(first, first + size),
        predictions = predict(
          model,
          prompt,
          part.map((n, i) => ({ run: runs[n]!, ids: [prompt.last, ...tried[first + i]!] })),
          'best',
        );
      part.forEach((n, i) => {
        const ids = said[n]!,
          drafted = tried[first + i]!;
        for (let at = ids.length; at <= drafted.length && !done(ids); at++) {
          ids.push(predictions[i]![at]!.best);
          if (ids[at] !== drafted[at]) break;
        }
      });
    }
  }
  return said;
}

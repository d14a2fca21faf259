/**
 * How faithful an artefact is: teacher-forced, the model in float32 against the Fixed engine (which is the protocol bit for bit), and a sample through the
 * protocol itself in one process. Perplexity, agreement of the most likely token, logit errors, distance of every value to the edge of its domain, worst layer.
 */
import { bindPlan, clientTensors, partyBytes, type Artefact } from './artefact.ts';
import type { Program } from './engines/effects.ts';
import type { Engine } from './engines/engine.ts';
import { Fixed } from './engines/fixed.ts';
import { Float } from './engines/float.ts';
import { freshKeys, place, runTogether } from './engines/together.ts';
import { embedTokens } from './models/embedding.ts';
import { finalNorm } from './models/finalNorm.ts';
import type { ModelWeights } from './models/weights.ts';
import type { Policy } from './policy.ts';
import { floatPlan } from './prepare.ts';
import { createCache } from './programs/attention.ts';
import type { ModelPlan } from './programs/plan.ts';
import { forward, session } from './programs/transformer.ts';
import { randomWords } from './randomWords.ts';
import { realProduct } from './realProduct.ts';

export interface EvaluateOptions {
  readonly artefact: Artefact;
  /** Of the same model, unquantised. */
  readonly weights: ModelWeights;
  /** Token ids, each list beginning with the artefact's public prefix; the tokens after it are predicted one by one. */
  readonly windows: readonly (readonly number[])[];
  /** Private tokens of the first window that also go through the protocol; 0: none. */
  readonly sample: number;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface Evaluation {
  /** Predicted positions. */
  readonly positions: number;
  readonly perplexity: { readonly float: number; readonly fixed: number; readonly change: number };
  /** Share of positions at which both find the same most likely token. */
  readonly top1Agreement: number;
  /** The largest margin (float, best to second logit) at which they differ; 0 if they never do. */
  readonly largestMissedMargin: number;
  /** Mean Kullback-Leibler divergence of the fixed from the float distribution, nats. */
  readonly divergence: number;
  readonly logitError: { readonly rms: number; readonly max: number };
  /** Per kind of domain the layer that comes closest to its edge: part of the way from the middle to the edge that values use, 1 is the edge. */
  readonly domains: readonly { readonly what: string; readonly layer: number; readonly used: number }[];
  /** Error of the residual stream after a layer against exact functions on the same integer weights, relative to its size. */
  readonly worstLayer: { readonly layer: number; readonly relativeError: number };
  readonly protocol: { readonly positions: number; readonly equalsFixed: boolean } | undefined;
}

const ROWS = 16;
/** Keeps the Fixed engine's pages within what wasm32 addresses; untouched ones cost nothing. */
const FIXED_BYTES = 3_500_000_000;

export function evaluate(o: EvaluateOptions): Evaluation {
  const { artefact, weights } = o,
    { shape } = artefact,
    past = artefact.prefixIds.length,
    client = { shape, ...clientTensors(artefact) },
    reference = floatPlan(weights);
  let next: Float64Array = new Float64Array(0),
    hidden: Float64Array = new Float64Array(0);
  const keys = freshKeys(),
    fixed = new Fixed({ ...place('wasm', FIXED_BYTES), keys: { ...keys.dealer, coins: keys.coins }, next: () => next, emit: (v) => (hidden = v) }),
    plan = bindPlan(fixed, artefact),
    domains = new Map<string, { what: string; layer: number; used: number }>(),
    errors = Array.from({ length: shape.layers }, () => ({ error: 0, size: 0 }));
  fixed.onRange = (what, layer, min, max, low, high) => {
    // Of a domain that begins at 0, sums are positive: only the upper edge matters.
    const middle = low === 0 ? 0 : (low + high) / 2,
      used = Math.max(max - middle, low === 0 ? 0 : middle - min) / (high - middle);
    if (used > (domains.get(what)?.used ?? -1)) domains.set(what, { what, layer, used });
  };
  fixed.watch = (name, x) => {
    const [layer, what] = name.split('.') as [string, string];
    if (what !== 'stream') return;
    const at = errors[Number(layer)]!;
    fixed.values(x).forEach((v, i) => {
      at.error += (v - x.real![i]!) ** 2;
      at.size += x.real![i]! ** 2;
    });
  };
  let positions = 0,
    agreed = 0,
    missed = 0,
    floatLoss = 0,
    fixedLoss = 0,
    divergence = 0,
    squares = 0,
    largest = 0;
  o.windows.forEach((ids, w) => {
    const rows = ids.length - 1 - past,
      float = runFloat(reference, weights, ids.slice(0, -1)).subarray(past * shape.width),
      mark = fixed.mark();
    next = embedTokens(client, ids.slice(past, -1), past);
    drive(positionsOf(fixed, plan, rows));
    fixed.release(mark);
    // A few rows at a time: a vocabulary of logits for all would be large.
    for (let first = 0; first < rows; first += ROWS) {
      const n = Math.min(ROWS, rows - first),
        [exact, mine] = [float, hidden].map((h) => headLogits(client, h.subarray(first * shape.width, (first + n) * shape.width), n));
      for (let r = 0; r < n; r++) {
        const [a, b] = [exact!, mine!].map((z) => z.subarray(r * shape.vocab, (r + 1) * shape.vocab)) as [Float64Array, Float64Array],
          p = describe(a),
          q = describe(b),
          target = ids[past + first + r + 1]!;
        positions++;
        if (p.best === q.best) agreed++;
        else missed = Math.max(missed, p.margin);
        floatLoss += p.logSum - a[target]!;
        fixedLoss += q.logSum - b[target]!;
        for (let i = 0; i < a.length; i++) {
          const d = a[i]! - b[i]!;
          squares += (d * d) / a.length;
          if (Math.abs(d) > largest) largest = Math.abs(d);
          divergence += Math.exp(a[i]! - p.logSum) * (d - p.logSum + q.logSum);
        }
      }
    }
    o.onProgress?.(w + 1, o.windows.length);
  });
  const relative = errors.map(({ error, size }, layer) => ({ layer, relativeError: Math.sqrt(error / Math.max(size, 1e-30)) }));
  const perplexity = { float: Math.exp(floatLoss / positions), fixed: Math.exp(fixedLoss / positions) };
  return {
    positions,
    perplexity: { ...perplexity, change: perplexity.fixed / perplexity.float - 1 },
    top1Agreement: agreed / positions,
    largestMissedMargin: missed,
    divergence: divergence / positions,
    logitError: { rms: Math.sqrt(squares / positions), max: largest },
    domains: [...domains.values()].sort((a, b) => b.used - a.used),
    worstLayer: relative.reduce((a, b) => (b.relativeError > a.relativeError ? b : a)),
    protocol: o.sample > 0 ? sampleProtocol(o, Math.min(o.sample, o.windows[0]!.length - 1 - past)) : undefined,
  };
}

/** Hidden states of all positions as one output. */
function* positionsOf(e: Engine, plan: ModelPlan, rows: number): Program<void> {
  const past = plan.prefixIds.length,
    caches = createCache(e, plan, past + rows),
    x = yield* e.input(rows * plan.shape.width, plan.residualScale);
  yield* e.output(yield* forward(e, plan, caches, x, rows, { slots: past, position: past, unused: undefined }, true));
  e.endStep();
}

/** Runs a program without parties to its end. */
export function drive(program: Program<unknown>): void {
  for (const effect of program) if (effect.kind === 'job') void effect.run();
}

/** Residual stream [ids.length, width] after the last layer. */
function runFloat(plan: ModelPlan, w: ModelWeights, ids: readonly number[]): Float64Array {
  let out: Float64Array = new Float64Array(0);
  drive(positionsOf(new Float({ next: () => embedTokens(w, ids, 0), emit: (v) => (out = v) }), plan, ids.length));
  return out;
}

type Client = Pick<ModelWeights, 'shape' | 'finalNorm' | 'finalNormBias' | 'head'>;

/** The client's final norm and head on the residual stream of `rows` positions -> [rows, vocab]. */
export function headLogits(w: Client, hidden: Float64Array, rows: number): Float64Array {
  const { width, vocab } = w.shape,
    x = new Float64Array(rows * width),
    out = new Float64Array(rows * vocab);
  for (let r = 0; r < rows; r++) x.set(finalNorm(w, hidden.subarray(r * width, (r + 1) * width)), r * width);
  realProduct(out, x, { pointer: 0, array: new Int16Array(0), real: w.head, inner: width, cols: vocab, fraction: 0 }, rows);
  return out;
}

/** Most likely token, its margin, and the logarithm of the sum of exponentials. */
export function describe(z: Float64Array): { best: number; margin: number; logSum: number } {
  let best = 0,
    second = -Infinity,
    sum = 0;
  for (let i = 1; i < z.length; i++)
    if (z[i]! > z[best]!) {
      second = z[best]!;
      best = i;
    } else if (z[i]! > second) second = z[i]!;
  for (const v of z) sum += Math.exp(v - z[best]!);
  return { best, margin: z[best]! - second, logSum: z[best]! + Math.log(sum) };
}

/**
 * A session under a policy, an answer of `answer` given tokens after a prompt, through the protocol in one process: whether all that the client gets equals the Fixed
 * engine's bit for bit. ids begin with the public prefix; the last `answer - 1` of them are the answer's.
 */
export function sampleSession(artefact: Artefact, ids: readonly number[], answer: number, policy: Policy): NonNullable<Evaluation['protocol']> {
  const past = artefact.prefixIds.length,
    client = { shape: artefact.shape, ...clientTensors(artefact) },
    prompt = ids.length - (answer - 1),
    inputs = [embedTokens(client, ids.slice(past, prompt), past), ...ids.slice(prompt).map((id, i) => embedTokens(client, [id], prompt + i))];
  return {
    positions: answer,
    equalsFixed: equalsFixed(artefact, inputs, (e) => session(e, bindPlan(e, artefact), { tokens: prompt - past, answer }, ids.length - past, 0, policy)),
  };
}

function sampleProtocol({ artefact, windows }: EvaluateOptions, rows: number): NonNullable<Evaluation['protocol']> {
  const past = artefact.prefixIds.length,
    values = embedTokens({ shape: artefact.shape, ...clientTensors(artefact) }, windows[0]!.slice(past, past + rows), past);
  return { positions: rows, equalsFixed: equalsFixed(artefact, [values], (e) => positionsOf(e, bindPlan(e, artefact), rows)) };
}

/** Whether the outputs of a program on these inputs of the client, as three parties in one process, are those of the Fixed engine. */
function equalsFixed(artefact: Artefact, inputs: readonly Float64Array[], program: (e: Engine) => Program<void>): boolean {
  const keys = freshKeys(),
    memoryBytes = partyBytes(artefact) + (768 << 20),
    want: Float64Array[] = [],
    waiting = [...inputs];
  drive(
    program(
      new Fixed({
        ...place('wasm', memoryBytes),
        keys: { ...keys.dealer, coins: keys.coins },
        next: () => waiting.shift()!,
        emit: (v) => void want.push(Float64Array.from(v)),
      }),
    ),
  );
  const unit = 2 ** artefact.residualScale,
    masks = inputs.map((x) => randomWords(x.length)),
    others = inputs.map((x, i) => BigInt64Array.from(x, (v, j) => BigInt(Math.round(v * unit)) - masks[i]![j]!)),
    bytes = (x: { readonly buffer: ArrayBuffer }): Uint8Array => new Uint8Array(x.buffer),
    { outputs } = runTogether(program, keys, [masks.map(bytes), others.map(bytes)], { memoryBytes });
  return want.every((values, step) => {
    const [a, b] = outputs.map((list) => new BigInt64Array(list[step]!.buffer));
    return values.every((v, i) => Number(BigInt.asIntN(64, a![i]! + b![i]!)) / unit === v);
  });
}

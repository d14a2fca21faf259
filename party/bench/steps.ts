/**
 * One kind of step through three real processes and a client: a token at a context whose cache is filled with random wires, or a prefill. Rows have the
 * time with the preprocessing ready, the time with the dealer working beside, the dealer's own time, costs measured and predicted, memory.
 */
import { execFileSync } from 'node:child_process';
import { packageRoot } from '../../client/node.ts';
import { chooser } from '../../client/head.ts';
import { PrivateSession, type StepReport } from '../../client/session.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { meterSession } from '../../protocols/cost.ts';
import { CachetError } from '../../protocols/errors.ts';
import { keptTokens, type Policy } from '../../protocols/policy.ts';
import { AHEAD_TOKENS } from '../../protocols/programs/ahead.ts';
import { checkSpec, PROTOCOL_VERSION, weightsOf, type SessionSpec } from '../../protocols/session.ts';
import { engineSpace } from '../engine.ts';
import { Trio, type TrioEvent, type TrioOptions } from '../launch.ts';
import { reach } from '../reach.ts';
import { describeMachine, median, peakResident } from '../terminal.ts';

/** Milliseconds. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Of a token or prefill; with private weights a mean over the session's steps, some of which bring what is dealt ahead for later ones. */
interface Cost {
  readonly rounds: number;
  /** All parties together, headers included. */
  readonly onlineBytes: number;
  readonly dealtBytes: number;
}

export interface StepsRow extends Cost {
  readonly task: 'decode' | 'prefill';
  readonly model: string;
  /** Its name. */
  readonly policy: string;
  /** Of the context, what static eviction leaves, public prefix included: a mean over the layers. */
  readonly kept: number;
  /** That eviction, once: rounds, payload online and dealt, and what the first token after it takes longer than the others. null where the policy has none. */
  readonly eviction: { readonly rounds: number; readonly bytes: number; readonly ms: Spread } | null;
  readonly weights: SessionSpec['weights'];
  /** decode: tokens in the cache, the new one not among them; prefill: the prompt's private tokens. */
  readonly context: number;
  readonly parties: 3;
  /** Of each party's engine. */
  readonly threads: number;
  readonly net: string;
  /** Preprocessing ready: from the client's sending to its next token. null: a prefill whose material is more than may wait at an evaluator. */
  readonly onlineMs: Spread | null;
  /** The helper's engine alone. */
  readonly dealMs: number;
  /** Steps one after another, the helper dealing beside, once what it had dealt ahead (`after` tokens) may be used up. */
  readonly endToEndMs: Spread;
  readonly after: number;
  /** Of it, payload between norm and output projection, online and dealt. */
  readonly attentionBytes: number;
  readonly predicted: Cost;
  readonly peakRssMiB: { readonly p0: number; readonly p1: number; readonly helper: number; readonly client: number };
  readonly commit: string | null;
  readonly cpu: string;
}

export interface StepsOptions {
  readonly task: 'decode' | 'prefill';
  readonly model: string;
  /** The client's. */
  readonly artefact: Artefact;
  /** Of a private model: what each party is given. */
  readonly parts: TrioOptions['models'] | undefined;
  readonly policy: Policy;
  readonly net: string;
  /** decode: cached tokens, the public prefix among them. */
  readonly context: number;
  /** Tokens of a row's session; prefill: of the prompt. */
  readonly tokens: number;
  readonly reps: number;
  /** Of each party's engine. */
  readonly threads: number;
  /** Dealt material that may wait at a party, MiB. */
  readonly aheadMib: number;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

/** Tokens that warm the processes up, and in a session with the preprocessing ready its memory. */
const WARM_TOKENS = 3,
  WARM_READY = 6;
/** Tokens' material that fits the evaluators' and the helper's rings together. */
const DEALT_AT_ONCE = 8;
const COLLECT_MS = 500;
/** In which evaluators have computed ahead what they can. */
const AHEAD_MS = 2_000;

const pause = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

/** @throws CachetError 'usage' for a context below the public prefix, 'limit' if the model has no room for it; what a session throws. */
export async function benchSteps(o: StepsOptions): Promise<StepsRow> {
  const { artefact, task, policy } = o,
    prefix = artefact.prefixIds.length,
    // A prompt of one token, which competes with the filled ones, then the tokens that are measured.
    evicts = task === 'decode' && policy.static !== null,
    skip = evicts ? 1 : 0,
    filled = task === 'decode' ? o.context - prefix - skip : 0,
    promptTokens = task === 'decode' ? 1 : o.tokens;
  if (filled < 0)
    throw new CachetError({ code: 'usage', what: 'context too short', expected: `${prefix + skip} cached tokens or more`, got: String(o.context) });
  const shape = (steps: number): SessionSpec => ({
    version: PROTOCOL_VERSION,
    artefact: artefact.digest,
    weights: weightsOf(artefact),
    dealer: 'helper',
    promptTokens,
    maxTokens: steps,
    context: promptTokens + steps - 1,
    filled,
    policy,
    ...(evicts && { evictFilled: true }),
  });
  const steps = task === 'decode' ? o.tokens : 1,
    metered = meterSession(artefact, shape(skip + steps)).steps,
    predicted = metered[skip]!,
    ring = engineSpace('evaluator', artefact, shape(steps), o.aheadMib, { whole: true }).rings[0],
    // Both evaluators' bytes are more than one's.
    fits = predicted.dealtBytes <= ring,
    // With private weights evaluators compute ahead for so many tokens, first before the prompt.
    ahead = weightsOf(artefact) === 'private' && task === 'decode',
    // What may be dealt before it is asked for waits at the evaluators and at the helper.
    fitting = Math.max(1, Math.floor(ring / predicted.dealtBytes)),
    group = ahead ? 2 ** Math.floor(Math.log2(Math.min(fitting, AHEAD_TOKENS))) : fitting,
    after = task === 'decode' ? Math.ceil((4 * ring) / predicted.dealtBytes) : 0;
  const warm = task === 'decode' ? WARM_READY : 0;
  checkSpec(artefact, shape(skip + Math.max(after, warm) + steps));
  const trio = await Trio.start(o.model, { net: o.net, aheadMib: o.aheadMib, threads: o.threads, benchmark: true, ...(o.parts && { models: o.parts }) }),
    choose = chooser(artefact),
    prompt = Array.from({ length: promptTokens }, (_, i) => 5 + ((i * 37) % (artefact.shape.vocab - 5))),
    last: { reports: readonly StepReport[]; ended: readonly TrioEvent[] } = { reports: [], ended: [] };
  /** Of the session before. */
  const dealMs = (): number => last.ended.find((e) => e.role === 'helper')?.stepMs ?? 0;
  const run = async (n: number, ready: boolean, name: string): Promise<number[]> => {
    const session = await PrivateSession.open({
        ...reach(trio.config, artefact, 'server', o.signal),
        artefact,
        promptTokens,
        maxTokens: skip + n,
        filled,
        policy,
        evictFilled: evicts,
      }),
      times: number[] = [];
    let ids = prompt;
    if (evicts) ids = [choose(await session.step(ids))];
    for (let i = 0; i < n; i++) {
      o.onProgress(`${name}, ${task === 'decode' ? `token ${i + 1} of ${n}` : `${promptTokens} tokens`}`);
      if (ready && (ahead ? i === 0 || (i - 1) % group === 0 : i % group === 0)) {
        // As many tokens as fit the ring, one after another as in use: after a pause a core is cold. The helper is idle when they begin.
        await session.dealtAhead();
        await pause(Math.max(dealMs() * DEALT_AT_ONCE, ahead ? AHEAD_MS : 0));
      }
      const start = performance.now(),
        result = await session.step(ids);
      ids = [choose(result)];
      times.push(performance.now() - start);
    }
    await session.stop();
    last.reports = session.reports.slice(skip);
    last.ended = await trio.ended(session.id);
    // Parties give a session's memory back before the next one's is reserved.
    await pause(COLLECT_MS);
    return times;
  };
  const online: number[] = [],
    endToEnd: number[] = [],
    evicting: number[] = [];
  try {
    await run(Math.min(steps, WARM_TOKENS), false, 'warming up');
    for (let rep = 1; rep <= o.reps; rep++) {
      const times = await run(after + steps, false, `dealing beside, ${rep} of ${o.reps}`);
      endToEnd.push(...times.slice(after));
      if (evicts) evicting.push(times[0]! - median(times.slice(1)));
      if (fits) online.push(...(await run(warm + steps, true, `dealt ahead, ${rep} of ${o.reps}`)).slice(warm));
    }
  } finally {
    await trio.stop();
  }
  const of = (role: string): TrioEvent => last.ended.find((e) => e.role === role)!,
    mib = (bytes: number): number => Math.round(bytes / 2 ** 20);
  return {
    task,
    model: o.model,
    policy: policy.name,
    kept: keptContext(policy, artefact, task === 'decode' ? o.context - prefix : promptTokens),
    eviction: evicts ? { rounds: metered[0]!.partRounds.get('eviction') ?? 0, bytes: metered[0]!.parts.get('eviction') ?? 0, ms: spread(evicting) } : null,
    weights: weightsOf(artefact),
    context: task === 'decode' ? o.context : promptTokens,
    parties: 3,
    threads: o.threads,
    net: o.net,
    onlineMs: fits ? spread(online) : null,
    dealMs: of('helper').stepMs!,
    endToEndMs: spread(endToEnd),
    after,
    ...costOf(last.reports, ahead),
    attentionBytes: predicted.parts.get('attention') ?? 0,
    predicted: costOf(ahead ? meterSession(artefact, shape(skip + last.reports.length)).steps.slice(skip) : [predicted], ahead),
    peakRssMiB: { p0: mib(of('p0').memory!), p1: mib(of('p1').memory!), helper: mib(of('helper').memory!), client: mib(peakResident()) },
    commit: commit(),
    cpu: describeMachine(),
  };
}

/** Slots of a layer after static eviction of so many private tokens, the public prefix among them: a mean over the layers. */
export function keptContext(policy: Policy, { shape, prefixIds }: Artefact, tokens: number): number {
  let sum = 0;
  for (let l = 0; l < shape.layers; l++) sum += prefixIds.length + keptTokens(policy, l, tokens, shape.layers);
  return Math.round(sum / shape.layers);
}

const spread = (ms: readonly number[]): Spread => ({ median: median(ms), min: Math.min(...ms), max: Math.max(...ms) });

/** Of the first step, or a mean over all. */
function costOf(steps: readonly Cost[], mean: boolean): Cost {
  const of = mean ? steps : steps.slice(0, 1),
    each = (cost: (s: Cost) => number): number => Math.round(of.reduce((sum, s) => sum + cost(s), 0) / of.length);
  return { rounds: each((s) => s.rounds), onlineBytes: each((s) => s.onlineBytes), dealtBytes: each((s) => s.dealtBytes) };
}

/** The sources' commit, where they are a git repository. */
function commit(): string | null {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: packageRoot(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return null;
  }
}

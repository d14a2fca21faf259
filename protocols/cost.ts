/** What a session costs, from the Meter: exact rounds and bytes of every step, without running anything. */
import { bindPlan, type Artefact } from './artefact.ts';
import type { Turn } from './engines/effects.ts';
import type { StepCost } from './engines/engine.ts';
import { Meter } from './engines/meter.ts';
import { canonicalPolicy, FULL, type Policy } from './policy.ts';
import { session } from './programs/transformer.ts';
import { turnSlots, type SessionSpec } from './session.ts';

export interface SessionCost {
  /** Of the slots filled before the first step, if there are any: not part of the sums. */
  readonly filling: StepCost | undefined;
  /** The prefill, then one step a token. Bytes are all parties' together, headers included. */
  readonly steps: readonly StepCost[];
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  /** What P0 passes on to P1 where the client deals. */
  readonly relayedBytes: number;
}

/** What one token costs with `cached` slots before it, the public prefix not counted. */
export const tokenCost = (artefact: Artefact, cached: number, policy: Policy = FULL): StepCost =>
  meterSession(artefact, { promptTokens: 1, maxTokens: 1, filled: cached, policy }).steps[0]!;

/**
 * What a policy costs over a prompt of `tokens` private tokens: the token after it, and once the eviction (its payload, online and dealt; of a
 * prompt whose heads go in tiles up to 1 % more), with the representatives of the clusters that are left.
 */
export function policyCost(
  artefact: Artefact,
  policy: Policy,
  tokens: number,
): { readonly token: StepCost; readonly eviction: { readonly rounds: number; readonly bytes: number } | null } {
  // A prompt of one token, which competes with the filled ones, then the token.
  const [prompt, token] = meterSession(artefact, { promptTokens: 1, maxTokens: 2, filled: tokens - 1, policy, evictFilled: true }, [], 0).steps;
  const once = (of: ReadonlyMap<string, number>): number => (of.get('eviction') ?? 0) + (of.get('representatives') ?? 0);
  return {
    token: token!,
    eviction: policy.static || policy.dynamic?.score === 'minmax' ? { rounds: once(prompt!.partRounds), bytes: once(prompt!.parts) } : null,
  };
}

/** A policy, and what an answer under it costs. */
export interface PolicyChoice {
  readonly policy: Policy;
  readonly token: StepCost;
  readonly eviction: { readonly rounds: number; readonly bytes: number } | null;
  /** Of the eviction and all tokens of the answer. */
  readonly bytes: number;
}

/**
 * Policies for a prompt of `tokens` private tokens and an answer of `answer`, each also without its selection, which attends to more: so that a selection never
 * makes an answer dearer. One of each rule; the first is the cheapest.
 */
export function policyChoices(artefact: Artefact, policies: readonly Policy[], tokens: number, answer: number): PolicyChoice[] {
  const rules = new Map<string, Policy>();
  for (const p of [...policies, ...policies.filter((q) => q.dynamic).map(withoutSelection)]) {
    const rule = canonicalPolicy({ ...p, name: '' });
    if (!rules.has(rule)) rules.set(rule, p);
  }
  return [...rules.values()]
    .map((policy): PolicyChoice => {
      const { token, eviction } = policyCost(artefact, policy, tokens);
      return { policy, token, eviction, bytes: answer * (token.onlineBytes + token.dealtBytes) + (eviction?.bytes ?? 0) };
    })
    .toSorted((x, y) => x.bytes - y.bytes);
}

/** The static eviction of a policy alone, or the full cache where it has none. */
const withoutSelection = (p: Policy): Policy =>
  p.static
    ? {
        ...p,
        name: `${p.name}-static`,
        dynamic: null,
        layers: Object.fromEntries(Object.entries(p.layers).flatMap(([l, own]) => (own.keep === undefined ? [] : [[l, { keep: own.keep }]]))),
        streaming: {},
      }
    : FULL;

/** Of policies that all do, the one with the fewest bytes for a prompt of `tokens` private tokens and an answer of `answer`, its selection left out where that is cheaper. */
export const cheapestPolicy = (artefact: Artefact, policies: readonly Policy[], tokens: number, answer: number): Policy =>
  policyChoices(artefact, policies, tokens, answer)[0]!.policy;

/** `turns`: those after the first. `aheadTokens`: as `session` takes it; with 0 each step has all that is dealt for it. */
export function meterSession(
  artefact: Artefact,
  spec: Pick<SessionSpec, 'promptTokens' | 'maxTokens'> & Partial<Pick<SessionSpec, 'dealer' | 'filled' | 'policy' | 'evictFilled'>>,
  turns: readonly Turn[] = [],
  aheadTokens?: number,
): SessionCost {
  const meter = new Meter(),
    first: Turn = { tokens: spec.promptTokens, answer: spec.maxTokens },
    filled = spec.filled ?? 0,
    waiting = [...turns];
  meter.relay = spec.dealer === 'client';
  for (const effect of session(
    meter,
    bindPlan(meter, artefact),
    first,
    [first, ...turns].reduce((n, t) => n + turnSlots(t), 0),
    filled,
    spec.policy,
    spec.evictFilled,
    spec.dealer === 'store' ? 0 : undefined,
    aheadTokens,
  ))
    if (effect.kind === 'turn') effect.turn = waiting.shift();
  const steps = filled > 0 ? meter.steps.slice(1) : meter.steps,
    total = (f: (s: StepCost) => number): number => steps.reduce((sum, s) => sum + f(s), 0);
  return {
    filling: filled > 0 ? meter.steps[0] : undefined,
    steps,
    rounds: total((s) => s.rounds),
    onlineBytes: total((s) => s.onlineBytes),
    dealtBytes: total((s) => s.dealtBytes),
    relayedBytes: total((s) => s.relayedBytes),
  };
}

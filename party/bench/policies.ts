/**
 * Policies side by side, from the Meter: what a token costs over a context that was evicted, and what the eviction costs once; techniques one after another, a
 * context that grows under a fixed budget, and what `auto` chooses between. Nothing is run.
 */
import type { Artefact } from '../../protocols/artefact.ts';
import { policyChoices, policyCost } from '../../protocols/cost.ts';
import { canonicalPolicy, FULL, keptTokens, type Policy } from '../../protocols/policy.ts';
import { keptContext } from './steps.ts';

export interface PolicyRow {
  readonly model: string;
  readonly policy: string;
  /** Cached tokens before eviction, the public prefix among them, and after it: a mean over the layers. */
  readonly context: number;
  readonly kept: number;
  readonly layers: number;
  /** Of a token. Bytes: all parties together, headers included; attention: payload between the projections. */
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  readonly attentionBytes: number;
  readonly eviction: { readonly rounds: number; readonly bytes: number } | null;
}

/** A policy between which `auto` chooses. */
export interface ChoiceRow {
  readonly model: string;
  readonly context: number;
  /** Tokens of the answer. */
  readonly answer: number;
  readonly policy: string;
  readonly kept: number;
  /** Of a token, of the eviction once, and of the eviction and the answer; all parties, online and dealt. */
  readonly tokenBytes: number;
  readonly evictionBytes: number;
  readonly bytes: number;
  /** By `auto`. */
  readonly taken: boolean;
}

/** A row a context and policy. @throws CachetError 'policy' for what the programs cannot follow. */
export const policyRows = (artefact: Artefact, policies: readonly Policy[], contexts: readonly number[]): PolicyRow[] =>
  contexts.flatMap((context) =>
    policies.map((policy): PolicyRow => {
      const tokens = context - artefact.prefixIds.length,
        { token, eviction } = policyCost(artefact, policy, tokens);
      return {
        model: artefact.name,
        policy: policy.name,
        context,
        kept: keptContext(policy, artefact, tokens),
        layers: artefact.shape.layers,
        rounds: token.rounds,
        onlineBytes: token.onlineBytes,
        dealtBytes: token.dealtBytes,
        attentionBytes: token.parts.get('attention') ?? 0,
        eviction,
      };
    }),
  );

/** The techniques of a policy one after another, each with those before it: eviction, selection in one level, further levels, sharing, the rest. */
export function ablation(p: Policy): Policy[] {
  const bare = { ...FULL, static: p.static },
    { dynamic } = p,
    flat = dynamic && { ...dynamic, sizes: dynamic.sizes.slice(-1), ratio: dynamic.ratio.slice(-1), reuse: 1 },
    levels = dynamic && dynamic.sizes.length > 1 ? { ...dynamic, reuse: 1 } : null;
  const steps = [
    FULL,
    ...(p.static ? [{ ...bare, name: 'static' }] : []),
    ...(flat ? [{ ...bare, dynamic: flat, name: 'selection' }] : []),
    ...(levels ? [{ ...bare, dynamic: levels, name: 'levels' }] : []),
    ...(p.sharing === 'none' ? [] : [{ ...bare, dynamic: levels ?? flat, sharing: p.sharing, name: 'sharing' }]),
  ];
  // The last step may be the whole policy already.
  return [...steps.filter((s) => canonicalPolicy({ ...s, name: p.name }) !== canonicalPolicy(p)), p];
}

/** The policy with the budget that it has of `tokens` private tokens, however long the prompt: so many survive, so many clusters of them are attended to. */
export const fixedBudget = (p: Policy, tokens: number, layers: number): Policy =>
  p.static
    ? {
        ...p,
        name: `${p.name}-fixed`,
        static: { ...p.static, keep: { tokens: keptTokens({ ...p, skipLayers: [], layers: {} }, 0, tokens, layers) } },
        layers: Object.fromEntries(
          Object.entries(p.layers).map(([l, own]) => [
            l,
            own.keep === undefined ? own : { ...own, keep: { tokens: keptTokens(p, Number(l), tokens, layers) } },
          ]),
        ),
      }
    : p;

/** What `auto` chooses between at a context and for an answer of `answer` tokens, cheapest first: the policies, each with and without its selection. */
export function choiceRows(artefact: Artefact, policies: readonly Policy[], context: number, answer: number): ChoiceRow[] {
  const tokens = context - artefact.prefixIds.length;
  return policyChoices(artefact, policies, tokens, answer).map(({ policy, token, eviction, bytes }, i): ChoiceRow => ({
    model: artefact.name,
    context,
    answer,
    policy: policy.name,
    kept: keptContext(policy, artefact, tokens),
    tokenBytes: token.onlineBytes + token.dealtBytes,
    evictionBytes: eviction?.bytes ?? 0,
    bytes,
    taken: i === 0,
  }));
}

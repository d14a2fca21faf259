/** A session's programs for the evaluators and the helper, and what they need: the spec that all parties agree on, keys, memory. */
import { z } from 'zod';
import type { Kernels } from '../kernels/kernels.ts';
import type { Arena } from '../kernels/memory.ts';
import { bindPlan, partyBytes, type Artefact } from './artefact.ts';
import { entryColumns, isSecret, logitRing, secretBytes, secretTensors } from './secret.ts';
import { Dealer, type DealerKeys } from './engines/dealer.ts';
import type { BulkRunner, DealtSink, DealtSource, Program, Turn } from './engines/effects.ts';
import type { Trace } from './engines/engine.ts';
import { Evaluator, type EvaluatorKeys } from './engines/evaluator.ts';
import { CachetError } from './errors.ts';
import { checkPolicy, policyDifference, policySchema } from './policy.ts';
import { aheadBytes } from './programs/ahead.ts';
import { evictionBytes } from './programs/mpcache/eviction.ts';
import { REPRESENTATIVES_BYTES } from './programs/mpcache/representatives.ts';
import { session, TURN_ROWS } from './programs/transformer.ts';

export type { DealerKeys, EvaluatorKeys };

export const PROTOCOL_VERSION = 6;

/**
 * Who deals the correlated randomness: a helper, the client for itself (two parties; it may know all masks of its own session), or somebody did before,
 * into the evaluators' stores.
 */
export const DEALERS = ['helper', 'client', 'store'] as const;

export const sessionSpecSchema = z.strictObject({
  version: z.literal(PROTOCOL_VERSION),
  /** SHA-256 of the artefact, hex. */
  artefact: z.string().regex(/^[0-9a-f]{64}$/),
  weights: z.enum(['open', 'private']),
  dealer: z.enum(DEALERS),
  /** Private tokens of the prompt, after the artefact's public prefix. */
  promptTokens: z.number().int().min(1),
  /** Tokens generated at most in the first turn. */
  maxTokens: z.number().int().min(1),
  /** Slots for the tokens of all turns, the public prefix not counted. */
  context: z.number().int().min(1),
  /** Slots before these with random keys and values instead of tokens: benchmarks alone; parties refuse it unless they are set up for them. */
  filled: z.number().int().min(0).default(0),
  /** Whether these compete with the prompt's tokens where the policy evicts. */
  evictFilled: z.literal(true).optional(),
  /** What the cache keeps and what tokens attend to: the whole of it, no name that parties might read differently. */
  policy: policySchema,
  /** Of the prompt's tokens, so many at its beginning only pad it to a stored unit's length. Not in what parties agree on: a unit's lengths come with its id. */
  padding: z.number().int().min(0).optional(),
});
export type SessionSpec = z.infer<typeof sessionSpecSchema>;

export const turnSchema = z.strictObject({ tokens: z.number().int().min(1), answer: z.number().int().min(1) });

/** Slots that a turn takes: the last token of its answer comes with the next turn. */
export const turnSlots = (turn: Turn): number => turn.tokens + turn.answer - 1;

const firstTurn = (spec: Pick<SessionSpec, 'promptTokens' | 'maxTokens'>): Turn => ({ tokens: spec.promptTokens, answer: spec.maxTokens });

/** Lengths and cache policy that dealt material is for. */
export type UnitTerms = Pick<SessionSpec, 'promptTokens' | 'maxTokens' | 'policy'>;

/**
 * What runs of a session over a stored unit: the unit's lengths, the prompt padded to them. @throws CachetError 'limit' if it does not fit into the unit, 'policy'
 * if it has another cache policy.
 */
export function specOfUnit(spec: SessionSpec, unit: UnitTerms): SessionSpec {
  const other = policyDifference(unit.policy, spec.policy);
  if (other)
    throw new CachetError({
      code: 'policy',
      what: `store dealt for the cache policy ${unit.policy.name}, not ${spec.policy.name}, field ${other.field}`,
      expected: other.expected,
      got: other.got,
      hint: `--policy ${unit.policy.name}, or the file that it was dealt with; or deal a store for this policy`,
    });
  if (spec.promptTokens > unit.promptTokens || spec.maxTokens > unit.maxTokens)
    throw new CachetError({
      code: 'limit',
      what: "session does not fit the store's units",
      expected: `at most ${unit.promptTokens} private and ${unit.maxTokens} generated tokens`,
      got: `${spec.promptTokens} and ${spec.maxTokens}`,
      hint: 'shorten the prompt, lower --max-tokens, or deal a store of longer units',
    });
  return { ...spec, ...unit, context: turnSlots(firstTurn(unit)), padding: unit.promptTokens - spec.promptTokens };
}

/** Whether a model's weights are known to all, or split among the evaluators. */
export const weightsOf = ({ header }: Artefact): SessionSpec['weights'] => (isSecret(header) ? 'private' : 'open');

/** What the client sends to each evaluator for a token, and gets back for a step: elements of a ring, 4 or 8 bytes each, and the result's scale. */
export function clientEnds({ header, shape, residualScale }: Artefact) {
  if (!isSecret(header)) return { input: { elements: shape.width, bits: 64 }, output: { elements: shape.width, bits: 64, scale: residualScale } } as const;
  const output = header.secret.hideLogits ? { elements: 1, bits: 64, scale: 0 } : { elements: shape.vocab, ...logitRing(header) };
  return { input: { elements: entryColumns(shape), bits: 32 }, output } as const;
}

/** Bytes that the client sends to each evaluator for a token. */
export function tokenBytes(artefact: Artefact): number {
  const { elements, bits } = clientEnds(artefact).input;
  return (elements * bits) / 8;
}

/**
 * @throws CachetError 'limit' if the model has no room for the session, 'policy' if weights, dealer and cache policy do not go together or the model cannot
 * follow the cache policy.
 */
export function checkSpec(artefact: Artefact, spec: SessionSpec): void {
  const weights = weightsOf(artefact);
  if (spec.weights === 'private' && spec.dealer === 'client')
    throw new CachetError({
      code: 'policy',
      what: "private weights with the client as dealer: a dealer knows the weights' masks",
      expected: 'open weights, or a helper',
      got: 'private weights',
      hint: '--helper server',
    });
  if (spec.weights !== weights)
    throw new CachetError({
      code: 'policy',
      what: `session with ${spec.weights} weights over a model of ${weights} ones`,
      expected: weights,
      got: spec.weights,
      hint: 'give all parties and the client their part of the same model',
    });
  checkPolicy(spec.policy, artefact.shape);
  if (spec.dealer === 'store' && (spec.filled > 0 || spec.context !== turnSlots(firstTurn(spec))))
    throw new CachetError({
      code: 'policy',
      what: 'session of several turns from a store',
      expected: 'one prompt and its answer: the unit of a store',
      got: `a context of ${spec.context} tokens${spec.filled > 0 ? `, ${spec.filled} filled` : ''}`,
      hint: 'a helper, or --helper client',
    });
  const prefix = artefact.prefixIds.length,
    cached = spec.filled > 0 ? `${prefix} public + ${spec.filled} filled` : `${prefix} public`,
    first = spec.promptTokens + spec.maxTokens,
    needed = prefix + spec.filled + Math.max(first, spec.context);
  if (needed > artefact.shape.maxPositions)
    throw new CachetError({
      code: 'limit',
      what: spec.context > first ? 'conversation too long for the model' : 'prompt too long for the model',
      expected: `at most ${artefact.shape.maxPositions} positions`,
      got:
        spec.context > first ? `${cached} + ${spec.context} = ${needed}` : `${cached} + ${spec.promptTokens} private + ${spec.maxTokens} generated = ${needed}`,
      hint: spec.context > first ? 'lower --context' : 'shorten the prompt or lower --max-tokens',
    });
  if (turnSlots(firstTurn(spec)) > spec.context) throw noRoom(turnSlots(firstTurn(spec)), spec.context);
}

export const noRoom = (needed: number, left: number): CachetError =>
  new CachetError({
    code: 'limit',
    what: 'no room left in the session for this turn',
    expected: `at most ${left} tokens of question and answer together`,
    got: String(needed),
    hint: 'a shorter question, lower --max-tokens, or a new session with a larger --context',
  });

/** An evaluator's whole session. Yields effects as effects.ts says: turns until there are no more. */
export function evaluatorProgram(o: {
  party: 0 | 1;
  artefact: Artefact;
  spec: SessionSpec;
  keys: EvaluatorKeys;
  kernels: Kernels;
  arena: Arena;
  dealt: DealtSource;
  trace?: Trace | undefined;
  /** See Evaluator. */
  attach?: boolean;
}): Program<void> {
  return programOf(new Evaluator(o), o, o.spec.padding ?? 0);
}

/** The dealer's whole session: emits the material of all steps. Yields jobs and turns. */
export function dealerProgram(o: {
  artefact: Artefact;
  spec: SessionSpec;
  keys: DealerKeys;
  kernels: Kernels;
  arena: Arena;
  sink: DealtSink;
  bulk?: BulkRunner | undefined;
  trace?: Trace | undefined;
}): Program<void> {
  return programOf(new Dealer({ ...o, stepsTogether: o.spec.dealer === 'store' }), o, 0);
}

/** `padding`: rows of the prompt that the engine knows to pad it, where a unit of a store may be longer than the prompt. */
function programOf(engine: Evaluator | Dealer, o: { artefact: Artefact; spec: SessionSpec; trace?: Trace | undefined }, padding: number): Program<void> {
  const { dealer, context, filled, policy, evictFilled } = o.spec;
  engine.relay = dealer === 'client';
  engine.trace = o.trace;
  return session(engine, bindPlan(engine, o.artefact), firstTurn(o.spec), context, filled, policy, evictFilled, dealer === 'store' ? padding : undefined);
}

/** Bytes of arena that a session's engine needs, an upper estimate from the largest live set of a layer. Memory that is not touched is not resident. */
export function arenaBytes(role: 'evaluator' | 'helper', artefact: Artefact, spec: SessionSpec): number {
  const s = artefact.shape,
    prefix = artefact.prefixIds.length,
    first = spec.promptTokens,
    past = prefix + spec.filled,
    context = past + spec.context,
    later = spec.context > first + spec.maxTokens ? Math.min(TURN_ROWS, spec.context - first) : 1;
  const logits = s.heads * Math.max(first * past + (first * (first + 1)) / 2, later * context),
    activations = Math.max(first, later) * (4 * s.inner + 8 * s.width);
  const cache = 4 * 8 * s.layers * s.kvHeads * s.headDim * context,
    secret = isSecret(artefact.header),
    weights = secret ? secretBytes(role, artefact.header) : role === 'evaluator' ? partyBytes(artefact) : 0,
    // One-hot rows: share, wire, mask, packed both ways; logits, and what a knockout of them keeps.
    ends = secret ? 5 * 8 * entryColumns(s) * Math.max(first, later) + (artefact.header.secret?.hideLogits ? 60 : 5) * 8 * s.vocab : 0,
    ahead = secret
      ? aheadBytes(
          secretTensors(artefact.header).filter((t) => t.kind === 'matrix'),
          spec.context - first,
        )
      : 0,
    tables = 16 << 20;
  // Per logit: wires and shares of logits (twice), words, probabilities, temporaries; per activation the same.
  const rule = spec.policy.static,
    eviction = rule ? evictionBytes(s, rule, first + (spec.evictFilled ? spec.filled : 0)) : 0,
    // One key's worth of wires a cluster and level: with coarser levels at most twice half the cache.
    representatives = spec.policy.dynamic?.score === 'minmax' ? REPRESENTATIVES_BYTES + cache : 0,
    // Copies of a layer's candidates and of what is attended to; an answer's slots in all layers, opened again.
    moved = spec.policy.dynamic?.gather === 'values' ? 8 * 20 * s.heads * s.headDim * context + 6 * cache : 0;
  return weights + ends + ahead + tables + cache + eviction + representatives + moved + 8 * (40 * logits + 40 * activations) + (32 << 20);
}

/** A session's programs for the evaluators and the helper, and what they need: the spec that all parties agree on, keys, memory. */
import { z } from 'zod';
import type { Kernels } from '../kernels/kernels.ts';
import type { Arena } from '../kernels/memory.ts';
import { bindPlan, type Artefact } from './artefact.ts';
import { Dealer, type DealerKeys } from './engines/dealer.ts';
import type { DealtSink, DealtSource, Program } from './engines/effects.ts';
import type { Trace } from './engines/engine.ts';
import { Evaluator, type EvaluatorKeys } from './engines/evaluator.ts';
import { CachetError } from './errors.ts';
import { session } from './programs/llama.ts';

export type { DealerKeys, EvaluatorKeys };

export const PROTOCOL_VERSION = 1;

export const sessionSpecSchema = z.strictObject({
  version: z.literal(PROTOCOL_VERSION),
  /** SHA-256 of the artefact, hex. */
  artefact: z.string().regex(/^[0-9a-f]{64}$/),
  /** Private tokens of the prompt, after the artefact's public prefix. */
  promptTokens: z.number().int().min(1),
  /** Tokens generated at most. */
  maxTokens: z.number().int().min(1),
});
export type SessionSpec = z.infer<typeof sessionSpecSchema>;

/** @throws CachetError 'limit' if the model has no room for the session. */
export function checkSpec(artefact: Artefact, spec: SessionSpec): void {
  const needed = artefact.prefixIds.length + spec.promptTokens + spec.maxTokens;
  if (needed > artefact.shape.maxPositions)
    throw new CachetError({
      code: 'limit',
      what: 'prompt too long for the model',
      expected: `at most ${artefact.shape.maxPositions} positions`,
      got: `${artefact.prefixIds.length} public + ${spec.promptTokens} private + ${spec.maxTokens} generated = ${needed}`,
      hint: 'shorten the prompt or lower --max-tokens',
    });
}

/** An evaluator's whole session. Yields input, rounds, jobs, output as effects.ts says, at most spec.maxTokens outputs. */
export function evaluatorProgram(o: {
  party: 0 | 1;
  artefact: Artefact;
  spec: SessionSpec;
  keys: EvaluatorKeys;
  kernels: Kernels;
  arena: Arena;
  dealt: DealtSource;
  trace?: Trace | undefined;
}): Program<void> {
  const engine = new Evaluator(o);
  engine.trace = o.trace;
  return session(engine, bindPlan(engine, o.artefact), o.spec.promptTokens, o.spec.maxTokens);
}

/** The helper's whole session: emits the material of all steps. Yields jobs only. */
export function dealerProgram(o: {
  artefact: Artefact;
  spec: SessionSpec;
  keys: DealerKeys;
  kernels: Kernels;
  arena: Arena;
  sink: DealtSink;
  trace?: Trace | undefined;
}): Program<void> {
  const engine = new Dealer(o);
  engine.trace = o.trace;
  return session(engine, bindPlan(engine, o.artefact), o.spec.promptTokens, o.spec.maxTokens);
}

/** Bytes of arena that a session's engine needs, an upper estimate from the largest live set of a layer. Memory that is not touched is not resident. */
export function arenaBytes(role: 'evaluator' | 'helper', artefact: Artefact, spec: SessionSpec): number {
  const s = artefact.shape,
    n = spec.promptTokens,
    context = artefact.prefixIds.length + n + spec.maxTokens;
  const logits = s.heads * (n * (context - n) + (n * (n + 1)) / 2),
    activations = n * (4 * s.inner + 8 * s.width);
  const cache = 4 * 8 * s.layers * s.kvHeads * s.headDim * context,
    weights = role === 'evaluator' ? artefact.bytes.length : 0,
    tables = 16 << 20;
  // Per logit: wires and shares of logits (twice), words, probabilities, temporaries; per activation the same.
  return weights + tables + cache + 8 * (40 * logits + 40 * activations) + (32 << 20);
}

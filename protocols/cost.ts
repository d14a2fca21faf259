/** What a session costs, from the Meter: exact rounds and bytes of every step, without running anything. */
import { bindPlan, type Artefact } from './artefact.ts';
import type { Turn } from './engines/effects.ts';
import type { StepCost } from './engines/engine.ts';
import { Meter } from './engines/meter.ts';
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
export const tokenCost = (artefact: Artefact, cached: number): StepCost => meterSession(artefact, { promptTokens: 1, maxTokens: 1, filled: cached }).steps[0]!;

/** `turns`: those after the first. */
export function meterSession(
  artefact: Artefact,
  spec: Pick<SessionSpec, 'promptTokens' | 'maxTokens'> & Partial<Pick<SessionSpec, 'dealer' | 'filled'>>,
  turns: readonly Turn[] = [],
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
    spec.dealer === 'store' ? 0 : undefined,
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

/** What a session costs, from the Meter: exact rounds and bytes of every step, without running anything. */
import { bindPlan, type Artefact } from './artefact.ts';
import type { StepCost } from './engines/engine.ts';
import { Meter } from './engines/meter.ts';
import { session } from './programs/llama.ts';
import type { SessionSpec } from './session.ts';

export interface SessionCost {
  /** The prefill, then one step a token. Bytes are all parties' together, headers included. */
  readonly steps: readonly StepCost[];
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
}

export function meterSession(artefact: Artefact, spec: Pick<SessionSpec, 'promptTokens' | 'maxTokens'>): SessionCost {
  const meter = new Meter();
  for (const _ of session(meter, bindPlan(meter, artefact), spec.promptTokens, spec.maxTokens)) void _;
  const total = (f: (s: StepCost) => number): number => meter.steps.reduce((sum, s) => sum + f(s), 0);
  return { steps: meter.steps, rounds: total((s) => s.rounds), onlineBytes: total((s) => s.onlineBytes), dealtBytes: total((s) => s.dealtBytes) };
}

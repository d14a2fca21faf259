/** A token over a cache filled with random keys and values: the protocol equals Fixed bit for bit, the Meter equals both, no value leaves its range. */
import { describe, expect, it } from 'vitest';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { session } from '../protocols/programs/transformer.ts';
import { checkSpec, PROTOCOL_VERSION } from '../protocols/session.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { embedding, tinyNotes } from './support/tinyNotes.ts';
import { FULL } from '../protocols/policy.ts';

const artefact = tinyNotes(),
  FILLED = 70,
  tokens = [embedding(artefact, [17]), embedding(artefact, [400])],
  program = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: 1, answer: 2 }, 2, FILLED);

const sum = (a: Uint8Array, b: Uint8Array): number[] => {
  const x = new BigInt64Array(a.slice().buffer),
    y = new BigInt64Array(b.slice().buffer);
  return Array.from(x, (v, i) => Number(BigInt.asIntN(64, v + y[i]!)) / 2 ** artefact.residualScale);
};

describe('a session over a filled cache', () => {
  const fixed = runFixed(program, tokens),
    shares = tokens.map((values, i) => split(values, artefact.residualScale, i + 1)),
    run = runLocal(program, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
    cost = meterSession(artefact, { promptTokens: 1, maxTokens: 2, filled: FILLED });

  it('equals Fixed bit for bit', () => {
    expect(run.outputs[0].map((a, i) => sum(a, run.outputs[1][i]!))).toEqual(fixed.outputs.map((o) => [...o]));
  });

  it('costs what the Meter says, the filling apart', () => {
    const { filling, steps } = cost,
      all = [filling!, ...steps];
    for (const engine of [...run.evaluators, run.dealer, fixed.engine]) expect(engine.steps).toEqual(all);
    expect([run.rounds, run.onlineBytes, run.dealtBytes]).toEqual([
      filling!.rounds + cost.rounds,
      filling!.onlineBytes + cost.onlineBytes,
      filling!.dealtBytes + cost.dealtBytes,
    ]);
    // Two blocks a layer; what is dealt is an empty frame to each evaluator.
    expect([filling!.rounds, filling!.dealtBytes]).toEqual([2 * artefact.shape.layers, 64]);
  });

  it('costs a token what it costs after a prompt of that length', () => {
    const prompted = meterSession(artefact, { promptTokens: FILLED + 1, maxTokens: 2 });
    expect(cost.steps[1]).toEqual(prompted.steps[1]);
    expect(cost.steps[1]!.parts.get('attention')).toBeGreaterThan(cost.steps[0]!.parts.get('attention')!);
  });

  it('runs on float64 as well', () => {
    for (const [i, hidden] of runFloat(program, tokens).entries()) {
      expect(hidden.every(Number.isFinite)).toBe(true);
      expect(hidden).toHaveLength(fixed.outputs[i]!.length);
    }
  });

  it('counts as positions of the model', () =>
    expect(() =>
      checkSpec(artefact, {
        version: PROTOCOL_VERSION,
        artefact: artefact.digest,
        weights: 'open',
        dealer: 'helper',
        promptTokens: 1,
        maxTokens: 1,
        context: 1,
        filled: 1022,
        policy: FULL,
      }),
    ).toThrow(/too long for the model; expected at most 1024 positions; got 1 public \+ 1022 filled \+ 1 private \+ 1 generated = 1025/));
});

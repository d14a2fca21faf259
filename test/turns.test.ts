/** Sessions of several turns: what an answer leaves of its allowance is passed over without a trace in later turns. */
import { describe, expect, it } from 'vitest';
import { bindPlan } from '../protocols/artefact.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import type { Program, Turn } from '../protocols/engines/effects.ts';
import { session } from '../protocols/programs/transformer.ts';
import { meterSession } from '../protocols/cost.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { embedding, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  first: Turn = { tokens: 3, answer: 5 },
  later: Turn[] = [
    { tokens: 2, answer: 3 },
    { tokens: 4, answer: 2 },
  ],
  // The first answer ends after two tokens, the second after one, the third is full.
  ids = [[10, 11, 12], [20], undefined, [21, 30], undefined, [31, 40, 41, 42], [22]],
  values = ids.map((x) => x && embedding(artefact, x)),
  program = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), first, 20);

describe('sessions of several turns', () => {
  it('equal one without the tokens that were passed over', () => {
    const all = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: 3, answer: 2 }, 20);
    const plain = runFloat(
      all,
      values.filter((v) => v !== undefined),
      [
        { tokens: 2, answer: 1 },
        { tokens: 4, answer: 2 },
      ],
    );
    const got = runFloat(program, values, later);
    expect(got.length).toBe(5);
    got.forEach((v, i) => expect(v).toEqual(plain[i]));
  });

  it('run as the Fixed engine does, bit for bit, and as the float reference does, nearly', () => {
    const shares = values.map((v, i) => v && split(v, artefact.residualScale, i + 1)),
      run = runLocal(program, [shares.map((s) => s?.[0]), shares.map((s) => s?.[1])], { turns: later }),
      fixed = runFixed(program, values, { turns: later }).outputs,
      float = runFloat(program, values, later);
    const got = run.outputs[0].map((a, i) => {
      const x = new BigInt64Array(a.buffer),
        y = new BigInt64Array(run.outputs[1][i]!.buffer);
      return Float64Array.from(x, (v, j) => Number(BigInt.asIntN(64, v + y[j]!)) / 2 ** artefact.residualScale);
    });
    expect(got.length).toBe(5);
    got.forEach((v, i) => {
      expect(v).toEqual(fixed[i]);
      v.forEach((x, j) => expect(Math.abs(x - float[i]![j]!)).toBeLessThan(0.05));
    });
  });

  it('cost what the Meter says, with the whole allowance dealt', () => {
    const shares = values.map((v, i) => v && split(v, artefact.residualScale, i + 1)),
      run = runLocal(program, [shares.map((s) => s?.[0]), shares.map((s) => s?.[1])], { turns: later }),
      cost = meterSession(artefact, { promptTokens: first.tokens, maxTokens: first.answer }, later);
    expect(run.dealtBytes).toBe(cost.dealtBytes);
    expect(run.rounds).toBe((cost.rounds / cost.steps.length) * 5);
  });
});

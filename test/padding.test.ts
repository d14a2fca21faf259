/** Prompts that are padded to a stored unit's length: the answer is that of the prompt alone, and the dealer does not know how long it is. */
import { expect, it } from 'vitest';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import type { Program } from '../protocols/engines/effects.ts';
import { FULL } from '../protocols/policy.ts';
import { session } from '../protocols/programs/transformer.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { embedding, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  PADDING = 3,
  prompt = [10, 11, 12, 13],
  tokens = [20, 21],
  padded = [...prompt, ...prompt.slice(0, PADDING)],
  values = [padded, ...tokens.map((id) => [id])].map((ids) => embedding(artefact, ids)),
  unit = (e: Engine): Program<void> =>
    session(e, bindPlan(e, artefact), { tokens: padded.length, answer: 3 }, padded.length + 2, 0, FULL, false, e.name === 'dealer' ? 0 : PADDING);

it('a padded prompt answers as the prompt alone does', () => {
  const alone = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: prompt.length, answer: 3 }, prompt.length + 2),
    plain = runFloat(alone, [embedding(artefact, prompt), ...values.slice(1)]),
    got = runFloat(unit, values);
  expect(got.length).toBe(3);
  got.forEach((v, i) => v.forEach((x, j) => expect(Math.abs(x - plain[i]![j]!)).toBeLessThan(1e-9)));
});

it('runs as the Fixed engine does, bit for bit, with what a dealer made that knows nothing of the padding', () => {
  const shares = values.map((v, i) => split(v, artefact.residualScale, i + 1)),
    run = runLocal(unit, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
    fixed = runFixed(unit, values).outputs,
    float = runFloat(unit, values);
  expect(run.outputs[0].length).toBe(3);
  run.outputs[0].forEach((a, i) => {
    const x = new BigInt64Array(a.buffer),
      y = new BigInt64Array(run.outputs[1][i]!.buffer),
      got = Float64Array.from(x, (v, j) => Number(BigInt.asIntN(64, v + y[j]!)) / 2 ** artefact.residualScale);
    expect(got).toEqual(fixed[i]);
    got.forEach((v, j) => expect(Math.abs(v - float[i]![j]!)).toBeLessThan(0.05));
  });
  const cost = meterSession(artefact, { promptTokens: padded.length, maxTokens: 3, dealer: 'store' });
  expect(run.dealtBytes).toBe(cost.dealtBytes);
  expect(run.rounds).toBe(cost.rounds);
});

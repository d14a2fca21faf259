/** Prompts that are padded to a stored unit's length: the answer is that of the prompt alone, and the dealer does not know how long it is. */
import { describe, expect, it } from 'vitest';
import { artefactOf } from '../party/preparing.ts';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import type { Program } from '../protocols/engines/effects.ts';
import { FULL, PRESETS, type Policy } from '../protocols/policy.ts';
import { session } from '../protocols/programs/transformer.ts';
import { entryColumns } from '../protocols/secret.ts';
import { secretModel } from '../protocols/splitWeights.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { embedding, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  tokens = [20, 21],
  // A text of the model's kind.
  text = Array.from({ length: 40 }, (_, i) => 5 + ((i * 37) % (artefact.shape.vocab - 5))),
  ANSWER = tokens.length + 1;

/** A prompt of `n` tokens, alone or behind padding, and the tokens of its answer. */
const valuesOf = (n: number, padding: number): Float64Array[] =>
  [[...text.slice(0, padding), ...text.slice(0, n)], ...tokens.map((id) => [id])].map((ids) => embedding(artefact, ids));
const alone =
  (n: number, policy: Policy) =>
  (e: Engine): Program<void> =>
    session(e, bindPlan(e, artefact), { tokens: n, answer: ANSWER }, n + tokens.length, 0, policy);
const unit =
  (n: number, padding: number, policy: Policy) =>
  (e: Engine): Program<void> =>
    session(
      e,
      bindPlan(e, artefact),
      { tokens: n + padding, answer: ANSWER },
      n + padding + tokens.length,
      0,
      policy,
      false,
      e.name === 'dealer' ? 0 : padding,
    );

const evicting = (kept: number, o: Partial<NonNullable<Policy['static']>> = {}): Policy => ({
  ...FULL,
  name: 'evicting',
  static: { keep: { tokens: kept }, window: { queries: 4 }, heads: 'sum', ranking: 'histogram', ...o },
});
const choosing: Policy = {
  ...evicting(20),
  name: 'choosing',
  dynamic: { ...PRESETS['mpcache-paper'].dynamic!, sizes: [4, 2], ratio: [0.8, 0.7], spread: 24, keySpread: 15 },
};

/** Keys and values of the chosen clusters move. */
const moving: Policy = { ...choosing, name: 'moving', dynamic: { ...choosing.dynamic!, gather: 'values', score: 'mean' } };

describe('a padded prompt answers as the prompt alone does', () => {
  const same = (n: number, padding: number, policy: Policy, wanted: Policy = policy): void => {
    const plain = runFloat(alone(n, wanted), valuesOf(n, 0)),
      got = runFloat(unit(n, padding, policy), valuesOf(n, padding));
    expect(got.length).toBe(ANSWER);
    got.forEach((v, i) => v.forEach((x, j) => expect(Math.abs(x - plain[i]![j]!)).toBeLessThan(1e-6)));
  };
  it('over the full cache', () => same(4, 3, FULL));
  it('of one token', () => same(1, 6, FULL));
  it('where it has fewer tokens than survive: none is dropped', () => {
    for (const ranking of ['histogram', 'pairs'] as const) same(5, 7, evicting(8, { ranking }), FULL);
    same(5, 7, evicting(8, { heads: 'max' }), FULL);
  });
  it('where its own tokens are dropped: those that the same votes drop without padding, and no padding survives', () => {
    for (const ranking of ['histogram', 'pairs'] as const) same(20, 9, evicting(9, { ranking }));
    same(20, 9, evicting(9, { heads: 'max' }));
  });
  it('nearly so whatever moves: pads in chosen clusters weigh e^-9', () => {
    for (const [n, padding, policy] of [
      [18, 9, moving],
      [5, 22, { ...moving, static: null }],
    ] as const) {
      const stays = runFloat(unit(n, padding, { ...policy, dynamic: { ...policy.dynamic!, gather: 'logits' } }), valuesOf(n, padding));
      runFloat(unit(n, padding, policy), valuesOf(n, padding)).forEach((v, i) => v.forEach((x, j) => expect(Math.abs(x - stays[i]![j]!)).toBeLessThan(0.02)));
    }
  });
  it('where more rows would vote than it has', () => same(3, 5, evicting(2, { window: { queries: 6 } }), evicting(2, { window: { queries: 3 } })));
});

it('with private weights and learned positions too', async () => {
  const open = await artefactOf('random:gpt2-tiny'),
    secret = secretModel({ artefact: open, documents: [text.slice(0, 20)], hideLogits: false }),
    cols = entryColumns(secret.shape),
    rows = (ids: readonly number[]): Float64Array => {
      const out = new Float64Array(ids.length * cols);
      ids.forEach((id, i) => (out[i * cols + id] = 1));
      return out;
    },
    answer = (n: number, pads: number): Float64Array[] =>
      runFloat(
        (e) => session(e, bindPlan(e, secret), { tokens: n + pads, answer: 2 }, n + pads + 1, 0, FULL, false, pads),
        [rows([...text.slice(0, pads), ...text.slice(0, n)]), rows([20])],
      ),
    plain = answer(6, 0);
  answer(6, 4).forEach((v, i) => v.forEach((x, j) => expect(Math.abs(x - plain[i]![j]!)).toBeLessThan(1e-6)));
});

describe('runs as the Fixed engine does, bit for bit, with what a dealer made that knows nothing of the padding', () => {
  it.each([
    [4, 3, FULL, 0.05],
    [5, 7, evicting(8), 0.05],
    // Votes and scores are coarse: of two that are nearly equal the other one may be taken.
    [16, 7, evicting(9, { heads: 'max', ranking: 'pairs' }), 0.2],
    [18, 9, choosing, 0.3],
    [18, 9, moving, 0.3],
    [5, 22, { ...moving, static: null }, 0.3],
  ] as const)('%i tokens behind %i', (n, padding, policy, most) => {
    const values = valuesOf(n, padding),
      program = unit(n, padding, policy),
      shares = values.map((v, i) => split(v, artefact.residualScale, i + 1)),
      run = runLocal(program, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
      fixed = runFixed(program, values).outputs,
      float = runFloat(program, values);
    expect(run.outputs[0].length).toBe(ANSWER);
    run.outputs[0].forEach((a, i) => {
      const x = new BigInt64Array(a.buffer),
        y = new BigInt64Array(run.outputs[1][i]!.buffer),
        got = Float64Array.from(x, (v, j) => Number(BigInt.asIntN(64, v + y[j]!)) / 2 ** artefact.residualScale);
      expect(got).toEqual(fixed[i]);
      got.forEach((v, j) => expect(Math.abs(v - float[i]![j]!)).toBeLessThan(most));
    });
    const cost = meterSession(artefact, { promptTokens: n + padding, maxTokens: ANSWER, dealer: 'store', policy });
    expect(run.dealtBytes).toBe(cost.dealtBytes);
    expect(run.rounds).toBe(cost.rounds);
  });
});

/** Ranks of secret scores are a permutation, highest first and the lower index first among equals; scores that their window does not hold are refused. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { negativeTable } from '../protocols/gates/less.ts';
import { compareAll, oneHotRows, rankBits, ranksOf } from '../protocols/programs/mpcache/ranking.ts';
import { runFixed, runLocal, split } from './support/local.ts';

const ROWS = 2,
  COUNT = 9,
  BITS = 6;

function* ranked(e: Engine): Program<void> {
  const [scores] = yield* e.open([{ x: yield* e.input(ROWS * COUNT, 0), bits: BITS }]),
    [flags] = yield* e.open([compareAll(e, scores!, ROWS, COUNT, e.constant('tables', negativeTable(BITS)))]),
    [ranks] = yield* e.open([ranksOf(e, flags!, ROWS, COUNT)]);
  yield* e.output(oneHotRows(e, ranks!, COUNT, COUNT, 64));
  e.endStep();
}

/** One-hot rows that both evaluators have together, and what they cost. */
function protocol(scores: readonly number[]): { rows: number[]; cost: readonly number[] } {
  const shares = split(Float64Array.from(scores), 0, 1),
    run = runLocal(ranked, [[shares[0]], [shares[1]]]),
    [a, b] = run.outputs.map((o) => new BigInt64Array(o[0]!.slice().buffer));
  return { rows: Array.from(a!, (v, i) => Number(BigInt.asIntN(64, v + b![i]!))), cost: [run.rounds, run.onlineBytes, run.dealtBytes] };
}

const places = (rows: ArrayLike<number>): number[] =>
  Array.from({ length: ROWS * COUNT }, (_, i) => {
    const row = Array.from(rows).slice(i * COUNT, (i + 1) * COUNT);
    expect([...row].sort((a, b) => b - a)).toEqual([1, ...Array.from({ length: COUNT - 1 }, () => 0)]);
    return row.indexOf(1);
  });

const expected = (scores: readonly number[]): number[] =>
  [0, 1].flatMap((row) => {
    const mine = scores.slice(row * COUNT, (row + 1) * COUNT);
    return mine.map((v, i) => mine.filter((w, j) => w > v || (w === v && j < i)).length);
  });

describe('ranking by all pairs', () => {
  it('is a permutation in the order of the scores', () =>
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -15, max: 15 }), { minLength: ROWS * COUNT, maxLength: ROWS * COUNT }), (scores) => {
        const values = Float64Array.from(scores),
          sum = protocol(scores).rows;
        expect(places(sum)).toEqual(expected(scores));
        expect(runFixed(ranked, [values]).outputs[0]).toEqual(Float64Array.from(sum));
      }),
      { numRuns: 15 },
    ));
  it('is one where scores are equal, where they span the whole window, and wherever they lie in their ring', () => {
    const window = 2 ** (BITS - 1) - 2;
    for (const offset of [0, 7, -32, 31 - window])
      for (const row of [
        () => 0,
        (i: number) => (i % 2) * window,
        (i: number) => ((COUNT - i) % 2) * window,
        (i: number) => (i === 4 ? window : 0),
        (i: number) => Math.round((i * window) / COUNT),
      ]) {
        const scores = Array.from({ length: ROWS * COUNT }, (_, i) => offset + row(i % COUNT));
        expect(places(protocol(scores).rows)).toEqual(expected(scores));
      }
  });
  it('goes on as always where scores leave the window: rounds, bytes and the size of the result stay, and nobody fails', () => {
    const within = protocol(Array.from({ length: ROWS * COUNT }, () => 0)),
      beyond = protocol(Array.from({ length: ROWS * COUNT }, (_, i) => 24 * (i % 3) - 24));
    expect(beyond.cost).toEqual(within.cost);
    expect(beyond.rows).toHaveLength(within.rows.length);
    // Each compares lower than the next, in a circle: no permutation.
    expect(new Set(places(beyond.rows).slice(0, COUNT)).size).toBeLessThan(COUNT);
  });
  it('refuses scores further apart than their window', () => {
    const values = new Float64Array(ROWS * COUNT).fill(-16);
    values[3] = 16;
    expect(() => runFixed(ranked, [values])).toThrow(/truthTable: value outside its domain; expected -31 <= v < 31; got -32/);
  });
  it('takes as many bits as ranks need', () => expect([1, 2, 3, 16, 17].map(rankBits)).toEqual([1, 1, 2, 4, 5]));
});

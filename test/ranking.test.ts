/** Ranks of secret scores are a permutation, highest first and the lower index first among equals; scores that their window does not hold are refused. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { negativeTable } from '../protocols/gates/less.ts';
import { onehot } from '../protocols/gates/onehot.ts';
import type { Layout } from '../protocols/programs/mpcache/clusters.ts';
import { comparedTogether, placesOfAll } from '../protocols/programs/mpcache/levels.ts';
import { compareAll, oneHotRows, rankBits, ranksOf } from '../protocols/programs/mpcache/ranking.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';

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

describe('levels that are compared together', () => {
  const levels = [
      { count: 3, keep: 2, width: 4 },
      { count: 4, keep: 3, width: 2 },
      { count: 6, keep: 2, width: 1 },
    ],
    layout = (of: Layout['levels'], candidates: number): Layout => ({
      slots: candidates,
      size: 1,
      head: 0,
      candidates,
      chosen: of.at(-1)!.keep,
      tail: 0,
      levels: of,
    }),
    CANDIDATES = 12,
    sizes = levels.map(({ width }) => (ROWS * CANDIDATES) / width),
    total = sizes.reduce((a, b) => a + b, 0);

  /** One-hot rows [ROWS, candidates, 2] of the last level. */
  function* placed(e: Engine): Program<void> {
    const shares = [];
    for (const n of sizes) shares.push(yield* e.input(n, 0));
    const wires = yield* e.open(shares.map((x) => ({ x, bits: BITS }))),
      { places: at } = yield* placesOfAll(e, layout(levels, CANDIDATES), wires, ROWS, e.constant('tables', negativeTable(BITS)), undefined);
    yield* e.output(e.apply(onehot, { bits: at.bits, span: 2, outBits: 64 }, [at])[0]!);
    e.endStep();
  }

  /** The rule, level by level: of the children of what is kept the best, the lower place first among equals. */
  const rule = (scores: readonly Float64Array[]): number[] =>
    Array.from({ length: ROWS }, (_, r) => {
      let kept = [0, 1, 2];
      levels.forEach(({ keep, width }, i) => {
        const n = CANDIDATES / width,
          own = scores[i]!.subarray(r * n, (r + 1) * n),
          fan = i === 0 ? 1 : levels[i - 1]!.width / width;
        kept = kept
          .flatMap((parent) => Array.from({ length: fan }, (_x, child) => parent * fan + child))
          .sort((a, b) => own[b]! - own[a]! || a - b)
          .slice(0, keep);
      });
      return Array.from({ length: CANDIDATES }, (_, c) => [0, 1].map((j) => (kept[j] === c ? 1 : 0))).flat();
    }).flat();

  it('choose by the rule, with ties, bit for bit as Fixed and Float: 2 rounds a further level', () =>
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: total, maxLength: total }), (values) => {
        let at = 0;
        const scores = sizes.map((n) => Float64Array.from(values.slice(at, (at += n)))),
          shares = scores.map((x, i) => split(x, 0, i + 1)),
          run = runLocal(placed, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
          [a, b] = run.outputs.map((o) => new BigInt64Array(o[0]!.slice().buffer)),
          want = rule(scores);
        expect(Array.from(a!, (v, i) => Number(BigInt.asIntN(64, v + b![i]!)))).toEqual(want);
        expect([...runFixed(placed, scores).outputs[0]!]).toEqual(want);
        expect([...runFloat(placed, scores)[0]!]).toEqual(want);
        expect(run.rounds).toBe(1 + 2 + 2 * 2);
      }),
      { numRuns: 15 },
    ));

  it('are those whose comparisons cost less than the rounds that they save', () => {
    expect(comparedTogether(layout(levels, CANDIDATES), 12, 8)).toBe(true);
    expect(comparedTogether(layout(levels.slice(0, 1), CANDIDATES), 12, 8)).toBe(false);
    const paper = (clusters: number): Layout =>
      layout(
        [
          { count: clusters / 2, keep: clusters / 4, width: 2 },
          { count: clusters / 2, keep: Math.round(clusters / 5), width: 1 },
        ],
        clusters,
      );
    expect([48, 52, 60, 200].map((clusters) => comparedTogether(paper(clusters), 12, 8))).toEqual([true, true, false, false]);
  });
});

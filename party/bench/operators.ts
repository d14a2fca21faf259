/**
 * The operators of cache selection, each alone, in the shape in which MPCache compares them (arXiv 2501.06807, section 5): both evaluators and the dealer in one
 * process, rounds exchanged in memory, as SPU's are in its in-memory link. A time is that of both evaluators' work, one after the other on one core, preprocessing
 * ready; bytes and rounds are those of the protocol, counted.
 */
import { freshKeys, runTogether } from '../../protocols/engines/together.ts';
import type { Program } from '../../protocols/engines/effects.ts';
import type { Engine } from '../../protocols/engines/engine.ts';
import { negativeTable } from '../../protocols/gates/less.ts';
import { mix, scores, type AttentionShape } from '../../protocols/gates/mul.ts';
import { compareAll, oneHotRows, ranksOf } from '../../protocols/programs/mpcache/ranking.ts';
import { transposed } from '../../protocols/programs/mpcache/clusters.ts';
import type { Tensor } from '../../protocols/tensor.ts';

/** `tokens` cached ones in clusters of `size`, of which as many are chosen as hold `chosen` tokens. */
export interface OperatorShape {
  readonly heads: number;
  readonly dim: number;
  readonly tokens: number;
  readonly size: number;
  readonly chosen: number;
}

export const PAPER_SHAPE: OperatorShape = { heads: 32, dim: 32, tokens: 512, size: 16, chosen: 50 };

export interface OperatorRow {
  readonly operator: string;
  readonly shape: OperatorShape;
  /** Median, least and most of the repetitions. */
  readonly ms: { readonly median: number; readonly min: number; readonly max: number };
  readonly rounds: number;
  /** All parties, headers included. */
  readonly onlineBytes: number;
  readonly dealtBytes: number;
}

const RING = 32,
  SCORE_BITS = 6,
  MEMORY = 768 << 20;

/** Rows of all operators, `reps` times each in one run, the first of which is not timed. */
export function benchOperators(shape: OperatorShape, reps: number): OperatorRow[] {
  const times = new Map<string, { begin: number; end: number }[]>(),
    names: string[] = [];
  /** The span from the first evaluator's start to the last one's end. */
  function* timed(e: Engine, name: string, rep: number, work: () => Program<unknown>): Program<void> {
    // Both start together.
    yield* e.open([e.uniform({ size: 1, bits: RING, scale: 0 }, 1)]);
    e.endStep();
    const spans = times.get(name) ?? [],
      mark = e.mark();
    times.set(name, spans);
    if (e.name === 'evaluator') spans[rep] ??= { begin: performance.now(), end: 0 };
    else if (rep === 0) names.push(name);
    yield* work();
    if (e.name === 'evaluator') spans[rep]!.end = performance.now();
    e.endStep();
    e.release(mark);
  }
  const { heads, dim, tokens, size, chosen } = shape,
    clusters = tokens / size,
    k = Math.ceil(chosen / size),
    pick = (group: number, from: number, width: number): AttentionShape => ({
      queries: 1,
      heads: heads * group,
      group,
      dim: width,
      past: from - 1,
      capacity: from,
      firstKv: 0,
      prefix: 0,
    });
  function* program(e: Engine): Program<void> {
    const draw = (n: number, bits = RING): Tensor => e.uniform({ size: n, bits, scale: 0 }, 3),
      [queries, keys, sums, level, logits, weights] = yield* e.open([
        draw(heads * dim),
        draw(heads * tokens * dim),
        draw(heads * clusters * dim),
        draw(heads * clusters, SCORE_BITS),
        draw(heads * tokens),
        draw(heads * k * size),
      ]),
      table = e.constant('tables', negativeTable(SCORE_BITS));
    for (let rep = 0; rep <= reps; rep++) {
      yield* timed(e, 'similarity', rep, function* () {
        return yield* e.open([
          e.mul(scores({ queries: 1, heads, group: 1, dim, past: clusters - 1, capacity: clusters, firstKv: 0, prefix: 0 }), queries!, sums!),
        ]);
      });
      const rows = e.zeros({ form: 'wire', size: heads * clusters * k, bits: RING, scale: 0, boolean: false });
      yield* timed(e, 'top-k', rep, function* () {
        const [flags] = yield* e.open([compareAll(e, level!, heads, clusters, table)]),
          [ranks] = yield* e.open([ranksOf(e, flags!, heads, clusters)]),
          [hot] = yield* e.open([oneHotRows(e, ranks!, clusters, k, RING)]);
        e.store(rows, 0, rows.size, hot!, 0, rows.size, 1, rows.size);
      });
      const turned = e.linear(transposed(heads, clusters, k), rows);
      yield* timed(e, 'gather and scatter', rep, function* () {
        // The logits of the chosen clusters, and their probabilities back: keys and values stay where they are.
        yield* e.open([e.mul(mix(pick(k, clusters, size)), turned, logits!)]);
        yield* e.open([e.mul(mix(pick(clusters, k, size)), rows, weights!)]);
      });
      yield* timed(e, 'gather of keys', rep, function* () {
        yield* e.open([e.mul(mix(pick(k, clusters, size * dim)), turned, keys!)]);
      });
    }
  }
  const run = runTogether(program, freshKeys(), [[], []], { memoryBytes: MEMORY }),
    { steps } = run.dealer;
  return names.map((operator, i) => {
    const sorted = times
        .get(operator)!
        .slice(1)
        .map(({ begin, end }) => end - begin)
        .toSorted((a, b) => a - b),
      // A step of the clock before every operator's own.
      step = steps[2 * i + 1]!;
    return {
      operator,
      shape,
      ms: { median: sorted[Math.floor(sorted.length / 2)]!, min: sorted[0]!, max: sorted.at(-1)! },
      rounds: step.rounds,
      onlineBytes: step.onlineBytes,
      dealtBytes: step.dealtBytes,
    };
  });
}

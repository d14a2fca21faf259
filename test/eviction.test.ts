/** Static eviction: an exact public number of tokens survives in each layer, in order, those that the prompt's last queries attend to most; nothing else changes. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Program, Turn } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { lookup } from '../protocols/gates/lookup.ts';
import { FULL, keptTokens, type Policy, type StaticPolicy } from '../protocols/policy.ts';
import { createCache, type LayerCache } from '../protocols/programs/attention.ts';
import { evict, planEviction } from '../protocols/programs/mpcache/eviction.ts';
import { LEVEL_BITS, LEVEL_OPEN_BITS, levelsOf, wholeLevels } from '../protocols/programs/mpcache/importance.ts';
import { slotsByHistogram, slotsByPairs } from '../protocols/programs/mpcache/slots.ts';
import { forward, session } from '../protocols/programs/transformer.ts';
import { share } from '../protocols/tensor.ts';
import { runFixed, runFloat, runLocal, runMeter, split } from './support/local.ts';
import { embedding, golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  { layers, heads } = artefact.shape,
  prefix = artefact.prefixIds.length;

const policy = (rule: Partial<StaticPolicy>, more: Partial<Policy> = {}): Policy => ({
  ...FULL,
  name: 'test',
  static: { keep: 0.4, window: 0.2, heads: 'sum', ranking: 'histogram', ...rule },
  ...more,
});

/** Clusters of 4 survivors, half of them for each token. */
const clusters: Policy['dynamic'] = {
  sizes: [4],
  ratio: [0.5],
  score: 'mean',
  alpha: 0.6,
  bits: 8,
  perHead: 'kv',
  ranking: 'pairs',
  gather: 'logits',
  always: { first: 1, recent: 1 },
  reuse: 1,
};

/** Sums of the evaluators' outputs over Z_2^bits, at a scale. */
const sums = (outputs: readonly [Uint8Array[], Uint8Array[]], scale: number, bits: 32 | 64 = 64): number[][] =>
  outputs[0].map((a, i) => {
    const words = (bytes: Uint8Array): bigint[] =>
        bits === 64 ? [...new BigInt64Array(bytes.slice().buffer)] : Array.from(new Int32Array(bytes.slice().buffer), BigInt),
      y = words(outputs[1][i]!);
    return words(a).map((v, j) => Number(BigInt.asIntN(bits, v + y[j]!)) / 2 ** scale);
  });

/** Places of the `kept` highest, the lower place first among equals, in order. */
function survivors(scores: readonly number[], kept: number): number[] {
  const order = scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
  return order.slice(0, kept).sort((a, b) => a - b);
}

describe('slots of the highest scores', () => {
  const ROWS = 2,
    COUNT = 21;
  const program = (choose: typeof slotsByHistogram, kept: number) =>
    function* (e: Engine): Program<void> {
      const [scores] = yield* e.open([{ x: yield* e.input(ROWS * COUNT, 0), bits: LEVEL_BITS }]);
      yield* e.output(yield* choose(e, scores!, ROWS, COUNT, kept));
      e.endStep();
    };
  const low = (x: readonly number[]): number[] => x.map((v) => ((v % 65536) + 65536) % 65536);

  for (const [name, choose] of [
    ['histogram', slotsByHistogram],
    ['pairs', slotsByPairs],
  ] as const)
    it(`are a permutation that keeps exactly so many, in order, by ${name}`, () =>
      fc.assert(
        fc.property(
          fc.array(fc.oneof(fc.integer({ min: 0, max: 62 }), fc.constantFrom(0, 7, 62)), { minLength: ROWS * COUNT, maxLength: ROWS * COUNT }),
          fc.integer({ min: 1, max: COUNT }),
          (scores, kept) => {
            const values = Float64Array.from(scores),
              shares = split(values, 0, 1),
              run = runLocal(program(choose, kept), [[shares[0]], [shares[1]]]),
              got = low(sums(run.outputs, 0, 32)[0]!);
            for (let r = 0; r < ROWS; r++) {
              const row = got.slice(r * COUNT, (r + 1) * COUNT);
              expect([...row].sort((a, b) => a - b)).toEqual(Array.from({ length: COUNT }, (_, i) => i));
              expect(survivors(scores.slice(r * COUNT, (r + 1) * COUNT), kept).map((j) => row[j])).toEqual(Array.from({ length: kept }, (_, i) => i));
            }
            expect(low([...runFixed(program(choose, kept), [values]).outputs[0]!])).toEqual(got);
            expect(low([...runFloat(program(choose, kept), [values])[0]!])).toEqual(got);
            const meter = runMeter(program(choose, kept));
            expect([run.rounds, run.dealtBytes]).toEqual([meter.steps[0]!.rounds, meter.steps[0]!.dealtBytes]);
          },
        ),
        { numRuns: 12 },
      ));
});

describe('levels of importance', () => {
  const ROWS = 48,
    KEYS = 600,
    mean = ROWS / KEYS,
    values = Float64Array.from({ length: 400 }, (_, i) => (i === 0 ? 0 : Math.min(ROWS, mean * 2 ** (-11 + i / 19))));
  function* program(e: Engine): Program<void> {
    const [x] = yield* e.open([{ x: yield* e.input(values.length, 30), bits: 40 }]),
      [levels] = yield* e.open([{ x: levelsOf(e, x!, ROWS, KEYS), bits: LEVEL_OPEN_BITS }]);
    const table = e.constant(
      'tables',
      Uint8Array.from({ length: 128 }, (_, i) => i),
    );
    yield* e.output(e.apply(lookup, { bits: LEVEL_BITS, outBits: 64, table }, [wholeLevels(e, levels!)])[0]!);
    e.endStep();
  }
  it('are five to an octave, and constant beyond either end', () => {
    const shares = split(values, 30, 3),
      run = runLocal(program, [[shares[0]], [shares[1]]]),
      got = sums(run.outputs, 0)[0]!;
    expect(got).toEqual([...runFixed(program, [values]).outputs[0]!]);
    // The unit is a power of two: 2^-8 times the least one that is not below the mean's inverse.
    const unit = 2 ** (-Math.ceil(Math.log2(KEYS / ROWS)) - 8);
    values.forEach((v, i) => {
      const exact = 1 + 5 * Math.log2(Math.min(4096, Math.max(1, v / unit)));
      expect(Math.abs(got[i]! - exact - 0.5)).toBeLessThan(1.6);
    });
  });
});

const ids = golden()
    .flatMap((g) => g.promptIds.slice(prefix))
    .slice(0, 70),
  TOKENS = ids.length,
  prompt = embedding(artefact, ids);

/** What the caches of all layers hold in the slots that compete, before and after; importance and logits as the program names them. Float. */
function reference(p: Policy): {
  keys: (readonly [before: Float64Array, after: Float64Array])[];
  notes: Map<string, Float64Array>;
  caches: readonly LayerCache[];
} {
  const notes = new Map<string, Float64Array>(),
    keys: [Float64Array, Float64Array][] = [];
  let caches: readonly LayerCache[] = [];
  runFloat(
    function* (e) {
      const plan = bindPlan(e, artefact),
        eviction = planEviction(e, plan, p, TOKENS, prefix, prefix)!;
      caches = createCache(e, plan, prefix + TOKENS);
      for (const { leader, votes } of eviction.groups) caches[leader]!.votes = votes;
      e.watch = (name, x) => void notes.set(name, x.real!.slice());
      const x = yield* forward(e, plan, caches, yield* e.input(prompt.length, plan.residualScale), TOKENS, {
        slots: prefix,
        position: prefix,
        unused: undefined,
      });
      for (const c of caches) keys.push([c.keys.real!.slice(), c.keys.real!]);
      yield* evict(e, plan, eviction, caches);
      yield* e.output(x);
    },
    [prompt],
  );
  return { keys, notes, caches };
}

const { kvHeads, headDim } = artefact.shape;
/** Key of a competing token, all heads; no negative zeros. */
const keyOf = (keys: Float64Array, capacity: number, slot: number): number[] =>
  Array.from({ length: kvHeads }, (_, g) => [...keys.subarray((g * capacity + prefix + slot) * headDim, (g * capacity + prefix + slot + 1) * headDim)])
    .flat()
    .map((v) => v + 0);

/** The paper's importance, from a layer's logits: what the last `voters` queries pay to each private key, over heads. */
function paid(logits: Float64Array, queries: number, voters: number, over: 'sum' | 'max'): number[] {
  const total = Array.from({ length: TOKENS }, () => 0),
    past = prefix + TOKENS - queries;
  let at = 0;
  for (let h = 0; h < heads; h++) {
    const own = Array.from({ length: TOKENS }, () => 0);
    for (let i = 0; i < queries; i++) {
      const row = logits.subarray(at, (at += past + i + 1)),
        top = Math.max(...row),
        p = Array.from(row, (z) => Math.exp(z - top)),
        sum = p.reduce((a, b) => a + b);
      if (i >= queries - voters) for (let t = prefix; t < row.length; t++) own[t - prefix]! += p[t]! / sum;
    }
    own.forEach((v, t) => (total[t] = over === 'sum' ? total[t]! + v : Math.max(total[t]!, v)));
  }
  return total;
}

/** Its level, as the program has it. */
const levelOf = (x: number, rows: number): number =>
  Math.floor(1 + 5 * Math.log2(Math.min(4096, Math.max(1, x * 2 ** (Math.ceil(Math.log2(TOKENS / rows)) + 8)))));

describe('static eviction', () => {
  for (const [over, ranking, window] of [
    ['sum', 'histogram', 0.2],
    ['max', 'histogram', { queries: 12 }],
    ['sum', 'pairs', { queries: 5 }],
  ] as const)
    it(`keeps what the paper's rule keeps, in order (${over}, ${ranking})`, () => {
      const p = policy({ heads: over, ranking, window }, { skipLayers: [1], layers: { 3: { keep: 0.2 } } }),
        { keys, notes, caches } = reference(p),
        voters = typeof window === 'number' ? Math.round(window * TOKENS) : window.queries;
      for (let l = 0; l < layers; l++) {
        const kept = keptTokens(p, l, TOKENS, layers),
          [before, after] = keys[l]!,
          capacity = caches[l]!.capacity;
        expect([caches[l]!.dropped, kept]).toEqual(l === 1 ? [0, TOKENS] : l === 3 ? [TOKENS - 14, 14] : [TOKENS - 28, 28]);
        if (l === 1) continue;
        const importance = paid(notes.get(`${l}.logits`)!, l === layers - 1 ? voters : TOKENS, voters, over),
          expected = survivors(
            importance.map((x) => levelOf(x, voters * (over === 'sum' ? heads : 1))),
            kept,
          );
        expect(Array.from({ length: kept }, (_, i) => keyOf(after, capacity, i))).toEqual(expected.map((j) => keyOf(before, capacity, j)));
        // Levels are fine enough: whoever is not kept is hardly more important than whoever is.
        const least = Math.min(...expected.map((j) => importance[j]!));
        importance.forEach((x, j) => expected.includes(j) || expect(x).toBeLessThan(least * 2 ** 0.21));
      }
    });

  const first: Turn = { tokens: TOKENS, answer: 4 },
    later: Turn[] = [{ tokens: 3, answer: 2 }],
    // The first answer ends after two tokens: a slot is passed over.
    values = [prompt, embedding(artefact, [20]), embedding(artefact, [33]), undefined, embedding(artefact, [21, 30, 31]), embedding(artefact, [40])],
    cases: [string, Policy][] = [
      ['by sums and histogram', policy({})],
      [
        'by the largest head and pairs',
        policy({ heads: 'max', ranking: 'pairs', window: { queries: 6 } }, { skipLayers: [0], layers: { 5: { keep: { tokens: 9 } } } }),
      ],
      ['in pairs of layers', policy({}, { sharing: 'pairs' })],
      ['with clusters chosen among the survivors, in pairs of layers', policy({}, { sharing: 'pairs', dynamic: clusters })],
    ];
  for (const [name, p] of cases)
    it(`runs as the Fixed engine does, bit for bit, through later turns, and costs what the Meter says (${name})`, () => {
      const program = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), first, 80, 0, p),
        shares = values.map((v, i) => v && split(v, artefact.residualScale, i + 1)),
        run = runLocal(program, [shares.map((s) => s?.[0]), shares.map((s) => s?.[1])], { turns: later }),
        fixed = runFixed(program, values, { turns: later }),
        float = runFloat(program, values, later),
        cost = meterSession(artefact, { promptTokens: first.tokens, maxTokens: first.answer, policy: p }, later);
      const got = sums(run.outputs, artefact.residualScale);
      expect(got).toEqual(fixed.outputs.map((o) => [...o]));
      expect(got).toHaveLength(5);
      // The first output comes before the eviction.
      got[0]!.forEach((x, j) => expect(Math.abs(x - float[0]![j]!)).toBeLessThan(0.05));
      expect(run.dealtBytes).toBe(cost.dealtBytes);
      // The fourth step is passed over: dealt, not run.
      const whole = <T>(steps: readonly T[]): T[] => steps.filter((_, i) => i !== 3);
      for (const e of run.evaluators) expect(whole(e.steps)).toEqual(whole(cost.steps));
      expect(run.rounds).toBe(whole(cost.steps).reduce((n, step) => n + step.rounds, 0));
    });

  it('works in tiles of the selector as in one piece', () => {
    const run = (tile?: number) => (e: Engine) =>
      (function* (): Program<void> {
        const plan = bindPlan(e, artefact),
          p = policy({}),
          eviction = planEviction(e, plan, p, TOKENS, prefix, prefix)!,
          caches = createCache(e, plan, prefix + TOKENS);
        for (const { leader, votes } of eviction.groups) caches[leader]!.votes = votes;
        yield* forward(e, plan, caches, yield* e.input(prompt.length, plan.residualScale), TOKENS, { slots: prefix, position: prefix, unused: undefined });
        yield* evict(e, plan, eviction, caches, tile);
        kept.push(caches.map((c) => Array.from({ length: 28 }, (_, i) => keyOf(c.keys.real!, c.capacity, i))));
        yield* e.output(e.zeros(share(1, 64, 0)));
      })();
    const kept: number[][][][] = [];
    runFloat(run(), [prompt]);
    // 42 tokens are dropped, a block has 64: seven rows of the selector at once.
    runFloat(run(7 * (42 + 64)), [prompt]);
    expect(kept[1]).toEqual(kept[0]);
  });

  const cost = (p: Policy, tokens = 300) => meterSession(artefact, { promptTokens: tokens, maxTokens: 2, policy: p });

  it('costs a later token what a shorter prompt costs it, exactly', () => {
    // 0.4 of 300 are 120.
    expect(cost(policy({})).steps[1]).toEqual(cost(FULL, 120).steps[1]);
    expect(cost(policy({ keep: { tokens: 77 } })).steps[1]).toEqual(cost(FULL, 77).steps[1]);
    expect(cost(policy({ keep: 1 })).steps).toEqual(cost(FULL).steps);
  });

  it("costs a layer that takes another one's choice its products alone", () => {
    const own = cost(policy({})).steps[0]!,
      shared = cost(policy({}, { sharing: [[2, 3]] })).steps[0]!,
      calls = (name: string): number => own.gates.get(name)!.calls - shared.gates.get(name)!.calls;
    // Neither votes nor levels nor point functions nor slots of its own: the two products of its keys and values stay.
    const windows = own.gates.get('spline')!.calls - cost(FULL).steps[0]!.gates.get('spline')!.calls;
    expect(calls('spline')).toBe(windows / layers);
    expect(calls('onehot')).toBe(own.gates.get('onehot')!.calls / layers);
    expect(calls('mul')).toBe(1);
    expect(own.partRounds.get('eviction')! - shared.partRounds.get('eviction')!).toBe(2);
  });

  it('lets filled slots compete, as if they were tokens of the prompt', () => {
    const FILLED = 90,
      p = policy({}),
      token = [embedding(artefact, [17]), embedding(artefact, [400])],
      program = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: 1, answer: 2 }, 2, FILLED, p, true),
      shares = token.map((v, i) => split(v, artefact.residualScale, i + 1)),
      run = runLocal(program, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
      spec = { promptTokens: 1, maxTokens: 2, filled: FILLED, policy: p },
      { filling, steps } = meterSession(artefact, { ...spec, evictFilled: true });
    expect(sums(run.outputs, artefact.residualScale)).toEqual(runFixed(program, token).outputs.map((o) => [...o]));
    for (const e of run.evaluators) expect(e.steps).toEqual([filling, ...steps]);
    // Of 91 slots 36 are kept.
    expect(steps[1]).toEqual(cost(FULL, 36).steps[1]);
    expect(meterSession(artefact, spec).steps).toEqual(meterSession(artefact, { ...spec, policy: FULL }).steps);
  });
});

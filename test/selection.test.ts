/** Dynamic selection: the protocol against Fixed bit for bit, the Meter against both, Float against the policy's rule in plain JavaScript; each technique alone. */
import { describe, expect, it } from 'vitest';
import { bindPlan, readArtefact } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Program, Turn } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { Fixed } from '../protocols/engines/fixed.ts';
import { Meter } from '../protocols/engines/meter.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { randomShape, randomWeights } from '../protocols/models/random.ts';
import { policySchema, PRESETS, type Policy } from '../protocols/policy.ts';
import { prepare } from '../protocols/prepare.ts';
import { createCache } from '../protocols/programs/attention.ts';
import { attended, layoutOf, selections } from '../protocols/programs/mpcache/clusters.ts';
import { keyForm } from '../protocols/programs/mpcache/scores.ts';
import { chosenAttention } from '../protocols/programs/mpcache/selection.ts';
import { forward, session } from '../protocols/programs/transformer.ts';
import type { Tensor } from '../protocols/tensor.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { embedding, golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  { layers, heads, kvHeads, headDim, width } = artefact.shape,
  prefix = artefact.prefixIds.length,
  ids = golden().flatMap((c) => c.promptIds.slice(1));

type Dynamic = NonNullable<Policy['dynamic']>;

const policy = (dynamic: Partial<Dynamic> = {}, rest: Partial<Policy> = {}): Policy =>
  policySchema.parse({
    name: 'test',
    static: null,
    dynamic: {
      sizes: [8],
      ratio: [0.4],
      score: 'mean',
      spread: 24,
      bits: 8,
      perHead: 'kv',
      ranking: 'pairs',
      gather: 'logits',
      always: { first: 1, recent: 1 },
      ...dynamic,
    },
    sharing: 'none',
    skipLayers: [],
    layers: {},
    streaming: {},
    ...rest,
  });

const PROMPT = 75,
  tokens = [ids.slice(0, PROMPT), [ids[PROMPT]!], [ids[PROMPT + 1]!]].map((list) => embedding(artefact, list)),
  program = (p: Policy | undefined) => (e: Engine) => session(e, bindPlan(e, artefact), { tokens: PROMPT, answer: 3 }, PROMPT + 2, 0, p);

const sum = (a: Uint8Array, b: Uint8Array): number[] => {
  const x = new BigInt64Array(a.slice().buffer),
    y = new BigInt64Array(b.slice().buffer);
  return Array.from(x, (v, i) => Number(BigInt.asIntN(64, v + y[i]!)) / 2 ** artefact.residualScale);
};

const keyScale = (p: Policy): number => {
  const plan = bindPlan(new Meter(), artefact);
  return keyForm(plan, plan.layers[0]!, selections(p, layers)[0]).scale;
};

describe('the layout of a row', () => {
  const of = (dynamic: Partial<Dynamic>, slots: number) => layoutOf(selections(policy(dynamic), 1)[0]!, slots)!;

  it('counts the always attended clusters in the budget', () => {
    expect(of({}, 78)).toEqual({ slots: 78, size: 8, head: 8, candidates: 7, chosen: 1, tail: 14, levels: [{ count: 7, keep: 1, width: 1 }] });
    expect(attended(of({}, 78))).toBe(8 + 8 + 14);
    expect(of({ always: { first: 0, recent: 0 } }, 80)).toMatchObject({ slots: 80, size: 8, head: 0, candidates: 10, chosen: 4, tail: 0 });
  });

  it('has levels of whole coarse clusters, without those that keep all', () => {
    expect(of({ sizes: [16, 4], ratio: [0.5, 0.6] }, 78)).toEqual({
      slots: 78,
      size: 4,
      head: 16,
      candidates: 12,
      chosen: 4,
      tail: 14,
      levels: [
        { count: 3, keep: 2, width: 4 },
        { count: 8, keep: 4, width: 1 },
      ],
    });
    expect(of({ sizes: [16, 8, 4], ratio: [1, 0.5, 0.5] }, 98).levels.map((x) => x.width)).toEqual([2, 1]);
  });

  it('is undefined where nothing is left to choose', () => {
    expect(of({}, 20)).toBeUndefined();
    expect(of({ ratio: [1] }, 80)).toBeUndefined();
  });

  it('has no levels where heads that do not stream attend to everything', () => {
    const [streaming] = selections(policy({ ratio: [1] }, { streaming: { 0: [0] } }), 1);
    expect(layoutOf(streaming!, 78)).toEqual({ slots: 78, size: 8, head: 8, candidates: 7, chosen: 7, tail: 14, levels: [] });
    expect(layoutOf(streaming!, 20)).toBeUndefined();
  });
});

describe('who chooses', () => {
  const leaders = (rest: Partial<Policy>, n = 6) => selections(policy({}, rest), n).map((s) => (s ? [s.leader, s.leads] : undefined));

  it('pairs leave layers 0 and 1 on their own', () =>
    expect(leaders({ sharing: 'pairs' })).toEqual([
      [0, false],
      [1, false],
      [2, true],
      [2, false],
      [4, true],
      [4, false],
    ]));

  it('any groups, without skipped layers', () => {
    expect(leaders({ sharing: [[0, 2, 5]], skipLayers: [0] })).toEqual([undefined, [1, false], [2, true], [3, false], [4, false], [2, false]]);
    expect(leaders({ sharing: [[4, 5]], skipLayers: [5] })[4]).toEqual([4, false]);
  });
});

const CASES: readonly (readonly [string, Policy])[] = [
  ['clusters of 8, each layer for itself', policy()],
  ['pairs of layers', policy({}, { sharing: 'pairs' })],
  ['each query head for itself, 6 bits, clusters of 4', policy({ perHead: 'query', bits: 6, sizes: [4] })],
  ['two levels', policy({ sizes: [16, 4], ratio: [0.5, 0.5] })],
  ['two levels of which the second has many clusters', policy({ sizes: [4, 1], ratio: [0.35, 0.3], perHead: 'query' })],
  [
    'three levels, the first of which keeps all where few are there',
    policy({ sizes: [8, 4, 2], ratio: [0.6, 0.6, 0.5], perHead: 'query' }, { sharing: 'pairs' }),
  ],
  ['mean + variance / 2', policy({ score: 'meanvar', spread: 100 }, { sharing: 'pairs' })],
  ['mean + variance / 2, two levels', policy({ score: 'meanvar', sizes: [8, 4], ratio: [0.5, 0.4], spread: 100, perHead: 'query' })],
  ['by histogram', policy({ ranking: 'histogram', ratio: [0.6] })],
  ['by histogram, two levels', policy({ ranking: 'histogram', sizes: [16, 4], ratio: [0.5, 0.5], perHead: 'query' }, { sharing: 'pairs' })],
  ['minmax', policy({ score: 'minmax', ratio: [0.6] })],
  [
    'minmax, two levels of which one is three of the other, each query head for itself',
    policy({ score: 'minmax', sizes: [12, 4], ratio: [0.7, 0.5], perHead: 'query', alpha: 0.3 }, { sharing: 'pairs' }),
  ],
  [
    'minmax after static eviction, by histogram',
    policy(
      { score: 'minmax', sizes: [4], ranking: 'histogram' },
      { static: { keep: 0.6, window: { queries: 4 }, heads: 'sum', ranking: 'histogram' }, sharing: 'pairs', skipLayers: [0] },
    ),
  ],
  ['a choice for two tokens', policy({ reuse: 2 }, { sharing: [[1, 2]] })],
  ['streaming heads, in one layer all', policy({ ratio: [0.6] }, { streaming: { 1: [0], 2: Array.from({ length: kvHeads }, (_, g) => g), 3: [kvHeads - 1] } })],
  [
    'streaming heads in layers that share, mean + variance / 2',
    policy({ score: 'meanvar', spread: 100, perHead: 'query' }, { streaming: { 2: [1], 3: [1] }, sharing: 'pairs' }),
  ],
  ['streaming heads, minmax, two levels', policy({ score: 'minmax', sizes: [8, 4], ratio: [0.6, 0.6] }, { streaming: { 0: [0], 4: [kvHeads - 1] } })],
  [
    'after static eviction',
    policy(
      { sizes: [4], ratio: [0.6] },
      { static: { keep: 0.6, window: { queries: 4 }, heads: 'sum', ranking: 'histogram' }, sharing: 'pairs', skipLayers: [0] },
    ),
  ],
  ['keys and values move', policy({ gather: 'values' })],
  ['keys and values move, two levels, each query head for itself', policy({ gather: 'values', sizes: [16, 4], ratio: [0.5, 0.5], perHead: 'query' })],
  ['keys and values move, minmax, pairs of layers', policy({ gather: 'values', score: 'minmax', sizes: [8, 4], ratio: [0.7, 0.5] }, { sharing: 'pairs' })],
  [
    'keys and values move, mean + variance / 2, a choice for two tokens, by histogram',
    policy({ gather: 'values', score: 'meanvar', spread: 100, reuse: 2, ranking: 'histogram', ratio: [0.6] }, { sharing: [[1, 2]] }),
  ],
  [
    'keys and values move, streaming heads, after static eviction',
    policy(
      { gather: 'values', sizes: [4], ratio: [0.6], always: { first: 0, recent: 0 } },
      {
        static: { keep: 0.6, window: { queries: 4 }, heads: 'sum', ranking: 'histogram' },
        streaming: { 1: [0], 2: Array.from({ length: kvHeads }, (_, g) => g), 3: [kvHeads - 1] },
      },
    ),
  ],
  ['skipped layers, budgets of their own, a group', policy({}, { skipLayers: [0], layers: { 2: { ratio: [0.6] } }, sharing: [[1, 4]] })],
];

describe.each(CASES)('%s', (_, p) => {
  const fixed = runFixed(program(p), tokens),
    shares = tokens.map((values, i) => split(values, artefact.residualScale, i + 1)),
    run = runLocal(program(p), [shares.map((s) => s[0]), shares.map((s) => s[1])]),
    cost = meterSession(artefact, { promptTokens: PROMPT, maxTokens: 3, policy: p });

  it('equals Fixed bit for bit', () => {
    expect(run.outputs[0].map((a, i) => sum(a, run.outputs[1][i]!))).toEqual(fixed.outputs.map((o) => [...o]));
  });

  it('costs what the Meter says', () => {
    for (const engine of [...run.evaluators, run.dealer, fixed.engine]) expect(engine.steps).toEqual(cost.steps);
    expect([run.rounds, run.onlineBytes, run.dealtBytes]).toEqual([cost.rounds, cost.onlineBytes, cost.dealtBytes]);
  });

  // Clusters whose scores are close may be ranked otherwise, and another choice is another output.
  it('is near Float, which chooses by exact scores', () => {
    const float = runFloat(program(p), tokens);
    fixed.outputs.forEach((o, i) => expect(distance(o, float[i]!)).toBeLessThan(0.45));
  });
});

/** Of two vectors, relative to the second one's length. */
function distance(a: Float64Array, b: Float64Array): number {
  const norm = (f: (i: number) => number): number => Math.sqrt(b.reduce((s, _, i) => s + f(i) ** 2, 0));
  return norm((i) => a[i]! - b[i]!) / norm((i) => b[i]!);
}

describe('the rule of the policy', () => {
  interface Step {
    /** [heads, slots] */
    readonly logits: Float64Array;
    /** [heads, headDim] */
    readonly attention: Float64Array;
    /** [selectors, chosen, candidates] */
    readonly chosen: Float64Array;
    /** [kvHeads, capacity, headDim] */
    readonly values: Float64Array;
    readonly keys: Float64Array;
    /** [heads, headDim] */
    readonly query: Float64Array;
    /** By level [kvHeads, clusters, headDim]. */
    readonly representatives: readonly Float64Array[];
    readonly capacity: number;
  }

  /** Per layer what the last of the steps attended to; of Fixed the integers, of Float its real numbers. */
  const lastStep =
    (p: Policy, done: (layers: Step[]) => void) =>
    (e: Engine): Program<void> =>
      (function* () {
        const notes = new Map<string, Float64Array>(),
          plan = bindPlan(e, artefact),
          caches = createCache(e, plan, prefix + PROMPT + 1, p),
          past = (slots: number) => ({ slots, position: slots, unused: undefined }),
          read = (x: Tensor): Float64Array => (e instanceof Fixed ? e.values(x) : x.real!.slice());
        yield* forward(e, plan, caches, yield* e.input(PROMPT * width, plan.residualScale), PROMPT, past(prefix));
        e.watch = (name, x) => notes.set(name, read(x));
        yield* forward(e, plan, caches, yield* e.input(width, plan.residualScale), 1, past(prefix + PROMPT));
        const of = (l: number, name: string) => notes.get(`${l}.${name}`)!;
        done(
          caches.map((c, l) => ({
            logits: of(l, 'logits'),
            attention: of(l, 'attention'),
            chosen: of(l, 'chosen'),
            values: read(c.values),
            keys: read(c.keys),
            query: of(l, 'query'),
            representatives: c.representatives?.levels.map(read) ?? [],
            capacity: c.capacity,
          })),
        );
      })();

  /** Attention of one head to a list of slots. */
  function attend(logits: Float64Array, values: Float64Array, from: number, slots: readonly number[]): Float64Array {
    const top = Math.max(...slots.map((t) => logits[t]!)),
      weights = slots.map((t) => Math.exp(logits[t]! - top)),
      total = weights.reduce((s, v) => s + v, 0);
    return Float64Array.from({ length: headDim }, (_, d) => slots.reduce((s, t, i) => s + (weights[i]! / total) * values[from + t * headDim + d]!, 0));
  }

  /** By channel alpha max + (1 - alpha) min of the keys of a cluster. */
  const representative = ({ keys, capacity }: Step, kv: number, from: number, n: number, alpha: number): number[] =>
    Array.from({ length: headDim }, (_, d) => {
      const channel = Array.from({ length: n }, (_x, t) => keys[(kv * capacity + from + t) * headDim + d]!);
      return alpha * Math.max(...channel) + (1 - alpha) * Math.min(...channel);
    });

  /** Slots that a query head attends to, from the logits of all heads that choose with it, or from a score of its own. */
  function chosenSlots(logits: readonly Float64Array[], { sizes, ratio, score, always }: Dynamic, minmax?: (from: number, n: number) => number): number[] {
    const slots = logits[0]!.length,
      [coarse, size] = [sizes[0]!, sizes.at(-1)!],
      head = Math.ceil((always.first * size) / coarse) * coarse,
      region = Math.floor((Math.floor(slots / size) * size - always.recent * size - head) / coarse) * coarse,
      budget = Math.max(1, Math.round(ratio.at(-1)! * Math.ceil(slots / size)) - (Math.ceil(slots / size) - region / size)),
      scoreOf = (from: number, n: number): number =>
        minmax?.(from, n) ??
        logits.reduce((sum, row) => {
          const part = [...row.subarray(from, from + n)],
            mean = part.reduce((x, y) => x + y, 0) / n;
          return sum + mean + (score === 'meanvar' ? part.reduce((x, y) => x + (y - mean) ** 2, 0) / n / 2 : 0);
        }, 0);
    let kept = [head],
      span = region;
    sizes.forEach((n, i) => {
      const keep = i === sizes.length - 1 ? budget : Math.max(Math.ceil((budget * size) / n), Math.round((ratio[i]! * region) / n));
      kept = kept
        .flatMap((from) => Array.from({ length: span / n }, (_, c) => from + c * n))
        .sort((x, y) => scoreOf(y, n) - scoreOf(x, n))
        .slice(0, keep);
      span = n;
    });
    const among = (t: number): boolean => kept.some((from) => t >= from && t < from + size);
    return Array.from({ length: slots }, (_, t) => t).filter((t) => t < head || t >= head + region || among(t));
  }

  /** Of each head the output and what it should be. */
  function compare({ logits, attention, values, capacity }: Step, slots: (head: number, row: (h: number) => Float64Array) => readonly number[]): void {
    const row = (h: number) => logits.subarray((h * logits.length) / heads, ((h + 1) * logits.length) / heads);
    let rows = 0;
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor((h * kvHeads) / heads),
        list = slots(h, row),
        top = Math.max(...row(h)),
        want = attend(row(h), values, kv * capacity * headDim, list);
      if (list.reduce((s, t) => s + Math.exp(row(h)[t]! - top), 0) < 1e-5) continue;
      rows++;
      want.forEach((v, d) => expect(Math.abs(attention[h * headDim + d]! - v)).toBeLessThan(0.005));
    }
    expect(rows).toBeGreaterThan(heads / 2);
  }

  it.each<[string, Partial<Dynamic>, Policy['streaming']?]>([
    ['mean', { ratio: [0.6] }],
    ['per query head', { perHead: 'query', sizes: [4], ratio: [0.4] }],
    ['two levels', { sizes: [16, 4], ratio: [0.5, 0.5] }],
    ['three levels', { sizes: [16, 8, 2], ratio: [0.7, 0.6, 0.6], perHead: 'query' }],
    ['mean + variance / 2', { score: 'meanvar', ratio: [0.6], spread: 100 }],
    ['mean + variance / 2, two levels', { score: 'meanvar', sizes: [8, 4], ratio: [0.5, 0.4], spread: 100, perHead: 'query' }],
    ['minmax', { score: 'minmax', ratio: [0.6] }],
    ['minmax, two levels', { score: 'minmax', sizes: [12, 4], ratio: [0.7, 0.5], perHead: 'query', alpha: 0.3 }],
    ['streaming heads', { ratio: [0.6] }, { 0: [0], 3: Array.from({ length: kvHeads }, (_, g) => g), 4: [kvHeads - 1] }],
    ['streaming heads, others attend to all', { ratio: [1] }, { 0: [0], 3: Array.from({ length: kvHeads }, (_, g) => g), 4: [kvHeads - 1] }],
    ['streaming heads, minmax', { score: 'minmax', ratio: [0.6], perHead: 'query' }, { 0: [1], 4: [0] }],
  ])('%s', (_, dynamic, streaming = {}) => {
    const group = heads / kvHeads,
      p = policy(dynamic, { streaming });
    let steps: Step[] = [];
    runFloat(
      lastStep(p, (s) => (steps = s)),
      tokens,
    );
    expect(steps).toHaveLength(layers);
    for (const [l, step] of steps.entries())
      compare(step, (h, row) => {
        if (streaming[l]?.includes(Math.floor(h / group))) {
          const { slots, head, tail } = layoutOf(selections(p, layers)[l]!, step.logits.length / heads)!;
          return Array.from({ length: head + tail }, (_x, t) => (t < head ? t : slots - tail + t - head));
        }
        const first = Math.floor(h / group) * group,
          together = p.dynamic!.perHead === 'kv' ? Array.from({ length: group }, (_x, i) => first + i) : [h],
          alpha = Math.round(256 * p.dynamic!.alpha) / 256,
          minmax = (from: number, n: number): number => {
            const r = representative(step, first / group, from, n, alpha);
            return together.reduce((s, head) => s + r.reduce((x, v, d) => x + v * step.query[head * headDim + d]!, 0), 0);
          };
        return chosenSlots(together.map(row), p.dynamic!, p.dynamic!.score === 'minmax' ? minmax : undefined);
      });
  });

  it('representatives are within a step of 1/4 a round of their maximum and minimum, in real numbers exact', () => {
    const p = policy({ score: 'minmax', sizes: [12, 4], ratio: [0.7, 0.5] }),
      check = (steps: readonly Step[], error: (rounds: number) => number): void => {
        expect(steps).toHaveLength(layers);
        let largest = 0;
        for (const step of steps)
          [12, 4].forEach((n, level) => {
            const clusters = Math.floor((prefix + PROMPT + 1) / 12) * (12 / n) - (p.dynamic!.always.recent * 4) / n,
              capacity = step.representatives[level]!.length / kvHeads / headDim;
            for (let kv = 0; kv < kvHeads; kv++)
              for (let c = 0; c < Math.floor(clusters) - 12 / n; c++)
                representative(step, kv, c * n, n, 154 / 256).forEach((v, d) => {
                  const off = Math.abs(step.representatives[level]![(kv * capacity + c) * headDim + d]! - v);
                  largest = Math.max(largest, off - error(Math.ceil(Math.log2(n))));
                });
          });
        expect(largest).toBeLessThanOrEqual(0);
      };
    runFloat(
      lastStep(p, (s) => check(s, () => 1e-9)),
      tokens,
    );
    runFixed(
      lastStep(p, (s) => check(s, (rounds) => 0.25 * rounds + 0.01)),
      tokens,
    );
    runFixed(
      lastStep(p, (s) => expect(() => check(s, () => 0.01)).toThrow()),
      tokens,
    );
  });

  it.each(['pairs', 'histogram'] as const)('in integers, by %s: places are a permutation, and the softmax is over the clusters that they choose', (ranking) => {
    const p = policy({ ratio: [0.6], ranking }),
      l = layoutOf(selections(p, layers)[0]!, prefix + PROMPT + 1)!;
    let steps: Step[] = [];
    runFixed(
      lastStep(p, (s) => (steps = s)),
      tokens,
    );
    expect(l.chosen).toBeGreaterThan(2);
    for (const step of steps) {
      const clusters = Array.from({ length: kvHeads }, (_, g) =>
        Array.from({ length: l.chosen }, (_, j) => {
          const column = Array.from({ length: l.candidates }, (_, c) => step.chosen[(g * l.chosen + j) * l.candidates + c]!);
          expect(column.filter((v) => v === 0)).toHaveLength(l.candidates - 1);
          return column.indexOf(1);
        }),
      );
      clusters.forEach((list) => expect(new Set(list).size).toBe(l.chosen));
      compare(step, (h) => {
        const chosen = clusters[Math.floor((h * kvHeads) / heads)]!;
        return Array.from({ length: l.slots }, (_, t) => t).filter(
          (t) => t < l.head || t >= l.slots - l.tail || chosen.includes(Math.floor((t - l.head) / l.size)),
        );
      });
    }
  });

  it.each<[string, Partial<Dynamic>, Partial<Policy>?]>([
    ['mean', { ratio: [0.6] }],
    ['mean, two levels, each query head for itself', { sizes: [16, 4], ratio: [0.5, 0.5], perHead: 'query' }, { sharing: 'pairs' }],
    ['mean + variance / 2', { score: 'meanvar', ratio: [0.6], spread: 100, reuse: 2 }],
    ['minmax', { score: 'minmax', ratio: [0.6] }, { streaming: { 0: [0], 3: [kvHeads - 1] } }],
    ['streaming heads, others attend to all', { ratio: [1] }, { streaming: { 0: [0], 2: [0, kvHeads - 1], 3: [kvHeads - 1] } }],
  ])('gives the same whatever moves: %s', (_, dynamic, rest) => {
    const [logits, values] = (['logits', 'values'] as const).map((gather) => runFloat(program(policy({ ...dynamic, gather }, rest)), tokens));
    values!.forEach((v, i) => expect(distance(v, logits![i]!)).toBeLessThan(0.01));
  });

  it('is a softmax over the attended slots where they hold a thousandth of the weight', () => {
    const p = policy({ ratio: [0.4] }),
      l = layoutOf(selections(p, layers)[0]!, 80)!,
      size = kvHeads * 80 * headDim,
      // One logit of each cluster that is not chosen is 13, in a cluster whose mean is low; those of the others lie between 2 and 3.
      chosen = (slot: number): boolean => slot < l.head + l.chosen * l.size || slot >= l.slots - l.tail,
      logit = (h: number, slot: number): number => (chosen(slot) ? 2 + ((slot * 7 + h) % 16) / 16 : slot % l.size === 3 ? 13 : -6),
      keys = Float64Array.from({ length: size }, (_, i) => (i % headDim === 0 ? logit(0, Math.floor(i / headDim) % 80) : 0)),
      values = Float64Array.from({ length: size }, (_, i) => (Math.floor(i / headDim) % 80) / 64 - (i % headDim) / 32),
      query = Float64Array.from({ length: heads * headDim }, (_, i) => (i % headDim === 0 ? 1 : 0)),
      weights = Array.from({ length: 80 }, (_, t) => Math.exp(logit(0, t))),
      attendedWeight = weights.reduce((s, w, t) => s + (chosen(t) ? w : 0), 0);
    expect(attendedWeight / weights.reduce((s, w) => s + w, 0)).toBeLessThan(1e-3);
    const want = Array.from({ length: headDim }, (_, d) =>
      weights.reduce((s, w, t) => s + (chosen(t) ? (w / attendedWeight) * values[t * headDim + d]! : 0), 0),
    );
    const run = (out: (x: Tensor, e: Engine) => void) =>
        function* (e: Engine): Program<void> {
          const plan = bindPlan(e, artefact),
            layer = plan.layers[0]!,
            selection = selections(p, layers)[0]!,
            form = keyForm(plan, layer, selection),
            inputs = [yield* e.input(heads * headDim, 12), yield* e.input(size, form.scale), yield* e.input(size, 10)],
            [q, k, v] = yield* e.open([
              { x: inputs[0]!, bits: 32 },
              { x: inputs[1]!, bits: form.bits },
              { x: inputs[2]!, bits: layer.attention.bits },
            ]),
            shape = { queries: 1, heads, group: heads / kvHeads, dim: headDim, past: 79, capacity: 80, firstKv: 0, prefix: 0 },
            choice = { selection, layout: l, rows: undefined, taken: false, representatives: undefined };
          const result = yield* chosenAttention(e, plan, layer, k!, v!, q!, shape, undefined, choice);
          out(result, e);
          yield* e.output(e.widen(result, result.scale - 12));
          e.endStep();
        },
      results: Float64Array[] = [],
      inputs = [query, keys, values],
      check = (got: Float64Array): void => got.forEach((v, i) => expect(Math.abs(v - want[i % headDim]!)).toBeLessThan(0.005));
    const fixed = runFixed(
        run((x, e) => results.push((e as Fixed).values(x))),
        inputs,
      ),
      shares = inputs.map((x, i) => split(x, [12, keyScale(p), 10][i]!, i + 1)),
      local = runLocal(
        run(() => undefined),
        [shares.map((s) => s[0]), shares.map((s) => s[1])],
      ),
      [a, b] = local.outputs.map((o) => new BigInt64Array(o[0]!.slice().buffer));
    check(results[0]!);
    check(
      runFloat(
        run(() => undefined),
        inputs,
      )[0]!,
    );
    expect(Array.from(a!, (v, i) => Number(BigInt.asIntN(64, v + b![i]!)) / 2 ** 12)).toEqual([...fixed.outputs[0]!]);
  });

  it('is full attention where all clusters are chosen', () => {
    const all = runFloat(program(policy({ ratio: [1] })), tokens),
      full = runFloat(program(undefined), tokens);
    all.forEach((v, i) => expect(distance(v, full[i]!)).toBeLessThan(1e-3));
    expect(meterSession(artefact, { promptTokens: PROMPT, maxTokens: 2, policy: policy({ ratio: [1] }) }).steps[1]!.rounds).toBe(
      meterSession(artefact, { promptTokens: PROMPT, maxTokens: 2 }).steps[1]!.rounds,
    );
  });

  it('is nearly full attention where all clusters but one are chosen', () => {
    const most = runFloat(program(policy({ ratio: [0.93] })), tokens),
      full = runFloat(program(undefined), tokens);
    expect(layoutOf(selections(policy({ ratio: [0.93] }), layers)[0]!, prefix + PROMPT + 1)).toBeDefined();
    most.forEach((v, i) => expect(distance(v, full[i]!)).toBeLessThan(0.1));
  });
});

describe('the policy of the paper', () => {
  it('equals Fixed bit for bit, and costs what the Meter says', () => {
    const paper = PRESETS['mpcache-paper'],
      long = 260,
      text = Array.from({ length: long + 1 }, (_, i) => ids[i % ids.length]!),
      inputs = [text.slice(0, long), [text[long]!]].map((list) => embedding(artefact, list)),
      shares = inputs.map((v, i) => split(v, artefact.residualScale, i + 1)),
      run = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: long, answer: 2 }, long + 1, 0, paper),
      local = runLocal(run, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
      cost = meterSession(artefact, { promptTokens: long, maxTokens: 2, policy: paper });
    expect(local.outputs[0].map((a, i) => sum(a, local.outputs[1][i]!))).toEqual(runFixed(run, inputs).outputs.map((o) => [...o]));
    expect([local.rounds, local.onlineBytes, local.dealtBytes]).toEqual([cost.rounds, cost.onlineBytes, cost.dealtBytes]);
    expect(cost.steps[0]!.parts.get('representatives')).toBeGreaterThan(0);
  });
});

describe('a session of several turns', () => {
  const first: Turn = { tokens: 40, answer: 20 },
    later: Turn[] = [
      { tokens: 6, answer: 6 },
      { tokens: 1, answer: 3 },
    ],
    // Most of the first answer's allowance, and some of the second's, is not needed.
    inputs = [ids.slice(0, 40), [7], undefined, ids.slice(40, 46), [8], [9], [10], undefined, [11], [12], [13]].map((x) => x && embedding(artefact, x)),
    POLICIES: readonly (readonly [string, Policy])[] = [
      ['mean', policy({ sizes: [4], reuse: 2 })],
      ['minmax', policy({ score: 'minmax', sizes: [4], ratio: [0.5] })],
      ['streaming heads', policy({ sizes: [4], ratio: [0.5] }, { streaming: { 1: [1], 2: Array.from({ length: kvHeads }, (_, g) => g) } })],
      ['minmax, two levels', policy({ score: 'minmax', sizes: [8, 4], ratio: [0.7, 0.4], perHead: 'query', always: { first: 0, recent: 0 } })],
      ['keys and values move', policy({ gather: 'values', sizes: [4], reuse: 2 })],
      [
        'keys and values move, minmax, streaming heads',
        policy({ gather: 'values', score: 'minmax', sizes: [8, 4], ratio: [0.7, 0.4], perHead: 'query' }, { streaming: { 1: [0] } }),
      ],
      ['keys and values move, mean + variance / 2', policy({ gather: 'values', score: 'meanvar', spread: 100, sizes: [4] }, { sharing: 'pairs' })],
    ];

  it.each(POLICIES)('passes slots over as the Fixed engine does, bit for bit, and as the float reference does, nearly: %s', (_, p) => {
    const chat = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), first, 90, 0, p),
      shares = inputs.map((v, i) => v && split(v, artefact.residualScale, i + 1)),
      run = runLocal(chat, [shares.map((s) => s?.[0]), shares.map((s) => s?.[1])], { turns: later }),
      fixed = runFixed(chat, inputs, { turns: later }).outputs,
      float = runFloat(chat, inputs, later);
    expect(run.outputs[0].map((a, i) => sum(a, run.outputs[1][i]!))).toEqual(fixed.map((o) => [...o]));
    expect(fixed).toHaveLength(9);
    fixed.forEach((o, i) => expect(distance(o, float[i]!)).toBeLessThan(0.3));
    expect(run.dealtBytes).toBe(meterSession(artefact, { promptTokens: 40, maxTokens: 20, policy: p }, later).dealtBytes);
  });
});

describe('a GPT-2 shape', () => {
  const shape = { ...randomShape('gpt2-tiny'), maxPositions: 256 },
    weights = randomWeights(shape),
    some = (n: number, seed: number): number[] => Array.from({ length: n }, (_, i) => (7919 * (i + seed) + 13 * i * i) % shape.vocab),
    own = readArtefact(prepare({ name: 'test', weights, prefixIds: [], documents: [1, 2, 3].map((s) => some(60, s)) }).bytes),
    inputs = [some(45, 50), [3], [7]].map((list, i) => embedTokens(weights, list, i === 0 ? 0 : 44 + i)),
    mean = policy({ sizes: [4], spread: undefined });

  it.each<[string, Policy]>([
    ['mean', mean],
    ['minmax', policy({ score: 'minmax', sizes: [4], spread: undefined })],
  ])('equals Fixed bit for bit, costs what the Meter says: 4 rounds more than with the full cache, %s', (_, p) => {
    const run = (e: Engine): Program<void> => session(e, bindPlan(e, own), { tokens: 45, answer: 3 }, 47, 0, p),
      shares = inputs.map((v, i) => split(v, own.residualScale, i + 1)),
      local = runLocal(run, [shares.map((s) => s[0]), shares.map((s) => s[1])]),
      fixed = runFixed(run, inputs).outputs,
      cost = meterSession(own, { promptTokens: 45, maxTokens: 3, policy: p });
    fixed.forEach((want, i) => {
      const [a, b] = local.outputs.map((list) => new BigInt64Array(list[i]!.slice().buffer)) as [BigInt64Array, BigInt64Array];
      want.forEach((v, j) => expect(Number(BigInt.asIntN(64, a[j]! + b[j]!)) / 2 ** own.residualScale).toBe(v));
    });
    expect([local.rounds, local.onlineBytes, local.dealtBytes]).toEqual([cost.rounds, cost.onlineBytes, cost.dealtBytes]);
    expect(cost.steps[1]!.rounds - meterSession(own, { promptTokens: 45, maxTokens: 2 }).steps[1]!.rounds).toBe(4 * shape.layers);
    expect(cost.steps[1]!.rounds).toBeLessThanOrEqual(19 * shape.layers);
  });
});

describe('the window of scores', () => {
  it('is checked by Fixed: ranks of scores too far apart are no permutation', () =>
    expect(() => runFixed(program(policy({ spread: 1 })), tokens)).toThrow(/layer \d+, gate \d+, truthTable: value outside its domain/));

  it('without a spread is that of the logits', () => expect(runFixed(program(policy({ spread: undefined })), tokens).outputs).toHaveLength(3));
});

describe('what is not there', () => {
  const refused = (p: Policy): string => {
    try {
      selections(p, layers);
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  };

  it('is refused, with its name', () => {
    expect(refused(policy({ sizes: [7] }))).toBe('');
    expect(refused(policy({}, { streaming: { 2: [0] }, sharing: 'pairs' }))).toContain('layer 3 takes the choice of layer 2');
  });
});

describe('rounds', () => {
  const layerRounds = (p?: Policy): number => meterSession(artefact, { promptTokens: PROMPT, maxTokens: 2, ...(p && { policy: p }) }).steps[1]!.rounds;

  it('are four more a layer that ranks, one less than that a layer that shares', () => {
    expect(layerRounds(policy()) - layerRounds(undefined)).toBe(4 * layers);
    expect(layerRounds(policy({}, { sharing: [[0, 1, 2, 3, 4, 5]] })) - layerRounds(undefined)).toBe(4 + 3 * (layers - 1));
  });

  it('are two more a further level of few clusters, five more where there are many, one more where scores take variances', () => {
    expect(layerRounds(policy({ sizes: [16, 4], ratio: [0.5, 0.5] })) - layerRounds(policy())).toBe(2 * layers);
    expect(layerRounds(policy({ sizes: [4, 1], ratio: [0.35, 0.3], perHead: 'query' })) - layerRounds(policy())).toBe(5 * layers);
    expect(layerRounds(policy({ score: 'meanvar', spread: 100 })) - layerRounds(policy())).toBe(layers);
  });

  it('are six more by histogram', () => expect(layerRounds(policy({ ranking: 'histogram' })) - layerRounds(policy())).toBe(6 * layers));

  it('are two more a layer that ranks where keys and values move, one less a layer that shares', () => {
    const more = (dynamic: Partial<Dynamic>, rest: Partial<Policy> = {}): number =>
      layerRounds(policy({ ...dynamic, gather: 'values' }, rest)) - layerRounds(policy(dynamic, rest));
    expect(more({})).toBe(2 * layers);
    expect(more({ score: 'minmax', ratio: [0.6] })).toBe(2 * layers);
    expect(more({ score: 'meanvar', spread: 100 })).toBe(2 * layers);
    expect(more({}, { sharing: [[0, 1, 2, 3, 4, 5]] })).toBe(2 - (layers - 1));
  });

  it('and bytes are fewer where heads stream', () => {
    const all = Array.from({ length: kvHeads }, (_, g) => g),
      token = (streaming: Policy['streaming']) =>
        meterSession(artefact, { promptTokens: PROMPT, maxTokens: 2, policy: policy({ ratio: [0.6] }, { streaming }) }).steps[1]!,
      [none, one, whole] = [token({}), token({ 1: [0] }), token({ 1: all })];
    expect([none.rounds - one.rounds, none.rounds - whole.rounds]).toEqual([0, 4]);
    expect(one.onlineBytes + one.dealtBytes).toBeLessThan(none.onlineBytes + none.dealtBytes);
    expect(whole.onlineBytes + whole.dealtBytes).toBeLessThan(one.onlineBytes + one.dealtBytes);
  });

  it('are three more for each halving of a cluster that fills, and one, where it is scored by minmax', () => {
    const { steps } = meterSession(artefact, { promptTokens: PROMPT, maxTokens: 18, policy: policy({ score: 'minmax', sizes: [8], ratio: [0.6] }) }),
      more = steps.slice(1).map((s) => (s.rounds - layerRounds(policy({ ratio: [0.6] }))) / layers);
    expect(new Set(more)).toEqual(new Set([0, 3 * 3 + 1]));
    expect(more.filter((n) => n > 0)).toHaveLength(2);
    expect(steps[0]!.partRounds.get('representatives')).toBe(3 * 3 + 1);
  });

  it('are those of a shared choice where an earlier token has chosen', () => {
    const { steps } = meterSession(artefact, { promptTokens: PROMPT, maxTokens: 5, policy: policy({ reuse: 3 }) });
    expect(steps.slice(1).map((s) => (s.rounds - steps[1]!.rounds) / layers)).toEqual([0, -1, -1, 0]);
  });
});

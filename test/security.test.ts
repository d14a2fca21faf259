/**
 * What each party sees. The argument is in docs/PROTOCOL.md; here is what can be tested of it: no stream element is drawn twice, messages and dealt
 * halves look uniform whatever the input, sizes and order depend on shapes alone, also under a
 * cache policy, the same secret under other keys shares nothing.
 */
import { describe, expect, it } from 'vitest';
import { bindPlan } from '../protocols/artefact.ts';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { Dealer } from '../protocols/engines/dealer.ts';
import { Evaluator } from '../protocols/engines/evaluator.ts';
import { dealerKeys, evaluatorKeys, KeyExchange, sessionId } from '../protocols/handshake.ts';
import { createCache } from '../protocols/programs/attention.ts';
import { forward, session } from '../protocols/programs/transformer.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { u64 } from '../kernels/memory.ts';
import { PROTOCOL_VERSION } from '../protocols/session.ts';
import type { Tensor } from '../protocols/tensor.ts';
import { place, runLocal, split, testKeys } from './support/local.ts';
import { embedding, tinyNotes } from './support/tinyNotes.ts';
import { FULL, policySchema, PRESETS, type DynamicPolicy, type Policy } from '../protocols/policy.ts';

const artefact = tinyNotes(),
  TOKENS = 6;

const program = (e: Engine): Program<void> =>
  (function* () {
    const plan = bindPlan(e, artefact),
      x = yield* e.input(TOKENS * plan.shape.width, artefact.residualScale);
    yield* e.output(
      yield* forward(e, plan, createCache(e, plan, plan.prefixIds.length + TOKENS), x, TOKENS, {
        slots: plan.prefixIds.length,
        position: plan.prefixIds.length,
        unused: undefined,
      }),
    );
    e.endStep();
  })();

const run = (ids: readonly number[], seed: number, shareSeed = 1) => {
  const [a, b] = split(embedding(artefact, ids), artefact.residualScale, shareSeed);
  return runLocal(program, [[a], [b]], { seed });
};
const ids = [10, 20, 30, 40, 50, 60],
  others = [700, 7, 701, 8, 702, 9];

/** Chi-square of the bytes' distribution, in standard deviations from its mean. */
function deviation(bytes: Uint8Array): number {
  const counts = new Float64Array(256),
    expected = bytes.length / 256;
  for (const v of bytes) counts[v]!++;
  return (counts.reduce((s, c) => s + (c - expected) ** 2 / expected, 0) - 255) / Math.sqrt(510);
}

describe('what an evaluator sees', () => {
  it('has sizes and order that depend on shapes alone', () => {
    const a = run(ids, 3),
      b = run(others, 4, 9);
    expect(a.messages.map((list) => list.map((m) => m.length))).toEqual(b.messages.map((list) => list.map((m) => m.length)));
    expect([a.rounds, a.onlineBytes, a.dealtBytes]).toEqual([b.rounds, b.onlineBytes, b.dealtBytes]);
  });

  it('is uniform in every full byte of a residual-stream opening, and shares nothing between sessions with the same secret', () => {
    const a = run(ids, 3),
      b = run(ids, 4);
    for (const party of [0, 1] as const) {
      // Openings over Z_2^64 fill their bytes: the first of every layer is one.
      expect(Math.abs(deviation(a.messages[party][0]!))).toBeLessThan(6);
      const same = a.messages[party][0]!.filter((v, i) => v === b.messages[party][0]![i]).length / a.messages[party][0]!.length;
      expect(same).toBeLessThan(2.5 / 256);
    }
  });

  it('is the same masked value only if the mask is: equal secrets at two places of one message differ', () => {
    const { messages } = run([10, 10, 10, 10, 10, 10], 5),
      first = new BigUint64Array(messages[0][0]!.slice().buffer),
      width = artefact.shape.width;
    let equal = 0;
    for (let i = 0; i < width; i++) if (first[i] === first[i + width]) equal++;
    expect(equal).toBe(0);
  });
});

describe('under a policy that evicts, chooses or shares', () => {
  const PROMPT = 45,
    some = (from: number, step: number, n = PROMPT + 2): number[] => Array.from({ length: n }, (_, i) => 5 + ((from + i * step) % 900)),
    policyOf = (name: string, dynamic: Partial<DynamicPolicy>, rest: Partial<Policy>): Policy =>
      policySchema.parse({
        ...FULL,
        name,
        dynamic: { ...PRESETS.aggressive.dynamic, sizes: [4], ratio: [0.6], spread: 24, bits: 8, ...dynamic },
        ...rest,
      }),
    policies = [
      policyOf('ranks', {}, { static: { keep: 0.8, window: { queries: 5 }, heads: 'max', ranking: 'histogram' }, sharing: 'pairs' }),
      policyOf(
        'levels',
        { sizes: [8, 4], ratio: [0.6, 0.6], ranking: 'histogram', perHead: 'query', reuse: 2 },
        { static: { keep: 0.8, window: 0.2, heads: 'sum', ranking: 'pairs' }, sharing: [[1, 4]], skipLayers: [0] },
      ),
      policyOf('values', { gather: 'values', always: { first: 0, recent: 1 } }, { sharing: 'pairs' }),
    ];

  /** By part of the session and ring: what was opened, as public values, and less its mask. */
  type Opened = Map<string, { readonly bits: number; readonly masked: bigint[]; readonly plain: bigint[] }>;

  /**
   * A session of two more tokens than its prompt. seen: what each evaluator takes in, computes, sends and opens, by name and size, and what all parties count.
   * opened: values of the eviction and of the tokens that choose.
   */
  function transcript(policy: Policy, ids: readonly number[], seed: number): { seen: object; opened: Opened } {
    const prompt = ids.length - 2,
      shares = [ids.slice(0, prompt), ...ids.slice(prompt).map((id) => [id])].map((list, i) =>
        split(embedding(artefact, list), artefact.residualScale, seed + i),
      ),
      events: [string[], string[]] = [[], []],
      halves = new Map<number, { m: BigUint64Array; half: BigUint64Array }>(),
      opened: Opened = new Map();
    const run = runLocal(
      (e) => {
        if (e instanceof Evaluator) {
          const own = events[e.party],
            { receive, receiveWide, receiveBoth, roots } = e;
          Object.assign(e, {
            receive: (dst: number, bits: number, n: number) => (own.push(`dealt ${bits} ${n}`), receive(dst, bits, n)),
            receiveWide: (lo: number, hi: number, bits: number, n: number) => (own.push(`dealt ${bits} ${n}`), receiveWide(lo, hi, bits, n)),
            receiveBoth: (bytes: number) => (own.push(`keys ${bytes}`), receiveBoth(bytes)),
            roots: (dst: number, n: number) => (own.push(`roots ${n}`), roots(dst, n)),
          });
        }
        return session(e, bindPlan(e, artefact), { tokens: prompt, answer: 3 }, prompt + 2, 0, policy);
      },
      [shares.map((s) => s[0]), shares.map((s) => s[1])],
      {
        seed,
        observe(party, gate, name, outputs, e) {
          events[party].push(`${gate} ${name} ${outputs.map((y) => `${y.form} ${y.size} ${y.bits}`).join()}`);
          if (name !== 'open' || (e.steps.length === 0 && e.part !== 'eviction')) return;
          const [w] = outputs as [Tensor],
            own = { m: u64(e.kernels.memory, w.lane, w.size).slice(), half: u64(e.kernels.memory, w.mask, w.size).slice() },
            other = halves.get(gate);
          if (!other) return void halves.set(gate, own);
          const key = `${e.part || 'token'}, ${w.bits} bits`,
            of = opened.get(key) ?? { bits: w.bits, masked: [], plain: [] };
          opened.set(key, of);
          own.m.forEach((m, i) => {
            const [x, y] = [own.half[i]!, other.half[i]!];
            of.masked.push(BigInt.asUintN(w.bits, m));
            of.plain.push(BigInt.asUintN(w.bits, w.boolean ? m ^ x ^ y : m - x - y));
          });
        },
      },
    );
    const seen = {
      events,
      messages: run.messages.map((list) => list.map((m) => m.length)),
      outputs: run.outputs.map((list) => list.map((o) => o.length)),
      helper: run.dealer.steps,
      evaluators: run.evaluators.map((e) => e.steps),
      totals: [run.rounds, run.onlineBytes, run.dealtBytes],
    };
    return { seen, opened };
  }

  /** Chi-square of the uppermost bits, as many as there are values for, in standard deviations from its mean. */
  function distance(values: readonly bigint[], ring: number): number {
    const bits = Math.min(ring, 8, Math.floor(Math.log2(values.length / 8))),
      cells = 2 ** bits,
      counts = new Float64Array(cells);
    for (const v of values) counts[Number(v >> BigInt(ring - bits))]!++;
    return (counts.reduce((s, c) => s + (c - values.length / cells) ** 2 / (values.length / cells), 0) - (cells - 1)) / Math.sqrt(2 * (cells - 1));
  }

  describe.each(policies.map((p) => [p.name, p] as const))('%s', (_, policy) => {
    const first = transcript(policy, some(10, 7), 3);

    it('any two prompts of equal shape have the same pattern of messages and use the helper alike; one that is longer has another (positive control)', () => {
      // All tokens of the first are the same one.
      for (const other of [some(800, 0), some(333, 101)]) expect(transcript(policy, other, 4).seen).toEqual(first.seen);
      expect(transcript(policy, some(10, 7, PROMPT + 3), 3).seen).not.toEqual(first.seen);
    });

    it('what the eviction and steps that choose open is uniform in each ring; without its masks it is not (positive control)', () => {
      const looked = [...first.opened].filter(([, { masked }]) => masked.length >= 32);
      for (const [name, { bits, masked, plain }] of looked) {
        expect(Math.abs(distance(masked, bits)), name).toBeLessThan(6);
        // Ranks are a permutation and comparisons nearly balanced: of themselves close to uniform.
        if (bits >= 7) expect(distance(plain, bits), name).toBeGreaterThan(20);
      }
      // Comparisons, selectors and levels of the eviction; comparisons, ranks and one-hot rows of the choice.
      const evicted = policy.static ? ['eviction, 1 bits', 'eviction, 32 bits', 'eviction, 23 bits', 'attention, 3 bits'] : [];
      expect(looked.map(([name]) => name)).toEqual(expect.arrayContaining([...evicted, 'attention, 1 bits', 'attention, 32 bits']));
    });
  });
});

describe('streams', () => {
  it('give no element twice: the dealer draws every (key, gate, element) at most once', () => {
    const at = place(),
      drawn = new Map<string, [number, number][]>(),
      counted: Kernels = {
        ...at.kernels,
        prg(dst, key, gate, sub, first, bits, n) {
          const name = `${key} ${gate} ${sub}`;
          drawn.set(name, [...(drawn.get(name) ?? []), [first, first + n]]);
          at.kernels.prg(dst, key, gate, sub, first, bits, n);
        },
      };
    const dealer = new Dealer({
      kernels: counted,
      arena: at.arena,
      keys: testKeys(1).dealer,
      sink: { emit: () => undefined, emitBoth: () => undefined, flush: () => undefined, endStep: () => undefined },
    });
    for (const effect of program(dealer)) if (effect.kind === 'job') void effect.run();
    expect(drawn.size).toBeGreaterThan(300);
    for (const [name, ranges] of drawn) {
      const sorted = ranges.toSorted((a, b) => a[0] - b[0]);
      for (let i = 1; i < sorted.length; i++) expect(sorted[i]![0], name).toBeGreaterThanOrEqual(sorted[i - 1]![1]);
    }
  });
});

describe('session keys', () => {
  const spec = {
      version: PROTOCOL_VERSION,
      artefact: 'a'.repeat(64),
      weights: 'open',
      dealer: 'helper',
      promptTokens: 3,
      maxTokens: 2,
      context: 4,
      filled: 0,
      policy: FULL,
    } as const,
    bytes = (v: number, n = 32) => new Uint8Array(n).fill(v);
  const nonces = { client: bytes(1), p0: bytes(2), p1: bytes(3), helper: bytes(4) },
    id = sessionId(spec, bytes(5, 16), nonces);

  it('the id changes with every nonce, the ticket and every field of the spec', () => {
    const ids = [
      id,
      ...Object.keys(nonces).map((k) => sessionId(spec, bytes(5, 16), { ...nonces, [k]: bytes(9) })),
      sessionId(spec, bytes(6, 16), nonces),
      sessionId({ ...spec, promptTokens: 4 }, bytes(5, 16), nonces),
      sessionId({ ...spec, maxTokens: 3 }, bytes(5, 16), nonces),
      sessionId({ ...spec, context: 9 }, bytes(5, 16), nonces),
      sessionId({ ...spec, dealer: 'client' }, bytes(5, 16), nonces),
      sessionId({ ...spec, weights: 'private' }, bytes(5, 16), nonces),
      sessionId({ ...spec, evictFilled: true }, bytes(5, 16), nonces),
      sessionId({ ...spec, policy: PRESETS.aggressive }, bytes(5, 16), nonces),
      sessionId({ ...spec, policy: { ...FULL, skipLayers: [0] } }, bytes(5, 16), nonces),
      sessionId({ ...spec, artefact: 'b'.repeat(64) }, bytes(5, 16), nonces),
    ].map((x) => Buffer.from(x).toString('hex'));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('both ends of a pair derive the same keys; purposes, pairs and sessions differ; the helper has none of the evaluators’ own', () => {
    const h0 = new KeyExchange(),
      h1 = new KeyExchange(),
      e0 = new KeyExchange(),
      e1 = new KeyExchange(),
      q0 = new KeyExchange(),
      q1 = new KeyExchange();
    const p0 = evaluatorKeys(0, id, e0.derive(h0.publicKey, id), q0.derive(q1.publicKey, id)),
      p1 = evaluatorKeys(1, id, e1.derive(h1.publicKey, id), q1.derive(q0.publicKey, id));
    const h = dealerKeys(id, h0.derive(e0.publicKey, id), h1.derive(e1.publicKey, id));
    const hex = (b: Uint8Array) => Buffer.from(b).toString('hex');
    expect([p0.mask, p1.mask, p0.dealt, p0.root, p1.root, p0.tweak].map(hex)).toEqual([h.mask0, h.mask1, h.dealt0, h.root0, h.root1, h.tweak].map(hex));
    expect([p0.zero, p0.coins].map(hex)).toEqual([p1.zero, p1.coins].map(hex));
    const all = [h.mask0, h.mask1, h.dealt0, h.root0, h.root1, p0.zero, p0.coins].map(hex);
    expect(new Set(all).size).toBe(all.length);
    const elsewhere = sessionId(spec, bytes(7, 16), nonces);
    expect(hex(e0.derive(h0.publicKey, elsewhere)('mask/p0'))).not.toBe(hex(p0.mask));
  });
});

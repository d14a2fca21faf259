/** Private weights in one process: the golden tokens, the protocol against Fixed bit for bit, the Meter, and what each role's file has. */
import { beforeAll, describe, expect, it } from 'vitest';
import { chooser, inputShares, logitsOf, resultOf } from '../client/head.ts';
import { bindPlan, readArtefact, type Artefact, type SecretRole } from '../protocols/artefact.ts';
import { meterSession, type SessionCost } from '../protocols/cost.ts';
import type { Program, Turn } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { negativeTable } from '../protocols/gates/less.ts';
import { parsePolicy, PRESETS, type Policy } from '../protocols/policy.ts';
import { argmax, COMPARE_BITS, compareScale, firstPlaces } from '../protocols/programs/argmax.ts';
import { session } from '../protocols/programs/transformer.ts';
import { entryColumns, requireRole, secretTensors } from '../protocols/secret.ts';
import { checkSpec, PROTOCOL_VERSION } from '../protocols/session.ts';
import { secretModel, splitModel } from '../protocols/splitWeights.ts';
import { runFixed, runFloat, runLocal, split } from './support/local.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  goldenCase = golden()[0]!,
  privateIds = goldenCase.promptIds.slice(1),
  steps = [privateIds, goldenCase.continuationIds.slice(0, 1)],
  width = entryColumns(artefact.shape);

interface Split {
  /** With the seeds of the split. */
  readonly owner: Artefact;
  readonly parts: Record<SecretRole, Artefact>;
}

function seeded(owner: Artefact, { tensors: { int64 } }: Artefact): Artefact {
  const own = owner.tensors,
    isSeed = (name: string): boolean => name.startsWith('seed.');
  return {
    ...owner,
    tensors: Object.assign(Object.create(own) as typeof own, {
      names: [...own.names, 'seed.p0', 'seed.p1'],
      int64: (name: string) => (isSeed(name) ? int64(name) : own.int64(name)),
    }),
  };
}

let owner: Artefact, parts: Split['parts'], hidden: Split;

beforeAll(() => {
  const documents = golden()
    .slice(0, 6)
    .map((c) => [...c.promptIds, ...c.continuationIds]);
  const split = (hideLogits: boolean): Split => {
    const whole = secretModel({ artefact, documents, hideLogits });
    const of = Object.fromEntries([...splitModel(whole)].map(({ role, bytes }) => [role, readArtefact(bytes)])) as Split['parts'];
    return { owner: seeded(whole, of.helper), parts: of };
  };
  ({ owner, parts } = split(false));
  hidden = split(true);
}, 120_000);

/** A prompt and one token of its answer; evaluators and dealer from their own files. */
const program =
  (of: (e: Engine) => Artefact, policy?: Policy) =>
  (e: Engine): Program<void> =>
    session(e, bindPlan(e, of(e)), { tokens: privateIds.length, answer: 2 }, privateIds.length + 1, 0, policy);

const oneHot = (ids: readonly number[]): Float64Array => {
  const rows = new Float64Array(ids.length * width);
  ids.forEach((id, i) => (rows[i * width + id] = 1));
  return rows;
};

function runParts(of: Split['parts'], policy?: Policy): ReturnType<typeof runLocal> {
  const shares = steps.map((ids, i) => inputShares(of.client, ids, 1 + 9 * i));
  let evaluators = 0;
  return runLocal(
    program((e) => (e.name === 'dealer' ? of.helper : evaluators++ === 0 ? of.p0 : of.p1), policy),
    [shares.map((s) => s[0]), shares.map((s) => s[1])],
    { seed: 5 },
  );
}

describe('tiny-notes with private weights', () => {
  let run: ReturnType<typeof runLocal>;
  beforeAll(() => {
    run = runParts(parts);
  }, 120_000);

  it('gives the golden tokens', () => {
    run.outputs[0].forEach((a, i) => {
      const logits = logitsOf(parts.client, resultOf(parts.client, [a, run.outputs[1][i]!]));
      expect(logits.indexOf(Math.max(...logits))).toBe(goldenCase.continuationIds[i]);
      if (i === 0) for (const [id, expected] of goldenCase.firstStepTop5) expect(Math.abs(logits[id]! - expected)).toBeLessThan(0.5);
    });
  });

  it('equals Fixed bit for bit, and the float reference nearly', () => {
    const fixed = runFixed(
        program(() => owner),
        steps.map(oneHot),
        { seed: 5 },
      ).outputs,
      float = runFloat(
        program(() => owner),
        steps.map(oneHot),
      );
    run.outputs[0].forEach((a, i) => {
      const got = resultOf(parts.client, [a, run.outputs[1][i]!]);
      expect(got).toEqual(fixed[i]);
      got.forEach((v, j) => expect(Math.abs(v - float[i]![j]!)).toBeLessThan(0.3));
    });
  });

  it('costs what the Meter says: 4 more rounds a layer, 6 more a step', () => {
    const lengths = { promptTokens: privateIds.length, maxTokens: 2 };
    for (const part of [parts.client, parts.p0, parts.helper]) {
      const cost = meterSession(part, lengths);
      expect({ rounds: run.rounds, online: run.onlineBytes, dealt: run.dealtBytes }).toEqual({
        rounds: cost.rounds,
        online: cost.onlineBytes,
        dealt: cost.dealtBytes,
      });
      expect(cost.steps[1]!.rounds - meterSession(artefact, lengths).steps[1]!.rounds).toBe(4 * artefact.shape.layers + 6);
    }
  });
});

describe('tokens whose masks are drawn ahead', () => {
  // Six of an answer's tokens come, of eight: the second four are drawn when the first are used up, and one of them serves none. Then a turn whose answer is whole.
  const first: Turn = { tokens: privateIds.length, answer: 9 },
    later: Turn[] = [{ tokens: 2, answer: 3 }],
    fed: (readonly number[] | undefined)[] = [privateIds, ...[9, 8, 7, 6, 5, 4].map((id) => [id]), undefined, [3, 12], [10], [11]],
    context = privateIds.length + 8 + 4,
    program =
      (of: (e: Engine) => Artefact, tokens?: number) =>
      (e: Engine): Program<void> =>
        session(e, bindPlan(e, of(e)), first, context, 0, undefined, false, undefined, tokens),
    local = (tokens?: number): ReturnType<typeof runLocal> => {
      const shares = fed.map((ids, i) => ids && inputShares(parts.client, ids, 1 + 9 * i));
      let evaluators = 0;
      return runLocal(
        program((e) => (e.name === 'dealer' ? parts.helper : evaluators++ === 0 ? parts.p0 : parts.p1), tokens),
        [shares.map((s) => s?.[0]), shares.map((s) => s?.[1])],
        { seed: 5, turns: later },
      );
    },
    fixed = (tokens?: number): Float64Array[] =>
      runFixed(
        program(() => owner, tokens),
        fed.map((ids) => ids && oneHot(ids)),
        { seed: 5, turns: later },
      ).outputs;

  it('equal Fixed bit for bit, however many at once, through answers that end early and further turns', () => {
    const float = runFloat(
      program(() => owner),
      fed.map((ids) => ids && oneHot(ids)),
      later,
    );
    for (const tokens of [undefined, 1, 0]) {
      const run = local(tokens),
        got = run.outputs[0].map((a, i) => resultOf(parts.client, [a, run.outputs[1][i]!]));
      expect(got).toHaveLength(10);
      expect(got).toEqual(fixed(tokens));
      got.forEach((v, i) => v.forEach((x, j) => expect(Math.abs(x - float[i]![j]!)).toBeLessThan(0.3)));
    }
  });

  it('cost as many bytes and rounds as later, at other times', () => {
    const [four, none] = [undefined, 0].map((tokens) => meterSession(parts.client, { promptTokens: first.tokens, maxTokens: 9 }, later, tokens)) as [
        SessionCost,
        SessionCost,
      ],
      run = local(),
      payload = ({ steps }: SessionCost): number => steps.reduce((n, s) => n + [...s.gates.values()].reduce((m, g) => m + g.dealt, 0), 0);
    expect(run.dealtBytes).toBe(four.dealtBytes);
    expect([four.rounds, four.onlineBytes, payload(four)]).toEqual([none.rounds, none.onlineBytes, payload(none)]);
    // Four tokens' halves with the prompt, the next four's with the fourth token.
    const halves = four.steps.map((s) => s.gates.get('maskShares')!.dealt),
      before = none.steps.map((s) => s.gates.get('maskShares')!.dealt),
      more = halves.map((b, i) => b - before[i]!),
      each = -more[1]!;
    expect(each).toBeGreaterThan(0);
    expect(more).toEqual([4, -1, -1, -1, 3, -1, -1, -1, -1, 2, -1, -1].map((n) => n * each));
  });

  it('serve one opening each', () => {
    runFixed(
      (e) =>
        (function* (): Program<void> {
          const x = yield* e.input(4, 8),
            mask = e.maskAhead(4, 32);
          expect(() => e.open([{ x, bits: 31, mask }]).next()).toThrow(
            /mask drawn ahead does not serve; expected an unused mask of 4 elements over 31 bits; got 4 over 32/,
          );
          yield* e.open([{ x, bits: 32, mask }]);
          expect(() => e.open([{ x, bits: 32, mask }]).next()).toThrow(/mask drawn ahead does not serve.*got a used one/);
          yield* e.output(x);
          e.endStep();
        })(),
      [Float64Array.of(1, 2, 3, 4)],
    );
  });
});

const STATIC = { keep: 0.6, window: { queries: 4 }, heads: 'sum', ranking: 'histogram' },
  DYNAMIC = {
    sizes: [8],
    ratio: [0.5],
    score: 'mean',
    bits: 8,
    perHead: 'kv',
    ranking: 'pairs',
    gather: 'logits',
    always: { first: 1, recent: 1 },
  };

describe.each([
  ['static eviction, then clusters by their mean, layers in pairs', { static: STATIC, dynamic: DYNAMIC, sharing: 'pairs' }],
  ['clusters by mean and variance', { static: null, dynamic: { ...DYNAMIC, score: 'meanvar', spread: 100 } }],
  ['clusters by minmax', { static: null, dynamic: { ...DYNAMIC, score: 'minmax', sizes: [4] }, skipLayers: [0] }],
])('private weights with a cache policy: %s', (_, chosen) => {
  it('equal Fixed bit for bit, and cost what the Meter says', () => {
    const policy = parsePolicy({ name: 'test', ...chosen }, 'test'),
      run = runParts(parts, policy),
      fixed = runFixed(
        program(() => owner, policy),
        steps.map(oneHot),
        { seed: 5 },
      ).outputs,
      cost = meterSession(parts.client, { promptTokens: privateIds.length, maxTokens: 2, policy });
    expect(run.outputs[0].map((a, i) => resultOf(parts.client, [a, run.outputs[1][i]!]))).toEqual(fixed);
    expect([run.rounds, run.onlineBytes, run.dealtBytes]).toEqual([cost.rounds, cost.onlineBytes, cost.dealtBytes]);
  });
});

describe('a model that hides its logits', () => {
  let run: ReturnType<typeof runLocal>;
  beforeAll(() => {
    run = runParts(hidden.parts);
  }, 120_000);
  const results = (): Float64Array[] => run.outputs[0].map((a, i) => resultOf(hidden.parts.client, [a, run.outputs[1][i]!]));

  it('gives the golden tokens, and nothing else', () => {
    const choose = chooser(hidden.parts.client);
    expect(results().map(choose)).toEqual(goldenCase.continuationIds.slice(0, 2));
    expect(run.outputs.flat().map((o) => o.length)).toEqual([8, 8, 8, 8]);
    expect(() => logitsOf(hidden.parts.client, results()[0]!)).toThrow(/logits of a model that hides them/);
    expect(() => chooser(hidden.parts.client, { temperature: 1 })).toThrow(/sampling from a model that hides its logits.*--temperature 0/);
  });

  it('equals Fixed bit for bit, and costs what the Meter says', () => {
    const fixed = runFixed(
      program(() => hidden.owner),
      steps.map(oneHot),
      { seed: 5 },
    ).outputs;
    expect(results()).toEqual(fixed);
    const lengths = { promptTokens: privateIds.length, maxTokens: 2 },
      cost = meterSession(hidden.parts.client, lengths);
    expect([run.rounds, run.onlineBytes, run.dealtBytes]).toEqual([cost.rounds, cost.onlineBytes, cost.dealtBytes]);
    expect(cost.steps[1]!.rounds - meterSession(parts.client, lengths).steps[1]!.rounds).toBe(1 + 2 * Math.ceil(Math.log2(artefact.shape.vocab)));
  });
});

describe('argmax', () => {
  function* greatest(e: Engine, n: number): Program<void> {
    yield* e.output(
      yield* argmax(e, yield* e.input(n, 20), {
        scale: compareScale(4),
        negative: e.constant('tables', negativeTable(COMPARE_BITS)),
        firsts: e.constant('tables', firstPlaces(n)),
      }),
    );
    e.endStep();
  }

  it('is the place of the greatest value, the first among equals, for any count', () => {
    for (const n of [2, 3, 4, 5, 7, 8, 13, 64, 100, 257]) {
      // Whole steps of 1 / 4, far apart for the comparison; every third place at the top is taken twice.
      const values = Float64Array.from({ length: n }, (_, i) => ((i * 37 + n * 11) % 61) / 4 - 8);
      if (n % 3 === 0) values.fill(15.5, n >> 1);
      const shares = split(values, 20, n),
        run = runLocal((e) => greatest(e, n), [[shares[0]], [shares[1]]]),
        [a, b] = run.outputs.map((o) => new BigInt64Array(o[0]!.slice().buffer)[0]!) as [bigint, bigint];
      expect(Number(a + b), String(n)).toBe(values.indexOf(Math.max(...values)));
    }
  });
});

describe('a session with private weights', () => {
  it('is refused by name where nothing is dealt for it', () => {
    const spec = {
      version: PROTOCOL_VERSION,
      artefact: parts.client.digest,
      weights: 'private',
      dealer: 'helper',
      promptTokens: 4,
      maxTokens: 2,
      context: 5,
      filled: 0,
      policy: PRESETS.full,
    } as const;
    expect(() => checkSpec(parts.client, spec)).not.toThrow();
    expect(() => checkSpec(parts.client, { ...spec, dealer: 'client' })).toThrow(/a dealer knows the weights' masks; .*--helper server/);
    expect(() => checkSpec(parts.client, { ...spec, weights: 'open' })).toThrow(/session with open weights over a model of private ones/);
  });
});

describe('the files of a split', () => {
  it('belong together, each to its role', () => {
    expect(new Set(Object.values(parts).map((a) => a.digest)).size).toBe(1);
    expect(() => requireRole(parts.p0.header, 'p1')).toThrow(/another role's part of a private model; expected the part of p1; got that of p0/);
    expect([...splitModel(owner)].map(({ bytes }) => readArtefact(bytes).tensors.metadata['tensors'])).not.toEqual(
      Object.values(parts).map((a) => a.tensors.metadata['tensors']),
    );
  });

  it('have seeds and masked values where they belong, and weights nowhere', () => {
    const secret = secretTensors(owner.header as Parameters<typeof secretTensors>[0]).map((t) => t.name),
      seeds = { p0: ['seed.p0'], p1: ['seed.p1'], helper: ['seed.p0', 'seed.p1'], client: [] } as const;
    for (const [role, part] of Object.entries(parts)) {
      const names = part.tensors.names.filter((n) => !/^(table|rope)\./.test(n));
      expect(names.sort(), role).toEqual([...seeds[role as keyof typeof seeds], ...(role.startsWith('p') ? secret : [])].sort());
    }
    for (const name of ['entry', 'head', 'layers.0.q', 'layers.3.k']) expect(parts.p0.tensors.int32(name), name).toEqual(parts.p1.tensors.int32(name));
    // What is stored is uniform: of all bytes of a matrix each value is about as frequent.
    for (const name of ['entry', 'layers.0.q', 'layers.0.down']) {
      const bytes = new Uint8Array(parts.p0.tensors.shape(name).reduce((a, b) => a * b, name.endsWith('down') ? 8 : 4)),
        counts = Array.from({ length: 256 }, () => 0);
      parts.p0.tensors.copy(name, bytes);
      for (const b of bytes) counts[b]!++;
      const expected = bytes.length / 256,
        chi = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
      expect(chi, name).toBeLessThan(400);
    }
  });

  it('give other masks in every split', () => {
    const again = [...splitModel(owner)].map(({ bytes }) => readArtefact(bytes))[0]!;
    expect(again.tensors.int32('layers.0.q')).not.toEqual(parts.p0.tensors.int32('layers.0.q'));
    expect(() => secretModel({ artefact: parts.p0, documents: [] })).toThrow(/weights are split already/);
  });
});

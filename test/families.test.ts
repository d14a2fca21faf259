/** Every family of models, small and random: prepared, then the protocol against Fixed bit for bit, Fixed against the plain model, the Meter against both. */
import { describe, expect, it } from 'vitest';
import { inputShares, resultOf } from '../client/head.ts';
import { bindPlan, readArtefact, type Artefact } from '../protocols/artefact.ts';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { evaluate } from '../protocols/evaluate.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { finalNorm } from '../protocols/models/finalNorm.ts';
import { PlainModel, product } from '../protocols/models/plain.ts';
import { randomShape, randomWeights } from '../protocols/models/random.ts';
import { prepare } from '../protocols/prepare.ts';
import { createCache } from '../protocols/programs/attention.ts';
import { forward, session } from '../protocols/programs/transformer.ts';
import { splitModel, secretModel } from '../protocols/splitWeights.ts';
import { runFixed, runLocal, runMeter, split } from './support/local.ts';

const llama = randomShape('tiny');
/** Rounds of a layer whose softmax refers to buckets; two less where its reference is public. */
const FAMILIES = [
  { name: 'GPT-2: LayerNorm, learned positions, GELU, biases', shape: randomShape('gpt2-tiny'), rounds: 15 },
  { name: 'Llama with grouped queries', shape: llama, rounds: 17 },
  {
    name: 'Llama 3 scaling, an untied head',
    shape: { ...llama, tied: false, rope: { theta: 5e5, scaling: { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 } } },
    rounds: 17,
  },
  { name: 'Qwen2: biases of q, k, v', shape: { ...llama, architecture: 'qwen2' as const }, rounds: 17 },
];

describe.each(FAMILIES)('$name', ({ shape: large, rounds }) => {
  const shape = { ...large, maxPositions: 256 },
    weights = randomWeights(shape),
    ids = (n: number, seed: number): number[] => Array.from({ length: n }, (_, i) => (7919 * (i + seed) + 13 * i * i) % shape.vocab),
    prefixIds = [1, 5],
    artefact = readArtefact(prepare({ name: 'test', weights, prefixIds, documents: [1, 2, 3].map((s) => [...prefixIds, ...ids(60, s)]) }).bytes),
    tokens = ids(9, 40),
    program = (e: Engine): Program<void> =>
      (function* () {
        const plan = bindPlan(e, artefact),
          past = prefixIds.length,
          caches = createCache(e, plan, past + tokens.length),
          x = yield* e.input(tokens.length * shape.width, plan.residualScale);
        yield* e.output(yield* forward(e, plan, caches, x, tokens.length, { slots: past, position: past, unused: undefined }));
        e.endStep();
      })();
  const values = embedTokens(weights, tokens, prefixIds.length);

  it('equals Fixed bit for bit, with the rounds and bytes that the Meter says', () => {
    const shares = split(values, artefact.residualScale, 3),
      run = runLocal(program, [[shares[0]], [shares[1]]]),
      fixed = runFixed(program, [values]),
      meter = runMeter(program).steps[0]!,
      [a, b] = run.outputs.map((list) => new BigInt64Array(list[0]!.buffer));
    fixed.outputs[0]!.forEach((v, i) => expect(Number(BigInt.asIntN(64, a![i]! + b![i]!)) / 2 ** artefact.residualScale).toBe(v));
    expect([run.rounds, run.onlineBytes, run.dealtBytes]).toEqual([meter.rounds, meter.onlineBytes, meter.dealtBytes]);
    const publics = artefact.header.layers.filter((l) => l.attention.reference.kind === 'public').length;
    expect(meter.rounds).toBe(rounds * shape.layers - 2 * publics);
  });

  it('gives the logits of the plain model', () => {
    const plain = new PlainModel(weights);
    let want: Float64Array = new Float64Array(0);
    for (const id of [...prefixIds, ...tokens]) want = plain.next(id);
    const got = product(weights.head, finalNorm(weights, runFixed(program, [values]).outputs[0]!)),
      size = Math.sqrt(want.reduce((s, v) => s + v * v, 0) / want.length),
      error = Math.sqrt(want.reduce((s, v, i) => s + (v - got[i]!) ** 2, 0) / want.length);
    expect(error).toBeLessThan(0.01 * size);
  });

  it('gives the same logits with private weights, by the protocol as by Fixed', () => {
    const documents = [1, 2, 3].map((s) => [...prefixIds, ...ids(60, s)]),
      owner = secretModel({ artefact, documents }),
      parts = Object.fromEntries([...splitModel(owner)].map(({ role, bytes }) => [role, readArtefact(bytes)])),
      secret = (of: (e: Engine) => Artefact) => (e: Engine) => session(e, bindPlan(e, of(e)), { tokens: tokens.length, answer: 1 }, tokens.length),
      [a, b] = inputShares(parts['client']!, tokens, prefixIds.length),
      hot = new Float64Array((a.length / 4) | 0);
    tokens.forEach((id, i) => (hot[(i * hot.length) / tokens.length + id] = 1));
    let party = 0;
    const run = runLocal(
        secret((e) => parts[e.name === 'dealer' ? 'helper' : `p${party++}`]!),
        [[a], [b]],
      ),
      got = resultOf(parts['client']!, [run.outputs[0][0]!, run.outputs[1][0]!]),
      plain = new PlainModel(weights);
    expect(got).toEqual(
      runFixed(
        secret(() => owner),
        [hot],
      ).outputs[0],
    );
    let want: Float64Array = new Float64Array(0);
    for (const id of [...prefixIds, ...tokens]) want = plain.next(id);
    const size = Math.sqrt(want.reduce((s, v) => s + v * v, 0) / want.length),
      error = Math.sqrt(want.reduce((s, v, i) => s + (v - got[i]!) ** 2, 0) / want.length);
    expect(error).toBeLessThan(0.01 * size);
  });

  it('is found faithful by evaluate, which also finds a model whose weights are others', () => {
    const windows = [[...prefixIds, ...ids(24, 77)]],
      result = evaluate({ artefact, weights, windows, sample: 3 }),
      others = randomWeights(shape),
      wrong = evaluate({
        artefact,
        weights: { ...others, layers: others.layers.map((l) => ({ ...l, down: l.down.map((v) => -v) })) },
        windows,
        sample: 0,
      });
    expect(result.positions).toBe(23);
    expect(result.protocol).toEqual({ positions: 3, equalsFixed: true });
    expect(Math.abs(result.perplexity.change)).toBeLessThan(0.02);
    expect(result.domains.every((d) => d.used < 1)).toBe(true);
    expect(wrong.logitError.rms).toBeGreaterThan(10 * result.logitError.rms);
    expect(wrong.protocol).toBeUndefined();
  });
});

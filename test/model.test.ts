/** The Llama program on the embedded model, in one process: Fixed against the golden logits, the protocol against Fixed bit for bit, the Meter against both. */
import { beforeAll, describe, expect, it } from 'vitest';
import { logitsOf } from '../client/head.ts';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import type { Fixed } from '../protocols/engines/fixed.ts';
import { createCache } from '../protocols/programs/attention.ts';
import { forward } from '../protocols/programs/transformer.ts';
import { runFixed, runLocal, split } from './support/local.ts';
import { embedding, golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  goldenCase = golden()[0]!,
  privateIds = goldenCase.promptIds.slice(1);

/** Prefill and one decoded token as one step. */
const program = (e: Engine): Program<void> =>
  (function* () {
    const plan = bindPlan(e, artefact),
      past = plan.prefixIds.length,
      width = plan.shape.width;
    const caches = createCache(e, plan, past + privateIds.length + 1);
    const prompt = yield* e.input(privateIds.length * width, artefact.residualScale);
    const mark = e.mark();
    yield* e.output(yield* forward(e, plan, caches, prompt, privateIds.length, { slots: past, position: past, unused: undefined }));
    e.release(mark);
    const token = yield* e.input(width, artefact.residualScale);
    yield* e.output(yield* forward(e, plan, caches, token, 1, { slots: past + privateIds.length, position: past + privateIds.length, unused: undefined }));
    e.endStep();
  })();

const values = [embedding(artefact, privateIds), embedding(artefact, goldenCase.continuationIds.slice(0, 1))];

describe('tiny-notes in one process', () => {
  /** Gates of the decoded token, per engine: gate -> lanes. */
  const traces = { p0: new Map<string, BigUint64Array[]>(), p1: new Map<string, BigUint64Array[]>(), fixed: new Map<string, BigUint64Array[]>() };
  const rings = new Map<string, { bits: number; boolean: boolean; form: string }[]>();
  let fixedOutputs: Float64Array[] = [],
    run: ReturnType<typeof runLocal>;

  beforeAll(() => {
    const record = (
      trace: Map<string, BigUint64Array[]>,
      engine: { kernels: { memory: WebAssembly.Memory } },
      gate: number,
      name: string,
      outputs: readonly { lane: number; mask: number; size: number; bits: number; boolean: boolean; form: string }[],
    ) => {
      if (outputs[0] === undefined || outputs[0].size > 20000) return;
      trace.set(
        `${gate} ${name}`,
        outputs.map((t) => {
          const lane = new BigUint64Array(engine.kernels.memory.buffer, t.lane, t.size).slice();
          if (trace !== traces.fixed || t.form === 'share') return lane;
          // What Fixed holds of a wire is the value and the mask: the public m is their sum.
          const mask = new BigUint64Array(engine.kernels.memory.buffer, t.mask, t.size);
          return lane.map((v, i) => (t.boolean ? v ^ mask[i]! : v + mask[i]!));
        }),
      );
      rings.set(
        `${gate} ${name}`,
        outputs.map((t) => ({ bits: t.bits, boolean: t.boolean, form: t.form })),
      );
    };
    const fixed = runFixed(program, values, { seed: 5, observe: (gate, name, outputs, engine: Fixed) => record(traces.fixed, engine, gate, name, outputs) });
    fixedOutputs = fixed.outputs;
    const parts = values.map((v, i) => split(v, artefact.residualScale, i + 1));
    run = runLocal(program, [parts.map((p) => p[0]), parts.map((p) => p[1])], {
      seed: 5,
      observe: (party, gate, name, outputs, engine) => record(party === 0 ? traces.p0 : traces.p1, engine, gate, name, outputs),
    });
  }, 120_000);

  it('Fixed gives the golden top five logits of the first step', () => {
    const logits = logitsOf(artefact, fixedOutputs[0]!);
    const top = [...logits]
      .map((v, id) => [id, v] as const)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 1);
    expect(top.map(([id]) => id)).toEqual([goldenCase.firstStepTop5[0]![0]]);
    for (const [id, expected] of goldenCase.firstStepTop5) expect(Math.abs(logits[id]! - expected)).toBeLessThan(0.5);
    const second = logitsOf(artefact, fixedOutputs[1]!);
    expect(second.indexOf(Math.max(...second))).toBe(goldenCase.continuationIds[1]);
  });

  it('the protocol equals Fixed bit for bit on every tensor', () => {
    expect([...traces.p0.keys()]).toEqual([...traces.fixed.keys()]);
    let compared = 0;
    for (const [key, fixed] of traces.fixed)
      fixed.forEach((lane, o) => {
        const { bits, boolean, form } = rings.get(key)![o]!,
          a = traces.p0.get(key)![o]!,
          b = traces.p1.get(key)![o]!;
        for (let i = 0; i < lane.length; i++) {
          const got = BigInt.asUintN(bits, form === 'wire' ? a[i]! : boolean ? a[i]! ^ b[i]! : a[i]! + b[i]!);
          if (form === 'wire' && got !== BigInt.asUintN(bits, b[i]!)) expect(got, `${key}, wire ${o}, element ${i} at P1`).toBe(BigInt.asUintN(bits, b[i]!));
          if (got !== BigInt.asUintN(bits, lane[i]!)) expect(got, `${key}, output ${o}, element ${i}`).toBe(BigInt.asUintN(bits, lane[i]!));
        }
        compared += lane.length;
      });
    expect(compared).toBeGreaterThan(100_000);
    const sum = run.outputs.map((list) => list.map((b) => new BigInt64Array(b.buffer)));
    fixedOutputs.forEach((want, step) =>
      want.forEach((v, i) => expect(Number(BigInt.asIntN(64, sum[0]![step]![i]! + sum[1]![step]![i]!)) / 2 ** artefact.residualScale).toBe(v)),
    );
  });

  it('rounds and bytes equal the Meter exactly', () => {
    const cost = meterSession(artefact, { promptTokens: privateIds.length, maxTokens: 2 });
    expect(run.rounds).toBe(cost.rounds);
    expect(run.onlineBytes).toBe(cost.onlineBytes);
    expect(cost.steps[1]!.rounds).toBe(17 * artefact.shape.layers);
  });
});

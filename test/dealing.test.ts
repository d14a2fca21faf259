/**
 * The dealer with a bulk backend: parked jobs, in whatever order and by whomever they are computed, change no byte of what is dealt, nor where its frames end.
 * Then the same through a thread and a real backend, where there is one.
 */
import { describe, expect, it } from 'vitest';
import { BULK_KINDS, runInPlace, type BulkJob, type BulkKind } from '../kernels/bulk.ts';
import { generate } from '../client/generate.ts';
import { openBackend } from '../party/bulk/backends.ts';
import { openBulk } from '../party/bulk/thread.ts';
import { Trio } from '../party/launch.ts';
import { connect } from '../party/sockets.ts';
import { bindPlan, readArtefact } from '../protocols/artefact.ts';
import { Dealer } from '../protocols/engines/dealer.ts';
import type { BulkRunner, DealtSink, Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { createCache } from '../protocols/programs/attention.ts';
import { forward, session } from '../protocols/programs/transformer.ts';
import { secretModel, splitModel } from '../protocols/splitWeights.ts';
import { place, testKeys } from './support/local.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes();

/** A prompt and two tokens: openings large enough to be drawn in bulk, and small ones. */
function* program(e: Engine): Program<void> {
  const plan = bindPlan(e, artefact),
    prefix = plan.prefixIds.length,
    prompt = 60,
    cache = createCache(e, plan, prefix + prompt + 2);
  for (const [done, rows] of [
    [0, prompt],
    [prompt, 1],
    [prompt + 1, 1],
  ] as const) {
    const x = yield* e.input(rows * plan.shape.width, artefact.residualScale);
    yield* e.output(yield* forward(e, plan, cache, x, rows, { slots: prefix + done, position: prefix + done, unused: undefined }));
    e.endStep();
  }
}

/** The same of a private model, by its helper's part. */
function privately(answer = 2): (e: Engine) => Program<void> {
  const { promptIds } = golden()[0]!,
    owner = secretModel({ artefact, documents: [promptIds] }),
    { bytes } = [...splitModel(owner)].find(({ role }) => role === 'helper')!,
    helper = readArtefact(bytes);
  return (e) => session(e, bindPlan(e, helper), { tokens: 20, answer }, 19 + answer);
}

interface Dealt {
  /** To P0, to P1, and where both are cut: lengths so far, and the hash at a step's end. */
  readonly streams: readonly [Buffer, Buffer];
  readonly cuts: readonly string[];
  readonly lists: readonly (readonly BulkJob[])[];
}

/** `kinds` of jobs are computed by the runner, in reverse order; from list `failing` on it answers that it cannot. */
function deal(kinds: readonly BulkKind[] | undefined, failing = Infinity, of = program, stepsTogether = false): Dealt {
  const at = place('wasm', 512 << 20),
    parts: [Buffer[], Buffer[]] = [[], []],
    lengths = [0, 0],
    cuts: string[] = [],
    lists: (readonly BulkJob[])[] = [];
  const push = (party: 0 | 1, pointer: number, bytes: number): void => {
    parts[party].push(Buffer.from(new Uint8Array(at.kernels.memory.buffer, pointer, bytes)));
    lengths[party]! += bytes;
  };
  const sink: DealtSink = {
    emit: (pointer, bytes) => push(1, pointer, bytes),
    emitBoth: (pointer, bytes) => ([0, 1] as const).forEach((party) => push(party, pointer, bytes)),
    flush: () => void cuts.push(lengths.join()),
    endStep: (hash) => void cuts.push([...lengths, hash.low, hash.high].join()),
  };
  const bulk: BulkRunner | undefined = kinds && {
    kinds,
    run(jobs) {
      lists.push(jobs);
      if (lists.length > failing) {
        // What a device that fails leaves behind.
        for (const j of jobs) at.kernels.fill(j.dst, -1, 1);
        return false;
      }
      runInPlace(at.kernels, [...jobs].reverse());
      return true;
    },
  };
  const dealer = new Dealer({ ...at, keys: testKeys(7).dealer, sink, bulk, stepsTogether });
  for (const effect of of(dealer)) if (effect.kind === 'job') void effect.run();
  return { streams: [Buffer.concat(parts[0]), Buffer.concat(parts[1])], cuts, lists };
}

describe('a dealer with a bulk backend deals the same bytes', () => {
  const plain = deal(undefined);
  const same = (other: Dealt, expected = plain): void => {
    for (const party of [0, 1] as const) expect(other.streams[party].equals(expected.streams[party]), `to P${party}`).toBe(true);
    expect(other.cuts).toEqual(expected.cuts);
  };
  it('with all kinds of jobs, a token in a list', () => {
    const all = deal(BULK_KINDS),
      kinds = new Set(all.lists.flat().map((j) => j.kind));
    same(all);
    expect([...kinds].sort()).toEqual(['exp', 'fourier', 'gemm', 'keys', 'prg']);
    // A token's jobs come together, those of all layers.
    expect(all.lists.slice(-2).map((l) => l.filter((j) => j.kind === 'gemm').length)).toEqual([2 * artefact.shape.layers, 2 * artefact.shape.layers]);
  });
  it.each(BULK_KINDS)('with %s alone, the rest in place', (kind) => same(deal([kind])));
  it('with private weights, matrices of 32 and of 64 bits', () => {
    const of = privately(),
      all = deal(BULK_KINDS, Infinity, of);
    same(all, deal(undefined, Infinity, of));
    expect(new Set(all.lists.flat().flatMap((j) => (j.kind === 'gemm' && j.batch === 1 ? [j.yBits] : [])))).toEqual(new Set([32, 64]));
  });
  it.each([
    ['open', () => (e: Engine) => session(e, bindPlan(e, artefact), { tokens: 3, answer: 9 }, 11)],
    ['private', () => privately(9)],
  ])('with several tokens in a list where nobody waits for one, %s weights', (_, open) => {
    const of = open(),
      gemms = ({ lists }: Dealt): number[] => lists.map((l) => l.filter((j) => j.kind === 'gemm').length),
      [apart, together] = [false, true].map((steps) => deal(BULK_KINDS, Infinity, of, steps)) as [Dealt, Dealt];
    same(apart, deal(undefined, Infinity, of));
    same(together, apart);
    expect(together.lists.length).toBeLessThan(apart.lists.length / 2);
    expect(Math.max(...gemms(together))).toBeGreaterThan(2 * gemms(apart).at(-1)!);
    same(deal(BULK_KINDS, 1, of, true), apart);
  });
  it('where the backend fails on the way', () => same(deal(BULK_KINDS, 5)));
});

/** Two tokens after the beginning of a golden prompt, and what the helper says of its backend. */
async function answer(backend: 'wasm' | 'onnxruntime' | 'webgpu'): Promise<{ ids: number[]; events: object[] }> {
  const trio = await Trio.start('tiny-notes', { backend }),
    promptIds = golden()[0]!.promptIds.slice(0, 6),
    ids: number[] = [];
  try {
    for await (const id of generate({ artefact, promptIds, maxTokens: 2, connect: (role) => connect(trio.config[role], role, 10_000) })) ids.push(id);
  } finally {
    await trio.stop();
  }
  return { ids, events: trio.events.filter((e) => e.event === 'backend') };
}
const plain = answer('wasm').then(({ ids }) => ids);

describe.each(['onnxruntime', 'webgpu'] as const)('three processes, the helper with backend %s', async (backend) => {
  const opened = await openBackend(backend).catch((error: unknown) => error as Error),
    absent = opened instanceof Error;
  if (!absent) await opened.close();
  it.skipIf(absent)('say what deals, give the same answer, and stop in good order', async () => {
    const { ids, events } = await answer(backend);
    expect(ids).toEqual(await plain);
    expect(events).toMatchObject([{ role: 'helper', name: backend }]);
  });
  it.runIf(absent)('are not started, with the reason in one line', async () => {
    await expect(Trio.start('tiny-notes', { backend })).rejects.toThrow(/cannot be used.*(no WebGPU adapter|not installed)/);
  });
});

it('auto goes on with wasm, and says why, where nothing is faster', async () => {
  const events: object[] = [],
    bulk = await openBulk('auto', (e) => events.push(e));
  await bulk?.close();
  expect(events).toMatchObject([bulk ? { name: bulk.name } : { name: 'wasm', error: { code: 'config' } }]);
});

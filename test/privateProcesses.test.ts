/** Private weights by the command line and real processes: the golden answers of open weights, figures of the Meter, turns, what is refused. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageRoot, readModelArtefact } from '../client/node.ts';
import { generate } from '../client/generate.ts';
import { PrivateSession, type SessionOptions } from '../client/session.ts';
import type { StepsRow } from '../party/bench/steps.ts';
import { Trio } from '../party/launch.ts';
import { reach } from '../party/reach.ts';
import { connect } from '../party/sockets.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import { PRESETS } from '../protocols/policy.ts';
import { golden } from './support/tinyNotes.ts';

const run = promisify(execFile),
  cli = join(packageRoot(), 'dist', 'party', 'cli.js'),
  cases = golden().filter((c) => c.promptIds.length <= 128);

/** Where commands that run all roles keep parts, by the digest of the open artefact. */
let folder: string, out: string, trio: Trio, artefact: Artefact;
const part = (role: string): string => join(out, role);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cachet-private-'));
  const own = await readFile(join(packageRoot(), 'protocols', 'models', 'tiny-notes', 'calibration.txt'), 'utf8'),
    sample = join(folder, 'sample.txt'),
    lines = own.split('\n').filter((line) => line.length < 700);
  await writeFile(sample, lines.slice(0, 4).join('\n'));
  out = join(folder, `private-${(await readModelArtefact('tiny-notes')).digest.slice(0, 16)}`);
  await run(process.execPath, [cli, 'weights', 'split', '--model', 'tiny-notes', '--out', out, '--calibration', sample, '--json']);
  artefact = await readModelArtefact(part('client'));
  trio = await Trio.start(part('client'), { models: { p0: part('p0'), p1: part('p1'), helper: part('helper') } });
}, 120_000);
afterAll(async () => {
  await trio?.stop();
  await rm(folder, { recursive: true });
});

const options = (promptTokens: number, maxTokens: number, more: Partial<SessionOptions> = {}): SessionOptions => ({
  artefact,
  promptTokens,
  maxTokens,
  connect: (role) => connect(trio.config[role], role, 10_000),
  ...more,
});

describe('three processes with private weights', () => {
  it.each([0, 5, cases.length - 1])('answer golden case %i token for token, with the rounds and bytes that the Meter says', async (i) => {
    const c = cases[i]!,
      ids: number[] = [];
    let session: PrivateSession | undefined;
    for await (const id of generate({ ...options(0, c.continuationIds.length), promptIds: c.promptIds, onSession: (s) => (session = s) })) ids.push(id);
    expect(ids).toEqual(c.continuationIds);
    const cost = meterSession(artefact, { promptTokens: c.promptIds.length - 1, maxTokens: c.continuationIds.length });
    expect(session!.reports.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes }))).toEqual(
      cost.steps.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes })),
    );
    expect((await trio.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('follow a cache policy, with the rounds and bytes that the Meter says', async () => {
    const c = cases.at(-1)!,
      policy = PRESETS.aggressive,
      lengths = { promptTokens: c.promptIds.length - 1, maxTokens: 3, policy };
    let session: PrivateSession | undefined,
      count = 0;
    for await (const id of generate({ ...options(0, 3), policy, promptIds: c.promptIds, onSession: (s) => (session = s) })) count += id >= 0 ? 1 : 0;
    const figures = (of: readonly { rounds: number; onlineBytes: number; dealtBytes: number }[]) =>
      of.slice(0, count).map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes }));
    expect(count).toBeGreaterThan(1);
    expect(figures(session!.reports)).toEqual(figures(meterSession(artefact, lengths).steps));
    expect((await trio.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('answer from a store, which the helper of the model has dealt', async () => {
    const c = cases[0]!,
      store = join(folder, 'store'),
      unit = ['--prefill', '56', '--tokens', String(c.continuationIds.length), '--count', '1', '--out', store],
      of = { p0: part('p0'), p1: part('p1') };
    await expect(run(process.execPath, [cli, 'deal', '--model', part('p0'), ...unit])).rejects.toThrow(
      /another role's part of a private model; expected the part of helper/,
    );
    await run(process.execPath, [cli, 'deal', '--model', part('helper'), ...unit, '--json']);
    const two = await Trio.start(part('client'), { roles: ['p0', 'p1'], models: of, store, ledger: join(folder, 'ledger') });
    try {
      const ids: number[] = [],
        reached = reach(two.config, artefact, 'store', new AbortController().signal);
      for await (const id of generate({ ...reached, artefact, maxTokens: c.continuationIds.length, promptIds: c.promptIds })) ids.push(id);
      expect(ids).toEqual(c.continuationIds);
    } finally {
      await two.stop();
    }
  });

  it('have turns whose allowance is passed over', async () => {
    const session = await PrivateSession.open(options(3, 3, { context: 9 }));
    await session.prompt([10, 11, 12]);
    session.turn({ tokens: 2, answer: 2 });
    await session.prompt([14, 15]);
    expect((await session.step([16])).length).toBe(artefact.shape.vocab);
    await session.stop();
    expect((await trio.ended(session.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('are measured by cachet bench and shown by cachet demo, with the parts of the cache', async () => {
    const cached = { env: { ...process.env, CACHET_CACHE: folder } },
      bench = ['bench', 'decode', '--weights', 'private', '--context', '40', '--tokens', '2', '--reps', '1', '--ahead-mib', '8', '--json'],
      [row] = (JSON.parse((await run(process.execPath, [cli, ...bench], cached)).stdout) as { rows: StepsRow[] }).rows,
      { rounds, onlineBytes, dealtBytes } = row!;
    expect(row).toMatchObject({ weights: 'private', predicted: { rounds, onlineBytes, dealtBytes } });
    const demo = ['demo', '--weights', 'private', '--max-tokens', '2', '--json'];
    expect(JSON.parse((await run(process.execPath, [cli, ...demo], cached)).stdout)).toMatchObject({ plaintextSame: true });
  });

  it('answer cachet ask', async () => {
    const { config } = trio,
      flags = ['--p0', config.p0, '--p1', config.p1, '--helper-url', config.helper!, '--model', part('client'), '--max-tokens', '3', '--json'],
      { stdout } = await run(process.execPath, [cli, 'ask', ...flags, "What is Nina's pin?"]);
    expect((JSON.parse(stdout) as { tokens: number }).tokens).toBeGreaterThan(0);
  });
});

describe('a model that hides its logits', () => {
  it('answers a golden case token for token, and refuses sampling', async () => {
    const parts = join(folder, 'hidden'),
      of = (role: string): string => join(parts, role);
    await run(process.execPath, [
      cli,
      'weights',
      'split',
      '--model',
      'tiny-notes',
      '--out',
      parts,
      '--calibration',
      join(folder, 'sample.txt'),
      '--hide-logits',
    ]);
    const hidden = await readModelArtefact(of('client')),
      three = await Trio.start(of('client'), { models: { p0: of('p0'), p1: of('p1'), helper: of('helper') } });
    try {
      const c = cases[5]!,
        ids: number[] = [],
        session = { ...options(0, c.continuationIds.length), artefact: hidden, connect: (role: 'p0' | 'p1') => connect(three.config[role], role, 10_000) };
      for await (const id of generate({ ...session, promptIds: c.promptIds })) ids.push(id);
      expect(ids).toEqual(c.continuationIds);
      const { config } = three,
        flags = ['--p0', config.p0, '--p1', config.p1, '--helper-url', config.helper!, '--model', of('client'), '--temperature', '1'],
        refused = await run(process.execPath, [cli, 'ask', ...flags, "What is Nina's pin?"]).catch((e: { stderr: string }) => e);
      expect(refused.stderr).toMatch(/sampling from a model that hides its logits; expected temperature 0: .*; got 1; try: --temperature 0/);
    } finally {
      await three.stop();
    }
  });
});

describe('refused in one line', () => {
  it("the client as dealer, another role's part, a corrupt one, a party of the open model", async () => {
    const deal = (): Promise<void> => Promise.resolve();
    await expect(PrivateSession.open(options(3, 1, { deal }))).rejects.toThrow(/private weights with the client as dealer: a dealer knows the weights' masks/);
    await expect(PrivateSession.open({ ...options(3, 1), artefact: await readModelArtefact(part('p0')) })).rejects.toThrow(
      /another role's part of a private model; expected the part of client; got that of p0/,
    );
    await expect(Trio.start(part('p1'))).rejects.toThrow(/helper: process did not start; got .*another role's part of a private model.*the part of helper/);
    await expect(PrivateSession.open({ ...options(3, 1), artefact: await readModelArtefact('tiny-notes') })).rejects.toThrow(
      /another model; expected artefact/,
    );
    const path = join(part('p1'), 'model.cachet'),
      bytes = await readFile(path);
    bytes[bytes.length - 9]! ^= 1;
    await writeFile(path, bytes);
    await expect(readModelArtefact(part('p1'))).rejects.toThrow(/corrupt file; expected the tensors' checksum/);
  });

  it('files are for their owner alone', async () => {
    for (const role of ['p0', 'p1', 'helper']) expect((await stat(join(part(role), 'model.cachet'))).mode & 0o077).toBe(0);
  });
});

/** Real processes, real sockets: golden answers, figures against the Meter, pings during a prefill, what a session that ends early or badly leaves. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { generate } from '../client/generate.ts';
import { PrivateSession } from '../client/session.ts';
import { connect } from '../party/sockets.ts';
import type { PartyRole } from '../party/config.ts';
import { Trio } from '../party/launch.ts';
import { reach } from '../party/reach.ts';
import { meterSession } from '../protocols/cost.ts';
import { FULL, type Policy } from '../protocols/policy.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  cases = golden().filter((c) => c.promptIds.length <= 256);

let trio: Trio;
beforeAll(async () => void (trio = await Trio.start('tiny-notes', { maxSessions: 1 })));
afterAll(() => trio.stop());

const open = (promptTokens: number, maxTokens: number, stepTimeoutMs = 60_000) =>
  PrivateSession.open({ artefact, promptTokens, maxTokens, stepTimeoutMs, connect: (role) => connect(trio.config[role], role, 10_000) });

/** Within 200 ms, while the session's 250 tokens are read. */
async function expectPongs(parties: Trio, session: PrivateSession): Promise<void> {
  const sockets = await Promise.all(
    Object.keys(parties.pids).map(async (role) => {
      const socket = new WebSocket(parties.config[role as PartyRole]!);
      await new Promise((resolve) => socket.once('open', resolve));
      return socket;
    }),
  );
  let running = true;
  const prefill = session.step(Array.from({ length: 250 }, (_, i) => 5 + i)).then(() => (running = false)),
    times: number[] = [];
  while (running) {
    for (const socket of sockets) {
      const start = performance.now(),
        pong = new Promise((resolve) => socket.once('pong', resolve));
      socket.ping();
      await pong;
      times.push(performance.now() - start);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await prefill;
  for (const socket of sockets) socket.terminate();
  await session.stop();
  expect(times.length).toBeGreaterThan(20);
  expect(Math.max(...times)).toBeLessThan(200);
}

/** A machine that does other things as well may be late by itself, but not every time. */
const TIMED = { retry: 2 };

describe('two processes', () => {
  it('answer pings while a long prefill runs that the client deals', TIMED, async () => {
    const duo = await Trio.start('tiny-notes', { roles: ['p0', 'p1'] });
    try {
      const session = await PrivateSession.open({
        ...reach(duo.config, artefact, 'client', new AbortController().signal),
        artefact,
        promptTokens: 250,
        maxTokens: 1,
      });
      await expectPongs(duo, session);
      await duo.ended(session.id);
    } finally {
      await duo.stop();
    }
  });
});

describe('three processes', () => {
  // Short, of two tokens more, of middle length, the longest.
  it.each([0, 2, 8, cases.length - 1])('answer golden case %i token for token, with the rounds and bytes that the Meter says', async (i) => {
    const c = cases[i]!,
      ids: number[] = [];
    let session: PrivateSession | undefined;
    for await (const id of generate({
      artefact,
      promptIds: c.promptIds,
      maxTokens: c.continuationIds.length,
      connect: (role) => connect(trio.config[role], role, 10_000),
      onSession: (s) => (session = s),
    }))
      ids.push(id);
    expect(ids).toEqual(c.continuationIds);
    const cost = meterSession(artefact, { promptTokens: c.promptIds.length - 1, maxTokens: c.continuationIds.length });
    expect(session!.reports.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes }))).toEqual(
      cost.steps.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes })),
    );
    expect((await trio.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('answer from what static eviction keeps, at the cost that the Meter says; tokens go on another thread', async () => {
    const c = cases[8]!,
      ids: number[] = [],
      policy: Policy = { ...FULL, name: 'test', static: { keep: 0.4, window: { queries: 12 }, heads: 'sum', ranking: 'histogram' }, sharing: 'pairs' };
    let session: PrivateSession | undefined;
    for await (const id of generate({
      artefact,
      promptIds: c.promptIds,
      maxTokens: c.continuationIds.length,
      policy,
      connect: (role) => connect(trio.config[role], role, 10_000),
      onSession: (s) => (session = s),
    }))
      ids.push(id);
    expect(ids).toEqual(c.continuationIds);
    const { steps } = meterSession(artefact, { promptTokens: c.promptIds.length - 1, maxTokens: c.continuationIds.length, policy });
    expect(steps[0]!.parts.get('eviction')).toBeGreaterThan(0);
    expect(session!.reports.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes }))).toEqual(
      steps.map(({ rounds, onlineBytes, dealtBytes }) => ({ rounds, onlineBytes, dealtBytes })),
    );
    expect((await trio.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('answer pings while a long prefill runs', TIMED, async () => {
    const session = await open(250, 1);
    await expectPongs(trio, session);
    await trio.ended(session.id);
  });

  it('run the last turn of a session that it fills to its end', async () => {
    const session = await PrivateSession.open({
      artefact,
      promptTokens: 3,
      maxTokens: 3,
      context: 8,
      connect: (role) => connect(trio.config[role], role, 10_000),
    });
    await session.prompt([10, 11, 12]);
    await session.step([13]);
    session.turn({ tokens: 2, answer: 2 });
    await session.prompt([14, 15]);
    expect((await session.step([16])).every(Number.isFinite)).toBe(true);
    await session.stop();
    expect((await trio.ended(session.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
    const steps = meterSession(artefact, { promptTokens: 3, maxTokens: 3 }, [{ tokens: 2, answer: 2 }]).steps;
    expect(session.reports.map((r) => r.dealtBytes)).toEqual([0, 1, 3, 4].map((i) => steps[i]!.dealtBytes));
  });

  it('deal the same to the end of a session, whenever the answer ends', async () => {
    const received: number[] = [];
    for (const steps of [1, 3]) {
      const session = await open(5, 6);
      await session.step([10, 11, 12, 13, 14]);
      for (let i = 1; i < steps; i++) await session.step([20 + i]);
      await session.stop();
      const helper = (await trio.ended(session.id)).find((e) => e.role === 'helper')!;
      expect(helper.error).toBeUndefined();
      received.push(helper.traffic!.reduce((n, t) => n + t.sent, 0));
    }
    expect(received[0]).toBe(received[1]);
  });

  it('refuse another model, a second session and a prompt that is too long, each in one line', async () => {
    await expect(
      PrivateSession.open({
        artefact: { ...artefact, digest: '0'.repeat(64) },
        promptTokens: 3,
        maxTokens: 1,
        connect: (role) => connect(trio.config[role], role, 10_000),
      }),
    ).rejects.toThrow(/another model; expected artefact [0-9a-f]{16}; got 0{16}; try: give all parties/);
    await expect(open(1020, 10)).rejects.toThrow(/prompt too long for the model; expected at most 1024 positions/);
    const session = await open(3, 1);
    await expect(open(3, 1)).rejects.toThrow(/too many sessions; expected at most 1 at a time/);
    await session.step([1, 2, 3]);
    await session.stop();
    await trio.ended(session.id);
  });

  it('survive garbage: a text message, a truncated frame, another version', async () => {
    for (const garbage of ['hello', new Uint8Array(5), new Uint8Array(40).fill(9)]) {
      const socket = new WebSocket(trio.config.p0);
      await new Promise((resolve) => socket.once('open', resolve));
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.send(garbage);
      await closed;
    }
    const session = await open(2, 1);
    await session.step([7, 8]);
    await session.stop();
    await trio.ended(session.id);
  });

  it('end with the same reason everywhere when the client goes, and when the helper dies; the finished part stays', async () => {
    const gone = new AbortController();
    const session = await PrivateSession.open({
      artefact,
      promptTokens: 3,
      maxTokens: 5,
      signal: gone.signal,
      connect: (role) => connect(trio.config[role], role, 10_000),
    });
    await session.step([7, 8, 9]);
    gone.abort();
    for (const e of await trio.ended(session.id)) expect(e.error).toMatch(/interrupted|client/);
    const other = await open(3, 400),
      first = await other.step([7, 8, 9]);
    expect(first.every(Number.isFinite)).toBe(true);
    process.kill(trio.pids['helper']!, 'SIGKILL');
    const end = (async () => {
      for (let i = 0; i < 400; i++) await other.step([9]);
    })();
    await expect(end).rejects.toThrow(/connection to helper closed/);
  });
});

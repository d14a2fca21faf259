/** Sessions of every kind through real processes: two parties, several turns, many at once, budgets, tickets; what is left afterwards. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Chat, type Answer } from '../client/ask.ts';
import { generate } from '../client/generate.ts';
import { expectControl } from '../client/link.ts';
import { readTokenizer } from '../client/node.ts';
import { PrivateSession, type SessionOptions } from '../client/session.ts';
import { reach } from '../party/reach.ts';
import { Trio } from '../party/launch.ts';
import { connect } from '../party/sockets.ts';
import { meterSession } from '../protocols/cost.ts';
import { PROTOCOL_VERSION } from '../protocols/session.ts';
import { FULL, PRESETS } from '../protocols/policy.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  cases = golden();

const options = (trio: Trio, dealer: 'server' | 'client' = 'server') => reach(trio.config, artefact, dealer, new AbortController().signal);

async function tokens(o: Omit<SessionOptions, 'promptTokens' | 'artefact' | 'maxTokens'>, c: (typeof cases)[number], seen?: (s: PrivateSession) => void) {
  const ids: number[] = [];
  for await (const id of generate({ ...o, artefact, promptIds: c.promptIds, maxTokens: c.continuationIds.length, ...(seen ? { onSession: seen } : {}) }))
    ids.push(id);
  return ids;
}

/** Resident memory of a process, MiB. */
const resident = (pid: number): number => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;

describe('two party processes, the client deals', () => {
  let duo: Trio;
  beforeAll(async () => void (duo = await Trio.start('tiny-notes', { roles: ['p0', 'p1'] })));
  afterAll(() => duo.stop());

  it.each([0, 6, 12])('answer golden case %i token for token, with the rounds and bytes that the Meter says', async (i) => {
    const c = cases[i]!;
    let session: PrivateSession | undefined;
    expect(await tokens(options(duo, 'client'), c, (s) => (session = s))).toEqual(c.continuationIds);
    const cost = meterSession(artefact, { promptTokens: c.promptIds.length - 1, maxTokens: c.continuationIds.length, dealer: 'client' });
    expect(session!.reports.map(({ rounds, onlineBytes, dealtBytes, relayedBytes }) => ({ rounds, onlineBytes, dealtBytes, relayedBytes }))).toEqual(
      cost.steps.map(({ rounds, onlineBytes, dealtBytes, relayedBytes }) => ({ rounds, onlineBytes, dealtBytes, relayedBytes })),
    );
    expect((await duo.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined]);
  });

  it('are told when a client expects a helper, and refuse private weights by name', async () => {
    await expect(tokens(options(duo), cases[0]!)).rejects.toThrow(/no address; expected helper as ws:.*try: the address, or a client that deals/);
    const link = await connect(duo.config.p0, 'p0', 5000),
      refused = expectControl(link, 'ready', 5000);
    link.control({
      type: 'hello',
      role: 'client',
      ticket: new Uint8Array(16),
      nonce: new Uint8Array(32),
      spec: {
        version: PROTOCOL_VERSION,
        artefact: artefact.digest,
        weights: 'private',
        dealer: 'client',
        promptTokens: 3,
        maxTokens: 1,
        context: 3,
        filled: 0,
        policy: FULL,
      },
    });
    await expect(refused).rejects.toThrow(/private weights with the client as dealer: a dealer knows the weights' masks; expected open weights/);
  });
});

describe('parties that run one cache policy', () => {
  it('refuse a session with another, naming the field, and run one with theirs', async () => {
    const trio = await Trio.start('tiny-notes', { policy: 'full' });
    try {
      await expect(tokens({ ...options(trio), policy: { ...FULL, skipLayers: [1] } }, cases[0]!)).rejects.toThrow(
        /p[01]: another cache policy than this party runs, field skipLayers; expected \[\]; got \[1\]; try: --policy full, or the file/,
      );
      await expect(tokens({ ...options(trio), policy: PRESETS.aggressive }, cases[0]!)).rejects.toThrow(/field name; expected "full"; got "aggressive"/);
      expect(await tokens(options(trio), cases[0]!)).toEqual(cases[0]!.continuationIds);
    } finally {
      await trio.stop();
    }
  });
});

describe('three party processes', () => {
  let trio: Trio, folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cachet-test-'));
    trio = await Trio.start('tiny-notes', { ledger: join(folder, 'ledger') });
  });
  afterAll(async () => {
    await trio.stop();
    await rm(folder, { recursive: true });
  });

  it('chat: a further question about the same note costs its own tokens alone, as the Meter says', async () => {
    const note =
        " Nina lives in Lisbon. The doctor of Omar is Dr Novak. Nina is allergic to latex. Omar's visit is on Tuesday. Vera is in room 214. Nina uses pin 4711.",
      chat = new Chat({ ...options(trio), artefact, tokenizer: await readTokenizer('tiny-notes'), maxTokens: 8, note }),
      answers: Answer[] = [];
    for (const question of ["What is Nina's pin?", 'Where does Nina live?', 'Which room is Vera in?'])
      for await (const event of chat.ask(question)) if (event.type === 'answer') answers.push(event.answer);
    await chat.stop();
    expect(answers.map((a) => a.text.trim())).toEqual(['4711.', 'Lisbon.', '214.']);
    const [first, second, third] = answers.map((a) => a.sentTokens) as [number, number, number];
    expect(first).toBeGreaterThan(45);
    expect(second).toBeLessThan(12);
    const cost = meterSession(
      artefact,
      { promptTokens: first, maxTokens: 8 },
      [second, third].map((n) => ({ tokens: n, answer: 8 })),
    );
    answers.forEach((a, turn) =>
      a.reports.forEach(({ rounds, onlineBytes, dealtBytes }, i) =>
        expect({ rounds, onlineBytes, dealtBytes }).toEqual(
          (({ rounds: r, onlineBytes: o, dealtBytes: d }) => ({ rounds: r, onlineBytes: o, dealtBytes: d }))(cost.steps[8 * turn + i]!),
        ),
      ),
    );
    expect((await trio.ended(answers[0]!.session)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  });

  it('20 sessions at once answer right, one that is cut off among them touches no other, and memory returns to its start', async () => {
    const one = cases[0]!;
    // Warm: what a first session leaves for good (compiled code, workers).
    for (let i = 0; i < 2; i++) await Promise.all([0, 1, 2].map(() => tokens(options(trio), one)));
    await settled();
    const before = Object.values(trio.pids).map(resident);
    const sessions: string[] = [];
    const cut = new AbortController(),
      all = await Promise.all([
        ...Array.from({ length: 20 }, (_, i) => tokens(options(trio), cases[i % 3]!, (s) => sessions.push(s.id))),
        (async () => {
          const session = await PrivateSession.open({ ...options(trio), artefact, promptTokens: 40, maxTokens: 30, signal: cut.signal });
          await session.step(Array.from({ length: 40 }, (_, i) => 5 + i));
          cut.abort();
          return [];
        })(),
      ]);
    all.slice(0, 20).forEach((ids, i) => expect(ids).toEqual(cases[i % 3]!.continuationIds));
    expect(new Set(sessions).size).toBe(20);
    await settled();
    await expect
      .poll(() => Math.max(...Object.values(trio.pids).map((pid, i) => resident(pid) - before[i]!)), { timeout: 20_000, interval: 500 })
      .toBeLessThan(120);
  });

  it('a ticket is good for one session, across restarts', async () => {
    const ticket = new Uint8Array(16).fill(7),
      spec = {
        version: PROTOCOL_VERSION,
        artefact: artefact.digest,
        weights: 'open',
        dealer: 'helper',
        promptTokens: 3,
        maxTokens: 1,
        context: 3,
        filled: 0,
        policy: FULL,
      } as const;
    const hello = async (at: Trio) => {
      const links = await Promise.all((['p0', 'p1'] as const).map((role) => connect(at.config[role], role, 5000)));
      const ready = Promise.all(links.map((link) => expectControl(link, 'ready', 5000)));
      for (const link of links) link.control({ type: 'hello', role: 'client', ticket, nonce: new Uint8Array(32), spec });
      await ready.finally(() => links.forEach((link) => link.close()));
    };
    await hello(trio);
    await expect(hello(trio)).rejects.toThrow(/session used before; expected a fresh ticket; got one of an earlier session; try: begin a new session/);
    const again = await Trio.start('tiny-notes', { ledger: join(folder, 'ledger') });
    try {
      await expect(hello(again)).rejects.toThrow(/session used before/);
    } finally {
      await again.stop();
    }
  });

  it('refuse a session beyond the memory budget, and serve a smaller one', async () => {
    const small = await Trio.start('tiny-notes', { memoryMib: 200 });
    try {
      await expect(PrivateSession.open({ ...options(small), artefact, promptTokens: 700, maxTokens: 4 })).rejects.toThrow(
        /not enough memory for one more session; expected 200 MiB at most; got \d+ MiB for a session of this length; try: /,
      );
      expect(await tokens(options(small), cases[0]!)).toEqual(cases[0]!.continuationIds);
    } finally {
      await small.stop();
    }
  });

  async function settled(): Promise<void> {
    for (let i = 0; i < 100; i++) {
      const begun = trio.events.filter((e) => e.event === 'session').length,
        ended = trio.events.filter((e) => e.event === 'end').length;
      if (begun === ended) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
});

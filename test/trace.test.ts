/** Traces and logs: exact sums, files that survive, and nothing in them that is anybody's secret. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LOG_LEVELS, PartyLog, type PartyEvent } from '../party/log.ts';
import { TraceFile } from '../party/trace/file.ts';
import { readTrace, summarise } from '../party/trace/read.ts';
import { COLUMNS, Recorder, type TraceRows } from '../party/trace/recorder.ts';
import { chromeEvents, recordsOf, type TraceRecord } from '../party/trace/records.ts';
import { bindPlan } from '../protocols/artefact.ts';
import { meterSession } from '../protocols/cost.ts';
import { Meter } from '../protocols/engines/meter.ts';
import { CachetError } from '../protocols/errors.ts';
import { session } from '../protocols/programs/transformer.ts';
import { leaks } from './support/leaks.mjs';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  folder = mkdtempSync(join(tmpdir(), 'cachet-trace-')),
  path = (name: string): string => join(folder, name),
  ID = '0123456789abcdef',
  spec = { artefact: artefact.digest, promptTokens: 5, maxTokens: 2 };
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cachet = (...args: string[]) =>
  new Promise<{ status: number; stdout: string; stderr: string }>((resolve) =>
    execFile(process.execPath, ['dist/party/cli.js', ...args], { maxBuffer: 1 << 28 }, (error, stdout, stderr) =>
      resolve({ status: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  );

/** The rows of a session on the Meter: the engine's hook without anything else. */
function meterRows(): { rows: TraceRows[]; cost: Meter['steps'] } {
  const rows: TraceRows[] = [],
    meter = new Meter(),
    recorder = new Recorder((r) => rows.push(r));
  meter.trace = recorder;
  recorder.begin();
  for (const _ of session(meter, bindPlan(meter, artefact), { tokens: spec.promptTokens, answer: spec.maxTokens }, spec.promptTokens + spec.maxTokens - 1))
    void _;
  return { rows, cost: meter.steps };
}

describe('a trace', () => {
  it('is posted once a step and adds up to the Meter exactly, gate by gate', () => {
    const { rows, cost } = meterRows();
    expect(rows).toHaveLength(cost.length);
    cost.forEach((step, i) => {
      const records = [...recordsOf(rows[i]!, 'p0', ID)],
        [sum] = summarise(records);
      expect(sum).toMatchObject({ steps: 1, rounds: step.rounds, onlineBytes: step.onlineBytes, dealtBytes: step.dealtBytes });
      for (const [name, g] of step.gates)
        expect(sum!.gates.find((x) => x.name === name)).toMatchObject({ calls: g.calls, onlineBytes: g.online, dealtBytes: g.dealt });
      expect(sum!.gates.reduce((n, g) => n + g.rounds, 0)).toBe(step.rounds);
      // Numbered without gaps, openings by their tensors; the one number more between two steps is the output's.
      const gates = records.filter((r) => r.kind === 'gate');
      gates.slice(1).forEach((g, j) => expect(g.gate).toBe(gates[j]!.gate + gates[j]!.calls));
      expect(new Set(gates.map((g) => g.layer))).toEqual(new Set(artefact.shape.layers === 6 ? [0, 1, 2, 3, 4, 5] : []));
    });
  });

  it('gives waits their own rows, and takes them out of the gates', () => {
    const posted: TraceRows[] = [],
      recorder = new Recorder((r) => posted.push(r)),
      spin = (ms: number): void => {
        for (const until = performance.now() + ms; performance.now() < until;);
      };
    const begun = performance.now();
    recorder.begin();
    const since = recorder.now();
    spin(20);
    recorder.waited('round', since, 100);
    spin(5);
    recorder.gate(0, 'open', 3, 2, 10, 1, 200, 0);
    const took = performance.now() - begun;
    recorder.flush();
    const [wait, gate] = [...recordsOf(posted[0]!, 'p0', ID)] as [Extract<TraceRecord, { kind: 'wait' }>, Extract<TraceRecord, { kind: 'gate' }>];
    expect(wait).toMatchObject({ kind: 'wait', for: 'peer', bytes: 2 * 132 });
    expect(gate).toMatchObject({ kind: 'gate', layer: 3, calls: 2, rounds: 1, waitMs: wait.ms });
    expect(wait.ms).toBeGreaterThanOrEqual(20);
    expect(gate.ms).toBeGreaterThanOrEqual(5);
    expect(gate.ms + gate.waitMs).toBeGreaterThanOrEqual(25);
    expect(gate.ms + gate.waitMs).toBeLessThanOrEqual(took);
  });

  it('grows beyond its first rows', () => {
    const posted: TraceRows[] = [],
      recorder = new Recorder((r) => posted.push(r));
    for (let i = 0; i < 10_000; i++) recorder.gate(i, 'sum', 0, 1, 1, 0, 0, 0);
    recorder.flush();
    expect(posted[0]!.rows.length).toBe(10_000 * COLUMNS);
    expect([...recordsOf(posted[0]!, 'p1', ID)].map((r) => (r.kind === 'gate' ? r.gate : -1))).toEqual(Array.from({ length: 10_000 }, (_, i) => i));
  });

  it('has Chrome slices that do not overlap within a lane', () => {
    const { rows } = meterRows(),
      ends = new Map<string, number>();
    for (const r of rows.flatMap((x) => [...recordsOf(x, 'p1', ID)]))
      for (const e of chromeEvents(r, 1) as { ph: string; pid: number; tid: number; ts: number; dur: number }[]) {
        expect([e.ph, e.pid]).toEqual(['X', 2]);
        expect(e.ts).toBeGreaterThanOrEqual(ends.get(`${e.tid}`) ?? 0);
        ends.set(`${e.tid}`, e.ts + e.dur);
      }
    expect(ends.size).toBe(2);
  });
});

describe('a trace file', () => {
  const write = async (name: string, o: { close: boolean }): Promise<string> => {
    const errors: CachetError[] = [],
      file = new TraceFile({ path: path(name), onError: (e) => errors.push(e) });
    file.session({ party: 'p0', session: ID, spec }).rows(meterRows().rows[0]!);
    if (o.close) await file.close();
    else await expect.poll(() => readFileSync(path(name), 'utf8').includes('"kind":"step"')).toBe(true);
    expect(errors).toEqual([]);
    return path(name);
  };

  it.each(['a.jsonl', 'a.json'])('%s is read back, whole, without its end, and cut off within a line', async (name) => {
    const whole = await readTrace(await write(name, { close: true }));
    expect(whole.damaged).toBe(0);
    expect(whole.records[0]).toMatchObject({ kind: 'header', version: 1, party: 'p0', session: ID, model: artefact.digest });
    const open = await readTrace(await write(`b-${name}`, { close: false }));
    expect(summarise(open.records)[0]).toMatchObject({ steps: 1, rounds: summarise(whole.records)[0]!.rounds });
    writeFileSync(path(`c-${name}`), readFileSync(path(name), 'utf8').slice(0, -200));
    const cut = await readTrace(path(`c-${name}`));
    expect(cut.damaged).toBe(1);
    expect(cut.records.length).toBeGreaterThan(whole.records.length - 3);
  });

  it('.json is a JSON array at a good end', async () => {
    const events = JSON.parse(readFileSync(await write('d.json', { close: true }), 'utf8')) as { ph: string }[];
    expect(events.filter((e) => e.ph === 'X').length).toBeGreaterThan(500);
  });

  it('is refused at once if it cannot be opened', () => {
    expect(() => new TraceFile({ path: path('none/a.jsonl'), onError: () => undefined })).toThrow(/--trace: cannot write file; expected .*; got ENOENT; try: /);
  });

  it.skipIf(!existsSync('/dev/full')).each(['/dev/full', 'full.json', 'full.jsonl'])(
    'on a full disk (%s) there is one complaint and nothing else',
    async (name) => {
      if (!name.startsWith('/')) symlinkSync('/dev/full', path(name));
      const errors: string[] = [],
        file = new TraceFile({ path: name.startsWith('/') ? name : path(name), onError: (e) => errors.push(e.message) }),
        traced = file.session({ party: 'p0', session: ID, spec });
      for (let i = 0; i < 3; i++) {
        traced.rows(meterRows().rows[0]!);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      await file.close();
      expect(errors).toHaveLength(1);
      expect(errors[0]).toMatch(/^--trace: trace ends here, the session goes on; expected .* to take it; got ENOSPC; try: another disk$/);
    },
  );

  it('that is none gets one line', async () => {
    writeFileSync(path('text'), 'hello\n');
    expect(await cachet('trace', path('text'))).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/not a trace; expected .*; got other text\n$/) as string,
    });
  });
});

describe('a log', () => {
  const logged = (json: boolean, level: (typeof LOG_LEVELS)[number], ...events: unknown[]): string => {
    let text = '';
    const log = new PartyLog({ role: 'p0', level, json, out: { write: (line) => void (text += line) } });
    for (const e of events) log.log(e as PartyEvent);
    return text;
  };
  const good: PartyEvent[] = [
    { event: 'listening', url: 'ws://127.0.0.1:7700' },
    { event: 'session', session: ID, promptTokens: 3, maxTokens: 2, policy: 'full' },
    { event: 'end', session: ID, seconds: 1.5, traffic: [{ peer: 'client', sent: 10, received: 20 }], memory: 1, cpuMs: 20 },
    {
      event: 'end',
      session: ID,
      seconds: 1.5,
      traffic: [],
      memory: 1,
      cpuMs: 20,
      error: new CachetError({ code: 'timeout', what: 'no token', got: 'nothing' }),
    },
    { event: 'refused', error: new CachetError({ code: 'limit', what: 'too many sessions' }) },
  ];

  it('has one line an event, for programs and for people, from its level on', () => {
    const lines = logged(true, 'info', ...good)
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(lines).toHaveLength(good.length);
    expect(lines[0]).toMatchObject({ level: 'info', role: 'p0', event: 'listening', url: 'ws://127.0.0.1:7700' });
    expect(lines[3]).toMatchObject({ level: 'warn', event: 'end', code: 'timeout', error: 'no token; got nothing' });
    expect(logged(false, 'info', good[0], good[2])).toBe(
      `p0: listening at ws://127.0.0.1:7700\np0: session ${ID} ended after 1.5 s; client: sent 10 B, received 20 B\n`,
    );
    expect(
      logged(false, 'warn', ...good)
        .trim()
        .split('\n'),
    ).toHaveLength(2);
    expect(logged(true, 'silent', ...good)).toBe('');
  });

  it('has no way for a secret: hostile fields, values and errors do not come out', () => {
    const key = Uint8Array.from({ length: 32 }, (_, i) => (i * 73 + 201) % 256),
      secrets = { key, share: Buffer.from(key), mask: [...key], token: 'Nina', nested: { deep: { key, text: 'Lisbon' } } };
    const thrown = Object.assign(new TypeError('Nina lives in Lisbon'), { key, cause: new Error('Nina') }),
      dressed = Object.assign(new CachetError({ code: 'frame', what: 'undecodable frame', cause: thrown }), secrets),
      toxic = { ...good[1], toJSON: () => ({ token: 'Nina' }) };
    const hostile: unknown[] = [
      ...good.map((e) => ({ ...e, ...secrets })),
      ...Object.entries(secrets).map(([name, value]) => ({ ...good[1], [name]: value })),
      { ...good[1], session: 'Nina lives here.' },
      { ...good[1], promptTokens: 'Nina' },
      { ...good[1], promptTokens: key },
      { ...good[0], url: 'ws://Nina lives:1' },
      { ...good[2], traffic: [{ peer: 'client', sent: 1, received: 2, key }] },
      { ...good[2], traffic: [{ peer: 'Nina', sent: 1, received: 2 }] },
      { event: 'Nina' },
      { event: 'refused', error: thrown },
      { event: 'refused', error: dressed },
      { event: 'refused', error: { ...dressed } },
      { event: 'refused', error: 'Nina' },
      Object.assign(Object.create(secrets) as object, good[1]),
      toxic,
      secrets,
      key,
      'Nina',
      undefined,
    ];
    const words = ['Nina', 'Lisbon'];
    for (const json of [true, false]) {
      const text = logged(json, 'info', ...hostile);
      expect(leaks(text, { words, ids: [], keys: [key] })).toEqual([]);
      expect(text.trim().split('\n')).toHaveLength(hostile.length);
      expect(text).not.toMatch(/ {4}at |stack/);
    }
    expect(logged(true, 'info', { event: 'refused', error: dressed })).toMatch(/"code":"frame","error":"undecodable frame"}/);
    expect(logged(true, 'info', { event: 'refused', error: thrown })).toMatch(/"code":"internal","error":"internal error"}/);
    // Positive control: what a logger that takes anything would have written.
    for (const secret of [JSON.stringify(secrets), String(thrown.stack), Buffer.from(key).toString('hex'), Buffer.from(key).toString('base64'), key.join(' ')])
      expect(leaks(secret, { words, ids: [], keys: [key] })).not.toEqual([]);
    // Digits alone are a session's id where one is named, and a share elsewhere.
    const found = (text: string): string[] => leaks(text, { words, ids: [], keys: [] });
    for (const text of ['connected: session 3414862186296941, keys', '{"session":"3414862186296941"}', JSON.stringify('{"session":"3414862186296941"}')])
      expect(found(text)).toEqual([]);
    for (const text of ['share 3414862186296941', '"x":3414862186296941', '"session":"34148621862969412"']) expect(found(text)).toEqual(['long decimal']);
  });

  it('keeps a peer from writing lines of its own', () => {
    const error = new CachetError({ code: 'aborted', party: 'p1', what: 'bye\n{"event":"end"}\r\u001b[2J' });
    for (const json of [true, false]) {
      const text = logged(json, 'info', { event: 'refused', error });
      expect([...text].filter((c) => c < ' ')).toEqual(['\n']);
      expect(text).toContain('bye ');
    }
  });
});

describe('a traced session of real processes', () => {
  const c = golden().find((x) => x.promptIds.length > 50 && x.promptIds.length < 120)!,
    children: ReturnType<typeof spawn>[] = [],
    outputs: Record<string, string> = {};
  let answer: { session: string; ids: number[] };

  beforeAll(async () => {
    const config = { p0: 'ws://127.0.0.1:0', p1: 'ws://127.0.0.1:0', helper: 'ws://127.0.0.1:0' };
    const start = async (role: keyof typeof config, options: string[]): Promise<void> => {
      writeFileSync(path(`${role}.conf`), JSON.stringify(config));
      const child = spawn(process.execPath, ['dist/party/cli.js', 'party', '--role', role, '--config', path(`${role}.conf`), ...options], {
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      children.push(child);
      outputs[role] = '';
      child.stderr!.on('data', (d: Buffer) => (outputs[role] += d.toString()));
      await new Promise<void>((resolve) =>
        createInterface({ input: child.stdout! }).on('line', (line) => {
          outputs[role] += `${line}\n`;
          const url = /ws:\/\/[0-9.]+:\d+/.exec(line);
          if (url) config[role] = url[0];
          if (url) resolve();
        }),
      );
    };
    await start('helper', ['--json', '--trace', path('helper.jsonl')]);
    await start('p0', ['--trace', path('p0.jsonl')]);
    await start('p1', ['--json', '--trace', path('p1.json')]);
    writeFileSync(path('parties.conf'), JSON.stringify(config));
    const asked = await cachet('ask', '--config', path('parties.conf'), '--max-tokens', '4', '--json', '--trace', path('client.jsonl'), c.prompt);
    expect(asked.status).toBe(0);
    outputs['client'] = asked.stderr;
    answer = JSON.parse(asked.stdout) as typeof answer;
    const ended = (): boolean => ['helper', 'p0', 'p1'].every((role) => /"event":"end"|ended after/.test(outputs[role]!));
    for (const until = Date.now() + 20_000; !ended() && Date.now() < until;) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(ended()).toBe(true);
    await Promise.all(children.map((child) => (child.kill('SIGTERM'), new Promise((resolve) => child.once('exit', resolve)))));
  });
  afterAll(() => children.forEach((child) => child.kill('SIGKILL')));

  it('adds up to the Meter exactly at every party, and the rounds that were run are those', async () => {
    const cost = meterSession(artefact, { promptTokens: c.promptIds.length - 1, maxTokens: 4 });
    for (const name of ['helper.jsonl', 'p0.jsonl', 'p1.json', 'client.jsonl']) {
      const { records, damaged } = await readTrace(path(name)),
        [sum] = summarise(records),
        steps = cost.steps.slice(0, sum!.steps),
        total = (f: (s: (typeof steps)[number]) => number): number => steps.reduce((n, s) => n + f(s), 0);
      expect([name, damaged, sum!.steps]).toEqual([name, 0, name === 'helper.jsonl' ? 4 : answer.ids.length]);
      expect(sum).toMatchObject({ rounds: total((s) => s.rounds), onlineBytes: total((s) => s.onlineBytes), dealtBytes: total((s) => s.dealtBytes) });
      if (name.startsWith('client')) continue;
      for (const gate of sum!.gates)
        expect(gate).toMatchObject({
          calls: gate.onlineBytes + gate.dealtBytes > 0 ? total((s) => s.gates.get(gate.name)!.calls) : gate.calls,
          onlineBytes: total((s) => s.gates.get(gate.name)?.online ?? 0),
          dealtBytes: total((s) => s.gates.get(gate.name)?.dealt ?? 0),
        });
      expect(sum!.headerBytes.online).toBe(2 * 32 * sum!.rounds + 2 * 32 * extraFrames(records));
      // Measured: rounds that the engine really waited for, and what went each way.
      const waited = records.filter((r) => r.kind === 'wait' && r.for === 'peer') as Extract<TraceRecord, { kind: 'wait' }>[];
      if (name === 'helper.jsonl') expect(waited).toEqual([]);
      else expect([waited.length, waited.reduce((n, r) => n + r.bytes, 0)]).toEqual([sum!.rounds, sum!.onlineBytes]);
      // Gates and waits fill their steps.
      const accounted = sum!.gates.reduce((n, g) => n + g.ms, 0) + ['peer', 'helper', 'output', 'evaluators'].reduce((n, w) => n + (sum!.waits[w]?.ms ?? 0), 0);
      expect(accounted / sum!.ms).toBeGreaterThan(0.97);
      expect(accounted / sum!.ms).toBeLessThan(1.01);
    }
  });

  it('is shown by cachet trace, all parties together, within 80 columns', async () => {
    const files = ['p0.jsonl', 'p1.json', 'helper.jsonl', 'client.jsonl'].map(path),
      { stdout, status } = await cachet('trace', ...files);
    expect(status).toBe(0);
    for (const word of ['p0: 1 session', 'p1: 1 session', 'helper: 1 session', 'client: 1 session', 'spline', 'wait: peer', 'wait: result'])
      expect(stdout).toContain(word);
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    const json = JSON.parse((await cachet('trace', '--json', ...files)).stdout) as { parties: { party: string }[] };
    expect(json.parties.map((p) => p.party)).toEqual(['p0', 'p1', 'helper', 'client']);
  });

  it('has no word of the prompt, no token ids and no key material in any output, log or trace', () => {
    const words = [...new Set(c.prompt.split(/[^A-Za-z0-9]+/))].filter((w) => /^[A-Z][a-z]{2,}$|^\d{4}$/.test(w)),
      ids = [...c.promptIds.slice(1), ...answer.ids],
      known = { words, ids, keys: [], allowed: [artefact.digest, folder] };
    expect(words.length).toBeGreaterThan(3);
    for (const name of ['helper.jsonl', 'p0.jsonl', 'p1.json', 'client.jsonl']) outputs[name] = readFileSync(path(name), 'utf8');
    expect(Object.keys(outputs)).toHaveLength(8);
    for (const [name, text] of Object.entries(outputs)) expect([name, leaks(text, known)]).toEqual([name, []]);
    // Positive controls: each kind of leak, at the end of a real trace.
    const key = Buffer.from(Uint8Array.from({ length: 16 }, (_, i) => (i * 73 + 201) % 256));
    for (const leak of [
      words[0]!,
      c.prompt,
      JSON.stringify(ids.slice(0, 8)),
      ids.slice(3, 9).join(' '),
      key.toString('hex'),
      key.toString('base64'),
      key.toString('base64url'),
      JSON.stringify(key),
      JSON.stringify(new Uint8Array(key)),
      key.join(','),
      String(key.readBigUInt64LE()),
    ])
      expect([leak, leaks(`${outputs['p0.jsonl']}{"x":${JSON.stringify(leak)}}`, known).length > 0]).toEqual([leak, true]);
  });
});

/** Frames beyond one each way a round: messages larger than a frame. */
const extraFrames = (records: readonly TraceRecord[]): number =>
  records.reduce((n, r) => n + (r.kind === 'gate' && r.rounds === 1 ? Math.ceil(r.onlineBytes / 2 / (256 << 10)) - 1 : 0), 0);

/** What goes wrong, through real processes: one line at the asking client, the same reason at all parties, and the next session works. */
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectControl } from '../client/link.ts';
import { modelFolder, readTokenizer } from '../client/node.ts';
import { Trio, type TrioOptions } from '../party/launch.ts';
import { connect } from '../party/sockets.ts';
import { leaks, withoutSessionIds } from './support/leaks.mjs';
import { golden, tinyNotes } from './support/tinyNotes.ts';
import { Proxy, type Passing } from './support/proxy.ts';

const artefact = tinyNotes(),
  PROMPT = " Nina's pin is 4711. Vera is in room 214.<|user|> What is Nina's pin?<|assistant|>",
  LONG = golden().find((c) => c.promptIds.length > 230)!.prompt,
  TOKENS = new Map(await Promise.all([PROMPT, LONG].map(async (text) => [text, (await readTokenizer('tiny-notes')).encode(text)] as const))),
  folder = mkdtempSync(join(tmpdir(), 'cachet-test-'));

interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Nothing of the prompts, and nothing that looks like a share or a key. A count in the parties' events may be the pin's digits by chance. */
function expectNoLeak(text: string, words: readonly string[]): void {
  for (const ids of TOKENS.values()) expect([text, leaks(text, { words, ids, keys: [], allowed: [folder] })]).toEqual([text, []]);
}
const NAMES = ['Nina', 'Vera', 'Omar', 'Lisbon', 'Oslo'];

/** Stops the processes and looks through all that they said. */
async function stopAll(trio: Trio): Promise<void> {
  await trio.stop();
  expectNoLeak(JSON.stringify(trio.events), NAMES);
}

const reached = ({ p0, p1, helper }: Trio['config']): string[] => [
  '--p0',
  p0,
  '--p1',
  p1,
  ...(helper === undefined ? ['--helper', 'client'] : ['--helper-url', helper]),
];

/** `cachet ask` as a process; `onText` sees its stderr as it comes. */
function ask(trio: Trio, prompt = PROMPT, o: { args?: string[]; onText?: (text: string, pid: number) => void } = {}): Promise<Ended> {
  const child = spawn(process.execPath, ['dist/party/cli.js', 'ask', ...reached(trio.config), '--max-tokens', '8', ...(o.args ?? []), prompt]);
  let stdout = '',
    stderr = '';
  child.stdout.on('data', (data: Buffer) => {
    stdout += data.toString();
    o.onText?.(`answer${stdout}`, child.pid!);
  });
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
    o.onText?.(stderr, child.pid!);
  });
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, stdout, stderr })));
}

/** A failed client: one line that says why, nothing of the prompt, no stack. */
function expectLine(e: Ended, line: RegExp): void {
  const lines = e.stderr.split('\n').filter((l) => l.startsWith('cachet:'));
  expect(e.stderr).toMatch(line);
  expect(lines).toHaveLength(1);
  expect(e.status).toBe(1);
  // The session's id is random hex, which may hold the pin's digits by chance.
  expect(withoutSessionIds(e.stderr)).not.toMatch(/ {4}at |4711|Nina/);
  expectNoLeak(e.stderr, NAMES);
}

/** All sessions have ended at all parties that live; their last errors. */
async function allEnded(trio: Trio): Promise<(string | undefined)[]> {
  const live = new Set(Object.keys(trio.pids).filter((role) => !trio.events.some((e) => e.role === role && e.event === 'end' && e.session === undefined)));
  const count = (event: string, role: string): number => trio.events.filter((e) => e.event === event && e.role === role && e.session !== undefined).length;
  for (let i = 0; i < 100 && [...live].some((role) => count('session', role) > count('end', role)); i++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  for (const role of live) expect(count('end', role)).toBe(count('session', role));
  return [...live].map((role) => trio.events.findLast((e) => e.role === role && e.event === 'end')?.error);
}

/** A folder of the model with one bit changed. */
function anotherModel(): string {
  const model = mkdtempSync(join(folder, 'model-')),
    other = readFileSync(join(modelFolder('tiny-notes'), 'model.cachet'));
  other[other.length - 1]! ^= 1;
  writeFileSync(join(model, 'model.cachet'), other);
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) copyFileSync(join(modelFolder('tiny-notes'), name), join(model, name));
  return model;
}

async function works(trio: Trio): Promise<void> {
  const answer = await ask(trio);
  expect(answer.stdout.trim()).toBe('4711.');
  expect(answer.status).toBe(0);
}

const spoilt = (frame: Buffer, at: number): Buffer => {
  const copy = Buffer.from(frame);
  copy[at]! ^= 0x55;
  return copy;
};
const HARMS: Readonly<Record<string, readonly [(frame: Buffer) => Buffer[], RegExp]>> = {
  truncated: [(f) => [f.subarray(0, f.length - 1)], /wrong frame length; expected \d+ bytes, at most \d+; got \d+ in the header; try:/],
  'too short for a header': [(f) => [f.subarray(0, 9)], /truncated frame; expected at least 32 bytes; got 9 bytes/],
  oversized: [
    (f) => [Buffer.concat([f, Buffer.alloc(1 << 20)])],
    /connection to .* failed; got .*[Mm]ax payload size exceeded|connection to .* closed; got code 1009/,
  ],
  replayed: [(f) => [f, f], /frame out of order; expected number \d+ of its kind; got \d+/],
  garbage: [(f) => [Buffer.from(f.map((b, i) => (b + 31 * i + 7) & 255))], /frame of another version; expected version \d; got version \d+/],
  'of another session': [(f) => [spoilt(f, 8)], /frame of another session; expected this session; got another/],
  'of another kind': [(f) => [spoilt(f, 1)], /unknown frame kind/],
};

describe('a man in the middle', () => {
  const proxy = new Proxy();
  let trio: Trio;
  beforeAll(async () => {
    trio = await Trio.start('tiny-notes', { between: proxy.between, timeoutMs: 3000, progressMs: 4000 });
    // A first session's engines are cold, which on a busy machine looks like no progress.
    await ask(trio);
  });
  afterAll(async () => {
    await stopAll(trio);
    proxy.stop();
  });

  const LINKS: Readonly<Record<string, (p: Passing) => boolean>> = {
    'client to P0': (p) => p.server === 'p0' && p.connector === 'client' && p.toServer && p.kind === 3,
    'P0 to client': (p) => p.server === 'p0' && p.connector === 'client' && !p.toServer && p.kind === 4,
    'P1 to P0': (p) => p.server === 'p0' && p.connector === 'p1' && p.toServer && p.kind === 1,
    'P0 to P1': (p) => p.server === 'p0' && p.connector === 'p1' && !p.toServer && p.kind === 1,
    'helper to P1': (p) => p.server === 'helper' && p.connector === 'p1' && !p.toServer && p.kind === 2,
    'helper to P0': (p) => p.server === 'helper' && p.connector === 'p0' && !p.toServer && p.kind === 2,
  };
  it.each(Object.keys(LINKS).flatMap((link) => Object.keys(HARMS).map((harm) => [link, harm] as const)))('%s: a frame that is %s', async (link, harm) => {
    const [change, line] = HARMS[harm]!;
    proxy.rule = (frame, passing) => (LINKS[link]!(passing) && passing.index === 0 ? change(frame) : undefined);
    const e = await ask(trio);
    // What comes after the answer is through does no harm to it.
    if (e.status !== 0 || !(link === 'P0 to client' && harm === 'replayed')) expectLine(e, line);
    for (const reason of await allEnded(trio)) expect(reason).toMatch(line);
  });

  it('reordered dealt frames', async () => {
    const held: Buffer[] = [];
    proxy.rule = (frame, p) => {
      if (!LINKS['helper to P1']!(p) || p.index > 1) return undefined;
      held.push(frame);
      return p.index === 0 ? [] : held.toReversed();
    };
    expectLine(await ask(trio), /frame out of order; expected number 0 of its kind; got 1/);
    await allEnded(trio);
  });

  it('a corrupt hash: parties that run different programs', async () => {
    proxy.rule = (frame, p) => (LINKS['P1 to P0']!(p) && p.index === 3 ? [spoilt(frame, 17)] : undefined);
    expectLine(
      await ask(trio),
      /p1, step 0, layer 0, gate \d+ \(open\): parties run different programs; expected the same gates and shapes; got another running hash; try: give all parties/,
    );
    await allEnded(trio);
  });

  it.each([
    ['P1 to P0', 'open'],
    ['helper to P1', '\\w+'],
  ])('%s: frames that never come, while all are alive', async (link, gate) => {
    proxy.rule = (frame, p) => (LINKS[link]!(p) && p.index >= 2 ? [] : undefined);
    expectLine(
      await ask(trio),
      new RegExp(
        `p[01]: no progress in step 0, layer 0, gate \\d+ \\(${gate}\\); expected p[01]'s next message or the dealer's material within 4 s; got nothing; try:`,
      ),
    );
    await allEnded(trio);
  });

  it('and after all that a session works', async () => {
    proxy.rule = () => undefined;
    await works(trio);
    expect(await allEnded(trio)).toEqual([undefined, undefined, undefined]);
  });

  it('a peer of another protocol version', async () => {
    const link = await connect(trio.config.p0, 'p0', 3000),
      refused = expectControl(link, 'ready', 3000);
    link.control({ type: 'hello', role: 'client', ticket: new Uint8Array(16), nonce: new Uint8Array(32), spec: { version: 1 } } as never);
    await expect(refused).rejects.toThrow(
      /bad control message, field spec.version; expected the messages of protocol version 6; got invalid_value; try: run the same version/,
    );
  });
});

describe('a man in the middle of two parties, where the client deals', () => {
  const proxy = new Proxy();
  let duo: Trio;
  beforeAll(async () => {
    duo = await Trio.start('tiny-notes', { roles: ['p0', 'p1'], between: proxy.between, timeoutMs: 3000, progressMs: 4000 });
    await ask(duo);
  });
  afterAll(async () => {
    await stopAll(duo);
    proxy.stop();
  });

  const LINKS: Readonly<Record<string, (p: Passing) => boolean>> = {
    'dealt, client to P0': (p) => p.server === 'p0' && p.connector === 'dealer' && p.toServer && p.kind === 2,
    'relayed, P0 to P1': (p) => p.server === 'p0' && p.connector === 'p1' && !p.toServer && p.kind === 2,
  };
  it.each(Object.keys(LINKS).flatMap((link) => ['truncated', 'oversized', 'replayed', 'of another session'].map((harm) => [link, harm] as const)))(
    '%s: a frame that is %s',
    async (link, harm) => {
      const [change, line] = HARMS[harm]!;
      proxy.rule = (frame, passing) => (LINKS[link]!(passing) && passing.index === 0 ? change(frame) : undefined);
      expectLine(await ask(duo), line);
      for (const reason of await allEnded(duo)) expect(reason).toMatch(line);
    },
  );

  it('frames that P0 does not relay, while all are alive; after that a session works', async () => {
    proxy.rule = (frame, p) => (LINKS['relayed, P0 to P1']!(p) && p.index >= 2 ? [] : undefined);
    expectLine(await ask(duo), /p[01]: no progress in step 0, layer \d, gate \d+ \(\w+\); expected p[01]'s next message or the dealer's material within 4 s/);
    await allEnded(duo);
    proxy.rule = () => undefined;
    await works(duo);
  });
});

describe('connections that are nothing', () => {
  const open = async (address: string, text: string): Promise<{ socket: Socket; closed: Promise<number> }> => {
    const { hostname, port } = new URL(address),
      socket = connectTcp(Number(port), hostname)
        .resume()
        .on('error', () => undefined);
    await new Promise((resolve) => socket.once('connect', resolve));
    const since = performance.now();
    if (text !== '') socket.write(text);
    return { socket, closed: new Promise((resolve) => socket.once('close', () => resolve(performance.now() - since))) };
  };
  const CASES = [
    ['bare', ''],
    ['half a request', 'GET / HTTP/1.1\r\nHost: party\r\nUpgr'],
  ] as const;

  it('are closed after the silence that a party allows, and do not keep one that is stopped', async () => {
    const duo = await Trio.start('tiny-notes', { roles: ['p0', 'p1'], silenceMs: 1000, own: { p1: { silenceMs: 60_000 } } });
    try {
      const limited = await Promise.all(CASES.map(([, text]) => open(duo.config.p0, text)));
      for (const { closed } of limited) {
        const ms = await closed;
        expect(ms).toBeGreaterThan(500);
        expect(ms).toBeLessThan(5000);
      }
      const left = await Promise.all(CASES.map(([, text]) => open(duo.config.p1, text))),
        since = performance.now();
      process.kill(duo.pids['p1']!, 'SIGTERM');
      await Promise.all(left.map(({ closed }) => closed));
      while (!duo.events.some((e) => e.role === 'p1' && e.error === 'process ended with status 0')) {
        expect(performance.now() - since).toBeLessThan(10_000);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    } finally {
      await stopAll(duo);
    }
  });
});

describe('peers that differ', () => {
  const [mine, other] = [/expected artefact [0-9a-f]{16}; got [0-9a-f]{16}/.source, anotherModel()];
  /** What each party said of the refusal. */
  const refusals = async (trio: Trio, roles: readonly string[], laterMs: number): Promise<Record<string, (string | undefined)[]>> => {
    const of = (role: string) => trio.events.filter((e) => e.role === role && e.event === 'refused').map((e) => e.error);
    for (let i = 0; i < 100 && !roles.every((role) => of(role).length > 0); i++) await new Promise((resolve) => setTimeout(resolve, 50));
    await new Promise((resolve) => setTimeout(resolve, laterMs));
    return Object.fromEntries(Object.keys(trio.pids).map((role) => [role, of(role)]));
  };
  it.each<[string, TrioOptions, string[], RegExp]>([
    ['P1 with another model', { models: { p1: other } }, ['p0', 'p1'], new RegExp(`p1: another model; ${mine}; try: give all parties and the client the same`)],
    [
      'P1 with another model, the client deals',
      { roles: ['p0', 'p1'], models: { p1: other }, timeoutMs: 2000 },
      ['p0', 'p1'],
      new RegExp(`p1: another model; ${mine}; try: give all parties and the client the same`),
    ],
    [
      'the helper with another model',
      { models: { helper: other } },
      ['helper', 'p0', 'p1'],
      new RegExp(`helper: another model; ${mine}; try: give all parties and the client the same`),
    ],
    [
      'P1 with another cache policy',
      { own: { p1: { policy: 'aggressive' } } },
      ['p0', 'p1'],
      /p1: another cache policy than this party runs, field name; expected "aggressive"; got "full"; try: --policy aggressive/,
    ],
  ])('%s: all that take part say who refuses what, once', async (_, o, roles, line) => {
    const trio = await Trio.start('tiny-notes', o);
    try {
      expectLine(await ask(trio), line);
      const said = await refusals(trio, roles, o.timeoutMs === undefined ? 300 : o.timeoutMs + 500);
      for (const role of Object.keys(trio.pids)) expect([role, said[role]]).toEqual([role, roles.includes(role) ? [expect.stringMatching(line)] : []]);
    } finally {
      await stopAll(trio);
    }
  });
});

describe('a chat', () => {
  const chat = (args: readonly string[]) => {
    const child = spawn(process.execPath, ['dist/party/cli.js', 'chat', '--max-tokens', '6', ...args]),
      said = { stdout: '', stderr: '' };
    child.stdout.on('data', (data: Buffer) => (said.stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (said.stderr += data.toString()));
    const ended = new Promise<Ended>((resolve) => child.once('close', (status) => resolve({ status, ...said })));
    return { child, said, ended };
  };

  it.each([
    ['p0', 3],
    ['p1', 3],
    ['helper', 3],
    ['p1', 2],
  ] as const)('that waits for its next question ends when %s of %i parties is killed', async (role, parties) => {
    const trio = await Trio.start('tiny-notes', { timeoutMs: 5000, ...(parties === 2 ? { roles: ['p0', 'p1'] } : {}) });
    try {
      const { child, said, ended } = chat(reached(trio.config));
      child.stdin.write(`${PROMPT.split('<')[0]} What is Nina's pin?\n`);
      while (!said.stdout.includes('\n')) {
        expect(child.exitCode).toBe(null);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      process.kill(trio.pids[role]!, 'SIGKILL');
      // Its stdin stays open.
      expectLine(await ended, new RegExp(`connection to ${role} (closed; got code 1006|failed; got .*)`));
      await allEnded(trio);
    } finally {
      await stopAll(trio);
    }
  });

  it.each([['--p1'], ['--helper-url'], ['--listen']])('with %s and without --p0 is refused: the note would go to other parties', async (flag) => {
    const { child, ended } = chat([flag, flag === '--listen' ? '127.0.0.1:7709' : 'ws://127.0.0.1:7709']);
    child.stdin.end('Who is it?\n');
    expectLine(await ended, new RegExp(`${flag}: address without that of P0; expected --p0 as well, or --config FILE; .*got ${flag} alone; try: --p0`));
  });

  it('gives the parties that it starts the fields that it was given', async () => {
    const { child, ended } = chat(['--helper', 'client', '--memory-mib', '16', '--threads', '2']);
    child.stdin.end('Who is it?\n');
    expectLine(await ended, /p[01]: not enough memory for one more session; expected 16 MiB at most; got \d+ MiB .*; try: again later, a shorter prompt, or/);
  });
});

/** Some machines give no file system of one's own. */
const mounts = spawnSync('unshare', ['-Urm', 'mount', '-t', 'tmpfs', '-o', 'size=8k', 'none', folder]).status === 0;
describe.skipIf(!mounts)('a ledger on a disk that is full', () => {
  const line = /ledger cannot be kept; expected \S+\/ledger to be readable and writable; got ENOSPC; try: free some space, or another "ledger"/;
  /** In a file system of two pages, the ledger `content` (of printf) and then nothing free. */
  const full = (content: string, command: string): Promise<Ended> =>
    new Promise((resolve) => {
      const at = mkdtempSync(join(folder, 'full-')),
        made = content === '' ? '' : `printf ${content} > ${at}/ledger;`,
        child = spawn('unshare', [
          '-Urm',
          'sh',
          '-c',
          `mount -t tmpfs -o size=8k none ${at} && { ${made} cat /dev/zero > ${at}/rest; true; } 2>/dev/null && ${command} --ledger ${at}/ledger`,
        ]);
      let [stdout, stderr] = ['', ''];
      child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
      child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
      child.once('close', (status) => resolve({ status, stdout, stderr }));
    });

  it('is found when the party starts', async () => {
    expectLine(await full('', 'exec node dist/party/cli.js party --role p0 --p0 ws://127.0.0.1:0 --p1 ws://127.0.0.1:1'), line);
  });

  it('or before the session that cannot be written down', async () => {
    // A whole page of the ledger is in use: a line more needs another one.
    expectLine(await full('%04095d\\\\n 0', 'echo Who is it? | exec node dist/party/cli.js chat --helper client'), line);
  });
});

describe('parties that die', () => {
  const KILLED = ['p0', 'p1', 'helper'] as const;
  it.each(KILLED.flatMap((role) => (['reading', 'answering'] as const).map((phase) => [role, phase] as const)))(
    '%s killed while the client is %s',
    async (role, phase) => {
      const trio = await Trio.start('tiny-notes', { timeoutMs: 3000 });
      try {
        let killed = false;
        const e = await ask(trio, phase === 'reading' ? LONG : PROMPT, {
          args: ['--max-tokens', '200', '--temperature', '3', '--seed', '1'],
          onText(text) {
            if (killed || !(phase === 'reading' ? text.includes('connected') : text.startsWith('answer'))) return;
            killed = true;
            process.kill(trio.pids[role]!, 'SIGKILL');
          },
        });
        if (e.status === 0) expect(phase).toBe('answering');
        else expectLine(e, new RegExp(`connection to ${role} (closed; got code 1006|failed; got .*)`));
        await allEnded(trio);
      } finally {
        await stopAll(trio);
      }
    },
  );

  it('a client killed while it reads ends the session everywhere, and the parties go on', async () => {
    const trio = await Trio.start('tiny-notes', { timeoutMs: 3000 });
    try {
      let killed = false;
      const e = await ask(trio, LONG, {
        onText(text, pid) {
          if (killed || !text.includes('connected')) return;
          killed = true;
          process.kill(pid, 'SIGKILL');
        },
      });
      expect(e.status).toBe(null);
      for (const reason of await allEnded(trio)) expect(reason).toMatch(/connection to client closed; got code 1006/);
      await works(trio);
    } finally {
      await stopAll(trio);
    }
  });

  it.each(KILLED)('%s stopped without a word: silence, then a reason; it may come back', async (role) => {
    // Longer than a busy machine keeps another one waiting.
    const trio = await Trio.start('tiny-notes', { timeoutMs: 5000, silenceMs: 2000 });
    try {
      let stopped = false;
      const e = await ask(trio, LONG, {
        args: ['--silence-ms', '2000'],
        onText(text) {
          if (stopped || !text.includes('connected')) return;
          stopped = true;
          process.kill(trio.pids[role]!, 'SIGSTOP');
        },
      });
      expectLine(e, new RegExp(`${role} is silent; expected a sign of life within 2 s; got nothing; try: check that ${role} is running`));
      process.kill(trio.pids[role]!, 'SIGCONT');
      await allEnded(trio);
      await works(trio);
    } finally {
      await stopAll(trio);
    }
  });

  it.each([3, 2])('a slow peer of %i parties holds its neighbours back and does not fill their memory', async (parties) => {
    // P1 does not take its own stop for the silence of others.
    const own = { p1: { silenceMs: 2000 } },
      trio = await Trio.start('tiny-notes', { timeoutMs: 5000, own, ...(parties === 2 ? { roles: ['p0', 'p1'] } : {}) }),
      resident = (pid: number): number => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;
    try {
      let before: number[] | undefined, after: number[] | undefined;
      const e = await ask(trio, LONG, {
        onText(text, client) {
          if (before || !text.includes('connected')) return;
          const neighbours = [trio.pids['helper'] ?? client, trio.pids['p0']!];
          before = neighbours.map(resident);
          process.kill(trio.pids['p1']!, 'SIGSTOP');
          setTimeout(() => {
            after = neighbours.map(resident);
            process.kill(trio.pids['p1']!, 'SIGCONT');
          }, 3000);
        },
      });
      expect(e.status).toBe(0);
      // The whole prefill deals more than 250 MB; what may wait is the ring and the socket, beside what the engine itself touches.
      after!.forEach((mib, i) => expect(mib - before![i]!).toBeLessThan(150));
      await allEnded(trio);
    } finally {
      await stopAll(trio);
    }
  });
});

describe('what a party or a model may be given', () => {
  const run = (...args: string[]) =>
    new Promise<Ended>((resolve) => {
      const child = spawn(process.execPath, ['dist/party/cli.js', ...args]);
      let stderr = '';
      child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
      child.once('close', (status) => resolve({ status, stdout: '', stderr }));
    });
  const addresses = ['--p0', 'ws://127.0.0.1:1', '--p1', 'ws://127.0.0.1:2'];

  it('a port in use', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => other.once('listening', resolve));
    const { port } = other.address() as { port: number };
    expectLine(
      await run('party', '--role', 'p0', '--p0', `ws://127.0.0.1:${port}`, '--p1', 'ws://127.0.0.1:2'),
      new RegExp(`cannot listen; expected 127.0.0.1:${port} free; got EADDRINUSE; try: another port`),
    );
    other.close();
  });

  it.each<[string, (bytes: Buffer) => Buffer, RegExp]>([
    ['truncated', (b) => b.subarray(0, b.length >> 1), /corrupt safetensors file|outside the file/],
    ['empty', () => Buffer.alloc(0), /corrupt safetensors file; expected a header and as many bytes as it says; got 0 bytes/],
    ['foreign', () => readFileSync(join(modelFolder('tiny-notes'), 'model.safetensors')), /not an artefact|artefact/],
  ])('an artefact that is %s', async (_, change, line) => {
    const model = mkdtempSync(join(folder, 'model-'));
    writeFileSync(join(model, 'model.cachet'), change(readFileSync(join(modelFolder('tiny-notes'), 'model.cachet'))));
    expectLine(await run('party', '--role', 'p0', '--model', model, ...addresses), line);
  });

  it('tensors of other shapes than the configuration says', async () => {
    const model = mkdtempSync(join(folder, 'model-'));
    for (const name of ['model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'calibration.txt'])
      copyFileSync(join(modelFolder('tiny-notes'), name), join(model, name));
    const config = JSON.parse(readFileSync(join(modelFolder('tiny-notes'), 'config.json'), 'utf8')) as Record<string, unknown>;
    writeFileSync(join(model, 'config.json'), JSON.stringify({ ...config, intermediate_size: 512 }));
    expectLine(await run('prepare', '--model', model), /model\.layers\.0\.mlp\.\w+.*expected .*512.*got .*384/);
  });

  it('parties with different models', async () => {
    expect(artefact.digest).toMatch(/^[0-9a-f]{64}$/);
    const model = anotherModel(),
      trio = await Trio.start('tiny-notes');
    try {
      expectLine(
        await ask(trio, PROMPT, { args: ['--model', model] }),
        /another model; expected artefact [0-9a-f]{16}; got [0-9a-f]{16}; try: give all parties and the client the same model/,
      );
    } finally {
      await stopAll(trio);
    }
  });

  it.each<[string, string, string[], RegExp]>([
    ['empty', '', [], /empty prompt; expected text as an argument or on stdin; got nothing/],
    ['too long', ' word'.repeat(1100), [], /prompt too long for the model; expected at most 1024 positions; got .* try: shorten the prompt/],
  ])('a prompt that is %s', async (_, prompt, args, line) => {
    expectLine(await run('ask', ...addresses, ...args, prompt), line);
  });
});

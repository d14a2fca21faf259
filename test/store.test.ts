/** Stores of dealt material through real processes: golden answers without a helper, each unit once, what damaged, copied and used stores get. */
import { execFile, spawnSync } from 'node:child_process';
import { cpSync, existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate } from '../client/generate.ts';
import { PrivateSession } from '../client/session.ts';
import { Trio } from '../party/launch.ts';
import { Ledger } from '../party/ledger.ts';
import { reach } from '../party/reach.ts';
import { meterSession } from '../protocols/cost.ts';
import { FULL, PRESETS, type Policy } from '../protocols/policy.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  cases = golden(),
  /** Of a store for golden cases, and of one for what needs no answer. */
  GOLDEN = { promptTokens: 72, maxTokens: 6 },
  SMALL = { promptTokens: 4, maxTokens: 2 },
  UNITS = 9,
  short = cases.filter((c) => c.promptIds.length - artefact.prefixIds.length <= GOLDEN.promptTokens && c.continuationIds.length <= GOLDEN.maxTokens),
  folder = mkdtempSync(join(tmpdir(), 'cachet-test-'));
let names = 0;
const fresh = (name: string): string => join(folder, `${name}-${names++}`);

function cachet(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) =>
    execFile(process.execPath, ['dist/party/cli.js', ...args], (error, stdout, stderr) => resolve({ status: error ? Number(error.code) : 0, stdout, stderr })),
  );
}
const deal = (out: string, count: number, lengths = SMALL, ...more: string[]) =>
  cachet('deal', '--prefill', String(lengths.promptTokens), '--tokens', String(lengths.maxTokens), '--count', String(count), '--out', out, ...more);

/** A store of `count` small units: those of one that is dealt once. */
function store(count: number): string {
  const at = fresh('store'),
    original = join(folder, 'original');
  cpSync(original, at, { recursive: true, filter: (path) => !path.includes('unit-') });
  for (const role of ['p0', 'p1']) for (const unit of unitFiles(original, role).slice(0, count)) linkSync(unit, unit.replace(original, at));
  return at;
}

function flipped(path: string, at: number): Buffer {
  const bytes = readFileSync(path);
  bytes[at]! ^= 4;
  return bytes;
}
const unitFiles = (at: string, role: string): string[] =>
  readdirSync(join(at, role))
    .filter((name) => name.startsWith('unit-'))
    .map((name) => join(at, role, name));

const evaluators = (at: string, ledger: string) => Trio.start('tiny-notes', { roles: ['p0', 'p1'], store: at, ledger, timeoutMs: 5000 });
const options = (trio: Trio) => ({ ...reach(trio.config, artefact, 'store', new AbortController().signal), artefact });

async function answer(trio: Trio, c = short[0]!, seen?: (s: PrivateSession) => void, policy: Policy = FULL): Promise<number[]> {
  const ids: number[] = [];
  for await (const id of generate({
    ...options(trio),
    policy,
    promptIds: c.promptIds,
    maxTokens: c.continuationIds.length,
    ...(seen ? { onSession: seen } : {}),
  }))
    ids.push(id);
  return ids;
}

/** A session of two steps over a small unit; the prompt is padded. */
async function session(trio: Trio): Promise<void> {
  const s = await PrivateSession.open({ ...options(trio), promptTokens: 3, maxTokens: 2 });
  for (const ids of [[5, 6, 7], [8]]) expect((await s.step(ids)).every(Number.isFinite)).toBe(true);
  await s.stop();
  expect((await trio.ended(s.id)).map((e) => e.error)).toEqual([undefined, undefined]);
}

const unitsUsed = (trio: Trio, role: string): (number | undefined)[] => trio.events.filter((e) => e.role === role && e.event === 'session').map((e) => e.unit);

beforeAll(async () => {
  const { status, stderr } = await deal(join(folder, 'original'), UNITS);
  expect(status, stderr).toBe(0);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('two evaluators with a store, no helper', () => {
  it('answer golden cases with padded prompts, each from a unit of its own, across restarts', async () => {
    const at = fresh('golden'),
      ledger = fresh('ledger'),
      cost = meterSession(artefact, { ...GOLDEN, dealer: 'store' }),
      dealt = await deal(at, 2, GOLDEN, '--json'),
      result = JSON.parse(dealt.stdout) as { units: number; storedBytes: number };
    expect(result.units).toBe(2);
    expect(result.storedBytes / 2 / cost.dealtBytes).toBeGreaterThan(0.999);
    expect(result.storedBytes / 2 / cost.dealtBytes).toBeLessThan(1.001);
    const first = await evaluators(at, ledger);
    try {
      let opened: PrivateSession | undefined;
      const c = short[0]!;
      expect(await answer(first, c, (s) => (opened = s))).toEqual(c.continuationIds);
      opened!.reports.forEach(({ rounds, onlineBytes, dealtBytes }, i) =>
        expect({ rounds, onlineBytes, dealtBytes }).toEqual(
          (({ rounds: r, onlineBytes: o, dealtBytes: d }) => ({ rounds: r, onlineBytes: o, dealtBytes: d }))(cost.steps[i]!),
        ),
      );
      expect((await first.ended(opened!.id)).map((e) => e.error)).toEqual([undefined, undefined]);
      for (const role of ['p0', 'p1']) expect(unitFiles(at, role)).toHaveLength(1);
    } finally {
      await first.stop();
    }
    const second = await evaluators(at, ledger);
    try {
      const c = short.at(-1)!;
      expect(await answer(second, c)).toEqual(c.continuationIds);
      await expect(answer(second)).rejects.toThrow(/p[01]: store exhausted; expected unit 2 or a later one; got none; try: cachet deal with the same --out/);
      expect((await deal(at, 1, GOLDEN)).status).toBe(0);
      expect(await answer(second)).toEqual(short[0]!.continuationIds);
      for (const role of ['p0', 'p1']) expect(unitsUsed(second, role)).toEqual([1, 2]);
    } finally {
      await second.stop();
    }
  });

  it('answer under a cache policy that evicts and chooses, prompts of all lengths padded to one; refuse another policy by name', async () => {
    const at = fresh('policy'),
      policy = PRESETS['mpcache-paper'],
      cost = meterSession(artefact, { ...GOLDEN, dealer: 'store', policy }),
      dealt = await deal(at, short.length, GOLDEN, '--policy', policy.name, '--json');
    expect(dealt.stderr).toBe('');
    expect(JSON.parse(dealt.stdout)).toMatchObject({ policy: 'mpcache-paper', units: short.length });
    const other = await deal(at, 1, GOLDEN, '--policy', 'aggressive');
    expect(other.stderr).toMatch(
      /store of another cache policy; expected --policy mpcache-paper, field name: "mpcache-paper"; got aggressive: "aggressive"; try: another --out/,
    );
    const trio = await evaluators(at, fresh('ledger'));
    try {
      await expect(answer(trio, short[0])).rejects.toThrow(
        /p[01]: store dealt for the cache policy mpcache-paper, not full, field name; expected "mpcache-paper"; got "full"; try: --policy mpcache-paper/,
      );
      const renamed: Policy = { ...policy, static: { ...policy.static!, keep: 0.5 } };
      await expect(answer(trio, short[0], undefined, renamed)).rejects.toThrow(
        /store dealt for the cache policy mpcache-paper, not mpcache-paper, field static/,
      );
      for (const c of short) {
        let opened: PrivateSession | undefined;
        expect(await answer(trio, c, (s) => (opened = s), policy)).toEqual(c.continuationIds);
        opened!.reports.forEach(({ rounds, onlineBytes, dealtBytes }, i) => expect(cost.steps[i]).toMatchObject({ rounds, onlineBytes, dealtBytes }));
      }
      for (const role of ['p0', 'p1']) expect(unitsUsed(trio, role)).toEqual(short.map((_, i) => i));
    } finally {
      await trio.stop();
    }
  });

  it('sessions at once have units of their own', async () => {
    const trio = await evaluators(store(3), fresh('ledger'));
    try {
      await Promise.all([session(trio), session(trio), session(trio)]);
      for (const role of ['p0', 'p1']) expect(unitsUsed(trio, role).toSorted()).toEqual([0, 1, 2]);
    } finally {
      await trio.stop();
    }
  });

  it('after a crash the larger of both marks counts', async () => {
    const at = store(3),
      ledger = fresh('ledger'),
      id = (JSON.parse(readFileSync(join(at, 'p1', 'store.json'), 'utf8')) as { store: string }).store,
      written = new Ledger(ledger),
      token = 'ab'.repeat(16);
    written.useUnit(`p1 ${id}`, 1, token);
    written.close();
    writeFileSync(join(at, 'p1', 'owner'), token);
    const trio = await evaluators(at, ledger);
    try {
      await session(trio);
      for (const role of ['p0', 'p1']) expect(unitsUsed(trio, role)).toEqual([2]);
      expect(unitFiles(at, 'p1')).toEqual([]);
    } finally {
      await trio.stop();
    }
  });

  it('refuse what does not fit a unit, and several turns', async () => {
    const trio = await evaluators(store(1), fresh('ledger'));
    try {
      const open = (promptTokens: number, maxTokens: number, context?: number) =>
        PrivateSession.open({ ...options(trio), promptTokens, maxTokens, ...(context === undefined ? {} : { context }) });
      await expect(open(5, 1)).rejects.toThrow(
        /session does not fit the store's units; expected at most 4 private and 2 generated tokens; got 5 and 1; try: shorten/,
      );
      await expect(open(3, 3)).rejects.toThrow(/does not fit the store's units; .* got 3 and 3/);
      await expect(open(3, 2, 20)).rejects.toThrow(/session of several turns from a store; expected one prompt and its answer/);
      await session(trio);
    } finally {
      await trio.stop();
    }
  });
});

describe('a store that is not to be used', () => {
  const refused = async (at: string, ledger: string, line: RegExp, role = 'p0'): Promise<void> => {
    const e = await cachet('party', '--role', role, '--p0', 'ws://127.0.0.1:0', '--p1', 'ws://127.0.0.1:0', '--store', at, '--ledger', ledger);
    expect(e.stderr).toMatch(line);
    expect(e.stderr.trim().split('\n')).toHaveLength(1);
    expect(e.status).toBe(1);
  };

  it('copied, restored, of another ledger', async () => {
    const at = store(3),
      ledger = fresh('ledger'),
      early = fresh('early'),
      late = fresh('late');
    cpSync(at, early, { recursive: true });
    const trio = await evaluators(at, ledger);
    try {
      await session(trio);
      cpSync(at, late, { recursive: true });
      await session(trio);
      await session(trio);
    } finally {
      await trio.stop();
    }
    await refused(
      early,
      ledger,
      /store copied or restored; expected the folder that its ledger has used; got an earlier or another one; try: a store is used once/,
    );
    await refused(late, ledger, /store copied or restored/, 'p1');
    await refused(late, fresh('ledger'), /store of another ledger; expected the ledger that has used it; got one that does not know it/);
  });

  it('restored while the party runs, one use ago: the unit is not used again', async () => {
    const at = store(2),
      before = fresh('before'),
      trio = await evaluators(at, fresh('ledger'));
    try {
      cpSync(at, before, { recursive: true });
      await session(trio);
      for (const role of ['p0', 'p1']) renameSync(unitFiles(before, role)[0]!, unitFiles(before, role)[0]!.replace(before, at));
      await session(trio);
      expect(unitsUsed(trio, 'p0')).toEqual([0, 1]);
      await expect(session(trio)).rejects.toThrow(/store exhausted; expected unit 2 or a later one; got 1 used or passed over/);
    } finally {
      await trio.stop();
    }
  });

  it('without a ledger outside of it, of another party, damaged, of another version, none', async () => {
    const at = store(1);
    await refused(at, join(at, 'ledger'), /store without a ledger of its own; expected a ledger outside of the store/);
    rmSync(join(at, 'p0'), { recursive: true });
    cpSync(join(at, 'p1'), join(at, 'p0'), { recursive: true });
    await refused(at, fresh('ledger'), /store of another party; expected p0; got p1/);
    const manifest = join(at, 'p1', 'store.json'),
      text = readFileSync(manifest, 'utf8');
    writeFileSync(manifest, text.replace('"maxTokens": 2', '"maxTokens": 3'));
    await refused(at, fresh('ledger'), /store\.json: damaged store; expected a record of the hash in it/, 'p1');
    writeFileSync(manifest, text.replace('"version": 2', '"version": 3'));
    await refused(at, fresh('ledger'), /store of another version; expected version 2; got 3/, 'p1');
    await refused(fresh('none'), fresh('ledger'), /cannot read store; expected .*store\.json; got ENOENT; try: cachet deal/);
  });

  it('units that are damaged or foreign are refused by name, and the next one works', async () => {
    const at = store(UNITS),
      foreign = join(folder, 'foreign'),
      units = unitFiles(at, 'p1'),
      harms: readonly (readonly [(unit: string) => Buffer, RegExp])[] = [
        [(unit) => readFileSync(unit).subarray(0, 100_000), /truncated unit; expected \d+ bytes; got 100000 bytes; try: cachet store verify/],
        [(unit) => flipped(unit, 50), /damaged unit; expected a header of the hash at its end/],
        [(unit) => flipped(unit, 300), /unit not authentic; expected the key of this party/],
        [(unit) => flipped(unit, 1_000_000), /unit not authentic; expected what the dealer wrote; got another chunk \d+/],
        [() => Buffer.alloc(1000, 'x'), /not a unit of a store; expected a file of cachet deal, version 2/],
        [() => readFileSync(unitFiles(foreign, 'p1')[0]!), /unit of another store; expected [0-9a-f]{16}; got [0-9a-f]{16}/],
        [(unit) => readFileSync(unit.replace('p1/unit', 'p0/unit')), /unit of another party; expected p1; got p0/],
        [() => readFileSync(units[8]!), /unit under another name; expected unit 7; got unit 8/],
      ];
    expect((await deal(foreign, 1)).status).toBe(0);
    harms.forEach(([harm], i) => {
      const bytes = harm(units[i]!);
      rmSync(units[i]!);
      writeFileSync(units[i]!, bytes);
    });
    const verified = JSON.parse((await cachet('store', 'verify', at, '--json')).stdout) as { wrong: string[] };
    expect(verified.wrong).toHaveLength(harms.length);
    const trio = await evaluators(at, fresh('ledger'));
    try {
      for (const [, line] of harms) await expect(session(trio)).rejects.toThrow(line);
      await session(trio);
      expect(unitsUsed(trio, 'p1').at(-1)).toBe(8);
    } finally {
      await trio.stop();
    }
  });
});

describe('cachet store and deal', () => {
  it('list, verify, prune', async () => {
    const at = store(3);
    expect((await cachet('store', 'verify', at)).stdout).toMatch(/6 of 6 units are whole/);
    const unit = unitFiles(at, 'p0')[1]!,
      bytes = flipped(unit, 3000);
    rmSync(unit);
    writeFileSync(unit, bytes);
    writeFileSync(join(at, 'p1', 'unit-00000009.cachet.part'), 'left by a killed dealer');
    const rows = JSON.parse((await cachet('store', 'ls', at, '--json')).stdout) as { role: string; units: number; first: number; policy: string }[];
    expect(rows.map(({ role, units, first, policy }) => ({ role, units, first, policy }))).toEqual([
      { role: 'p0', units: 3, first: 0, policy: 'full' },
      { role: 'p1', units: 3, first: 0, policy: 'full' },
    ]);
    const pruned = JSON.parse((await cachet('store', 'prune', at, '--json')).stdout) as { removed: string[] };
    expect(pruned.removed.map((path) => path.slice(at.length + 1))).toEqual(['p0/unit-00000001.cachet', 'p1/unit-00000009.cachet.part']);
    expect((await cachet('store', 'verify', at)).status).toBe(0);
  });

  it('keys of the evaluators: the dealer needs the public ones alone', async () => {
    const at = fresh('sealed'),
      keys = [fresh('p0.key'), fresh('p1.key')] as const,
      publicKeys = await Promise.all(keys.map(async (path) => (await cachet('store', 'key', path)).stdout.trim()));
    expect((await deal(at, 1, SMALL, '--p0-key', publicKeys[0]!, '--p1-key', keys[1])).status).toBe(0);
    expect(existsSync(join(at, 'p0.key'))).toBe(false);
    const text = readFileSync(join(at, 'dealer.json'), 'utf8');
    expect(text).toContain(publicKeys[1]);
    expect(text).not.toContain(readFileSync(keys[1], 'utf8').trim());
    expect((await deal(at, 1, SMALL, '--p0-key', publicKeys[1]!)).stderr).toMatch(/store of other keys; expected p0's of the first time/);
  });

  const shell = (script: string): Promise<{ status: number; stdout: string; stderr: string }> =>
    new Promise((resolve) =>
      execFile('unshare', ['-Urm', 'sh', '-c', script], (error, stdout, stderr) => resolve({ status: error ? Number(error.code) : 0, stdout, stderr })),
    );
  it.skipIf(spawnSync('unshare', ['-Urm', 'true']).status !== 0)(
    'a disk that is full in the middle of a unit: one line, whole units stay, parts go, and it goes on later',
    async () => {
      const at = fresh('full'),
        unit = ['p0', 'p1'].reduce((n, role) => n + statSync(unitFiles(join(folder, 'original'), role)[0]!).size, 0),
        dealing = (count: number): string =>
          `node dist/party/cli.js deal --prefill ${SMALL.promptTokens} --tokens ${SMALL.maxTokens} --count ${count} --out ${at}/store --json`,
        look = `ls -A ${at}/store/p0 ${at}/store/p1; node dist/party/cli.js store verify ${at}/store`;
      mkdirSync(at);
      // Room for two and a half.
      const { status, stdout, stderr } = await shell(
        `mount -t tmpfs -o size=${Math.round(2.5 * unit)} none ${at} && { ${dealing(4)}; echo status $?; ${look}; } && mount -o remount,size=${8 * unit} ${at} && ${dealing(1)} && ${look}`,
      );
      const { error } = JSON.parse(stderr) as { error: Record<string, string> };
      expect(error).toMatchObject({
        code: 'config',
        what: 'cannot write file',
        got: 'ENOSPC',
        hint: 'free some space; what is whole stays, nothing half-written does',
      });
      expect(error['expected']).toMatch(/unit-00000002\.cachet$/);
      expect(status).toBe(0);
      expect(stdout).toContain('status 1');
      expect(stdout).toContain('4 of 4 units are whole');
      // The index of the unit that was given up is not used again.
      expect(stdout).toContain('"dealt":[3]');
      expect(stdout).toContain('6 of 6 units are whole');
      expect(stdout).not.toContain('.part');
    },
  );

  it('refuse another model, other lengths, a second dealer, lengths beyond the model', async () => {
    const at = store(1);
    const other = await cachet('deal', '--prefill', '16', '--tokens', '8', '--out', at);
    expect(other.stderr).toMatch(/store of other lengths; expected --prefill 4 --tokens 2; got 16 and 8; try: another --out/);
    writeFileSync(join(at, 'dealing'), String(process.pid));
    expect((await deal(at, 1)).stderr).toMatch(new RegExp(`store that somebody deals into; expected one dealer at a time; got process ${process.pid}`));
    expect((await cachet('deal', '--prefill', '2000', '--tokens', '8', '--out', fresh('long'))).stderr).toMatch(/prompt too long for the model/);
  });
});

/** init, doctor, models, completion, flags over files, errors as JSON, atomic files, Ctrl-C: as processes. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Trio } from '../party/launch.ts';
import { configSchema, flagOf, readConfigFile, type ConfigField } from '../party/config.ts';
import { writeAtomically } from '../party/files.ts';
import { table, wrap } from '../party/terminal.ts';

const CLI = resolve('dist/party/cli.js'),
  folder = mkdtempSync(join(tmpdir(), 'cachet-test-'));

const cachet = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  new Promise<{ status: number; stdout: string; stderr: string }>((done) =>
    execFile(process.execPath, [CLI, ...args], { cwd: folder, env: { ...process.env, ...env } }, (error, stdout, stderr) =>
      done({ status: error ? Number(error.code) : 0, stdout, stderr }),
    ),
  );

describe('init', () => {
  it('writes configurations that parties start with, says what to run, and overwrites nothing', async () => {
    const { status, stdout } = await cachet(['init', '--out', 'three']);
    expect(status).toBe(0);
    expect(readdirSync(join(folder, 'three')).sort()).toEqual(['client.json', 'helper.json', 'p0.json', 'p1.json']);
    for (const role of ['p0', 'p1', 'helper']) {
      expect(stdout).toContain(`cachet party --role ${role} --config three/${role}.json`);
      expect(() => configSchema.parse(JSON.parse(readFileSync(join(folder, 'three', `${role}.json`), 'utf8')))).not.toThrow();
    }
    const again = await cachet(['init', '--out', 'three']);
    expect(again.status).toBe(1);
    expect(again.stderr).toMatch(/file exists; expected three\/helper.json free; got a file; try: --force/);
    expect((await cachet(['init', '--out', 'three', '--force'])).status).toBe(0);
  });
  it("keeps a party's files beside its configuration, wherever that is copied to", async () => {
    const there = join(folder, 'its-machine');
    await cachet(['init', '--out', 'copied']);
    mkdirSync(there);
    copyFileSync(join(folder, 'copied', 'p0.json'), join(there, 'p0.json'));
    const checks = JSON.parse((await cachet(['doctor', '--config', 'its-machine/p0.json', '--json'])).stdout) as {
      check: string;
      state: string;
      what: string;
    }[];
    expect(checks.find((c) => c.check === 'ledger')).toMatchObject({ state: 'ok', what: 'its-machine/p0.ledger' });
    expect(existsSync(join(there, 'p0.ledger'))).toBe(false);
    writeFileSync(join(there, 'more.json'), JSON.stringify({ p0: 'ws://127.0.0.1:1', p1: 'ws://127.0.0.1:2', ledger: '/var/l', store: 's', storeKey: '../k' }));
    expect(await readConfigFile(join(there, 'more.json'))).toMatchObject({ ledger: '/var/l', store: join(there, 's'), storeKey: join(folder, 'k') });
    expect(await readConfigFile(join(there, 'more.json'), { ledger: 'l' })).toMatchObject({ ledger: 'l' });
  });
  it('leaves the helper out with --two, and wants to be told that a network is trusted', async () => {
    expect(JSON.parse((await cachet(['init', '--out', 'two', '--two', '--json'])).stdout).run).toContain(
      'cachet ask --config two/client.json --helper client --question "..."',
    );
    const far = await cachet(['init', '--out', 'far', '--p0', '10.0.0.1:7700']);
    expect(far.stderr).toMatch(/--p0: address is not loopback.*--insecure/);
    expect(existsSync(join(folder, 'far'))).toBe(false);
  });
});

describe('doctor', () => {
  it('finds this machine, the model and free ports in order', async () => {
    await cachet(['init', '--out', 'doctor', '--p0', '127.0.0.1:7790', '--p1', '127.0.0.1:7791', '--helper-at', '127.0.0.1:7792']);
    const { status, stdout } = await cachet(['doctor', '--config', 'doctor/p0.json']);
    expect(stdout).toMatch(/kernels wasm +ok +exact/);
    expect(stdout).toMatch(/threads +ok +1 /);
    expect(stdout).toMatch(/p0 +warning +ws:\/\/127.0.0.1:7790: none yet; port free/);
    expect(stdout).not.toMatch(/FAILED/);
    expect(Math.max(...stdout.split('\n').map((l) => l.length))).toBeLessThanOrEqual(80);
    expect(status).toBe(0);
  });
  it('says what is wrong and fails: a port taken by something else, a model that is not there', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await new Promise((done) => other.once('listening', done));
    const { port } = other.address() as { port: number };
    writeFileSync(join(folder, 'taken.json'), JSON.stringify({ p0: `ws://127.0.0.1:${port}`, p1: 'ws://127.0.0.1:7791' }));
    const { status, stdout } = await cachet(['doctor', '--config', 'taken.json', '--model', 'nowhere', '--json']);
    other.close();
    const failed = (JSON.parse(stdout) as { check: string; state: string; what: string }[]).filter((c) => c.state === 'FAILED');
    expect(failed.map((c) => c.check)).toEqual(['model', 'tokenizer', 'p0']);
    expect(failed[2]!.what).toMatch(/no party answers, port not free; try: another port/);
    expect(status).toBe(1);
  });
});

describe('doctor for other machines', () => {
  it('fails for none of their addresses; drivers write nothing between', async () => {
    writeFileSync(
      join(folder, 'apart.json'),
      JSON.stringify({ p0: 'ws://192.0.2.1:7700', p1: 'ws://cachet.invalid:7701', insecure: true, ledger: 'none/p0.ledger' }),
    );
    const { status, stdout, stderr } = await cachet(['doctor', '--config', 'apart.json']);
    expect(stdout).toMatch(/^p0 +warning +ws:\/\/192.0.2.1:7700: on another machine; not up yet$/m);
    expect(stdout).toMatch(/^p1 +warning +ws:\/\/cachet.invalid:7701: not up yet; its name is not known here$/m);
    expect(stdout).toMatch(/^ledger +FAILED +none\/p0.ledger: ENOENT; try: /m);
    expect(stdout.match(/FAILED/g)).toHaveLength(1);
    expect(stdout).toMatch(/^bulk webgpu +(ok|warning) /m);
    expect(stderr).toBe('');
    expect(status).toBe(1);
  });
});

describe('models and completion', () => {
  it('lists what is supported and found', async () => {
    const { stdout } = await cachet(['models', '--json']),
      found = JSON.parse(stdout) as { architectures: string[]; models: { model: string; parameters: number; digest: string }[] };
    expect(found.architectures).toContain('llama');
    expect(found.models[0]).toMatchObject({ model: 'tiny-notes', parameters: 1_824_800 });
    expect(found.models[0]!.digest).toMatch(/^[0-9a-f]{64}$/);
  });
  it('completes commands, options and choices in bash', async () => {
    writeFileSync(join(folder, 'completion.bash'), (await cachet(['completion', 'bash'])).stdout);
    const complete = (words: string[]) =>
      new Promise<string>((done, reject) =>
        execFile(
          'bash',
          [
            '-c',
            `source completion.bash; COMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _cachet; echo "\${COMPREPLY[@]}"`,
          ],
          { cwd: folder },
          (error, stdout) => (error ? reject(error) : done(stdout.trim())),
        ),
      );
    expect(await complete(['cachet', 'pre'])).toBe('prepare');
    expect(await complete(['cachet', 'ask', '--temp'])).toBe('--temperature');
    expect(await complete(['cachet', 'ask', '--helper', ''])).toBe('server client store');
    expect(await complete(['cachet', 'chat', '--helper', ''])).toBe('server client');
    expect(await complete(['cachet', 'store', ''])).toBe('ls verify prune key --help');
    expect(await complete(['cachet', 'store', 'ls', '--l'])).toBe('--ledger');
    expect(await complete(['cachet', 'bench', 'de'])).toBe('decode dealing');
    expect(await complete(['cachet', 'bench', 'store', '--backend', 'w'])).toBe('wasm webgpu');
    expect(await complete(['cachet', 'bench', '--only', ''])).toBe('kernels session');
    expect(await complete(['cachet', 'completion', ''])).toBe('bash zsh fish --json --help');
    expect(await complete(['cachet', 'party', '--kernels', 'r'])).toBe('reference');
    writeFileSync(join(folder, 'unlike-others.json'), '{}');
    expect(await complete(['cachet', 'ask', '--config', 'unlike'])).toBe('unlike-others.json');
    expect(await complete(['cachet', 'trace', 'unlike'])).toBe('unlike-others.json');
    expect(await complete(['cachet', 'ask', '--seed', ''])).toBe('');
  });
  it('has zsh and fish too, as JSON too', async () => {
    expect((await cachet(['completion', 'zsh'])).stdout).toMatch(/^autoload/);
    const fish = (await cachet(['completion', 'fish'])).stdout;
    for (const line of [
      `-n '__cachet_at " party"' -l role -d 'which party this is' -x -a 'p0 p1 helper'`,
      `-n '__cachet_at " store"' -a 'verify' -d 'Check every unit`,
      `-n '__cachet_at " bench store"' -l backend`,
      `-n '__cachet_at " completion"' -a 'fish'`,
    ])
      expect(fish).toContain(`complete -c cachet ${line}`);
    expect(JSON.parse((await cachet(['completion', 'fish', '--json'])).stdout)).toEqual({ shell: 'fish', script: fish });
  });
  it('store key gives JSON too', async () => {
    const { stdout } = await cachet(['store', 'key', 'its.key']);
    expect(JSON.parse((await cachet(['store', 'key', 'its.key', '--json'])).stdout)).toEqual({ file: 'its.key', publicKey: stdout.trim() });
  });
});

describe('progress', () => {
  // What goes to a terminal goes to one here: script(1) makes it.
  it.skipIf(spawnSync('script', ['--version']).status !== 0)('overwrites its line on a terminal, and is plain lines elsewhere', async () => {
    const args = (out: string): string[] => ['deal', '--prefill', '2', '--tokens', '2', '--count', '2', '--out', out];
    const plain = await cachet(args('plain')),
      terminal = spawnSync('script', ['--quiet', '--return', '--command', [process.execPath, CLI, ...args('terminal')].join(' '), '/dev/null'], {
        cwd: folder,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    expect([plain.status, terminal.status]).toEqual([0, 0]);
    expect(plain.stderr).toMatch(/^dealt 2 units in .*\n$/);
    expect(plain.stderr).not.toContain('\r');
    const lines = terminal.stdout.replaceAll('\r\n', '\n').split('\n'),
      overwritten = lines.find((line) => line.includes('dealt 2 units'))!.split('\r\x1b[K');
    expect(overwritten[0]).toBe('');
    expect(overwritten.slice(1, -1).length).toBeGreaterThan(1);
    for (const update of overwritten.slice(1, -1)) expect(update).toMatch(/^unit [12] of 2: /);
    expect(overwritten.at(-1)).toMatch(/^dealt 2 units in /);
    expect(lines.some((line) => line.startsWith('terminal: 2 units of 2 + 2 tokens'))).toBe(true);
  });
});

describe('configuration', () => {
  it('every field has a flag, with its default, on party and chat; on ask those that a client reads', async () => {
    const ofParties = 'listen clientTimeoutMs progressMs maxSessions memoryMib aheadMib ledger store storeKey benchmark'.split(' ');
    for (const command of ['party', 'ask', 'chat']) {
      const { stdout } = await cachet([command, '--help']);
      for (const field of Object.keys(configSchema.shape) as ConfigField[])
        expect([field, stdout.includes(`  ${flagOf(field)} `)]).toEqual([field, command !== 'ask' || !ofParties.includes(field)]);
      expect(stdout).toContain('[30000]');
    }
  });
  it('a flag goes before the file, the file before the default; errors name where a value came from', async () => {
    writeFileSync(join(folder, 'dead.json'), JSON.stringify({ p0: 'ws://127.0.0.1:1', p1: 'ws://127.0.0.1:2', timeoutMs: 200 }));
    const flag = await cachet(['ask', '--config', 'dead.json', '--p0', 'ws://127.0.0.1:3', '--p1', 'ws://127.0.0.1:3', 'x']);
    expect(flag.stderr).toMatch(/expected a party listening at ws:\/\/127.0.0.1:3/);
    expect((await cachet(['ask', '--p0', 'ws://127.0.0.1:3', '--p1', 'ws://127.0.0.1:3', '--timeout-ms', '200', 'x'])).stderr).toMatch(
      /cannot connect to p[01]/,
    );
    expect((await cachet(['ask', '--p0', 'nonsense', '--p1', 'ws://127.0.0.1:3', 'x'])).stderr).toMatch(/^cachet: --p0: bad value/);
    writeFileSync(join(folder, 'bad.json'), JSON.stringify({ p0: 'nonsense' }));
    expect((await cachet(['ask', '--config', 'bad.json', 'x'])).stderr).toMatch(/^cachet: bad.json, p0: bad configuration/);
  });
  it('a key that was put where its file belongs is not shown', async () => {
    writeFileSync(join(folder, 'key.json'), JSON.stringify({ p0: 'ws://127.0.0.1:1', p1: 'ws://127.0.0.1:2', storeKey: [4711] }));
    await expect(readConfigFile(join(folder, 'key.json'))).rejects.toThrow(/storeKey: bad configuration; expected text; got a list;/);
    await expect(readConfigFile(join(folder, 'bad.json'), { storeKey: 4711 })).rejects.toThrow(/^(?!.*4711)/);
  });
});

describe('errors and files', () => {
  it('errors are JSON with --json, bad options too', async () => {
    const missing = await cachet(['cost', '--model', 'nowhere', '--json']),
      option = await cachet(['cost', '--nope', '--json']);
    expect(JSON.parse(missing.stderr)).toMatchObject({ error: { code: 'artefact', what: 'cannot read file', got: 'ENOENT' } });
    expect(JSON.parse(option.stderr)).toEqual({ error: { code: 'usage', what: "unknown option '--nope'", hint: 'cachet cost --help' } });
    expect([missing.status, option.status]).toEqual([1, 1]);
  });
  it('a full disk gets one line and leaves nothing half-written', async () => {
    await expect(writeAtomically('/dev/full', 'x'.repeat(10_000))).rejects.toThrow(/cannot write file; expected \/dev\/full; got ENOSPC; try: free some space/);
    await expect(writeAtomically(join(folder, 'dead.json', 'x'), 'x')).rejects.toThrow(/cannot write file/);
    await writeAtomically(join(folder, 'a', 'b.txt'), 'whole');
    expect(readdirSync(join(folder, 'a'))).toEqual(['b.txt']);
  });
  it('tables put text to the left and numbers to the right, texts are wrapped', () => {
    expect(
      table([
        ['name', 'n'],
        ['a', '1'],
        ['bcdef', '200'],
      ]),
    ).toBe('name     n\na        1\nbcdef  200');
    expect(
      wrap('word '.repeat(40))
        .split('\n')
        .every((l) => l.length <= 78 && l.startsWith('  word')),
    ).toBe(true);
  });
});

describe('chat', () => {
  it('answers lines of stdin over one session; a question that does not fit leaves the conversation as it was', async () => {
    writeFileSync(join(folder, 'note.txt'), 'Nina lives in Lisbon. Vera is in room 214. Nina uses pin 4711.\n');
    const child = spawn(process.execPath, [CLI, 'chat', '--helper', 'client', '--note', 'note.txt', '--max-tokens', '6', '--context', '60', '--json'], {
      cwd: folder,
    });
    let stdout = '',
      stderr = '';
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    child.stdin.end(`What is Nina's pin?\n${'Where does Nina live? '.repeat(9)}\nWhere does Nina live?\n`);
    const status = await new Promise((done) => child.once('close', done)),
      [first, second] = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { text: string; sentTokens: number; session: string });
    expect([first!.text.trim(), second!.text.trim()]).toEqual(['4711.', 'Lisbon.']);
    expect(second!.session).toBe(first!.session);
    expect(second!.sentTokens).toBeLessThan(12);
    expect(stderr).toMatch(
      /no room left in the session for this turn; expected at most \d+ tokens of question and answer together; got \d+; try: a shorter question/,
    );
    expect(status).toBe(1);
  });
});

describe('Ctrl-C', () => {
  it.each(['SIGINT', 'SIGTERM'] as const)('%s ends the demo with status 130 and its parties with it', async (signal) => {
    const child = spawn(process.execPath, [CLI, 'demo', '--max-tokens', '200', '--net', 'rtt=40'], { cwd: folder });
    let said = '';
    const connected = new Promise<void>((done) =>
      child.stderr.on('data', (data: Buffer) => {
        said += data.toString();
        if (said.includes('connected')) done();
      }),
    );
    await connected;
    const pids = [...said.matchAll(/process (\d+)/g)].map((m) => Number(m[1]));
    expect(pids).toHaveLength(3);
    child.kill(signal);
    const status = await new Promise((done) => child.once('exit', done));
    expect(status).toBe(130);
    expect(said.split('\n').at(-2)).toBe('cachet: interrupted');
    for (const pid of pids) expect(existsSync(`/proc/${pid}`)).toBe(false);
  });
  it('a client that is interrupted ends with 130 and the parties go on', async () => {
    const trio = await Trio.start('tiny-notes', { net: 'rtt=20' });
    try {
      const flags = ['--p0', trio.config.p0, '--p1', trio.config.p1, '--helper-url', trio.config.helper!, '--net', 'rtt=20'],
        child = spawn(process.execPath, [CLI, 'ask', ...flags, '--max-tokens', '100', '--question', "What is Nina's pin?"], { cwd: folder });
      await new Promise<void>((done) => child.stderr.on('data', (data: Buffer) => data.toString().includes('connected') && done()));
      child.kill('SIGINT');
      expect(await new Promise((done) => child.once('exit', done))).toBe(130);
      const answer = await cachet(['ask', ...flags, '--max-tokens', '2', '--json', '--question', 'Who?']);
      expect(answer.status).toBe(0);
    } finally {
      await trio.stop();
    }
  });
});

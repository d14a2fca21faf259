/** init, doctor, models, completion, flags over files, errors as JSON, atomic files, Ctrl-C: as processes. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Trio } from '../party/launch.ts';
import { configSchema, flagOf, type ConfigField } from '../party/config.ts';
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

describe('models and completion', () => {
  it('lists what is supported and found', async () => {
    const { stdout } = await cachet(['models', '--json']),
      found = JSON.parse(stdout) as { architectures: string[]; models: { model: string; parameters: number; digest: string }[] };
    expect(found.architectures).toContain('llama');
    expect(found.models[0]).toMatchObject({ model: 'tiny-notes', parameters: 1_824_800 });
    expect(found.models[0]!.digest).toMatch(/^[0-9a-f]{64}$/);
  });
  it('completes commands, options and choices in bash', async () => {
    const complete = (words: string[]) =>
      new Promise<string>((done, reject) =>
        execFile(
          'bash',
          [
            '-c',
            `source <("${process.execPath}" "${CLI}" completion bash); COMP_WORDS=(${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _cachet; echo "\${COMPREPLY[@]}"`,
          ],
          (error, stdout) => (error ? reject(error) : done(stdout.trim())),
        ),
      );
    expect(await complete(['cachet', 'pre'])).toBe('prepare');
    expect(await complete(['cachet', 'ask', '--temp'])).toBe('--temperature');
    expect(await complete(['cachet', 'ask', '--helper', ''])).toBe('server client');
    expect((await cachet(['completion', 'zsh'])).stdout).toMatch(/^autoload/);
    expect((await cachet(['completion', 'fish'])).stdout).toContain("-n '__fish_seen_subcommand_from party' -l role");
  });
});

describe('configuration', () => {
  it('every field has a flag, with its default, on party, ask and chat', async () => {
    for (const command of ['party', 'ask', 'chat']) {
      const { stdout } = await cachet([command, '--help']);
      for (const field of Object.keys(configSchema.shape) as ConfigField[]) expect(stdout).toContain(flagOf(field));
      expect(stdout).toContain('[30000]');
      expect(Math.max(...stdout.split('\n').map((l) => l.length))).toBeLessThanOrEqual(80);
    }
  });
  it('a flag goes before the file, the file before the default; errors name where a value came from', async () => {
    writeFileSync(join(folder, 'dead.json'), JSON.stringify({ p0: 'ws://127.0.0.1:1', p1: 'ws://127.0.0.1:2', timeoutMs: 200 }));
    const flag = await cachet(['ask', '--config', 'dead.json', '--p0', 'ws://127.0.0.1:3', '--p1', 'ws://127.0.0.1:3', 'x']);
    expect(flag.stderr).toMatch(/expected a party listening at ws:\/\/127.0.0.1:3/);
    expect((await cachet(['ask', '--p0', 'ws://127.0.0.1:3', '--p1', 'ws://127.0.0.1:3', '--timeout-ms', '200', 'x'])).stderr).toMatch(
      /cannot connect to p[01]/,
    );
    expect((await cachet(['ask', '--p0', 'nonsense', 'x'])).stderr).toMatch(/^cachet: --p0: bad configuration/);
    writeFileSync(join(folder, 'bad.json'), JSON.stringify({ p0: 'nonsense' }));
    expect((await cachet(['ask', '--config', 'bad.json', 'x'])).stderr).toMatch(/^cachet: bad.json, p0: bad configuration/);
  });
});

describe('errors and files', () => {
  it('errors are JSON with --json, bad options too', async () => {
    const missing = await cachet(['cost', '--model', 'nowhere', '--json']),
      option = await cachet(['cost', '--nope', '--json']);
    expect(JSON.parse(missing.stderr)).toMatchObject({ error: { code: 'artefact', what: 'cannot read file', got: 'ENOENT' } });
    expect(JSON.parse(option.stderr)).toEqual({ error: { code: 'usage', what: "unknown option '--nope'" } });
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

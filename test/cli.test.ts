/** The command line as a person meets it: help, JSON, and one line for everything that is wrong. */
import { execFile } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nameOf } from '../party/commands/options.ts';
import { makeProgram, tree } from '../party/commands/program.ts';
import { meterSession } from '../protocols/cost.ts';
import { tinyNotes } from './support/tinyNotes.ts';

const cachet = (...args: string[]) =>
  new Promise<{ status: number; stdout: string; stderr: string }>((resolve) =>
    execFile(process.execPath, ['dist/party/cli.js', ...args], (error, stdout, stderr) => resolve({ status: error ? Number(error.code) : 0, stdout, stderr })),
  );
const folder = mkdtempSync(join(tmpdir(), 'cachet-test-'));
const file = (name: string, content: string): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
const good = { p0: 'ws://127.0.0.1:1', p1: 'ws://127.0.0.1:2', helper: 'ws://127.0.0.1:3', timeoutMs: 300 };

describe('cachet', () => {
  it.each([
    ['demo', ['--max-tokens', 'default: 16', '--cases', '--json', '--trace']],
    ['ask', ['--config', '--temperature', 'default: 0', '--seed', 'Example', '--trace', 'Perfetto']],
    ['party', ['--role', 'p0', 'helper', '--timeout-ms', '[30000]', 'ms', '--log-level', 'default: "info"', '--trace', 'full disk']],
    ['trace', ['.jsonl', '--json', 'public information']],
    ['cost', ['--prompt-tokens', 'default: 150']],
    ['prepare', ['--calibration', '--prefix']],
    ['bench', ['--only', 'kernels']],
  ])('%s --help shows options, defaults and units', async (command, words) => {
    const { status, stdout } = await cachet(command, '--help');
    expect(status).toBe(0);
    for (const word of words) expect(stdout).toContain(word);
  });

  it('policy says the presets and files, and gives JSON for files', async () => {
    const [all, paper, given] = await Promise.all([
      cachet('policy'),
      cachet('policy', 'mpcache-paper', '--json'),
      cachet('policy', file('p.json', JSON.stringify({ name: 'mine', static: null, dynamic: null }))),
    ]);
    expect(all.stdout).toMatch(/full: every token attends to all\n.*mpcache-paper: keeps 40 % of the\s/s);
    expect(JSON.parse(paper.stdout)).toMatchObject({ name: 'mpcache-paper', static: { keep: 0.4 }, sharing: 'pairs' });
    expect(given.stdout).toBe('  mine: every token attends to all\n');
  });

  it('cost --json is the Meter', async () => {
    const { stdout } = await cachet('cost', '--prompt-tokens', '20', '--max-tokens', '3', '--json'),
      cost = meterSession(tinyNotes(), { promptTokens: 20, maxTokens: 3 });
    expect(JSON.parse(stdout)).toMatchObject({ rounds: cost.rounds, onlineBytes: cost.onlineBytes, dealtBytes: cost.dealtBytes, model: 'tiny-notes' });
  });

  it('bench policies has techniques, a fixed budget and what auto takes, as tables and as JSON', async () => {
    const args = ['bench', 'policies', '--policy', 'full', 'aggressive', '--context', '300', '--ablation', '--growth', '--auto', '--answer', '16'],
      [tables, json] = await Promise.all([cachet(...args), cachet(...args, '--json')]);
    for (const text of ['aggressive, technique by technique', 'aggressive-fixed', 'the budget of T = 300 at every T']) expect(tables.stdout).toContain(text);
    expect(tables.stdout).toMatch(/300 +16 .* auto$/m);
    const found = JSON.parse(json.stdout) as Record<'policies' | 'growth', { policy: string }[]> & {
      ablation: { of: string }[];
      auto: { policy: string; taken: boolean }[];
    };
    expect(Object.values(found).map((rows) => typeof rows === 'string' || rows.length > 0)).toEqual([true, true, true, true, true]);
    expect([found.policies, found.growth].map((rows) => rows.map((r) => r.policy))).toEqual([['full', 'aggressive'], ['aggressive-fixed']]);
    expect(found.auto.map((r) => r.policy)).toContain('full');
    expect(found.auto.filter((r) => r.taken)).toHaveLength(1);
    expect(found.ablation.map((a) => a.of)).toEqual(['aggressive']);
  });

  it('every command, nested ones too, takes --json and has help texts of at most 80 columns', () => {
    const commands = tree(makeProgram(() => undefined)),
      without = commands.filter((c) => c.commands.length === 0 && !c.options.some((o) => o.long === '--json')),
      wide = commands.flatMap((command) => {
        let text = '';
        command.configureOutput({ writeOut: (part) => (text += part) }).outputHelp();
        expect(text).toContain(`Usage: cachet ${command.parent ? nameOf(command) : ''}`);
        return text.split('\n').filter((line) => line.length > 80);
      });
    expect(commands.length).toBeGreaterThan(30);
    expect(without.map(nameOf)).toEqual([]);
    expect(wide).toEqual([]);
  });

  it('models stays within 80 columns', async () => {
    const { stdout } = await cachet('models', '--dir', mkdtempSync(join(folder, 'none-')));
    expect(stdout).toContain('random:llama-1b');
    expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
  });

  it.each<[string, string[], RegExp]>([
    ['an unknown command', ['dance'], /unknown command 'dance'; try: cachet --help$/m],
    ['a prompt whose command was forgotten', ['Nina lives in Lisbon'], /^cachet: unknown command; try: cachet --help$/m],
    ['an unknown option', ['cost', '--nope'], /unknown option '--nope'; try: cachet cost --help$/m],
    ['an option that is nearly one', ['store', 'ls', '--ledgr', 'x'], /unknown option '--ledgr'; try: --ledger, or cachet store ls --help$/m],
    ['a missing argument', ['completion'], /missing required argument 'shell'; try: cachet completion --help$/m],
    ['a bad number', ['cost', '--prompt-tokens', 'x'], /expected an integer from 1, got x/],
    [
      'a session that does not fit',
      ['cost', '--prompt-tokens', '1020'],
      /prompt too long for the model; expected at most 1024 positions; got 1 public \+ 1020 private \+ 16 generated = 1037; try: /,
    ],
    ['a missing model', ['cost', '--model', join(folder, 'none')], /cannot read file; expected .*none.*model.cachet; got ENOENT; try: cachet prepare/],
    ['a missing configuration', ['party', '--role', 'p0', '--config', join(folder, 'none')], /cannot read file/],
    ['no configuration', ['ask', 'Hello'], /^cachet: no configuration; expected --config FILE, or --p0 and --p1; got neither; try: cachet init/],
    ['half a configuration', ['ask', '--p0', 'ws://127.0.0.1:1', 'Hello'], /^cachet: no configuration; expected .*; got no --p1; try: /],
    [
      'a port that there is not',
      ['ask', '--p0', 'ws://127.0.0.1:99999', '--p1', 'ws://127.0.0.1:1', 'Hello'],
      /^cachet: --p0: bad value; expected an address like ws:.*port up to 65535; got ws:\/\/127.0.0.1:99999; try: /,
    ],
    [
      'a port that there is not, in a file',
      ['party', '--role', 'p0', '--config', file('port.json', JSON.stringify({ ...good, listen: '127.0.0.1:65536' }))],
      /port.json, listen: bad configuration; expected HOST:PORT, of a port up to 65535; got 127.0.0.1:65536; try: /,
    ],
    [
      'a port that there is not, for init',
      ['init', '--out', join(folder, 'never'), '--p1', '127.0.0.1:99999'],
      /'--p1 <host:port>'.*65535, got 127.0.0.1:99999/,
    ],
    [
      'an address that is none, for init',
      ['init', '--out', join(folder, 'never'), '--helper-at', 'foo'],
      /expected HOST:PORT, .*, got foo; try: cachet init --help/,
    ],
    [
      'a network that there is not',
      ['ask', '--p0', 'ws://127.0.0.1:1', '--p1', 'ws://127.0.0.1:1', '--net', 'dsl', 'Hello'],
      /^cachet: --net: bad value; expected loopback, lan, wan or rtt=MS,mbps=N; got dsl; try: /,
    ],
    [
      'a number of threads that is too large',
      ['party', '--role', 'p0', '--p0', 'ws://127.0.0.1:1', '--p1', 'ws://127.0.0.1:1', '--threads', '100'],
      /^cachet: --threads: bad value; expected at most 64; got 100; try: /,
    ],
    [
      'a field of another type',
      ['party', '--role', 'p0', '--config', file('type.json', JSON.stringify({ ...good, timeoutMs: '5 s' }))],
      /type.json, timeoutMs: bad configuration; expected a number; got 5 s; try: /,
    ],
    [
      'a field with a choice',
      ['party', '--role', 'p0', '--config', file('choice.json', JSON.stringify({ ...good, kernels: 'fast' }))],
      /choice.json, kernels: bad configuration; expected wasm, reference; got fast; try: /,
    ],
    [
      'a configuration that is a list',
      ['party', '--role', 'p0', '--config', file('list.json', '[]')],
      /top level: bad configuration; expected fields in { }; got a list/,
    ],
    [
      'a note that nothing asks about',
      ['ask', '--config', 'x', '--note', 'y', 'Hello'],
      /--note: option without effect; expected --question as well; got no --question/,
    ],
    ['cases to choose from and no file of them', ['demo', '--case', 'x'], /--case: option without effect; expected --cases as well/],
    ['a question beside a file of cases', ['demo', '--cases', 'x', '--question', 'y'], /'--cases <file>' cannot be used with option '--question <text>'/],
    ['a network for the demo that there is not', ['demo', '--net', 'dsl'], /unknown network; expected loopback, .*; got dsl/],
    [
      'kernels for dealing where nothing is dealt',
      ['ask', '--p0', 'ws://127.0.0.1:1', '--p1', 'ws://127.0.0.1:1', '--threads', '2', 'Hello'],
      /--threads: option without effect; expected --helper client.*; got another dealer; try: /,
    ],
    [
      'sampling where nothing is sampled',
      ['demo', '--top-k', '5'],
      /--top-k: option without effect; expected --temperature above 0; got .*; try: leave --top-k/,
    ],
    ['a comparison of policies without any', ['eval', '--model', 'tiny-notes', '--report'], /--report: option without effect; expected --policy as well/],
    [
      'windows for a comparison of policies',
      ['eval', '--model', 'x', '--policy', 'full', '--window', '9'],
      /--window: option without effect; .*; got --policy/,
    ],
    [
      'a network for kernels',
      ['bench', '--only', 'kernels', '--net', 'lan'],
      /--net: option without effect; expected sessions to be measured; got --only kernels/,
    ],
    ['timed policies without a time', ['bench', 'policies', '--timed', 'full'], /--timed: option without effect; expected --time as well/],
    [
      'a helper for two parties',
      ['init', '--out', join(folder, 'never'), '--two', '--helper-at', 'x:1'],
      /'--helper-at <host:port>' cannot be used with option '--two'/,
    ],
    ["a party's option for a client", ['ask', '--config', 'x', '--max-sessions', '2', 'Hello'], /unknown option '--max-sessions'/],
    ['a note that is not there', ['demo', '--note', join(folder, 'none')], /cannot read file; expected .*none; got ENOENT; try: --note FILE/],
    ['cases that are not there', ['demo', '--cases', join(folder, 'none')], /cannot read file; expected .*none; got ENOENT; try: --cases FILE/],
    ['a trace that is not there', ['trace', join(folder, 'none')], /cannot read file; expected .*none; got ENOENT; try: check the path/],
    ['a trace that is a folder', ['trace', folder], /cannot read file; .*; got EISDIR; try: a file, not a folder/],
    [
      'a folder of models that is not there',
      ['models', '--dir', join(folder, 'none')],
      /--dir: not a folder; expected .*; got .*none, which does not exist; try: /,
    ],
    ['a folder of models that is a file', ['models', '--dir', file('m.txt', '')], /--dir: not a folder; .*; got a file, .*m.txt; try: /],
    ['an unknown cache policy', ['cost', '--policy', 'most'], /unknown cache policy; expected full, mpcache, .*, or a JSON file; got most; try: cachet policy/],
    ['a cache policy that is not JSON', ['demo', '--policy', file('q.json', '{')], /not JSON; expected JSON in .*q.json/],
    ['a bad cache policy', ['cost', '--policy', file('r.json', '{"name":"x","static":{"keep":2}}')], /r.json, static.keep: bad cache policy/],
    [
      'a cache policy for another model',
      ['cost', '--policy', file('s.json', '{"name":"x","static":null,"dynamic":null,"skipLayers":[6]}')],
      /policy x, skipLayers: cache policy that the model cannot follow; expected layers from 0 to 5/,
    ],
    [
      'the cheapest cache policy without a length',
      ['policy', 'auto'],
      /no length for the policy auto; expected one prompt and one answer, .*; try: --policy full/,
    ],
    ['the cheapest cache policy for a chat without a note', ['chat', '--policy', 'auto'], /no length for the policy auto; .*in chat a note/],
    ['an eviction under a policy without one', ['bench', 'evict', '--policy', 'auto'], /nothing to evict; expected a policy with static eviction/],
    ['a bad role', ['party', '--role', 'p2', '--config', 'x'], /Allowed choices are p0, p1, helper/],
    ['a log level that is none', ['party', '--role', 'p0', '--config', 'x', '--log-level', 'loud'], /Allowed choices are info, warn, error, silent/],
    [
      'a trace that cannot be written',
      ['ask', '--config', file('h.json', JSON.stringify(good)), '--trace', join(folder, 'none', 'x.jsonl'), 'Hello'],
      /--trace: cannot write file/,
    ],
    ['a trace that is none', ['trace', file('i.jsonl', 'x')], /not a trace/],
    ['a configuration that is not JSON', ['party', '--role', 'p0', '--config', file('a.json', '{')], /not JSON/],
    [
      'a configuration without a party',
      ['party', '--role', 'p0', '--config', file('b.json', '{"p0":"ws://127.0.0.1:1","helper":"ws://127.0.0.1:2"}')],
      /p1: bad configuration/,
    ],
    ['an unknown field', ['ask', '--config', file('c.json', JSON.stringify({ ...good, colour: 1 })), 'x'], /bad configuration.*colour/],
    [
      'an address that is not loopback',
      ['party', '--role', 'p0', '--config', file('d.json', JSON.stringify({ ...good, p1: 'ws://10.0.0.1:2' }))],
      /p1: address is not loopback.*got ws:\/\/10.0.0.1:2; try: "insecure": true, or --insecure/,
    ],
    [
      'parties that are not there',
      ['ask', '--config', file('e.json', JSON.stringify(good)), ' Hello.'],
      /cannot connect to p[01]; expected a party listening at ws:\/\/127.0.0.1:[12]; got .*ECONNREFUSED.*; try: start it/,
    ],
    ['an empty prompt', ['ask', '--config', file('f.json', JSON.stringify(good)), ''], /empty prompt; .*; try: /],
    ['a file of cases that is none', ['demo', '--cases', file('g.json', '{"cases":[]}')], /bad file of cases; .*; try: /],
    [
      'cases that are all too long',
      ['demo', '--cases', 'protocols/models/tiny-notes/golden.json', '--max-prompt', '3'],
      /no case is short enough; expected prompts of at most 3 tokens; got 53 tokens and more; try: /,
    ],
    ['an artefact that is none', ['cost', '--model', (file('model.cachet', 'x'), folder)], /corrupt safetensors file/],
  ])('%s gets one line and a status that is not 0', async (_, args, message) => {
    const { status, stderr } = await cachet(...args);
    expect(status).toBeGreaterThan(0);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^cachet: .*\n$/);
    expect(stderr).not.toMatch(/internal error/);
  });

  it.each([
    ['--config', ['ask', '--config'], 'x'],
    ['--policy', ['cost', '--policy'], undefined],
    ['--cases', ['demo', '--cases'], undefined],
  ])('a private text given as %s by mistake is not quoted', async (_, args, prompt) => {
    for (const [name, text] of [
      ['note.txt', 'Nina lives in Lisbon.'],
      ['note-2.txt', '"Nina" lives'],
      ['note.json', '{"Nina lives in": "Lisbon"}'],
      ['note-2.json', '{"p0": {"Nina": "Lisbon"}}'],
      ['note-3.json', '"Nina lives in Lisbon"'],
    ] as const) {
      const { status, stdout, stderr } = await cachet(...args, file(name, text), ...(prompt === undefined ? [] : [prompt]));
      expect(status).toBe(1);
      expect(stdout).toBe('');
      expect(stderr).toMatch(/^cachet: .*note.*\n$/);
      expect(stderr).not.toMatch(/Nina|Lisbon|lives/);
    }
  });
  it('a text that is not JSON is told with the place where it stops to be, as far as that is known', async () => {
    expect((await cachet('cost', '--policy', file('place.json', '{"name" 1}'))).stderr).toMatch(
      /not JSON; expected JSON in .*; got other text at character 8; try: /,
    );
  });
});

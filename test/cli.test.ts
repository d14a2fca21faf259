/** The command line as a person meets it: help, JSON, and one line for everything that is wrong. */
import { execFile } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
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

  it.each<[string, string[], RegExp]>([
    ['an unknown command', ['dance'], /unknown command 'dance'/],
    ['an unknown option', ['cost', '--nope'], /unknown option '--nope'/],
    ['a bad number', ['cost', '--prompt-tokens', 'x'], /expected an integer from 1, got x/],
    [
      'a session that does not fit',
      ['cost', '--prompt-tokens', '1020'],
      /prompt too long for the model; expected at most 1024 positions; got 1 public \+ 1020 private \+ 16 generated = 1037; try: /,
    ],
    ['a missing model', ['cost', '--model', join(folder, 'none')], /cannot read file; expected .*none.*model.cachet; got ENOENT; try: cachet prepare/],
    ['a missing configuration', ['party', '--role', 'p0', '--config', join(folder, 'none')], /cannot read file/],
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
    ['an empty prompt', ['ask', '--config', file('f.json', JSON.stringify(good)), ''], /empty prompt/],
    ['a file of cases that is none', ['demo', '--cases', file('g.json', '{"cases":[]}')], /bad file of cases/],
    [
      'cases that are all too long',
      ['demo', '--cases', 'protocols/models/tiny-notes/golden.json', '--max-prompt', '3'],
      /no case is short enough; expected prompts of at most 3 tokens; got 53/,
    ],
    ['an artefact that is none', ['cost', '--model', (file('model.cachet', 'x'), folder)], /corrupt safetensors file/],
  ])('%s gets one line and a status that is not 0', async (_, args, message) => {
    const { status, stderr } = await cachet(...args);
    expect(status).toBeGreaterThan(0);
    expect(stderr).toMatch(message);
    expect(
      stderr
        .trim()
        .split('\n')
        .filter((l) => !l.startsWith('(add --help')).length,
    ).toBeLessThanOrEqual(1);
    expect(stderr).not.toMatch(/ {4}at /);
  });
});

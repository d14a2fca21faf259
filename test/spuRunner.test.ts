/** The benchmark against SPU: what its runner accepts from both sides, ratios, goals that are missed, and its one-line errors; no engine runs here. */
import { execFile } from 'node:child_process';
import { expect, it } from 'vitest';
import { BenchmarkError, compare, compareOperators, goals, median, operatorGoals, parseOperators, parseOurs, parsePeer } from './spu/rows.mjs';

const ourRow = (onlineMs: number, more: object = {}) => ({
    task: 'decode',
    model: 'random:gpt2',
    policy: 'full',
    weights: 'open',
    context: 512,
    parties: 3,
    net: 'loopback',
    onlineMs: { median: onlineMs, min: onlineMs - 5, max: onlineMs + 5 },
    dealMs: 80,
    endToEndMs: { median: 2 * onlineMs, min: 2 * onlineMs, max: 2 * onlineMs },
    rounds: 180,
    onlineBytes: 5e6,
    dealtBytes: 15e6,
    predicted: { rounds: 180, onlineBytes: 5e6, dealtBytes: 15e6 },
    ...more,
  }),
  peerRow = (...execS: number[]) => ({ system: 'SPU', execS, bytes: 101e6, messages: [5323, 5139, 5226] }),
  point = { task: 'decode', model: 'random:gpt2', weights: 'public', context: 512, tokens: 1 };

it('reads the rows of both sides and keeps fields that it does not know', () => {
  expect(parseOurs(JSON.stringify({ rows: [ourRow(200, { commit: 'abc' })] }))).toMatchObject({ commit: 'abc', rounds: 180 });
  expect(parsePeer(JSON.stringify({ ...peerRow(3.6), cpuS: [6.1] }))).toMatchObject({ cpuS: [6.1], bytes: 101e6 });
});

it.each([
  ['no JSON', () => parseOurs('Segmentation fault'), /printed no JSON/],
  ['two rows', () => parseOurs(JSON.stringify({ rows: [ourRow(1), ourRow(1)] })), /expected one row; got 2/],
  ['no rows', () => parseOurs('{}'), /expected one row; got none/],
  ['a row without dealing', () => parseOurs(JSON.stringify({ rows: [{ ...ourRow(1), endToEndMs: undefined }] })), /no number endToEndMs\.median/],
  ['a negative count', () => parseOurs(JSON.stringify({ rows: [ourRow(1, { dealtBytes: -1 })] })), /no number dealtBytes.*got -1/],
  ['SPU without a run', () => parsePeer(JSON.stringify(peerRow())), /lacks execS/],
  ['SPU without bytes', () => parsePeer('{"execS":[1],"messages":[1]}'), /no number bytes/],
])('refuses %s in one line', (_, parse, message) => {
  expect(parse).toThrow(BenchmarkError);
  expect(parse).toThrow(message);
  expect(() => parse()).not.toThrow(/\n/);
});

it('takes medians over runs, SPU at its best bytes and us at our worst', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1])).toBe(2.5);
  const { ours, peer, ratios } = compare({
    ...point,
    ours: [ourRow(200), ourRow(300, { onlineBytes: 6e6 }), ourRow(220)],
    peer: [peerRow(4), { ...peerRow(3), bytes: 100e6 }, peerRow(9)],
  });
  expect(peer).toEqual({ s: 4, bytes: 100e6, messages: 5323 });
  expect(ours).toMatchObject({ onlineMs: 220, endToEndMs: 440, onlineBytes: 6e6, bytes: 21e6, roundsPerLayer: 15, exact: false });
  expect(ratios!.ready).toBeCloseTo(4000 / 220);
  expect(ratios!.all).toBeCloseTo(4000 / 440);
  expect(ratios!.bytes).toBeCloseTo(100 / 21);
  expect(ratios!.online).toBeCloseTo(100 / 6);
});

it('takes a prefill whose material does not fit ahead', () => {
  const row = parseOurs(JSON.stringify({ rows: [{ ...ourRow(200), onlineMs: null }] })),
    { ours, ratios } = compare({ ...point, ours: [row], peer: [peerRow(4)] });
  expect([ours!.onlineMs, ours!.endToEndMs, ratios!.ready, ratios!.all]).toEqual([undefined, 400, undefined, 10]);
});

it('says which goals are missed, each in its own direction', () => {
  const judged = (mine: object[], theirs: object[], at: object = {}) => goals({ ...point, ...at }, compare({ ...point, ...at, ours: mine, peer: theirs })),
    verdicts = (rows: { measure: string; met: boolean }[]) => Object.fromEntries(rows.map((g) => [g.measure, g.met]));
  expect(verdicts(judged([ourRow(200)], [peerRow(3.6)]))).toEqual({ ready: true, all: true, bytes: true, online: true, roundsPerLayer: true });
  expect(verdicts(judged([ourRow(250, { rounds: 181, dealtBytes: 16e6 })], [peerRow(3.6)]))).toEqual({
    ready: false,
    all: false,
    bytes: false,
    online: true,
    roundsPerLayer: false,
  });
  // 1/6 and 1/22 at 1024; no goal for the latency there with preprocessing ready.
  expect(verdicts(judged([ourRow(200)], [peerRow(3.6)], { context: 1024 }))).toEqual({ all: true, bytes: false, online: false, roundsPerLayer: true });
  expect(verdicts(judged([ourRow(2000, { dealtBytes: 0.5e9 })], [peerRow(61)], { task: 'prefill', tokens: 32 }))).toEqual({ all: true, oursBytes: false });
  expect(verdicts(judged([ourRow(400, { onlineBytes: 8e6 })], [peerRow(7.2)], { weights: 'secret' }))).toEqual({ ready: true, online: false });
  expect(judged([ourRow(200)], [peerRow(3.6)], { weights: 'secret', context: 1024 })).toEqual([]);
  expect(judged([], [peerRow(3.6)])).toEqual([]);
});

it('the page has both sides, missed goals said plainly, and charts without holes in their figures', async () => {
  const { render } = (await import('../docs/benchmarks.mjs' as string)) as { render(files: object[]): { page: string; charts: Record<string, string> } };
  const file = (date: string, points: object[]) => ({
    name: 'rows.json',
    date,
    machine: { cpu: 'Test CPU', cores: 2, memoryGiB: 24, loadAtStart: 0.25 },
    versions: { node: 'v20.0.0', peer: ['spu==0.9.5'] },
    points,
  });
  const both = { ...point, ours: [ourRow(250)], peer: [peerRow(3.6)] },
    later = { ...point, ours: [], peer: [peerRow(99)] },
    large = { ...point, context: 2048, ours: [], peer: [{ ...peerRow(7), bytes: 262e6 }] };
  // A later run of one side alone does not take the place of a comparison.
  const { page, charts } = render([file('2026-01-01T00:00:00Z', [both]), file('2026-02-01T00:00:00Z', [later, large])]);
  expect(page).toContain('| T = 512 | public | 3.60 | 250 | 500 | 14.4x | 7.2x |');
  expect(page).toContain('| T = 2048 | public | 7.00 | - | - | - | - |');
  expect(page).toContain('| decode, T = 512 | SPU time / ours, preprocessing ready | at least 15.0x | 20.0x | 14.4x | **missed** |');
  expect(page).toContain('| decode, T = 512 | rounds a layer | at most 15.0 |  | 15.0 | met |');
  expect(page).toContain('Test CPU, 2 cores, 24 GiB, load average 0.3 at the start');
  expect(Object.keys(charts)).toEqual(['bytes.svg', 'latency.svg']);
  for (const svg of Object.values(charts)) {
    expect(svg).toMatch(/^<svg /);
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    for (const label of ['SPU ABY3', 'Cachet, ', 'attended tokens T', ' per token (log)']) expect(svg).toContain(label);
  }
  expect(charts['bytes.svg']).toContain('>262<');
  expect(render([]).page).toContain('Not judged yet');
});

it('the page shows policies beside the full cache: a token, the eviction once, techniques, a fixed budget, what auto takes; missed goals said plainly', async () => {
  const { render } = (await import('../docs/benchmarks.mjs' as string)) as { render(files: object[]): { page: string; charts: Record<string, string> } };
  const row = (policy: string, kept: number, bytes: number, context = 2048) => ({
      model: 'random:gpt2',
      policy,
      context,
      kept,
      layers: 12,
      rounds: policy === 'full' ? 180 : 240,
      onlineBytes: bytes,
      dealtBytes: 2 * bytes,
      attentionBytes: 2 * bytes,
      eviction: policy === 'full' ? null : { rounds: 24, bytes: 451e6 },
    }),
    spread = (median: number) => ({ median, min: median, max: median }),
    time = (policy: string, ready: number | null, all: number) => ({
      policy,
      context: 2048,
      commit: 'abc1234',
      onlineMs: ready === null ? null : spread(ready),
      endToEndMs: spread(all),
      eviction: policy === 'full' ? null : { ms: spread(7100) },
    }),
    choice = (policy: string, bytes: number, taken: boolean) => ({ context: 2048, answer: 64, policy, bytes, taken }),
    budget = row('paper-budget', 819, 4e6);
  const { page, charts } = render([
    {
      name: 'p.json',
      machine: 'Test CPU, 2 cores',
      policies: [row('full', 2048, 9e6), budget],
      ablation: [{ of: 'paper-budget', rows: [row('full', 2048, 9e6), row('static', 819, 5e6), budget] }],
      growth: [row('paper-budget-fixed', 205, 4e6, 512), row('paper-budget-fixed', 205, 6e6, 4096)],
      auto: [choice('full', 2e9, false), choice('paper-budget', 1e9, true)],
      rows: [time('full', 400, 500), time('paper-budget', 200, 300)],
    },
  ]);
  for (const line of [
    '| 2048 | 2048 | full | 180 | 9.0 | 18.0 | 400 | 500 |  |  |  |  |',
    '| 2048 | 819 | paper-budget | 240 | 4.0 | 8.0 | 200 | 300 | 2.3x | 2.3x | 2.0x | 1.7x |',
    '| our full cache / ours, attention bytes | at least 3.39x | 2.25x | **missed** |',
    '| rounds a layer | at most 19 | 20.0 | **missed** |',
    '| bytes of a token under one attended budget, T = 512 to 4096 | less than +25.0 % | +50.0 % | **missed** |',
    '| 2048 | 819 | paper-budget | 451 | 24 | 7100 |',
    '| 2048 | 819 | paper-budget | static | 240 | 15.0 | 10.0 | 1.8x | 1.8x |',
    '| paper-budget-fixed | 205 | 12.0 | 18.0 | +50.0 % |',
    '| 2048 | 64 | 2.00 GB | **1.00 GB** |',
  ])
    expect(page).toContain(line);
  expect(page).not.toContain("SPU's full cache / ours");
  for (const name of ['policies.svg', 'policyTimes.svg']) {
    expect(charts[name]).toContain('paper-budget');
    expect(charts[name]).not.toMatch(/NaN|undefined|Infinity/);
  }
  expect(render([{ name: 'p.json', machine: 'x', policies: [budget] }]).page).not.toContain('policyTimes.svg');
});

it('the page shows what policies cost in quality, and a chart of bytes and divergence, for each model', async () => {
  const { render } = (await import('../docs/benchmarks.mjs' as string)) as { render(files: object[]): { page: string; charts: Record<string, string> } };
  const row = (name: string, divergence: number, bytes: number) => ({
      policy: { name, static: null, dynamic: name === 'full' ? null : {} },
      positions: 64,
      perplexity: { full: 8, policy: 8.04, change: divergence / 2 },
      divergence,
      top1Agreement: 0.97,
      questions: 50,
      answeredFull: 48,
      answered: 47,
      lost: 1,
      attended: 0.531,
      recall: 0.98,
      overlap: null,
      cost: { onlineBytes: bytes, dealtBytes: 2 * bytes },
    }),
    run = (model: string) => ({ model, promptTokens: [500, 900], policies: [row('full', 0, 10e6), row('mpcache-paper', 0.1, 4e6), row('mine', 0.002, 5e6)] });
  const { page, charts } = render([{ name: 'quality.json', runs: [run('SmolLM2-135M'), run('tiny-notes')] }]);
  expect(page).toContain('### SmolLM2-135M, prompts of 500, 900 tokens');
  expect(page).toContain('| mine | 53.1 % | 0.0020 | +0.10 % | 97.0 % | 47 of 50 | 1 of 48 | 98.0 % | - | 15.0 |');
  expect(Object.keys(charts)).toEqual(['quality-smollm2-135m-900.svg', 'quality-tiny-notes-900.svg']);
  for (const svg of Object.values(charts)) {
    for (const label of ['full cache: 30.0 MB', 'mpcache-paper', 'mine', 'ours']) expect(svg).toContain(label);
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  }
});

it.each([
  ['--weights', 'open', /bad --weights; expected public, secret/],
  ['--contexts', '512,x', /bad --contexts; expected integers/],
  ['--reps', '0', /bad --reps; .*got "0"/],
  ['--only', 'mpc', /bad --only/],
  ['--nope', '1', /--nope.*try: --help/],
  ['--only=ours', '--out=package.json/rows.json', /cannot write package.json\/rows.json; .*got (ENOTDIR|EEXIST)/],
])('the runner refuses %s %s in one line', async (flag, value, message) => {
  const { code, stderr } = await new Promise<{ code: unknown; stderr: string }>((resolve) =>
    execFile(process.execPath, ['test/spu/run.mjs', flag, value], (error, _, err) => resolve({ code: error?.code, stderr: err })),
  );
  expect(code).toBe(1);
  expect(stderr).toMatch(/^bench:spu: [^\n]*\n$/);
  expect(stderr).toMatch(message);
});

it('the runner says that Python is missing', async () => {
  const ends = (env: object, ...args: string[]) =>
    new Promise<string>((resolve) =>
      execFile(process.execPath, ['test/spu/run.mjs', ...args], { env: { ...process.env, ...env } }, (_, __, stderr) => resolve(stderr)),
    );
  expect(await ends({ PYTHON: 'no-such-python' }, '--only', 'spu')).toMatch(/^bench:spu: no-such-python failed; expected exit status 0; got ENOENT[^\n]*\n$/);
});

it('sets our gather and scatter against the one-hot gather', () => {
  const rows = [
      { operator: 'top-k', ms: { median: 2 }, rounds: 3, onlineBytes: 4e4, dealtBytes: 3e5 },
      { operator: 'gather and scatter', ms: { median: 5 }, rounds: 2, onlineBytes: 1.5e5, dealtBytes: 5e4 },
    ],
    ours = [parseOperators(JSON.stringify({ rows })), rows.map((r) => ({ ...r, ms: { median: 9 } }))],
    peer = { topk: [], onehot: [], gather: [{ execS: [4.2], bytes: 216e6, messages: [80, 90, 90] }] },
    figures = compareOperators({ ours, peer });
  expect(figures.gather).toEqual({ time: 600, bytes: 1080 });
  expect(operatorGoals(figures).map((g) => [g.measure, g.met])).toEqual([
    ['bytes', true],
    ['time', true],
  ]);
  expect(operatorGoals(compareOperators({ ours: [rows.map((r) => ({ ...r, dealtBytes: 1e6, ms: { median: 60 } }))], peer })).map((g) => g.met)).toEqual([
    false,
    false,
  ]);
  expect(operatorGoals(compareOperators({ ours: [], peer }))).toEqual([]);
  expect(() => parseOperators('{"rows":[]}')).toThrow(/expected rows; got none/);
  expect(() => parseOperators(JSON.stringify({ rows: [{ ...rows[0], ms: {} }] }))).toThrow(/no number ms\.median/);
});

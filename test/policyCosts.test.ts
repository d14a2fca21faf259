/** What policies cost and which one is taken: the Meter's short way to a token equals a whole session, techniques one by one, the cheapest policy, quality reports. */
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { qualityReportPath, readPolicy } from '../client/node.ts';
import { ablation, choiceRows, fixedBudget, policyRows } from '../party/bench/policies.ts';
import { cheapestPolicy, meterSession, policyChoices, policyCost } from '../protocols/cost.ts';
import { canonicalPolicy, FULL, PRESETS, type Policy } from '../protocols/policy.ts';
import type { PolicyQuality } from '../protocols/quality.ts';
import { qualityReport } from '../protocols/qualityReport.ts';
import { tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  T = 300,
  policy: Policy = {
    ...FULL,
    name: 'budget',
    static: { keep: 0.4, window: { queries: 8 }, heads: 'sum', ranking: 'histogram' },
    dynamic: {
      sizes: [8],
      ratio: [0.25],
      score: 'mean',
      alpha: 0.6,
      bits: 6,
      perHead: 'kv',
      ranking: 'pairs',
      gather: 'logits',
      always: { first: 1, recent: 1 },
      reuse: 1,
    },
    sharing: 'pairs',
  };
const selection: Policy = { ...policy, name: 'selection', static: null };

describe("a policy's cost over a context", () => {
  it.each([FULL, policy, selection])('is that of a token after a prompt of so many tokens, and of the eviction ($name)', (p) => {
    const [prompt, token] = meterSession(artefact, { promptTokens: T, maxTokens: 2, policy: p }).steps,
      cost = policyCost(artefact, p, T);
    expect(cost.token).toEqual(token);
    expect(cost.eviction?.rounds).toBe(p.static ? prompt!.partRounds.get('eviction') : undefined);
    if (p.static) expect(Math.abs(cost.eviction!.bytes / prompt!.parts.get('eviction')! - 1)).toBeLessThan(0.01);
  });

  it('has a row a context and policy, with the tokens that are left', () => {
    const rows = policyRows(artefact, [FULL, policy], [101, 301]);
    expect(rows.map((r) => [r.policy, r.context, r.kept])).toEqual([
      ['full', 101, 101],
      ['budget', 101, 41],
      ['full', 301, 301],
      ['budget', 301, 121],
    ]);
    expect(rows[3]!.attentionBytes).toBeLessThan(rows[2]!.attentionBytes / 2);
  });

  it('technique by technique: each adds one, the last is the policy', () => {
    expect(ablation(policy).map((p) => p.name)).toEqual(['full', 'static', 'selection', 'budget']);
    expect(ablation({ ...policy, dynamic: { ...policy.dynamic!, sizes: [16, 8], ratio: [0.5, 0.25] } }).map((p) => p.name)).toEqual([
      'full',
      'static',
      'selection',
      'levels',
      'budget',
    ]);
    expect(ablation(FULL)).toEqual([FULL]);
  });
});

describe('a fixed budget', () => {
  it('is that of a shorter prompt, whose tokens cost the same', () => {
    const fixed = fixedBudget({ ...policy, layers: { 4: { keep: 0.5, ratio: [0.25] }, 5: { ratio: [0.5] } }, sharing: 'none' }, 300, artefact.shape.layers);
    expect(fixed.name).toBe('budget-fixed');
    expect(fixed.static!.keep).toEqual({ tokens: 120 });
    expect(fixed.layers).toEqual({ 4: { keep: { tokens: 150 }, ratio: [0.25] }, 5: { ratio: [0.5] } });
    const [short, long] = policyRows(artefact, [fixed], [301, 2049]),
      { context: _, eviction: __, ...token } = short!;
    expect(long).toMatchObject(token);
    expect(fixedBudget(selection, 300, artefact.shape.layers)).toBe(selection);
  });
});

describe('the cheapest policy', () => {
  it('has a row of each that it was chosen from, the cheapest first', () => {
    const rows = choiceRows(artefact, [FULL, policy], 901, 64);
    expect(rows.map((r) => r.taken)).toEqual([true, false, false]);
    expect(rows[0]!.policy).toBe(cheapestPolicy(artefact, [FULL, policy], 900, 64).name);
    for (const r of rows) expect(r.bytes).toBe(64 * r.tokenBytes + r.evictionBytes);
    expect(Object.fromEntries(rows.map((r) => [r.policy, r.kept]))).toEqual({ budget: 361, 'budget-static': 361, full: 901 });
  });

  it('never has a selection that costs more than doing without', () => {
    const costs = new Map<string, ReturnType<typeof policyCost>>(),
      bytes = (p: Policy, tokens: number, answer: number): number => {
        const key = `${canonicalPolicy({ ...p, name: '' })} ${tokens}`,
          { token, eviction } = costs.get(key) ?? policyCost(artefact, p, tokens);
        costs.set(key, { token, eviction });
        return answer * (token.onlineBytes + token.dealtBytes) + (eviction?.bytes ?? 0);
      },
      presets = [policy, ...Object.values(PRESETS)],
      taken = new Set<string>();
    for (const tokens of [40, 512, 2048, 8192])
      for (const answer of [16, 1024]) {
        const best = cheapestPolicy(artefact, [FULL, ...presets], tokens, answer);
        taken.add(best.name);
        for (const p of presets)
          for (const other of [p, { ...p, name: 'static', dynamic: null, layers: {}, streaming: {} }, FULL])
            expect(bytes(best, tokens, answer), `${best.name} against ${p.name}, ${other.name}`).toBeLessThanOrEqual(bytes(other, tokens, answer));
      }
    // Short answers do not pay for an eviction; a selection does where it is cheap, and does not where ranking is dear.
    expect(taken.has('full')).toBe(true);
    expect(taken.size).toBeGreaterThan(2);
    const small = policyChoices(artefact, [FULL, policy], 900, 64);
    expect(small.map((c) => c.policy.name).toSorted()).toEqual(['budget', 'budget-static', 'full']);
    expect(small.map((c) => c.bytes)).toEqual(small.map((c) => bytes(c.policy, 900, 64)));
    const most: Policy = { ...selection, dynamic: { ...selection.dynamic!, ratio: [0.95] } };
    expect(cheapestPolicy(artefact, [most], 900, 64).name).toBe('full');
    expect(cheapestPolicy(artefact, [FULL, selection], 900, 64).name).toBe('selection');
  });
});

describe('a quality report', () => {
  const row = (policy: Policy, change: number, lost: number): PolicyQuality => ({
    policy,
    positions: 64,
    perplexity: { full: 8, policy: 8 * (1 + change), change },
    divergence: 0.001,
    top1Agreement: 0.97,
    questions: 50,
    answeredFull: 50,
    answered: 50 - lost,
    lost,
    attended: 0.5,
    recall: 0.9,
    recallByLayer: [],
    leastRecall: [],
    overlap: null,
    spans: [],
    outside: 0,
    rankings: 0,
    cost: { promptTokens: 900, rounds: 100, onlineBytes: 1000, dealtBytes: 1000, evictionBytes: 0 },
    seconds: 1,
  });
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cachet-test-'));
    await copyFile('protocols/models/tiny-notes/model.cachet', join(folder, 'model.cachet'));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const write = (report: object): Promise<void> => writeFile(qualityReportPath(folder), JSON.stringify(report));

  it('recommends the cheapest policy that is good enough; that is mpcache, and what auto chooses from', async () => {
    const close: Policy = { ...selection, name: 'close', dynamic: { ...selection.dynamic!, ratio: [0.2] } },
      report = qualityReport(artefact, [500, 900], 1, [row(FULL, 0, 0), row(selection, 0.004, 0), row(close, 0.02, 0), row(policy, 0.005, 1)]);
    expect(report.recommended).toEqual({ ...selection, name: 'mpcache' });
    // Questions that full cache cannot answer say nothing of the others.
    expect(qualityReport(artefact, [500], 1, [{ ...row(selection, 0, 0), answeredFull: 0, answered: 0 }]).recommended).toBe(null);
    await write(report);
    expect(await readPolicy('mpcache', folder, artefact)).toEqual({ ...selection, name: 'mpcache' });
    expect(await readPolicy('auto', folder, artefact, { promptTokens: 900, maxTokens: 64 })).toEqual(selection);
    await write({ ...report, recommended: null, policies: [] });
    expect(await readPolicy('mpcache', folder, artefact)).toEqual({ ...FULL, name: 'mpcache' });
    expect(await readPolicy('auto', folder, artefact, { promptTokens: 900, maxTokens: 64 })).toEqual(FULL);
    await expect(readPolicy('auto', folder, artefact)).rejects.toThrow(/no length for the policy auto/);
  });

  it('counts for its own artefact alone, and says where it is wrong', async () => {
    await write({ ...qualityReport(artefact, [500], 1, [row(FULL, 0, 0)]), artefact: '0'.repeat(64) });
    expect(await readPolicy('mpcache', folder, artefact)).toBe(PRESETS.mpcache);
    await write({ version: 3 });
    await expect(readPolicy('mpcache', folder, artefact)).rejects.toThrow(/model.quality.json, version: bad quality report/);
  });
});

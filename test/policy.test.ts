/** Cache policies: presets, checks against a model, what they keep, and that nobody goes on with another one. */
import { describe, expect, it } from 'vitest';
import { requireSameSpec } from '../protocols/handshake.ts';
import {
  canonicalPolicy,
  checkPolicy,
  chooserOf,
  describePolicy,
  FULL,
  keptTokens,
  parsePolicy,
  PRESETS,
  votingQueries,
  type Policy,
} from '../protocols/policy.ts';
import { PROTOCOL_VERSION } from '../protocols/session.ts';

const shape = { layers: 12, kvHeads: 3 },
  paper = PRESETS['mpcache-paper'],
  json = (p: Policy): unknown => JSON.parse(JSON.stringify(p));

describe('a policy', () => {
  it.each(Object.entries(PRESETS))('%s passes its own schema unchanged, fits a model and says itself in one line', (name, preset) => {
    expect(parsePolicy(json(preset), name)).toEqual(preset);
    expect(preset.name).toBe(name);
    checkPolicy(preset, shape);
    expect(describePolicy(preset)).toMatch(new RegExp(`^${name}: [^\n]+$`));
  });

  it('of the paper is the one of the paper', () => {
    expect(describePolicy(paper)).toBe(
      'mpcache-paper: keeps 40 % of the prompt (last 20 % of the queries, sum over heads, by histogram); attends to 50 % > 20 % of clusters of 32 > 16 ' +
        '(minmax 0.6, 8 bits, per key/value head, by pairs), the first 1 and newest 1 always; layers in pairs',
    );
    expect(Array.from({ length: 9 }, (_, l) => chooserOf(paper, l, 9))).toEqual([0, 1, 2, 2, 4, 4, 6, 6, 8]);
  });

  it('says which heads stream where nothing is chosen', () => {
    const p: Policy = {
      ...PRESETS.mpcache,
      name: 'streams',
      dynamic: { ...PRESETS.mpcache.dynamic!, ratio: [1], always: { first: 2, recent: 16 } },
      skipLayers: [0],
      streaming: { 1: [0, 2], 7: [1] },
    };
    checkPolicy(p, shape);
    expect(describePolicy(p)).toBe('streams: 3 key/value heads attend to the first 32 and the newest 256 tokens alone, the others to all (1: 0 2; 7: 1)');
    expect(describePolicy({ ...p, dynamic: { ...p.dynamic!, ratio: [0.9] } })).toMatch(/attends to 90 % .*layers 0 full; streaming heads in layers 1 7$/);
  });

  it('has one canonical text, whatever the order of its fields, and defaults are part of it', () => {
    const { dynamic, ...rest } = json(paper) as { dynamic: Record<string, unknown> } & Record<string, unknown>,
      { alpha: _, reuse: __, ...short } = dynamic;
    const turned = parsePolicy(Object.fromEntries(Object.entries({ ...rest, dynamic: short }).reverse()), 'x');
    expect(canonicalPolicy(turned)).toBe(canonicalPolicy(paper));
    for (const p of Object.values(PRESETS)) if (p !== paper) expect(canonicalPolicy(p)).not.toBe(canonicalPolicy(paper));
    expect(canonicalPolicy({ ...paper, skipLayers: [1] })).not.toBe(canonicalPolicy(paper));
  });

  it.each<[string, unknown, RegExp]>([
    ['an unknown field', { ...FULL, colour: 1 }, /x, top level: bad cache policy.*colour.*try: /],
    ['a name that may be a private text', { ...FULL, 'Nina lives in': 1 }, /x, top level: bad cache policy.*got fields of other names; try: /],
    ['a share above 1', { ...paper, static: { ...paper.static, keep: 1.5 } }, /x, static.keep: bad cache policy/],
    ['an unknown score', { ...paper, dynamic: { ...paper.dynamic, score: 'best' } }, /x, dynamic.score: bad cache policy/],
    ['a name that would break a log line', { ...FULL, name: 'a\nb' }, /x, name: bad cache policy/],
    ['a layer that is no number', { ...FULL, layers: { first: { keep: 0.5 } } }, /x, layers.first: bad cache policy/],
    ['nothing', null, /x, top level: bad cache policy/],
  ])('with %s is refused with the field', (_, value, message) => {
    expect(() => parsePolicy(value, 'x')).toThrow(message);
  });

  it.each<[string, Partial<Policy>, RegExp]>([
    ['a layer it does not have', { skipLayers: [12] }, /skipLayers: cache policy that the model cannot follow; expected layers from 0 to 11.*got \[12\]/],
    ['sizes that do not divide', { dynamic: { ...paper.dynamic!, sizes: [24, 16] } }, /dynamic.sizes/],
    ['a ratio too few', { dynamic: { ...paper.dynamic!, ratio: [0.2] } }, /dynamic.ratio: .*expected 2 shares/],
    ['a ratio that rises', { dynamic: { ...paper.dynamic!, ratio: [0.2, 0.5] } }, /dynamic.ratio/],
    [
      'a layer in two groups',
      {
        sharing: [
          [1, 2],
          [2, 3],
        ],
      },
      /sharing: .*two groups/,
    ],
    ['a group that falls', { sharing: [[3, 2]] }, /sharing: .*rising/],
    ['a skipped layer in a group', { sharing: [[2, 3]], skipLayers: [3] }, /sharing: .*got 3/],
    ['a budget for a layer that follows another', { layers: { '3': { keep: 0.5 } } }, /layers: .*choose for themselves.*got 3/],
    ['a budget without eviction', { static: null, layers: { '2': { keep: 0.5 } } }, /layers.2.keep: .*expected a static policy/],
    ['a head it does not have', { streaming: { '4': [3] } }, /streaming.4: .*heads from 0 to 2/],
    ['streaming heads without clusters', { dynamic: null, streaming: { '4': [0] } }, /streaming: .*expected a dynamic policy/],
  ])('is refused by a model for %s', (_, change, message) => {
    expect(() => checkPolicy({ ...paper, ...change }, shape)).toThrow(message);
  });

  it('that two parties read differently ends the handshake, however they write it', () => {
    const spec = {
      version: PROTOCOL_VERSION,
      artefact: 'a'.repeat(64),
      weights: 'open',
      dealer: 'helper',
      promptTokens: 3,
      maxTokens: 2,
      context: 4,
      filled: 0,
    } as const;
    requireSameSpec({ ...spec, policy: paper }, { ...spec, policy: Object.fromEntries(Object.entries(json(paper) as Policy).reverse()) as Policy });
    expect(() => requireSameSpec({ ...spec, policy: paper }, { ...spec, policy: { ...paper, dynamic: { ...paper.dynamic!, reuse: 2 } } })).toThrow(
      /parties disagree about the cache policy's dynamic; expected .*"reuse":1.*; got .*"reuse":2.*; try: give all parties the same cache policy/,
    );
  });

  it('keeps an exact public number of tokens in each layer, the same in a group', () => {
    const own: Policy = { ...paper, skipLayers: [1], layers: { '0': { keep: { tokens: 30 } }, '4': { keep: 0.25 } } };
    checkPolicy(own, shape);
    expect(Array.from({ length: 12 }, (_, l) => keptTokens(own, l, 100, 12))).toEqual([30, 100, 40, 40, 25, 25, 40, 40, 40, 40, 40, 40]);
    expect(keptTokens(own, 0, 20, 12)).toBe(20);
    expect(keptTokens(paper, 2, 1, 12)).toBe(1);
    expect(keptTokens(FULL, 2, 77, 12)).toBe(77);
    expect(keptTokens({ ...paper, sharing: [[5, 6, 7]] }, 7, 2048, 12)).toBe(819);
    expect(votingQueries(paper.static!, 1000)).toBe(200);
    expect(votingQueries({ ...paper.static!, window: { queries: 32 } }, 20)).toBe(20);
  });
});

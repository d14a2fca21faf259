/** Policies against the full cache: a run over a cached beginning is the whole session, divergences are what they are said to be, texts keep their facts. */
import { describe, expect, it } from 'vitest';
import { readTokenizer } from '../client/node.ts';
import { needles, notes } from '../client/questions.ts';
import { qualityTexts } from '../party/qualityTexts.ts';
import { bindPlan, clientTensors } from '../protocols/artefact.ts';
import { policyCost } from '../protocols/cost.ts';
import { Float } from '../protocols/engines/float.ts';
import { describe as describeLogits, drive, headLogits } from '../protocols/evaluate.ts';
import { embedTokens } from '../protocols/models/embedding.ts';
import { FULL, policySchema, type Policy } from '../protocols/policy.ts';
import { session } from '../protocols/programs/transformer.ts';
import { measureQuality, streamingPolicies, withSpreads, type QualityText } from '../protocols/quality.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  { layers, kvHeads } = artefact.shape,
  tokenizer = await readTokenizer('tiny-notes'),
  count = (text: string): number => tokenizer.encode(text).length;
const clusters: Policy = {
  ...FULL,
  name: 'clusters',
  dynamic: {
    sizes: [8],
    ratio: [0.3],
    score: 'mean',
    alpha: 0.6,
    bits: 8,
    perHead: 'kv',
    ranking: 'pairs',
    gather: 'logits',
    always: { first: 1, recent: 1 },
    reuse: 1,
  },
};

/** Of the tokens from `from` on, by the program of a session: the prompt's last token alone, as those of the answer. */
function sessionPerplexity(policy: Policy, ids: readonly number[], from: number): number {
  const client = { shape: artefact.shape, ...clientTensors(artefact) },
    prefix = artefact.prefixIds.length,
    prompt = from - 1;
  let at = prompt,
    loss = 0,
    started = false;
  const float = new Float({
    next: () => {
      if (started) return embedTokens(client, [ids[at]!], at++);
      started = true;
      return embedTokens(client, ids.slice(prefix, prompt), prefix);
    },
    emit: (hidden) => {
      if (at === prompt) return;
      const z = headLogits(client, hidden, 1);
      loss += describeLogits(z).logSum - z[ids[at]!]!;
    },
  });
  drive(session(float, bindPlan(float, artefact), { tokens: prompt - prefix, answer: ids.length - from + 1 }, ids.length - 1 - prefix, 0, policy));
  return Math.exp(loss / (ids.length - from));
}

describe('the quality of policies', () => {
  const ids = golden()[0]!.promptIds,
    text: QualityText = { ids: ids.slice(0, 38), items: [{ kind: 'text', prompt: ids.slice(38, 44), continuation: ids.slice(44, 52) }] };

  it('is that of whole sessions: a cached beginning changes nothing', () => {
    const client = { shape: artefact.shape, ...clientTensors(artefact) },
      losses: number[] = [];
    let at = 44;
    const float = new Float({
      next: (size) => (size > artefact.shape.width ? embedTokens(client, ids.slice(1, 44), 1) : embedTokens(client, [ids[at]!], at++)),
      emit: (hidden) => {
        const z = headLogits(client, hidden, 1);
        losses.push(describeLogits(z).logSum - z[ids[44 + losses.length]!]!);
      },
    });
    drive(session(float, bindPlan(float, artefact), { tokens: 43, answer: 8 }, 50));
    const [full] = measureQuality({ artefact, policies: [FULL], texts: [text] });
    expect(full!.positions).toBe(8);
    expect(full!.perplexity!.full).toBeCloseTo(Math.exp(losses.reduce((a, b) => a + b) / 8), 4);
    expect(full).toMatchObject({ divergence: 0, top1Agreement: 1, perplexity: { change: 0 } });
  });

  it('differs from full where tokens are left out, and does not where all are chosen', () => {
    const all: Policy = { ...clusters, name: 'all', dynamic: { ...clusters.dynamic!, ratio: [1] } },
      [some, none] = measureQuality({ artefact, policies: [clusters, all], texts: [text] });
    expect(none!.divergence).toBeLessThan(1e-7);
    expect(some!.divergence).toBeGreaterThan(1e-6);
    expect(some!.perplexity!.full).toBe(none!.perplexity!.full);
    expect(some!.divergence).toBeGreaterThan(100 * none!.divergence!);
  });

  it.each([
    ['mean', {}, {}],
    ['meanvar per query head in levels', { score: 'meanvar', perHead: 'query', sizes: [8, 4], ratio: [0.6, 0.4] }, {}],
    ['minmax', { score: 'minmax', sizes: [4] }, {}],
    ['layers in pairs', { sizes: [4] }, { sharing: 'pairs' }],
    ['streaming heads beside heads that attend to all', { ratio: [1], always: { first: 1, recent: 2 } }, { streaming: { 1: [0], 4: [0] }, skipLayers: [0, 2] }],
    ['a choice for three tokens, streaming heads', { sizes: [4], reuse: 3 }, { streaming: { 1: [0], 4: [0] } }],
    ['eviction by the sum', null, { static: { keep: 0.5, window: 0.2, heads: 'sum', ranking: 'histogram' } }],
    [
      'eviction by the largest head, clusters',
      { sizes: [4], ratio: [0.4] },
      { static: { keep: 0.6, window: { queries: 6 }, heads: 'max', ranking: 'histogram' }, skipLayers: [0] },
    ],
  ] as const)('is that of sessions: %s', (name, dynamic, rest) => {
    const policy = policySchema.parse({
        ...clusters,
        ...rest,
        name: 'other',
        dynamic: dynamic && { ...clusters.dynamic, ...dynamic, spread: 200 },
      }),
      [row] = measureQuality({ artefact, policies: [policy], texts: [text], exact: true });
    expect(row!.perplexity!.policy, name).toBeCloseTo(sessionPerplexity(policy, ids.slice(0, 52), 44), 3);
    expect(row!.perplexity!.policy).not.toBeCloseTo(row!.perplexity!.full, 6);
    expect(row!.attended).toBeLessThan(1);
    expect(row!.recall).toBeLessThan(1);
  });

  it('gives scores the spread that they have, layer by layer', () => {
    const coarse: Policy = { ...clusters, name: 'coarse', dynamic: { ...clusters.dynamic!, score: 'minmax', sizes: [4] } },
      [fine, same] = withSpreads({ artefact, policies: [coarse, FULL], texts: [text] }),
      [before, after, exact] = [coarse, fine!, coarse].map((policy, i) => measureQuality({ artefact, policies: [policy], texts: [text], exact: i === 2 })[0]!);
    expect(same).toBe(FULL);
    expect(Object.keys(fine!.layers)).toEqual(['0', '1', '2', '3', '4', '5']);
    expect(after!.outside).toBe(0);
    for (const [l, { spread }] of Object.entries(fine!.layers)) expect(spread).toBeGreaterThanOrEqual(Math.min(8, exact!.spans[Number(l)]!));
    expect(after!.recall).toBeGreaterThan(before!.recall);
    expect(() => sessionPerplexity(fine!, ids.slice(0, 46), 44)).not.toThrow();
  });

  it('finds the heads that may stream', () => {
    const long: QualityText = {
        ids: golden()
          .find((c) => c.promptIds.length > 700)!
          .promptIds.slice(0, 600),
        items: [{ kind: 'text', prompt: ids.slice(38, 44), continuation: ids.slice(44, 48) }],
      },
      found = streamingPolicies({ artefact, texts: [long] }),
      rows = measureQuality({ artefact, policies: found, texts: [long] });
    expect(found.map((p) => Object.values(p.streaming).flat().length)).toEqual([0.1, 0.2, 0.35, 0.5].map((s) => Math.round(s * layers * kvHeads)));
    for (const [i, row] of rows.entries()) {
      expect(row.attended).toBeLessThan(1);
      expect(row.cost.onlineBytes + row.cost.dealtBytes).toBeLessThan(
        policyCost(artefact, FULL, row.cost.promptTokens).token.onlineBytes + policyCost(artefact, FULL, row.cost.promptTokens).token.dealtBytes,
      );
      const streams = (h: number): boolean => found[i]!.streaming[Math.floor(h / kvHeads)]?.includes(h % kvHeads) ?? false;
      expect(row.leastRecall.every((least, h) => (streams(h) ? least < 1 : least === 1))).toBe(true);
    }
  });

  it('counts the questions that a policy loses of those that the full cache answers', () => {
    const texts = qualityTexts({
        artefact,
        tokenizer,
        text: undefined,
        prompts: [128],
        continuation: 8,
        positions: 8,
        questions: 6,
        seed: 3,
      }),
      blind: Policy = { ...clusters, name: 'blind', dynamic: { ...clusters.dynamic!, sizes: [2], ratio: [0.01], always: { first: 0, recent: 1 } } },
      [full, lost] = measureQuality({ artefact, policies: [FULL, blind], texts });
    expect(full).toMatchObject({ questions: 6, answered: full!.answeredFull, lost: 0, perplexity: null });
    expect(full!.answered).toBeGreaterThanOrEqual(5);
    expect(lost!.lost).toBeGreaterThanOrEqual(2);
    expect(lost!.answered).toBe(lost!.answeredFull - lost!.lost);
  }, 60_000);
});

describe.each([
  ['notes', notes],
  ['needles', needles],
] as const)('%s', (_, make) => {
  const made = make({ seed: 5, tokens: 400, questions: 8, count });

  it('are the same for a seed, of the length asked for, each answer stated once', () => {
    expect(make({ seed: 5, tokens: 400, questions: 8, count })).toEqual(made);
    expect(make({ seed: 6, tokens: 400, questions: 8, count }).text).not.toBe(made.text);
    expect(Math.abs(count(made.text) - 400)).toBeLessThan(120);
    expect(made.questions).toHaveLength(8);
    expect(new Set(made.questions.map((q) => q.question)).size).toBe(8);
    for (const { answer } of made.questions) expect(made.text).toContain(answer.replace(/\.$/, ''));
  });
});

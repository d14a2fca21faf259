/**
 * What is known of policies for a model: a file beside its artefact, written by `cachet eval --report`. `mpcache` is what it recommends: the policy within the
 * bound whose tokens cost fewest bytes at the report's longest prompt. A report of another artefact does not count.
 */
import { z } from 'zod';
import type { Artefact } from './artefact.ts';
import { policyCost } from './cost.ts';
import { policySchema, type Policy } from './policy.ts';
import type { PolicyQuality } from './quality.ts';

/**
 * Within it a policy may be recommended: perplexity over that of the full cache, and answers. Of few questions none may be lost; where there are so many that a share
 * can be told, accuracy may be so much lower.
 */
const BOUND = { change: 0.01, many: 500, accuracy: 0.03 };

const rate = z.number().min(0).max(1);
const rowSchema = z.strictObject({
  policy: policySchema,
  positions: z.number().int().min(0),
  perplexity: z.strictObject({ full: z.number(), policy: z.number(), change: z.number() }).nullable(),
  divergence: z.number().nullable(),
  top1Agreement: rate.nullable(),
  questions: z.number().int().min(0),
  answeredFull: z.number().int().min(0),
  answered: z.number().int().min(0),
  lost: z.number().int().min(0),
  attended: rate,
  recall: z.number().min(0),
  recallByLayer: z.array(z.number()),
  leastRecall: z.array(z.number()).default([]),
  overlap: rate.nullable(),
  spans: z.array(z.number()),
  outside: z.number().int().min(0),
  rankings: z.number().int().min(0),
  cost: z.strictObject({
    promptTokens: z.number().int().min(1),
    rounds: z.number().int().min(0),
    onlineBytes: z.number().min(0),
    dealtBytes: z.number().min(0),
    evictionBytes: z.number().min(0),
  }),
  seconds: z.number().min(0),
});

export const qualityReportSchema = z.strictObject({
  version: z.literal(2),
  /** SHA-256 of the artefact, hex. */
  artefact: z.string().regex(/^[0-9a-f]{64}$/),
  /** Private tokens of the prompts. */
  promptTokens: z.array(z.number().int().min(1)).min(1),
  seed: z.number().int().min(0),
  policies: z.array(rowSchema),
  recommended: policySchema.nullable(),
});
export type QualityReport = z.infer<typeof qualityReportSchema>;

/** Policies of a report that meet the bound, on texts and on questions where both were measured; none where full cache answers none of the questions, which say nothing then. */
export const policiesWithin = (
  rows: readonly Pick<PolicyQuality, 'policy' | 'positions' | 'perplexity' | 'questions' | 'answeredFull' | 'answered' | 'lost'>[],
): Policy[] =>
  rows
    .filter(
      (r) =>
        (r.perplexity === null || r.perplexity.change <= BOUND.change) &&
        (r.questions === 0 || r.answeredFull > 0) &&
        (r.questions < BOUND.many ? r.lost === 0 : r.answeredFull - r.answered <= BOUND.accuracy * r.questions) &&
        r.positions + r.questions > 0,
    )
    .map((r) => r.policy);

/** The report of what was measured, with the recommendation. */
export function qualityReport(artefact: Artefact, promptTokens: readonly number[], seed: number, policies: readonly PolicyQuality[]): QualityReport {
  const longest = Math.max(...promptTokens),
    bytes = (p: Policy): number => {
      const { token } = policyCost(artefact, p, longest);
      return token.onlineBytes + token.dealtBytes;
    },
    [best] = policiesWithin(policies).toSorted((a, b) => bytes(a) - bytes(b));
  return {
    version: 2,
    artefact: artefact.digest,
    promptTokens: [...promptTokens],
    seed,
    policies: policies.map((p) => ({ ...p, spans: [...p.spans], recallByLayer: [...p.recallByLayer], leastRecall: [...p.leastRecall] })),
    recommended: best ? { ...best, name: 'mpcache' } : null,
  };
}

/** Cache policies measured on a model: what `cachet eval --policy` shows and `cachet prepare --quality` writes beside the artefact. */
import { qualityReportPath } from '../client/node.ts';
import type { Tokenizer } from '../client/tokenizer.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { sampleSession } from '../protocols/evaluate.ts';
import type { Policy } from '../protocols/policy.ts';
import { measureQuality, streamingPolicies, withSpreads, type PolicyQuality } from '../protocols/quality.ts';
import { qualityReport } from '../protocols/qualityReport.ts';
import { writeAtomically } from './files.ts';
import { qualityTexts, spreadTexts } from './qualityTexts.ts';

export interface Measuring {
  readonly model: string;
  readonly artefact: Artefact;
  readonly tokenizer: Tokenizer;
  readonly policies: readonly Policy[];
  /** To be gone on with; none: questions alone. */
  readonly text: string | undefined;
  readonly promptTokens: readonly number[];
  readonly continuation: number;
  readonly positions: number;
  readonly questions: number;
  readonly seed: number;
  /** Measure first how far scores lie apart, for policies that say nothing of it. */
  readonly spread: boolean;
  /** Try policies with streaming layers as well. */
  readonly streaming: boolean;
  /** Tokens of an answer that go through the protocol as well, under each policy. */
  readonly sample: number;
  /** Write the report beside the artefact. */
  readonly report: boolean;
  readonly onProgress: (text: string) => void;
}

export interface Measured {
  /** With their spreads. */
  readonly policies: readonly Policy[];
  readonly rows: readonly PolicyQuality[];
  readonly samples: readonly { readonly policy: string; readonly promptTokens: number; readonly positions: number; readonly equalsFixed: boolean }[];
}

/** Private tokens of the prompt of a sample through the protocol. */
const SAMPLE_PROMPT = 48;

/** @throws CachetError 'usage' if there is nothing to compare on, 'limit' for prompts that the model has no room for. */
export async function measure(o: Measuring): Promise<Measured> {
  const { artefact, onProgress } = o,
    source = { ...o, prompts: o.promptTokens },
    first = o.spread || o.streaming ? spreadTexts(source) : [],
    streaming = o.streaming ? streamingPolicies({ artefact, texts: first, onProgress: (t) => onProgress(`streaming layers: ${t}`) }) : [],
    named = o.spread ? withSpreads({ artefact, policies: o.policies, texts: first, onProgress: (t) => onProgress(`spreads: ${t}`) }) : o.policies,
    policies = [...named, ...streaming],
    texts = qualityTexts(source),
    rows = measureQuality({ artefact, policies, texts, onProgress }),
    { ids, items } = texts[0]!,
    sample = [...ids, ...items[0]!.prompt].slice(0, artefact.prefixIds.length + SAMPLE_PROMPT + o.sample - 1),
    samples =
      o.sample === 0
        ? []
        : policies.map((policy) => {
            onProgress(`${o.sample} tokens through the protocol, ${policy.name}`);
            return { policy: policy.name, promptTokens: SAMPLE_PROMPT, ...sampleSession(artefact, sample, o.sample, policy) };
          });
  if (o.report) await writeAtomically(qualityReportPath(o.model), `${JSON.stringify(qualityReport(artefact, o.promptTokens, o.seed, rows), null, 2)}\n`);
  return { policies, rows, samples };
}

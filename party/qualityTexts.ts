/** What policies are compared on: pieces of a text to go on with, and generated facts to ask for. */
import { EMBEDDED_MODEL } from '../client/node.ts';
import { privateIds } from '../client/generate.ts';
import { needles, notes, type FactText } from '../client/questions.ts';
import type { Tokenizer } from '../client/tokenizer.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import type { QualityItem, QualityText } from '../protocols/quality.ts';

export interface QualityTextOptions {
  readonly artefact: Artefact;
  readonly tokenizer: Tokenizer;
  /** To be gone on with; none: questions alone. */
  readonly text: string | undefined;
  /** Private tokens of prompts, one after another. */
  readonly prompts: readonly number[];
  /** Tokens predicted after a piece of the text, and in all at most. */
  readonly continuation: number;
  readonly positions: number;
  readonly questions: number;
  readonly seed: number;
}

/** Tokens with which a prompt ends after its cached part: a batch, as in a session. */
const LAST = 16;
/** Seeds of facts for that lie so much higher; tokens of the piece's continuation. */
const SPREAD_SEED = 1000,
  SPREAD_TOKENS = 24;
/** Questions about one text (passwords of many things in one are more than a small model tells apart), and tokens of an answer at most. */
const QUESTIONS = { notes: 14, needles: 4 },
  ANSWER = 14;

/** @throws CachetError 'usage' if there is nothing to compare on, 'limit' for prompts that the model has no room for. */
export function qualityTexts(o: QualityTextOptions): QualityText[] {
  const prefix = o.artefact.prefixIds,
    longest = prefix.length + Math.max(...o.prompts) + Math.max(o.continuation, 2 * ANSWER);
  if (longest > o.artefact.shape.maxPositions)
    throw new CachetError({
      code: 'limit',
      what: 'prompt too long for the model',
      expected: `at most ${o.artefact.shape.maxPositions} positions`,
      got: String(longest),
      hint: 'shorter --prompt-tokens',
    });
  const texts = [...pieces(o), ...asked(o)];
  if (texts.length === 0)
    throw new CachetError({
      code: 'usage',
      what: 'nothing to compare policies on',
      expected: 'a --text longer than a prompt and its continuation, or --questions',
      got: 'neither',
    });
  return texts;
}

/** Texts of other facts and at most a piece of the text, on which the spread of scores is measured. */
export function spreadTexts(o: QualityTextOptions): QualityText[] {
  const seed = o.seed + SPREAD_SEED;
  return qualityTexts({
    ...o,
    seed,
    prompts: [Math.max(...o.prompts)],
    continuation: SPREAD_TOKENS,
    positions: SPREAD_TOKENS,
    questions: Math.min(4, Math.max(o.questions, 1)),
  });
}

function pieces({ artefact, tokenizer, text, prompts, continuation, positions }: QualityTextOptions): QualityText[] {
  const ids = text === undefined ? [] : tokenizer.encode(text),
    found: QualityText[] = [];
  for (let at = 0, n = 0; n * continuation < positions; n++) {
    const length = prompts[n % prompts.length]!,
      end = at + length;
    if (end + continuation > ids.length) break;
    found.push({
      ids: [...artefact.prefixIds, ...ids.slice(at, end - LAST)],
      items: [{ kind: 'text', prompt: ids.slice(end - LAST, end), continuation: ids.slice(end, end + continuation) }],
    });
    at = end + continuation;
  }
  return found;
}

function asked(o: QualityTextOptions): QualityText[] {
  const { artefact, tokenizer, prompts } = o,
    inNotes = o.artefact.name === EMBEDDED_MODEL,
    found: QualityText[] = [];
  const each = inNotes ? QUESTIONS.notes : QUESTIONS.needles;
  for (let left = o.questions, n = 0; left > 0; left -= each, n++) {
    const count = (text: string): number => tokenizer.encode(text).length,
      facts = (inNotes ? notes : needles)({ seed: o.seed + n, tokens: prompts[n % prompts.length]! - 32, questions: Math.min(left, each), count });
    found.push(questionsAbout(artefact, tokenizer, facts, inNotes));
  }
  return found;
}

/** Prompts as the model's chat template has them; the text, which they have in common, is cut off where the question begins. */
function questionsAbout(artefact: Artefact, tokenizer: Tokenizer, { text, questions }: FactText, inNotes: boolean): QualityText {
  const prompts = questions.map(({ question }) =>
      tokenizer.encode(
        inNotes
          ? tokenizer.chat(
              [
                { role: 'system', content: text.trim() },
                { role: 'user', content: question },
              ],
              true,
            )
          : tokenizer.chat([{ role: 'user', content: `${text}\n\nQuestion: ${question}` }], true),
      ),
    ),
    [first, ...rest] = prompts.map((ids) => [...artefact.prefixIds, ...privateIds(artefact, ids)]),
    differ = first!.findIndex((id, i) => rest.some((p) => p[i] !== id)),
    common = differ < 0 ? first!.length - LAST : differ - 2;
  return {
    ids: first!.slice(0, common),
    items: questions.map(({ answer, draft }, i): QualityItem => {
      const right = (ids: readonly number[]): boolean => {
        const said = tokenizer.decode(ids).trim();
        return inNotes ? said === answer : said.includes(answer);
      };
      return {
        kind: 'question',
        prompt: prompts[i]!.slice(common),
        most: ANSWER,
        draft: [...tokenizer.encode(draft), ...artefact.shape.eosIds.slice(0, 1)],
        right,
      };
    }),
  };
}

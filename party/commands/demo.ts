/** `cachet demo`: three party processes on loopback and a private question to them; or a file of cases. */
import { Command, Option } from 'commander';
import { z } from 'zod';
import { AUTO, EMBEDDED_MODEL, openModel, readJson, readPolicy, readTokenizer } from '../../client/node.ts';
import { ask, type AskEvent } from '../../client/ask.ts';
import type { Sampling } from '../../client/sampling.ts';
import { promptIds } from '../../client/generate.ts';
import type { Message, Tokenizer } from '../../client/tokenizer.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { CachetError } from '../../protocols/errors.ts';
import { describePolicy } from '../../protocols/policy.ts';
import { PlainModel } from '../../protocols/models/plain.ts';
import { Trio } from '../launch.ts';
import { localModel } from '../preparing.ts';
import { reach } from '../reach.ts';
import { bytes, onInterrupt, Progress, table, wrap } from '../terminal.ts';
import { describeFigures, figures, show, traced } from './answer.ts';
import {
  addSampling,
  beginTrace,
  dealerOption,
  integer,
  needing,
  netOption,
  policyOption,
  readNote,
  samplingOf,
  TRACE_HELP,
  traceOption,
  weightsOption,
  type SamplingOptions,
  type Weights,
} from './options.ts';

/** About 150 tokens in the embedded model's vocabulary. */
const NOTE = [
  'Nina lives in Lisbon.',
  'The doctor of Omar is Dr Novak.',
  'Nina is allergic to latex.',
  'The clinic opens at eight.',
  "Omar's visit is on Tuesday.",
  'Nina works as a pilot.',
  'Vera has blood type O negative.',
  'Please keep this page private.',
  'Vera is in room 214.',
  "Nina's doctor is Dr Haas.",
  'Omar likes to eat soup.',
  'The pin of Vera is 8305.',
  'The hobby of Omar is chess.',
  'Nina uses pin 4711.',
  'A letter came by post.',
  'Omar is allergic to dust.',
  "Vera's city is Oslo.",
  'The visit of Nina is on Friday.',
]
  .map((sentence) => ` ${sentence}`)
  .join('');

interface Options extends SamplingOptions {
  model: string;
  note?: string;
  question: string;
  helper: 'server' | 'client';
  net: string;
  policy: string;
  weights: Weights;
  cases?: string;
  case?: string[];
  maxPrompt?: number;
  json?: boolean;
  trace?: string;
}

/** What a file of cases says itself. */
const OF_A_QUESTION = ['note', 'question', 'maxTokens', 'temperature', 'topK', 'topP', 'seed'];

export const demoCommand = addSampling(
  new Command('demo')
    .description('Start P0, P1 and the helper as processes on this machine, ask a question about a private note, show what each party saw.')
    .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
    .option('--note <file>', 'the private note (default: a built-in one of about 150 tokens)')
    .option('--question <text>', 'the question', "What is Nina's pin?")
    .addOption(dealerOption())
    .addOption(policyOption())
    .addOption(weightsOption())
    .addOption(netOption()),
)
  .addOption(
    new Option('--cases <file>', 'run the cases of a file instead: JSON { cases: [{ promptIds or prompt, continuationIds }] }').conflicts(OF_A_QUESTION),
  )
  .option('--case <name...>', 'with --cases: those of these names alone')
  .addOption(new Option('--max-prompt <n>', 'with --cases: skip prompts of more tokens').argParser(integer(1)))
  .option('--json', 'result as JSON on stdout')
  .addOption(traceOption())
  .addHelpText('after', TRACE_HELP)
  .action(async (o: Options) => {
    const progress = new Progress({ silent: o.json === true }),
      { artefact, parts } = await localModel(o.model, o.weights, (text) => progress.update(text)),
      tokenizer = await readTokenizer(o.model),
      note = o.note === undefined ? NOTE : await readNote(o.note),
      fixed = o.policy === AUTO ? undefined : await readPolicy(o.policy, o.model, artefact),
      abort = new AbortController();
    const cases = o.cases === undefined ? undefined : await readCases(o.cases, artefact, tokenizer, o.case, o.maxPrompt);
    onInterrupt(() => abort.abort());
    if (fixed) progress.done(`cache policy ${describePolicy(fixed)}`);
    progress.update('starting three party processes');
    const trace = beginTrace(o.trace),
      trio = await Trio.start(o.model, {
        net: o.net,
        ...(o.helper === 'client' ? { roles: ['p0', 'p1'] } : {}),
        ...(o.trace === undefined ? {} : { trace: o.trace }),
        ...(parts && { models: parts }),
      });
    try {
      progress.done(
        `started: ${Object.entries(trio.pids)
          .map(([role, pid]) => `${role} (process ${pid})`)
          .join(', ')}`,
      );
      const running: Running = {
        o,
        trio,
        artefact,
        tokenizer,
        note,
        progress,
        async *asked(prompt, maxTokens, sampling) {
          const promptTokens = prompt.length - artefact.prefixIds.length,
            policy = fixed ?? (await readPolicy(o.policy, o.model, artefact, { promptTokens, maxTokens }));
          if (!fixed) progress.done(`cache policy ${describePolicy(policy)}`);
          yield* ask({
            artefact,
            tokenizer,
            ...reach(trio.config, artefact, o.helper, abort.signal),
            prompt,
            maxTokens,
            policy,
            sampling,
            ...traced(trace, artefact, promptTokens, maxTokens),
          });
        },
      };
      await (cases ? runCases(running, cases) : runQuestion(running));
    } finally {
      await trio.stop();
      await trace?.close();
    }
  });
needing(demoCommand, '--cases', '--case', '--max-prompt');

/** A demo whose parties are up. */
interface Running {
  readonly o: Options;
  readonly trio: Trio;
  readonly artefact: Artefact;
  readonly tokenizer: Tokenizer;
  readonly note: string;
  readonly progress: Progress;
  asked(prompt: readonly number[], maxTokens: number, sampling: Sampling): AsyncIterable<AskEvent>;
}

async function runQuestion({ o, trio, artefact, tokenizer, note, progress, asked }: Running): Promise<void> {
  const messages: Message[] = [
      { role: 'system', content: note.trim() },
      { role: 'user', content: o.question.trim() },
    ],
    ids = promptIds(artefact, tokenizer, tokenizer.chat(messages, true));
  if (!o.json)
    console.log(`\nprivate note (${tokenizer.encode(note).length} tokens, read by nobody but you):\n${wrap(note.trim())}\n\nquestion: ${o.question}\n`);
  const result = await show(asked(ids, o.maxTokens, samplingOf(o)), progress, streamed(o.json === true));
  if (!o.json) process.stdout.write('\n\n');
  progress.update('the helper deals to its end, so that it cannot tell how long the answer was');
  const ends = await trio.ended(result.session);
  progress.update('the same in the clear, to compare');
  const plain = o.temperature === 0 ? await plainTokens(o.model, artefact, ids, result.ids.length) : undefined;
  progress.update('');
  const same = plain && plain.every((id, i) => id === result.ids[i]),
    traffic = ends.map((e) => ({ party: e.role, links: e.traffic ?? [] }));
  if (o.json)
    return void console.log(
      JSON.stringify({
        text: result.text,
        ids: result.ids,
        promptTokens: ids.length,
        session: result.session,
        ...figures(result),
        parties: traffic,
        plaintextSame: same ?? null,
      }),
    );
  console.log(
    `What each party saw:\n\n${table([
      ['party', 'from', 'bytes', 'what'],
      ...ends.flatMap((e) => (e.traffic ?? []).map((t) => [e.role, t.peer, bytes(t.received), seen(e.role, t.peer, o.weights)])),
    ])}\n\n${describeFigures(result)}`,
  );
  if (same !== undefined) console.log(`plaintext  ${same ? 'the same tokens' : 'other tokens: ' + JSON.stringify(tokenizer.decode(plain!))}`);
}

const seen = (role: string, peer: string, weights: Weights): string =>
  weights === 'private' && peer === 'client' ? 'random shares of one-hot rows' : (SEEN[role]![peer] ?? '');

/** What the bytes are, by receiver and sender. */
const SEEN: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  p0: { client: 'random shares of embeddings', p1: 'values under fresh masks', helper: 'keys and random halves', dealer: 'keys for both' },
  p1: { client: 'random shares of embeddings', p0: 'values under fresh masks', helper: 'keys and random halves', dealer: 'random halves' },
  helper: { p0: 'hello and credits, no values', p1: 'hello and credits, no values' },
};

/** Writes pieces to stdout, "answer:" before the first. */
function streamed(silent: boolean): (piece: string) => void {
  let begun = false;
  return (piece) => {
    if (silent) return;
    process.stdout.write(begun ? piece : `\nanswer: ${piece}`);
    begun = true;
  };
}

/** Greedy tokens of the model in the clear. */
async function plainTokens(model: string, artefact: Artefact, prompt: readonly number[], most: number): Promise<number[]> {
  const plain = new PlainModel((await openModel(model)).weights()),
    ids: number[] = [];
  let logits = new Float64Array();
  for (const id of prompt) logits = plain.next(id) as Float64Array<ArrayBuffer>;
  while (ids.length < most) {
    const id = logits.indexOf(Math.max(...logits));
    ids.push(id);
    if (artefact.shape.eosIds.includes(id)) break;
    logits = plain.next(id) as Float64Array<ArrayBuffer>;
  }
  return ids;
}

// ---- cases ------------------------------------------------------------------------------------------------------------------------------

interface Case {
  readonly name: string | undefined;
  readonly promptIds: readonly number[];
  readonly continuationIds: readonly number[];
  /** Best to second logit at each step, where the file has them. */
  readonly margins: readonly number[] | undefined;
}

const ids = z.array(z.number().int());
/** Two spellings are in use. */
const caseSchema = z
  .object({
    name: z.string().optional(),
    prompt: z.string().optional(),
    promptIds: ids.optional(),
    prompt_ids: ids.optional(),
    continuationIds: ids.min(1).optional(),
    greedy_ids: ids.min(1).optional(),
    margins: z.array(z.number()).optional(),
  })
  .refine((c) => c.continuationIds ?? c.greedy_ids, 'no continuationIds');
const casesSchema = z.object({ cases: z.array(caseSchema).min(1) });

/** A difference counts from here on: below, the two best tokens are too close for fixed point to tell. */
const MARGIN = 0.1;

async function readCases(path: string, artefact: Artefact, tokenizer: Tokenizer, only: readonly string[] | undefined, most = Infinity): Promise<Case[]> {
  const parsed = casesSchema.safeParse(await readJson(path, 'usage', '--cases FILE, of JSON'));
  if (!parsed.success)
    throw new CachetError({
      code: 'usage',
      step: `${path}, ${parsed.error.issues[0]!.path.join('.') || 'top level'}`,
      what: 'bad file of cases',
      expected: '{ "cases": [{ "promptIds": [..] or "prompt": "..", "continuationIds": [..] }] }',
      got: parsed.error.issues[0]!.message,
      hint: 'mend that place of the file',
    });
  const cases = parsed.data.cases.map((c, i): Case => {
    const promptTokens = c.promptIds ?? c.prompt_ids ?? (c.prompt === undefined ? undefined : promptIds(artefact, tokenizer, c.prompt));
    if (!promptTokens)
      throw new CachetError({
        code: 'usage',
        step: `${path}, case ${i + 1}`,
        what: 'no prompt',
        expected: 'promptIds or prompt',
        got: 'neither',
        hint: 'give it one of them',
      });
    return { name: c.name, promptIds: promptTokens, continuationIds: (c.continuationIds ?? c.greedy_ids)!, margins: c.margins };
  });
  const missing = only?.find((name) => !cases.some((c) => c.name === name));
  if (missing !== undefined)
    throw new CachetError({
      code: 'usage',
      step: '--case',
      what: 'no such case',
      expected: cases.map((c) => c.name ?? 'without a name').join(', '),
      got: missing,
      hint: 'one of those',
    });
  const chosen = cases.filter((c) => !only || only.includes(c.name ?? ''));
  const usable = chosen.filter((c) => artefact.prefixIds.every((id, i) => c.promptIds[i] === id)),
    kept = usable.filter((c) => c.promptIds.length <= most);
  if (usable.length === 0)
    throw new CachetError({
      code: 'usage',
      what: "no case begins with the model's public prefix",
      expected: `token ids ${artefact.prefixIds.join(' ')}`,
      got: 'other beginnings',
      hint: 'cases that were made for this model',
    });
  if (kept.length === 0)
    throw new CachetError({
      code: 'usage',
      what: 'no case is short enough',
      expected: `prompts of at most ${most} tokens`,
      got: `${Math.min(...usable.map((c) => c.promptIds.length))} tokens and more`,
      hint: 'a larger --max-prompt',
    });
  return kept;
}

async function runCases({ o, progress, asked }: Running, cases: readonly Case[]): Promise<void> {
  const rows: { name?: string; promptTokens: number; match: boolean; ids: readonly number[]; prefillMs: number; tokenMs: number | null }[] = [];
  for (const [i, c] of cases.entries()) {
    progress.update(`case ${i + 1} of ${cases.length}: ${c.promptIds.length} prompt tokens`);
    const result = await show(asked(c.promptIds, c.continuationIds.length, {}), new Progress({ silent: true }), () => undefined);
    const match = await matches(o.model, c, result.ids);
    rows.push({
      ...(c.name === undefined ? {} : { name: c.name }),
      promptTokens: c.promptIds.length,
      match,
      ids: result.ids,
      prefillMs: result.prefillMs,
      tokenMs: result.tokenMs ?? null,
    });
    progress.done(
      `case ${i + 1} of ${cases.length}${c.name === undefined ? '' : `, ${c.name}`}: ${c.promptIds.length} prompt tokens, prefill ${(result.prefillMs / 1e3).toFixed(2)} s, ${result.tokenMs === undefined ? '' : `${result.tokenMs.toFixed(0)} ms a token, `}${match ? 'the same tokens' : 'OTHER tokens'}:${result.text}`,
    );
  }
  const matched = rows.filter((r) => r.match).length;
  console.log(o.json ? JSON.stringify({ matches: matched, total: rows.length, cases: rows }) : `${matched} of ${rows.length} cases match`);
  if (matched < rows.length) process.exitCode = 1;
}

/** Token for token, up to the first place where the model in the clear hardly decides. */
async function matches(model: string, c: Case, got: readonly number[]): Promise<boolean> {
  const at = c.continuationIds.findIndex((id, i) => got[i] !== id);
  if (at < 0) return true;
  if (c.margins) return c.margins.slice(0, at + 1).some((margin) => margin < MARGIN);
  const plain = new PlainModel((await openModel(model)).weights());
  let logits: Float64Array | undefined;
  for (const id of c.promptIds) logits = plain.next(id);
  for (let i = 0; i <= at; i++) {
    const [best, second] = [...logits!].sort((a, b) => b - a) as [number, number];
    if (best - second < MARGIN) return true;
    logits = plain.next(c.continuationIds[i]!);
  }
  return false;
}

/** `cachet ask`: one private question to running parties. */
import { Command } from 'commander';
import { readModelArtefact, readPolicy, readTokenizer } from '../../client/node.ts';
import { ask } from '../../client/ask.ts';
import type { Tokenizer } from '../../client/tokenizer.ts';
import { promptIds } from '../../client/generate.ts';
import { CachetError } from '../../protocols/errors.ts';
import { reach, type DealerChoice } from '../reach.ts';
import { onInterrupt, Progress } from '../terminal.ts';
import { describeFigures, figures, show, traced } from './answer.ts';
import {
  addConfig,
  addSampling,
  beginTrace,
  configOf,
  dealerOption,
  idleUnless,
  needing,
  readNote,
  samplingOf,
  TRACE_HELP,
  traceOption,
  type SamplingOptions,
} from './options.ts';

interface Options extends SamplingOptions {
  config?: string;
  helper: DealerChoice;
  question?: string;
  note?: string;
  json?: boolean;
  trace?: string;
}

export const askCommand = addConfig(
  addSampling(
    new Command('ask')
      .description('Ask running parties a private question; the answer is streamed to stdout.')
      .argument('[prompt]', 'the whole prompt, special tokens written out; - or none: stdin')
      .option('--question <text>', 'a question, in place of the prompt')
      .option('--note <file>', 'with --question: the private text that it is about'),
  ),
  { client: true },
)
  .addOption(dealerOption(true))
  .option('--json', 'answer and figures as JSON on stdout')
  .addOption(traceOption())
  .addHelpText(
    'after',
    `\nExamples:\n  cachet ask --config parties.json --note note.txt --question "Who is Nina?"\n  cachet ask --config parties.json " It is 9.<|user|> What is it?<|assistant|>"\n${TRACE_HELP}`,
  )
  .action(async (prompt: string | undefined, o: Options) => {
    const config = await configOf(o),
      artefact = await readModelArtefact(config.model),
      tokenizer = await readTokenizer(config.model),
      progress = new Progress({ silent: o.json === true });
    if (o.question !== undefined && prompt !== undefined)
      throw new CachetError({ code: 'usage', what: 'prompt and --question', expected: 'one of them', got: 'both', hint: 'leave one out' });
    const text = o.question !== undefined ? await questionText(tokenizer, o.question, o.note) : prompt === undefined || prompt === '-' ? await stdin() : prompt,
      ids = promptIds(artefact, tokenizer, text),
      abort = new AbortController();
    if (ids.length <= artefact.prefixIds.length)
      throw new CachetError({
        code: 'usage',
        what: 'empty prompt',
        expected: 'text as an argument or on stdin',
        got: 'nothing',
        hint: 'cachet ask --help has examples',
      });
    const use = { promptTokens: ids.length - artefact.prefixIds.length, maxTokens: o.maxTokens },
      policy = await readPolicy(config.policy ?? 'full', config.model, artefact, use);
    onInterrupt(() => abort.abort());
    const trace = beginTrace(o.trace);
    const events = ask({
      artefact,
      tokenizer,
      ...reach(config, artefact, o.helper, abort.signal),
      prompt: ids,
      maxTokens: o.maxTokens,
      policy,
      sampling: samplingOf(o),
      ...traced(trace, artefact, ids.length - artefact.prefixIds.length, o.maxTokens),
    });
    const result = await show(events, progress, (piece) => void (o.json || process.stdout.write(piece)), policy).finally(() => trace?.close());
    if (o.json) console.log(JSON.stringify({ text: result.text, ids: result.ids, session: result.session, ...figures(result) }));
    else {
      process.stdout.write('\n');
      process.stderr.write(`${describeFigures(result)}\n`);
    }
  });
needing(askCommand, '--question', '--note');
idleUnless(
  askCommand,
  (own) => own.opts<Options>().helper === 'client',
  '--helper client, where this process deals',
  'another dealer',
  '--kernels',
  '--backend',
  '--threads',
);

/** A note and a question as the model's chat template has them. */
async function questionText(tokenizer: Tokenizer, question: string, note: string | undefined): Promise<string> {
  const about = note === undefined ? [] : [{ role: 'system' as const, content: await readNote(note) }];
  return tokenizer.chat([...about, { role: 'user', content: question.trim() }], true);
}

async function stdin(): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts).toString().replace(/\n$/, '');
}

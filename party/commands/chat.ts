/** `cachet chat`: several private questions over one session; the KV cache stays, only new tokens are sent. */
import { createInterface } from 'node:readline/promises';
import { Command, Option } from 'commander';
import { Chat } from '../../client/ask.ts';
import { EMBEDDED_MODEL, readModelArtefact, readPolicy, readTokenizer } from '../../client/node.ts';
import type { Tokenizer } from '../../client/tokenizer.ts';
import { CachetError } from '../../protocols/errors.ts';
import type { Config } from '../config.ts';
import { Trio } from '../launch.ts';
import { reach } from '../reach.ts';
import { onInterrupt, Progress } from '../terminal.ts';
import { describeCost, figures, show } from './answer.ts';
import { addConfig, addSampling, configOf, dealerOption, integer, readNote, samplingOf, type SamplingOptions } from './options.ts';

interface Options extends SamplingOptions {
  config?: string;
  model?: string;
  p0?: string;
  p1?: string;
  helperUrl?: string;
  listen?: string;
  policy?: string;
  helper: 'server' | 'client';
  note?: string;
  context?: number;
  json?: boolean;
}

export const chatCommand = addConfig(
  addSampling(
    new Command('chat')
      .description('Talk to the model in private: several questions over one session. A further question costs its own tokens alone.')
      .addOption(dealerOption())
      .option('--note <file>', 'a private text that the questions are about')
      .addOption(new Option('--context <n>', "tokens of all questions and answers, the note included (default: the model's positions)").argParser(integer(1))),
  ),
)
  .option('--json', 'one line of JSON an answer on stdout')
  .addHelpText(
    'after',
    '\nQuestions are lines of stdin; an empty line or its end ends the conversation.\nAn answer takes --max-tokens of the context, used or not. Without --config or\naddresses, party processes are started on this machine for the conversation.',
  )
  .action(async (o: Options) => {
    const config = o.config === undefined && o.p0 === undefined ? undefined : await configOf(o),
      local = config ? undefined : await localConfig(o),
      model = config?.model ?? o.model ?? EMBEDDED_MODEL,
      artefact = await readModelArtefact(model),
      tokenizer = await readTokenizer(model),
      note = o.note === undefined ? undefined : await readNote(o.note),
      use = note === undefined ? undefined : { promptTokens: noteTokens(tokenizer, note), maxTokens: o.maxTokens },
      policy = await readPolicy(config?.policy ?? o.policy ?? 'full', model, artefact, use),
      abort = new AbortController(),
      progress = new Progress({ silent: o.json === true });
    onInterrupt(() => abort.abort());
    const trio = local && (await Trio.start(model, { ...local, ...(o.helper === 'client' ? { roles: ['p0', 'p1'] } : {}) }));
    let failure: CachetError | undefined,
      answering = false;
    // Lines are read from here on: earlier ones would be lost.
    const terminal = createInterface({ input: process.stdin, output: process.stdout, terminal: process.stdin.isTTY === true, prompt: '> ' });
    terminal.on('SIGINT', () => abort.abort());
    abort.signal.addEventListener('abort', () => terminal.close());
    let chat: Chat | undefined;
    try {
      chat = new Chat({
        artefact,
        tokenizer,
        ...reach(config ?? trio!.config, artefact, o.helper, abort.signal),
        maxTokens: o.maxTokens,
        policy,
        sampling: samplingOf(o),
        // A party that is gone ends the conversation, also while it waits for a question.
        onFailure(error) {
          failure = error;
          if (!answering && !o.json && process.stdin.isTTY) process.stdout.write('\n');
          terminal.close();
        },
        ...(note === undefined ? {} : { note }),
        ...(o.context === undefined ? {} : { context: o.context }),
      });
      const prompt = (): void => void (!o.json && process.stdin.isTTY && terminal.prompt());
      prompt();
      for await (const line of terminal) {
        if (line.trim() === '') break;
        answering = true;
        try {
          const result = await show(chat.ask(line), progress, (piece) => void (o.json || process.stdout.write(piece)), policy);
          if (o.json) console.log(JSON.stringify({ question: line, text: result.text, ids: result.ids, session: result.session, ...figures(result) }));
          else {
            process.stdout.write('\n');
            process.stderr.write(`${describeCost(result)}\n`);
          }
        } catch (error) {
          // A question that does not fit leaves the conversation as it was.
          if (!(error instanceof CachetError) || error.code !== 'limit' || chat.room === undefined) throw error;
          process.stderr.write(`cachet: ${error.message}\n`);
          process.exitCode = 1;
        }
        answering = false;
        prompt();
      }
      if (abort.signal.aborted) throw new CachetError({ code: 'aborted', what: 'interrupted' });
      if (failure) throw failure;
    } finally {
      terminal.close();
      await chat?.stop();
      await trio?.stop();
    }
  });

/** What the parties that it starts are told: the fields that were given. An address without P0's would leave the note to other parties than were meant. */
async function localConfig(o: Options): Promise<Partial<Config>> {
  for (const [flag, value] of Object.entries({ '--p1': o.p1, '--helper-url': o.helperUrl, '--listen': o.listen }))
    if (value !== undefined)
      throw new CachetError({
        code: 'usage',
        step: flag,
        what: 'address without that of P0',
        expected: '--p0 as well, or --config FILE; without either, parties are started on this machine',
        got: `${flag} alone`,
        hint: `--p0 ws://HOST:PORT, or leave ${flag} out`,
      });
  const nowhere = 'ws://127.0.0.1:0',
    // The policy is the session's, which the client asks for.
    { p0: _0, p1: _1, model: _model, policy: _policy, ...given } = await configOf(Object.assign({}, o, { p0: nowhere, p1: nowhere }));
  return given;
}

/** What a first prompt has at least. */
const noteTokens = (tokenizer: Tokenizer, note: string): number => tokenizer.encode(tokenizer.chat([{ role: 'system', content: note }], false)).length;

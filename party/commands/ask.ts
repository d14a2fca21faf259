/** `cachet ask`: one private question to running parties. */
import { Command } from 'commander';
import { readModelArtefact, readTokenizer } from '../../client/node.ts';
import { ask } from '../../client/ask.ts';
import { promptIds } from '../../client/generate.ts';
import { CachetError } from '../../protocols/errors.ts';
import { readConfigFile } from '../config.ts';
import { reach } from '../reach.ts';
import { onInterrupt, Progress } from '../terminal.ts';
import { describeFigures, figures, show, traced } from './answer.ts';
import { addSampling, beginTrace, dealerOption, samplingOf, TRACE_HELP, traceOption, type SamplingOptions } from './options.ts';

export const askCommand = addSampling(
  new Command('ask')
    .description('Ask running parties a private question; the answer is streamed to stdout.')
    .argument('[prompt]', 'the whole prompt, special tokens written out; - or none: read from stdin')
    .requiredOption('--config <file>', 'configuration of the parties, JSON; see cachet party --help'),
)
  .addOption(dealerOption())
  .option('--json', 'answer and figures as JSON on stdout')
  .addOption(traceOption())
  .addHelpText(
    'after',
    `\nExample:\n  cachet ask --config parties.json " Tom lives in Oslo. Nina's pin is 4711.<|user|> What is Nina's pin?<|assistant|>"\n${TRACE_HELP}`,
  )
  .action(async (prompt: string | undefined, o: SamplingOptions & { config: string; helper: 'server' | 'client'; json?: boolean; trace?: string }) => {
    const config = await readConfigFile(o.config),
      artefact = await readModelArtefact(config.model),
      tokenizer = await readTokenizer(config.model);
    const text = prompt === undefined || prompt === '-' ? await stdin() : prompt,
      ids = promptIds(artefact, tokenizer, text),
      abort = new AbortController();
    if (ids.length <= artefact.prefixIds.length)
      throw new CachetError({ code: 'usage', what: 'empty prompt', expected: 'text as an argument or on stdin', got: 'nothing' });
    onInterrupt(() => abort.abort());
    const trace = beginTrace(o.trace);
    const events = ask({
      artefact,
      tokenizer,
      ...reach(config, artefact, o.helper, abort.signal),
      prompt: ids,
      maxTokens: o.maxTokens,
      sampling: samplingOf(o),
      ...traced(trace, artefact, ids.length - artefact.prefixIds.length, o.maxTokens),
    });
    const result = await show(events, new Progress({ silent: o.json === true }), (piece) => void (o.json || process.stdout.write(piece))).finally(() =>
      trace?.close(),
    );
    if (o.json) console.log(JSON.stringify({ text: result.text, ids: result.ids, session: result.session, ...figures(result) }));
    else {
      process.stdout.write('\n');
      process.stderr.write(`${describeFigures(result)}\n`);
    }
  });

async function stdin(): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts).toString().replace(/\n$/, '');
}

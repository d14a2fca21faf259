/** `cachet eval`: how faithful a model's artefact is on a text. */
import { Command, Option } from 'commander';
import { openModel, readBytes, readPolicy, readTokenizer } from '../../client/node.ts';
import { Tokenizer } from '../../client/tokenizer.ts';
import { CachetError } from '../../protocols/errors.ts';
import { evaluate, type Evaluation } from '../../protocols/evaluate.ts';
import { describePolicy } from '../../protocols/policy.ts';
import { artefactOf } from '../preparing.ts';
import { measure } from '../measuring.ts';
import { qualityTable } from '../qualityTable.ts';
import { percent, Progress, table, wrap } from '../terminal.ts';
import { idleUnless, integer, integers, needing } from './options.ts';

interface Options {
  model: string;
  weights?: string;
  text?: string;
  window: number;
  positions: number;
  sample: number;
  policy?: string[];
  promptTokens: number[];
  continuation: number;
  questions: number;
  seed: number;
  spread?: boolean;
  streaming?: boolean;
  report?: boolean;
  json?: boolean;
}

export const evalCommand = new Command('eval')
  .description(
    'Compare the protocol with the model in float32, token by token on a text: perplexity, most likely tokens, distance of every value to its limit.',
  )
  .requiredOption('--model <model>', 'model with an artefact')
  .option('--weights <model>', "where its unquantised weights are (default: the model's own)")
  .option('--text <file>', 'text that was not used to prepare the model; special tokens may be written out')
  .addOption(new Option('--window <n>', 'tokens in one piece, each after the public prefix').argParser(integer(2)).default(256))
  .addOption(new Option('--positions <n>', 'tokens predicted at most').argParser(integer(1)).default(1000))
  .addOption(
    new Option('--sample <n>', 'tokens of the first window that also go through the protocol; with --policy, of an answer to a short prompt')
      .argParser(integer(0))
      .default(4),
  )
  .option('--policy <policies...>', 'compare cache policies with the full cache instead, on pieces of the text and on generated facts')
  .addOption(
    new Option('--prompt-tokens <list>', 'with --policy: private tokens of prompts, with spaces between')
      .argParser(integers(64))
      .default([500, 700, 900], '500 700 900'),
  )
  .addOption(new Option('--continuation <n>', 'with --policy: tokens predicted after a piece').argParser(integer(1)).default(64))
  .addOption(new Option('--questions <n>', 'with --policy: facts asked for').argParser(integer(0)).default(50))
  .addOption(new Option('--seed <n>', 'with --policy: of the facts').argParser(integer(0)).default(1))
  .option('--spread', "with --policy: measure first how far the scores of each layer's clusters lie apart, and quantise them as finely as that allows")
  .option('--streaming', 'with --policy: also policies in which the heads that need no more attend to the beginning and the newest tokens alone')
  .option('--report', "with --policy: write the rows beside the artefact as the model's quality report; mpcache is what it recommends")
  .option('--json', 'print the result as JSON on stdout')
  .action(async (o: Options) => {
    if (o.policy) return comparePolicies(o, o.policy);
    if (o.text === undefined)
      throw new CachetError({ code: 'usage', what: 'no text', expected: '--text FILE, or --policy', got: 'neither', hint: 'cachet eval --help' });
    const progress = new Progress({ silent: o.json === true }),
      started = performance.now(),
      artefact = await artefactOf(o.model),
      model = await openModel(o.weights ?? o.model);
    if (!model.tokenizer)
      throw new CachetError({
        code: 'model',
        what: 'no tokenizer',
        expected: 'one beside the weights',
        got: 'none',
        hint: '--weights MODEL, with a tokenizer.json',
      });
    const ids = new Tokenizer(model.tokenizer, model.tokenizerConfig).encode(
        new TextDecoder().decode(await readBytes(o.text, 'usage', '--text FILE, with the text in it')),
      ),
      windows = windowsOf(ids, artefact.prefixIds, o.window, o.positions);
    if (windows.length === 0)
      throw new CachetError({
        code: 'usage',
        step: o.text,
        what: 'text too short',
        expected: 'at least two tokens',
        got: String(ids.length),
        hint: 'a longer text',
      });
    const result = evaluate({
      artefact,
      weights: model.weights(),
      windows,
      sample: o.sample,
      onProgress: (done, total) => progress.update(`window ${done} of ${total}`),
    });
    const seconds = (performance.now() - started) / 1e3;
    if (o.json) return void console.log(JSON.stringify({ model: o.model, artefact: artefact.digest, text: o.text, window: o.window, seconds, ...result }));
    progress.done(`${result.positions} positions in ${windows.length} windows, ${seconds.toFixed(1)} s`);
    for (const line of describe(artefact.name, result)) console.log(line);
  });

needing(evalCommand, '--policy', '--prompt-tokens', '--continuation', '--questions', '--seed', '--spread', '--streaming', '--report');
idleUnless(evalCommand, (own) => own.opts<Options>().policy === undefined, 'a comparison with float32', '--policy', '--weights', '--window');

/** Pieces of a text, each after the public prefix; a token more than is predicted. */
export function windowsOf(ids: readonly number[], prefix: readonly number[], window: number, positions: number): number[][] {
  const windows: number[][] = [];
  for (let at = 0, left = positions; at + 2 <= ids.length && left > 0; at += window) {
    const piece = ids.slice(at, at + Math.min(window, left + 1));
    if (piece.length < 2) break;
    windows.push([...prefix, ...piece]);
    left -= piece.length - 1;
  }
  return windows;
}

async function comparePolicies(o: Options, names: readonly string[]): Promise<void> {
  const progress = new Progress(),
    artefact = await artefactOf(o.model),
    { policies, rows, samples } = await measure({
      ...o,
      artefact,
      tokenizer: await readTokenizer(o.model),
      policies: await Promise.all(names.map((name) => readPolicy(name, o.model, artefact))),
      text: o.text === undefined ? undefined : new TextDecoder().decode(await readBytes(o.text, 'usage', '--text FILE, with the text in it')),
      spread: o.spread === true,
      streaming: o.streaming === true,
      report: o.report === true,
      onProgress: (text) => progress.update(text),
    });
  progress.update('');
  if (o.json)
    return void console.log(
      JSON.stringify({
        model: artefact.name,
        artefact: artefact.digest,
        text: o.text ?? null,
        promptTokens: o.promptTokens,
        seed: o.seed,
        policies: rows,
        samples,
      }),
    );
  for (const policy of policies) console.log(wrap(describePolicy(policy)));
  console.log(`\n${artefact.name} at prompts of ${o.promptTokens.join(', ')} tokens, against its own full cache:\n`);
  console.log(qualityTable(rows));
  for (const s of samples)
    console.log(
      `${s.policy}: ${s.positions} tokens after ${s.promptTokens} through the protocol ${s.equalsFixed ? 'equal the Fixed engine bit for bit' : 'DIFFER from the Fixed engine'}`,
    );
}

function describe(name: string, r: Evaluation): string[] {
  const { perplexity: p, worstLayer, protocol } = r;
  return [
    `${name}: perplexity ${p.float.toFixed(3)} in float, ${p.fixed.toFixed(3)} in the protocol (${p.change >= 0 ? '+' : ''}${percent(p.change)})`,
    `same most likely token at ${percent(r.top1Agreement)}, largest margin missed ${r.largestMissedMargin.toFixed(3)}`,
    `logits differ by ${r.logitError.rms.toFixed(4)} (rms), ${r.logitError.max.toFixed(3)} at most; divergence ${r.divergence.toExponential(2)}`,
    `worst layer ${worstLayer.layer}: residual stream off by ${worstLayer.relativeError.toExponential(2)} of its size`,
    protocol
      ? `${protocol.positions} positions through the protocol: ${protocol.equalsFixed ? 'equal the Fixed engine bit for bit' : 'DIFFER from the Fixed engine'}`
      : 'no sample through the protocol',
    '',
    table([['closest to a limit', 'layer', 'used'], ...r.domains.slice(0, 8).map((d) => [d.what, String(d.layer), percent(d.used)])]),
  ];
}

/** `cachet prepare`: a model to its integer artefact. */
import { dirname, join } from 'node:path';
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, packageRoot, readBytes, readModelArtefact, readTokenizer } from '../../client/node.ts';
import { CANDIDATES } from '../../protocols/policy.ts';
import type { PolicyQuality } from '../../protocols/quality.ts';
import { measure } from '../measuring.ts';
import { makeArtefact } from '../preparing.ts';
import { qualityTable } from '../qualityTable.ts';
import { bytes, Progress, table } from '../terminal.ts';
import { integer } from './options.ts';

interface Options {
  model: string;
  calibration?: string;
  prefix?: string;
  name?: string;
  out?: string;
  quality?: number;
  json?: boolean;
}

export const prepareCommand = new Command('prepare')
  .description('Make the integer artefact of a model: quantise, calibrate on sample text, fit tables; refuses a model that would overflow.')
  .requiredOption('--model <model>', 'Hugging Face folder, GGUF file or a folder with one, or random:NAME')
  .option('--calibration <file>', 'sample text, one document a line, special tokens written out (default: calibration.txt in the folder, or a general text)')
  .option('--prefix <text>', 'public text before every prompt (default: what the chat template begins with, or the BOS token)')
  .option('--name <name>', "the artefact's name (default: the folder's)")
  .option('--out <file>', "artefact to write (default: model.cachet in the folder, or the GGUF file's name with .cachet)")
  .addOption(
    new Option(
      '--quality [questions]',
      'measure cache policies as well, on so many generated questions and on the sample text, and write the report from which mpcache is taken',
    )
      .argParser(integer(1))
      .preset(50),
  )
  .option('--json', 'print the result as JSON on stdout')
  .action(async (o: Options) => {
    const progress = new Progress({ silent: o.json === true }),
      started = performance.now(),
      result = await makeArtefact({ ...o, onProgress: (done, total) => progress.update(`calibrating: document ${done} of ${total}`) }),
      { path, digest } = result,
      seconds = (performance.now() - started) / 1e3,
      rows = o.quality === undefined ? [] : await measureCandidates(path, o.quality, progress);
    if (o.json)
      return void console.log(
        JSON.stringify({
          artefact: path,
          bytes: result.bytes.length,
          digest,
          seconds,
          residualScale: result.residualScale,
          prefixTokens: result.prefixTokens,
          layers: result.report,
          ranges: Object.fromEntries(result.ranges),
          policies: rows,
        }),
      );
    progress.done(`calibrated on ${result.documents} documents after ${result.prefixTokens} public tokens in ${seconds.toFixed(1)} s`);
    console.log(
      table([
        ['layer', 'reference', 'nats', 'terms', 'error', 'sum of squares', 'weight bits'],
        ...result.report.map((r) => [
          String(r.layer),
          r.reference,
          String(r.logitNats),
          String(r.activationTerms),
          r.activationError.toExponential(1),
          `${r.normRange[0].toPrecision(3)} .. ${r.normRange[1].toPrecision(3)}`,
          Object.values(r.weightBits).join(' '),
        ]),
      ]),
    );
    if (rows.length > 0) console.log(`\n${qualityTable(rows)}\n`);
    console.log(`${path}: ${bytes(result.bytes.length)}, sha256 ${digest}`);
  });

/** Lengths of prompts on which a model's policies are measured, those that it has room for. */
const PROMPTS = [500, 700, 900],
  ROOM = 100;

async function measureCandidates(path: string, questions: number, progress: Progress): Promise<readonly PolicyQuality[]> {
  const model = path.endsWith('model.cachet') ? dirname(path) : path.replace(/\.cachet$/, '.gguf'),
    artefact = await readModelArtefact(model),
    room = artefact.shape.maxPositions - artefact.prefixIds.length - ROOM,
    fitting = PROMPTS.filter((n) => n <= room),
    // The embedded model knows notes alone.
    text =
      artefact.name === EMBEDDED_MODEL
        ? undefined
        : new TextDecoder().decode(await readBytes(join(packageRoot(), 'protocols', 'models', 'calibration.txt'), 'usage')),
    { rows } = await measure({
      model,
      artefact,
      tokenizer: await readTokenizer(model),
      policies: CANDIDATES,
      text: text?.replaceAll('\n', ' '),
      promptTokens: fitting.length > 0 ? fitting : [room],
      continuation: 64,
      positions: 512,
      questions,
      seed: 1,
      spread: true,
      streaming: true,
      sample: 0,
      report: true,
      onProgress: (t) => progress.update(t),
    });
  return rows;
}

/** `cachet prepare`: a Hugging Face folder to the integer artefact `model.cachet` in it. */
import { join } from 'node:path';
import { Command } from 'commander';
import { artefactPath, modelFolder, openModel, readBytes, readTokenizer } from '../../client/node.ts';
import { readArtefact } from '../../protocols/artefact.ts';
import { CachetError } from '../../protocols/errors.ts';
import { prepare } from '../../protocols/prepare.ts';
import { writeAtomically } from '../files.ts';
import { bytes, Progress, table } from '../terminal.ts';

interface Options {
  model: string;
  calibration?: string;
  prefix?: string;
  name?: string;
  out?: string;
  json?: boolean;
}

export const prepareCommand = new Command('prepare')
  .description('Make the integer artefact of a Llama: quantise, calibrate on sample text, fit tables; refuses a model that would overflow.')
  .requiredOption('--model <dir>', 'folder with config.json, model.safetensors (F32, F16 or BF16) and tokenizer.json')
  .option('--calibration <file>', 'sample text, one document a line, special tokens written out (default: calibration.txt in the folder)')
  .option('--prefix <text>', "public text before every prompt (default: the model's BOS token)")
  .option('--name <name>', "the artefact's name (default: the folder's)")
  .option('--out <file>', 'artefact to write (default: model.cachet in the folder)')
  .option('--json', 'print the result as JSON on stdout')
  .action(async (o: Options) => {
    const folder = modelFolder(o.model),
      progress = new Progress({ silent: o.json === true }),
      started = performance.now();
    const model = await openModel(o.model),
      { shape } = model,
      weights = model.weights(),
      tokenizer = await readTokenizer(o.model);
    const prefixIds = o.prefix === undefined ? (shape.bosId === null ? [] : [shape.bosId]) : tokenizer.encode(o.prefix);
    const text = new TextDecoder().decode(
      await readBytes(o.calibration ?? join(folder, 'calibration.txt'), 'usage', '--calibration FILE with sample text, one document a line'),
    );
    const documents = text
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => tokenizer.encode(line));
    if (documents.length === 0) throw new CachetError({ code: 'usage', what: 'no calibration text', expected: 'one document a line', got: 'an empty file' });
    const result = prepare({
      name: o.name ?? model.name,
      weights,
      prefixIds,
      documents,
      onProgress: (done, total) => progress.update(`calibrating: document ${done} of ${total}`),
    });
    const path = o.out ?? artefactPath(o.model),
      { digest } = readArtefact(result.bytes);
    await writeAtomically(path, result.bytes);
    const seconds = (performance.now() - started) / 1e3;
    if (o.json)
      return void console.log(
        JSON.stringify({ artefact: path, bytes: result.bytes.length, digest, seconds, layers: result.report, ranges: Object.fromEntries(result.ranges) }),
      );
    progress.done(`calibrated on ${documents.length} documents in ${seconds.toFixed(1)} s`);
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
    console.log(`${path}: ${bytes(result.bytes.length)}, sha256 ${digest}`);
  });

/** `cachet prepare`: a model to its integer artefact. */
import { Command } from 'commander';
import { makeArtefact } from '../preparing.ts';
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
  .description('Make the integer artefact of a model: quantise, calibrate on sample text, fit tables; refuses a model that would overflow.')
  .requiredOption('--model <model>', 'Hugging Face folder, GGUF file or a folder with one, or random:NAME')
  .option('--calibration <file>', 'sample text, one document a line, special tokens written out (default: calibration.txt in the folder, or a general text)')
  .option('--prefix <text>', 'public text before every prompt (default: what the chat template begins with, or the BOS token)')
  .option('--name <name>', "the artefact's name (default: the folder's)")
  .option('--out <file>', "artefact to write (default: model.cachet in the folder, or the GGUF file's name with .cachet)")
  .option('--json', 'print the result as JSON on stdout')
  .action(async (o: Options) => {
    const progress = new Progress({ silent: o.json === true }),
      started = performance.now(),
      result = await makeArtefact({ ...o, onProgress: (done, total) => progress.update(`calibrating: document ${done} of ${total}`) }),
      { path, digest } = result,
      seconds = (performance.now() - started) / 1e3;
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
    console.log(`${path}: ${bytes(result.bytes.length)}, sha256 ${digest}`);
  });

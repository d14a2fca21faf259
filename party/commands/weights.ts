/** `cachet weights split`: the owner's side of private weights. */
import { Command } from 'commander';
import { splitWeights } from '../preparing.ts';
import { bytes, Progress, table } from '../terminal.ts';

const EXAMPLE = `
Example, by the owner of a model in the folder notes:
  cachet prepare --model notes
  cachet weights split --model notes --out parts
then parts/p0 goes to P0 alone, parts/p1 to P1, parts/helper to the helper, and
parts/client to whoever may ask. Each party and client names its own folder:
  cachet party --role p0 --config parties.json --model parts/p0
  cachet ask --config parties.json --model parts/client --question ...

The evaluators get masked weights and a seed each, the helper both seeds; the
client gets neither embedding nor head. Any one of P0, P1 and the helper learns
nothing of the weights; two of them together have them. Shapes, scales and the
tables fitted to the model's ranges are public to all. --helper client is
refused: a dealer knows the weights' masks.`;

interface Options {
  model: string;
  out: string;
  calibration?: string;
  hideLogits?: boolean;
  json?: boolean;
}

export const weightsCommand = new Command('weights').description('Weights that no party may see.').addCommand(
  new Command('split')
    .description("Split a prepared model's weights: one folder a role, to be given to nobody else. Every call takes fresh masks.")
    .requiredOption('--model <model>', 'model folder with its artefact (cachet prepare)')
    .requiredOption('--out <dir>', 'folder that gets p0, p1, helper and client')
    .option('--calibration <file>', 'sample text, one document a line (default: calibration.txt in the folder, or a general text)')
    .option('--hide-logits', 'clients get the most likely token alone: greedy answers, no logits to learn the model from')
    .option('--json', 'print the result as JSON on stdout')
    .addHelpText('after', EXAMPLE)
    .action(async (o: Options) => {
      const progress = new Progress({ silent: o.json === true }),
        { digest, files } = await splitWeights({ ...o, onProgress: (done, total) => progress.update(`measuring ranges: document ${done} of ${total}`) });
      progress.update('');
      if (o.json) return void console.log(JSON.stringify({ digest, files }));
      console.log(table([['role', 'file', 'size'], ...files.map((f) => [f.role, f.path, bytes(f.bytes)])]));
      console.log(`one private model, sha256 ${digest}`);
    }),
);

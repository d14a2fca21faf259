/** `cachet bench`: kernel rates and session latencies on this machine, against the project's goals. */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, readModelArtefact } from '../../client/node.ts';
import { benchKernels } from '../bench/kernels.ts';
import { benchSession } from '../bench/session.ts';
import { bytes, describeMachine } from '../terminal.ts';
import { integer } from './options.ts';

/** Of the embedded model, ms on 2 cores; preprocessing included. */
const GOALS: Readonly<Record<string, number>> = { pp150: 6000, 'tg256, dealing beside': 60, 'tg256, dealt ahead': 60 };

export const benchCommand = new Command('bench')
  .description('Measure kernel rates (one core) and private sessions (three processes on loopback).')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--only <part>', 'one part alone').choices(['kernels', 'session']))
  .addOption(new Option('--tokens <n>', 'tokens decoded for a row').argParser(integer(1)).default(16))
  .option('--json', 'rows as JSON on stdout')
  .action(async (o: { model: string; only?: string; tokens: number; json?: boolean }) => {
    const say = (line: string): void => void (o.json || console.log(line)),
      missed = (bad: boolean): string => (bad ? ', MISSED' : '');
    const machine = describeMachine();
    say(machine);
    const kernels =
      o.only === 'session'
        ? []
        : benchKernels('wasm', (r) =>
            say(
              `${r.name.padEnd(32)} ${r.rate.toFixed(2).padStart(8)} ${r.unit}${r.floor === undefined ? '' : ` (floor ${r.floor}${missed(r.rate < r.floor)})`}`,
            ),
          );
    const session =
      o.only === 'kernels'
        ? []
        : await benchSession({
            model: o.model,
            artefact: await readModelArtefact(o.model),
            prompts: [32, 150],
            contexts: [64, 256],
            tokens: o.tokens,
            goals: o.model === EMBEDDED_MODEL ? GOALS : {},
            onRow: (r) =>
              say(
                `${r.name.padEnd(32)} ${r.ms.toFixed(1).padStart(8)} ms${r.goalMs === undefined ? '' : ` (goal ${r.goalMs}${missed(r.ms > r.goalMs)})`}, ${r.waitDealtMs.toFixed(1)} ms of it for the helper; ${r.rounds} rounds, ${bytes(r.onlineBytes)} online, ${bytes(r.dealtBytes)} dealt`,
              ),
          });
    if (o.json) console.log(JSON.stringify({ machine, network: 'loopback', model: o.model, kernels, session }));
  });

/** `cachet bench`: kernel rates and session latencies on this machine, against the project's goals. */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL } from '../../client/node.ts';
import { benchKernels, describeKernel } from '../bench/kernels.ts';
import { benchSession, type SessionRow } from '../bench/session.ts';
import { parseNet } from '../shaper.ts';
import { artefactOf } from '../preparing.ts';
import { bytes, describeMachine, onInterrupt } from '../terminal.ts';
import { policiesCommand } from './benchPolicies.ts';
import { backendsCommand, dealingCommand, decodeCommand, evictCommand, operatorsCommand, opsCommand, prefillCommand, storeRowCommand } from './benchSteps.ts';
import { idleUnless, integer } from './options.ts';

const nets = (text: string): string[] =>
  text
    .trim()
    .split(/\s+/)
    .map((net) => parseNet(net).name);

/** Of the embedded model, ms on 2 cores; preprocessing included. */
const GOALS: Readonly<Record<string, number>> = { pp150: 6000, 'tg256, dealing beside': 60, 'tg256, dealt ahead': 60 };

const model = (): Option => new Option('--model <dir>', 'model folder, or the embedded model').default(EMBEDDED_MODEL),
  net = (): Option =>
    new Option('--net <list>', 'networks of the sessions, with spaces between: loopback, lan, wan or rtt=MS,mbps=N')
      .argParser(nets)
      .default(['loopback', 'lan', 'wan'], 'loopback lan wan'),
  tokens = (): Option => new Option('--tokens <n>', 'tokens decoded for a row').argParser(integer(1)).default(16),
  json = (): Option => new Option('--json', 'rows as JSON on stdout');

interface Options {
  readonly model: string;
  readonly only?: string;
  readonly net: string[];
  readonly tokens: number;
  readonly json?: boolean;
}

const sessionCommand = new Command('session')
  .description('Prefills and tokens of ordinary sessions, by the clock at the client: the second part of cachet bench.')
  .addOption(model())
  .addOption(net())
  .addOption(tokens())
  .addOption(json())
  .action((o: Options) => measure({ ...o, only: 'session' }));

export const benchCommand = new Command('bench')
  .description('Measure kernel rates (one core) and private sessions (three processes on loopback).')
  .enablePositionalOptions()
  .addCommand(decodeCommand)
  .addCommand(evictCommand)
  .addCommand(policiesCommand)
  .addCommand(prefillCommand)
  .addCommand(opsCommand)
  .addCommand(operatorsCommand)
  .addCommand(storeRowCommand)
  .addCommand(backendsCommand)
  .addCommand(dealingCommand)
  .addCommand(sessionCommand)
  .addOption(model())
  .addOption(new Option('--only <part>', 'one part alone').choices(['kernels', 'session']))
  .addOption(net())
  .addOption(tokens())
  .addOption(json())
  .action(measure);

idleUnless(benchCommand, (own) => own.opts<Options>().only !== 'kernels', 'sessions to be measured', '--only kernels', '--model', '--net', '--tokens');

async function measure(o: Options): Promise<void> {
  const abort = new AbortController();
  onInterrupt(() => abort.abort());
  const say = (line: string): void => void (o.json || console.log(line));
  const machine = describeMachine();
  say(machine);
  const kernels = o.only === 'session' ? [] : benchKernels('wasm', (r) => say(describeKernel(r)));
  const session =
    o.only === 'kernels'
      ? []
      : await benchSession({
          model: o.model,
          artefact: await artefactOf(o.model),
          nets: o.net,
          signal: abort.signal,
          prompts: [32, 150],
          contexts: [64, 256],
          tokens: o.tokens,
          goals: o.model === EMBEDDED_MODEL ? GOALS : {},
          onRow: (r) => say(describe(r)),
        });
  if (o.json) console.log(JSON.stringify({ machine, model: o.model, kernels, session }));
}

const describe = (r: SessionRow): string =>
  [
    `${`${r.net} ${r.name}`.padEnd(34)}${r.ms.toFixed(1).padStart(9)} ms${r.goalMs === undefined ? '' : ` (goal ${r.goalMs}${r.ms > r.goalMs ? ', MISSED' : ''})`}`,
    `    ${r.waitDealtMs.toFixed(1)} ms of it for the helper; ${r.rounds} rounds, ${bytes(r.onlineBytes)} online, ${bytes(r.dealtBytes)} dealt`,
    ...(r.explainedMs === undefined ? [] : [`    rounds explain ${r.roundsMs!.toFixed(0)} ms, with bytes and computing ${r.explainedMs.toFixed(0)} ms`]),
  ].join('\n');

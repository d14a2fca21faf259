/** `cachet bench decode`, `prefill`, `ops`, `backends`: rows of one kind of step (bench/steps.ts), of kernels of gates and of backends. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { EMBEDDED_MODEL } from '../../client/node.ts';
import { benchBackends, MEASURED } from '../bench/backends.ts';
import { benchGates, machineLimits, type GateRow } from '../bench/gates.ts';
import { benchKernels } from '../bench/kernels.ts';
import { benchSteps, type Spread, type StepsRow } from '../bench/steps.ts';
import { parseNet } from '../shaper.ts';
import { artefactOf } from '../preparing.ts';
import { bytes, count, describeMachine, onInterrupt, Progress, table } from '../terminal.ts';
import { integer } from './options.ts';

/** Numbers with spaces between. */
const integers =
  (low: number) =>
  (text: string): number[] =>
    text.trim().split(/\s+/).map(integer(low));

interface Options {
  readonly model: string;
  readonly context: number[];
  readonly tokens: number[];
  readonly net: string;
  readonly reps: number;
  readonly threads: number;
  readonly aheadMib: number;
  readonly json?: boolean;
}

const command = (task: 'decode' | 'prefill', description: string): Command =>
  new Command(task)
    .description(description)
    .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
    .addOption(new Option('--policy <name>', 'what the cache keeps').choices(['full']).default('full'))
    .addOption(new Option('--net <net>', 'loopback, lan, wan or rtt=MS,mbps=N').argParser((net) => parseNet(net).name).default('loopback'))
    .addOption(new Option('--reps <n>', 'sessions for a row').argParser(integer(1)).default(3))
    .addOption(new Option('--threads <n>', "threads of each party's engine").argParser(integer(1)).default(1))
    .addOption(new Option('--ahead-mib <n>', 'dealt material that may wait at a party, MiB').argParser(integer(8)).default(64))
    .option('--json', 'rows as JSON on stdout');

async function rows(task: 'decode' | 'prefill', o: Options): Promise<void> {
  const abort = new AbortController(),
    progress = new Progress({ silent: o.json ?? false }),
    artefact = await artefactOf(o.model),
    machine = describeMachine(),
    found: StepsRow[] = [];
  onInterrupt(() => abort.abort());
  if (!o.json) console.log(machine);
  for (const n of task === 'decode' ? o.context : o.tokens) {
    const row = await benchSteps({
      task,
      model: o.model,
      artefact,
      net: o.net,
      context: task === 'decode' ? n : 0,
      tokens: task === 'decode' ? o.tokens[0]! : n,
      reps: o.reps,
      threads: o.threads,
      aheadMib: o.aheadMib,
      signal: abort.signal,
      onProgress: (text) => progress.update(`${task} ${n}: ${text}`),
    });
    progress.update('');
    found.push(row);
    if (!o.json) console.log(describe(row));
  }
  if (o.json) console.log(JSON.stringify({ machine, rows: found }));
}

export const decodeCommand = command('decode', 'One token at a context whose cache is filled with random wires.')
  .addOption(new Option('--context <list>', 'cached tokens, with spaces between').argParser(integers(1)).default([512], '512'))
  .addOption(new Option('--tokens <n>', 'tokens of a session').argParser(integers(1)).default([8], '8'))
  .action((o: Options) => rows('decode', o));

export const prefillCommand = command('prefill', 'A prompt of private tokens, in one batch.')
  .addOption(new Option('--tokens <list>', 'private tokens, with spaces between').argParser(integers(1)).default([32], '32'))
  .action((o: Options) => rows('prefill', o));

export const opsCommand = new Command('ops')
  .description("Kernel rates of one core, and the gates of a token with their distance from the machine's limit.")
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--context <n>', 'cached tokens').argParser(integer(1)).default(512))
  .addOption(new Option('--kernels <name>', 'kernel backend').choices(['wasm', 'reference']).default('wasm'))
  .option('--json', 'rows as JSON on stdout')
  .action(async (o: { model: string; context: number; kernels: string; json?: boolean }) => {
    const progress = new Progress({ silent: o.json ?? false }),
      artefact = await artefactOf(o.model),
      machine = describeMachine();
    const kernels = benchKernels(o.kernels, (r) => progress.update(r.name)),
      limits = machineLimits(o.kernels);
    progress.update(`gates of a token at ${o.context} cached tokens`);
    const gates = benchGates(artefact, o.kernels, o.context, limits);
    progress.update('');
    if (o.json) return void console.log(JSON.stringify({ machine, model: o.model, context: o.context, limits, kernels, gates }));
    console.log(`${machine}\n`);
    console.log(
      table([
        ['kernel, one core', 'rate', 'unit', 'floor'],
        ...kernels.map((r) => [r.name, r.rate.toFixed(2), r.unit, r.floor === undefined ? '' : String(r.floor)]),
      ]),
    );
    console.log(
      `\n${o.model}, a token at ${o.context} cached tokens; ns and bytes (all parties) per element.\nlimit: memory ${limits.memoryGBs.toFixed(1)} GB/s, ${limits.gmacs.toFixed(1)} GMAC/s, PRG ${limits.prgGBs.toFixed(1)} GB/s\n`,
    );
    console.log(table([['gate', 'calls', 'elements', 'deal', 'evaluate', 'limit', 'times', 'bytes', 'ms'], ...gates.map(cells)]));
  });

export const backendsCommand = new Command('backends')
  .description("Rates of the dealer's bulk work by backend and kind, beside the wasm kernels' on one core.")
  .addOption(new Option('--backend <list>', 'backends, with spaces between').argParser(backendList).default([...MEASURED], MEASURED.join(' ')))
  .option('--json', 'rows as JSON on stdout')
  .action(async (o: { backend: string[]; json?: boolean }) => {
    const machine = describeMachine(),
      progress = new Progress({ silent: o.json ?? false }),
      all = await benchBackends(o.backend, (r) => progress.update('name' in r ? `${r.backend} ${r.name}` : r.backend));
    progress.update('');
    if (o.json) return void console.log(JSON.stringify({ machine, rows: all }));
    console.log(`${machine}\n`);
    console.log(
      table([
        ['backend', 'work', 'rate', 'unit', 'times wasm'],
        ...all.flatMap((r) => ('name' in r ? [[r.backend, r.name, r.rate.toPrecision(2), r.unit, r.ratio.toPrecision(2)]] : [])),
      ]),
    );
    for (const line of new Set(all.map((r) => ('name' in r ? `${r.backend}: ${r.device}` : `${r.backend}: not measured: ${r.reason}`)))) console.log(line);
  });

function backendList(text: string): string[] {
  const names = text.trim().split(/\s+/),
    unknown = names.find((n) => !MEASURED.includes(n));
  if (unknown !== undefined) throw new InvalidArgumentError(`expected some of ${MEASURED.join(', ')}, got ${unknown}.`);
  return names;
}

const cells = (g: GateRow): string[] => [
  g.gate,
  String(g.calls),
  count(g.elements),
  g.dealNs.toFixed(1),
  g.evaluateNs.toFixed(1),
  g.limitNs.toFixed(1),
  (g.evaluateNs / g.limitNs).toFixed(1),
  g.bytes.toFixed(1),
  ((g.evaluateNs * g.elements) / 1e6).toFixed(2),
];

const ms = (s: Spread): string => `${s.median.toFixed(1).padStart(9)} ms  (${s.min.toFixed(1)} .. ${s.max.toFixed(1)})`;

const describe = (r: StepsRow): string => {
  const exact = r.rounds === r.predicted.rounds && r.onlineBytes === r.predicted.onlineBytes && r.dealtBytes === r.predicted.dealtBytes,
    { p0, p1, helper, client } = r.peakRssMiB;
  return [
    '',
    `${r.model}, ${r.task} ${r.context}, ${r.policy} cache, ${r.weights} weights, ${r.net}`,
    `  preprocessing ready   ${r.onlineMs ? ms(r.onlineMs) : 'more than --ahead-mib holds'}`,
    `  dealing beside        ${ms(r.endToEndMs)}`,
    `  dealer alone          ${r.dealMs.toFixed(1).padStart(9)} ms`,
    `  ${r.rounds} rounds, ${bytes(r.onlineBytes)} online, ${bytes(r.dealtBytes)} dealt: ${exact ? 'as predicted' : 'NOT as predicted'}`,
    `  attention ${bytes(r.attentionBytes)}; peak MiB: p0 ${p0}, p1 ${p1}, helper ${helper}, client ${client}`,
  ].join('\n');
};

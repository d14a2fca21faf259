/** `cachet bench decode`, `prefill`, `store`, `ops`, `backends` ..: rows of one kind of step (bench/steps.ts), of a store, of kernels, gates and backends. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { EMBEDDED_MODEL, readPolicy } from '../../client/node.ts';
import { benchBackends, MEASURED } from '../bench/backends.ts';
import { benchDealing, CORRELATIONS, type DealingRow } from '../bench/dealing.ts';
import { benchGates, machineLimits, type GateRow } from '../bench/gates.ts';
import { benchKernels } from '../bench/kernels.ts';
import { benchOperators, PAPER_SHAPE } from '../bench/operators.ts';
import { benchStore } from '../bench/store.ts';
import { benchSteps, type Spread, type StepsRow } from '../bench/steps.ts';
import { CachetError } from '../../protocols/errors.ts';
import { configSchema, type BackendName } from '../config.ts';
import { parseNet } from '../shaper.ts';
import { artefactOf, localModel } from '../preparing.ts';
import { bytes, count, describeMachine, onInterrupt, Progress, table } from '../terminal.ts';
import { integer, integers, policyOption, weightsOption, type Weights } from './options.ts';

interface Options {
  readonly model: string;
  readonly policy: string;
  readonly weights: Weights;
  readonly context: number[];
  readonly tokens: number[];
  readonly net: string;
  readonly reps: number;
  readonly threads: number;
  readonly aheadMib: number;
  readonly json?: boolean;
}

const command = (name: 'decode' | 'prefill' | 'evict', description: string): Command =>
  new Command(name)
    .description(description)
    .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
    .addOption(policyOption())
    .addOption(weightsOption())
    .addOption(new Option('--net <net>', 'loopback, lan, wan or rtt=MS,mbps=N').argParser((net) => parseNet(net).name).default('loopback'))
    .addOption(new Option('--reps <n>', 'sessions for a row').argParser(integer(1)).default(3))
    .addOption(new Option('--threads <n>', "threads of each party's engine").argParser(integer(1)).default(1))
    .addOption(new Option('--ahead-mib <n>', 'dealt material that may wait at a party, MiB').argParser(integer(8)).default(64))
    .option('--json', 'rows as JSON on stdout');

async function rows(task: 'decode' | 'prefill', o: Options): Promise<void> {
  const abort = new AbortController(),
    progress = new Progress({ silent: o.json ?? false }),
    { artefact, parts } = await localModel(o.model, o.weights, (text) => progress.update(text)),
    machine = describeMachine(),
    found: StepsRow[] = [];
  onInterrupt(() => abort.abort());
  if (!o.json) console.log(machine);
  for (const n of task === 'decode' ? o.context : o.tokens) {
    const use = task === 'decode' ? { promptTokens: n - artefact.prefixIds.length, maxTokens: o.tokens[0]! } : { promptTokens: n, maxTokens: 1 },
      policy = await readPolicy(o.policy, o.model, artefact, use);
    const row = await benchSteps({
      task,
      model: o.model,
      artefact,
      parts,
      policy,
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

export const evictCommand = command(
  'evict',
  'Static eviction, once: what it costs after a prompt that fills a context, and how much later the first token comes.',
)
  .addOption(
    new Option('--context <list>', 'tokens that compete, the public prefix not among them, with spaces between').argParser(integers(8)).default([512], '512'),
  )
  .action((o: Options) => evictions(o));

/** The first pays for the eviction, the second does not. */
const EVICT_TOKENS = 2;

async function evictions(o: Options): Promise<void> {
  const artefact = await artefactOf(o.model),
    policy = await readPolicy(o.policy, o.model, artefact, { promptTokens: o.context[0]!, maxTokens: EVICT_TOKENS });
  if (!policy.static)
    throw new CachetError({
      code: 'usage',
      what: 'nothing to evict',
      expected: 'a policy with static eviction',
      got: policy.name,
      hint: '--policy mpcache-paper',
    });
  return rows('decode', { ...o, context: o.context.map((n) => n + artefact.prefixIds.length), tokens: [EVICT_TOKENS] });
}

export const prefillCommand = command('prefill', 'A prompt of private tokens, in one batch.')
  .addOption(new Option('--tokens <list>', 'private tokens, with spaces between').argParser(integers(1)).default([32], '32'))
  .action((o: Options) => rows('prefill', o));

interface StoreOptions {
  readonly model: string;
  readonly prefill: number;
  readonly tokens: number;
  readonly policy: string;
  readonly kernels: 'wasm' | 'reference';
  readonly backend: BackendName;
  readonly threads: number;
  readonly reps: number;
  readonly json?: boolean;
}

export const storeRowCommand = new Command('store')
  .description('Material dealt ahead: bytes of a unit, time to deal it, by kind of correlation; a session over it, with no dealer beside.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--prefill <n>', "private tokens of a unit's prompt").argParser(integer(1)).default(64))
  .addOption(new Option('--tokens <n>', "tokens of a unit's answer").argParser(integer(1)).default(8))
  .addOption(policyOption())
  .addOption(new Option('--kernels <name>', "the dealer's kernel backend").choices(['wasm', 'reference']).default('wasm'))
  .addOption(new Option('--backend <name>', "what computes the dealer's bulk work").choices(configSchema.shape.backend.unwrap().options).default('wasm'))
  .addOption(new Option('--threads <n>', "threads of the dealer's engine, and of each evaluator's").argParser(integer(1)).default(1))
  .addOption(new Option('--reps <n>', 'units and sessions').argParser(integer(1)).default(3))
  .option('--json', 'the row as JSON on stdout')
  .action(async (o: StoreOptions) => {
    const abort = new AbortController(),
      progress = new Progress({ silent: o.json ?? false }),
      machine = describeMachine(),
      artefact = await artefactOf(o.model),
      lengths = { promptTokens: o.prefill, maxTokens: o.tokens };
    onInterrupt(() => abort.abort());
    const row = await benchStore({
      ...o,
      artefact,
      terms: { ...lengths, policy: await readPolicy(o.policy, o.model, artefact, lengths) },
      signal: abort.signal,
      onProgress: (text) => progress.update(text),
    });
    progress.update('');
    if (o.json) return void console.log(JSON.stringify({ machine, rows: [row] }));
    const both = (f: (s: number | null) => string, v: { prefill: number; token: number | null }): string => `${f(v.prefill)} the prompt, ${f(v.token)} a token`;
    const inMs = (v: number | null): string => (v === null ? '-' : `${v.toFixed(1)} ms`);
    console.log(
      [
        machine,
        `\n${row.model}, units of ${o.prefill} + ${o.tokens} tokens, ${row.policy} cache, ${row.backend}`,
        `  stored      ${bytes(row.bytesPerUnit)} a unit, ${bytes(row.bytesPerToken)} a token, both evaluators together`,
        `  dealing     ${both(inMs, row.dealMs)}; ${inMs(row.dealMs.unit)} a unit on the disk: ${row.tokensPerSecond.toFixed(1)} tokens/s, ${bytes(Math.round(row.bytesPerSecond))}/s`,
        `  a session   ${both(inMs, row.onlineMs)}, by the clock at the client\n`,
        table([
          ['dealt', 'ms a unit'],
          ...Object.entries(row.dealMsOf)
            .toSorted((a, b) => b[1] - a[1])
            .map(([name, v]) => [name, v.toFixed(1)]),
        ]),
      ].join('\n'),
    );
  });

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

export const operatorsCommand = new Command('operators')
  .description('The operators of cache selection, each alone, in the shape of the paper (32 heads of 32, 512 tokens in clusters of 16, 50 chosen).')
  .addOption(new Option('--tokens <n>', 'cached tokens, a multiple of the cluster').argParser(integer(16)).default(PAPER_SHAPE.tokens))
  .addOption(new Option('--size <n>', 'tokens of a cluster').argParser(integer(1)).default(PAPER_SHAPE.size))
  .addOption(new Option('--reps <n>', 'repetitions that are timed').argParser(integer(1)).default(9))
  .option('--json', 'rows as JSON on stdout')
  .action((o: { tokens: number; size: number; reps: number; json?: boolean }) => {
    if (o.tokens % o.size !== 0)
      throw new CachetError({
        code: 'usage',
        what: 'clusters do not fill the tokens',
        expected: 'a multiple of --size',
        got: `${o.tokens} tokens`,
        hint: '--tokens 512 --size 16',
      });
    const machine = describeMachine(),
      rows = benchOperators({ ...PAPER_SHAPE, tokens: o.tokens, size: o.size }, o.reps);
    if (o.json) return void console.log(JSON.stringify({ machine, rows }));
    console.log(`${machine}\n`);
    console.log(
      table([
        ['operator', 'ms', '(min .. max)', 'rounds', 'online', 'dealt'],
        ...rows.map((r) => [
          r.operator,
          r.ms.median.toFixed(2),
          `(${r.ms.min.toFixed(2)} .. ${r.ms.max.toFixed(2)})`,
          String(r.rounds),
          bytes(r.onlineBytes),
          bytes(r.dealtBytes),
        ]),
      ]),
    );
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

export const dealingCommand = new Command('dealing')
  .description(
    "What dealing a token costs beside an evaluator's computing: engines alone, by kind of correlation and backend, and real processes' processor time.",
  )
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--context <n>', 'cached tokens').argParser(integer(1)).default(512))
  .addOption(new Option('--backend <list>', 'backends, with spaces between').argParser(backendList).default(['wasm', 'onnxruntime'], 'wasm onnxruntime'))
  .addOption(new Option('--reps <n>', 'pairs of sessions of real processes, 0: engines alone').argParser(integer(0)).default(3))
  .option('--json', 'the row as JSON on stdout')
  .action(async (o: { model: string; context: number; backend: string[]; reps: number; json?: boolean }) => {
    const abort = new AbortController(),
      progress = new Progress({ silent: o.json ?? false }),
      machine = describeMachine();
    onInterrupt(() => abort.abort());
    const row = await benchDealing({
      ...o,
      artefact: await artefactOf(o.model),
      backends: o.backend,
      signal: abort.signal,
      onProgress: (text) => progress.update(text),
    });
    progress.update('');
    if (o.json) return void console.log(JSON.stringify({ machine, rows: [row] }));
    console.log(`${machine}\n\n${describeDealing(row)}`);
  });

function describeDealing(r: DealingRow): string {
  const inMs = (v: number): string => v.toFixed(1),
    measured = r.backends.flatMap((b) => ('kind' in b ? [b] : []));
  return [
    `${r.model}, a token at ${r.context} cached tokens, full cache, open weights; ms a token`,
    `  engines alone   dealer ${inMs(r.dealMs)}, P0 ${inMs(r.evaluateMs.p0)}, P1 ${inMs(r.evaluateMs.p1)}: dealing is ${r.ratio.toFixed(2)} of an evaluator (goal at most 0.5)`,
    ...(r.cpuMs
      ? [
          `  processes       helper ${inMs(r.cpuMs.helper)}, P0 ${inMs(r.cpuMs.p0)}, P1 ${inMs(r.cpuMs.p1)} of processor time: dealing is ${r.cpuRatio!.toFixed(2)} of an evaluator`,
        ]
      : []),
    `  dealt           ${bytes(r.dealtBytes)} a token, ${bytes(Math.round(r.bytesPerSecond))}/s, ${r.tokensPerSecond.toFixed(1)} tokens/s`,
    `  at least        ${inMs(r.streams.ms)} to draw ${bytes(r.streams.bytes)} of pseudorandom streams\n`,
    table([['dealt', 'ms'], ...CORRELATIONS.map((c) => [c, inMs(r.dealMsOf[c])])]),
    '',
    table([['backend', 'bulk work', 'jobs', 'lists', 'ms'], ...measured.map((b) => [b.backend, b.kind, String(b.jobs), String(b.lists), inMs(b.ms)])]),
    ...r.backends.flatMap((b) => ('reason' in b ? [`${b.backend}: not measured: ${b.reason}`] : [])),
  ].join('\n');
}

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
    `${r.model}, ${r.task} ${r.context}${r.eviction ? `, ${r.kept} kept` : ''}, ${r.policy} cache, ${r.weights} weights, ${r.net}`,
    `  preprocessing ready   ${r.onlineMs ? ms(r.onlineMs) : 'more than --ahead-mib holds'}`,
    `  dealing beside        ${ms(r.endToEndMs)}`,
    `  dealer alone          ${r.dealMs.toFixed(1).padStart(9)} ms`,
    `  ${r.rounds} rounds, ${bytes(r.onlineBytes)} online, ${bytes(r.dealtBytes)} dealt: ${exact ? 'as predicted' : 'NOT as predicted'}`,
    ...(r.eviction
      ? [`  eviction ${bytes(r.eviction.bytes)}, ${r.eviction.rounds} rounds, ${r.eviction.ms.median.toFixed(0)} ms more for the first token`]
      : []),
    `  attention ${bytes(r.attentionBytes)}; peak MiB: p0 ${p0}, p1 ${p1}, helper ${helper}, client ${client}`,
  ].join('\n');
};

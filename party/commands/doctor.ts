/** `cachet doctor`: will it run here? One line a check, with what to do. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { createServer } from 'node:net';
import { cpus, freemem } from 'node:os';
import { dirname, join } from 'node:path';
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, packageRoot, readModelArtefact, readTokenizer } from '../../client/node.ts';
import { reserveMemory } from '../../kernels/memory.ts';
import { BACKENDS } from '../../kernels/registry.ts';
import { selfTest } from '../../kernels/selfTest.ts';
import { CachetError } from '../../protocols/errors.ts';
import { BULK_BACKENDS, openBackend } from '../bulk/backends.ts';
import { inexactKinds } from '../bulk/trial.ts';
import { addressOf, readConfigFile, ROLES, type Config } from '../config.ts';
import { connect } from '../sockets.ts';
import { bytes } from '../terminal.ts';

type Outcome = readonly [state: 'ok' | 'warning' | 'FAILED', what: string];
type Check = readonly [name: string, run: () => Outcome | Promise<Outcome>];

const MIN_NODE = 20;

function machine(threads: number): Check[] {
  return [
    [
      'Node',
      () =>
        Number(process.versions.node.split('.')[0]) >= MIN_NODE
          ? ['ok', process.versions.node]
          : ['FAILED', `${process.versions.node}; expected ${MIN_NODE} or newer; try: install Node ${MIN_NODE}`],
    ],
    ['cores', () => (cpus().length >= 2 ? ['ok', `${cpus().length}`] : ['warning', 'one: a party uses two, tokens will take longer'])],
    [
      'threads',
      () =>
        threads <= cpus().length
          ? ['ok', `${threads} for a session's kernels`]
          : ['warning', `${threads} on ${cpus().length} cores: they wait for each other; try: threads ${cpus().length}`],
    ],
    ['memory', () => (freemem() > 1e9 ? ['ok', `${bytes(freemem())} free`] : ['warning', `${bytes(freemem())} free; a session takes 75 MB and more`])],
    [
      'CPU',
      () => {
        const flags = existsSync('/proc/cpuinfo')
            ? new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.trim().split(' '))
            : new Set<string>(),
          has = ['avx2', 'avx512dq', 'avx512f'].filter((f) => flags.has(f));
        return flags.size === 0 || flags.has('avx512dq')
          ? ['ok', `${cpus()[0]?.model.trim() ?? 'unknown'}${has.length > 0 ? `: ${has.join(', ')}` : ''}`]
          : ['warning', 'no 64-bit SIMD multiply (avx512dq): slower products'];
      },
    ],
    [
      'WebAssembly',
      () => {
        reserveMemory(1 << 20);
        return ['ok', 'SIMD and shared memory'];
      },
    ],
    ...BACKENDS.map((backend): Check => [
      `kernels ${backend}`,
      () => {
        const { exact, choices } = selfTest(backend);
        return exact ? ['ok', choices ? `exact, ${choices}` : 'exact'] : ['FAILED', 'differs from the reference; try: report this as a bug'];
      },
    ]),
    ...BULK_BACKENDS.map((backend): Check => [`bulk ${backend}`, () => probed(backend)]),
  ];
}

/** A backend of the dealer's bulk work: one that is not there is no fault. */
async function bulkBackend(name: string): Promise<Outcome> {
  try {
    const backend = await openBackend(name),
      wrong = await inexactKinds(backend);
    await backend.close();
    return wrong.length === 0 ? ['ok', `exact: ${backend.device}`] : ['warning', `not exact in ${wrong.join(', ')}, not used: ${backend.device}`];
  } catch (error) {
    return ['warning', `${(error as Error).message.split(':')[0]}: left to wasm`];
  }
}

/** How long a driver may take to compile its programs. */
const PROBE_MS = 60_000;

/** Tried in a process of its own: drivers write on stderr what they like, and some end their process. */
const probed = (name: string): Promise<Outcome> =>
  new Promise((resolve) => {
    execFile(process.execPath, [join(packageRoot(), 'dist', 'party', 'cli.js'), 'doctor', '--probe', name, '--json'], { timeout: PROBE_MS }, (error, stdout) =>
      resolve(error ? ['warning', 'its driver ends or stops the process: left to wasm'] : (JSON.parse(stdout) as Outcome)),
    );
  });

function model(name: string): Check[] {
  return [
    ['model', async () => ['ok', `${name}: artefact ${(await readModelArtefact(name)).digest.slice(0, 16)}`]],
    ['tokenizer', async () => ['ok', `${(await readTokenizer(name)).encode('Hello.').length} tokens for "Hello."`]],
  ];
}

function deployment(config: Config): Check[] {
  return [
    ...ROLES.filter((role) => config[role] !== undefined).map((role): Check => [
      role,
      async () => {
        const address = addressOf(config, role);
        try {
          (await connect(address, role, 500)).close();
          return ['ok', `${address}: a party answers`];
        } catch {
          const { hostname, port } = new URL(address.replace('ws:', 'http:'));
          return unanswered(address, await bind(hostname, Number(port)));
        }
      },
    ]),
    ...(config.ledger === undefined
      ? []
      : ([
          [
            'ledger',
            () => {
              const path = config.ledger!;
              // Looked at, not made: it is the party's, which may be on another machine.
              return access(existsSync(path) ? path : dirname(path), constants.R_OK | constants.W_OK).then(
                (): Outcome => ['ok', path],
                (error: NodeJS.ErrnoException): Outcome => ['FAILED', `${path}: ${error.code}; try: a place that can be written to`],
              );
            },
          ],
        ] satisfies Check[])),
    ...(config.insecure ? ([['links', () => ['warning', 'insecure: neither encrypted nor authenticated']]] satisfies Check[]) : []),
  ];
}

/** Nobody answers at an address: is it this machine's, and is there room for a party? */
function unanswered(address: string, code: string | undefined): Outcome {
  switch (code) {
    case undefined:
      return ['warning', `${address}: none yet; port free`];
    case 'EADDRNOTAVAIL':
      return ['warning', `${address}: on another machine; not up yet`];
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return ['warning', `${address}: not up yet; its name is not known here`];
    case 'EADDRINUSE':
      return ['FAILED', `${address}: no party answers, port not free; try: another port`];
    default:
      return ['FAILED', `${address}: cannot be listened at: ${code}; try: another port`];
  }
}

/** Listens for a moment; the code of what was in the way, if anything. */
const bind = (host: string, port: number): Promise<string | undefined> =>
  new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.name));
    server.listen(port, host, () => server.close(() => resolve(undefined)));
  });

export const doctorCommand = new Command('doctor')
  .description('Check this machine, the model and a configuration; say what to do about what is wrong.')
  .option('--config <file>', "a deployment's configuration: its addresses and ledger are checked too")
  .option('--model <dir>', "model folder (default: the configuration's, or the embedded model)")
  .option('--json', 'checks as JSON on stdout')
  .addOption(new Option('--probe <backend>', 'try one backend of bulk work, for the process that checks all').choices(BULK_BACKENDS).hideHelp())
  .action(async (o: { config?: string; model?: string; json?: boolean; probe?: string }) => {
    if (o.probe !== undefined) return void console.log(JSON.stringify(await bulkBackend(o.probe)));
    const config = o.config === undefined ? undefined : await readConfigFile(o.config),
      results: { check: string; state: Outcome[0]; what: string }[] = [];
    for (const [check, run] of [
      ...machine(config?.threads ?? 1),
      ...model(o.model ?? config?.model ?? EMBEDDED_MODEL),
      ...(config ? deployment(config) : []),
    ]) {
      const [state, what] = await Promise.resolve()
        .then(run)
        .catch((error: unknown): Outcome => [
          'FAILED',
          error instanceof CachetError ? error.message : ((error as NodeJS.ErrnoException).code ?? String(error)),
        ]);
      results.push({ check, state, what });
      if (!o.json) console.log(`${check.padEnd(18)}${state.padEnd(9)}${what}`);
    }
    if (o.json) console.log(JSON.stringify(results));
    if (results.some((r) => r.state === 'FAILED')) process.exitCode = 1;
  });

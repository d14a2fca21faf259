/** Options that several commands share. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { z } from 'zod';
import { readBytes } from '../../client/node.ts';
import type { Sampling } from '../../client/sampling.ts';
import { CachetError } from '../../protocols/errors.ts';
import { POLICY_NAMES } from '../../protocols/policy.ts';
import type { SessionSpec } from '../../protocols/session.ts';
import { configSchema, flagOf, isHostPort, readConfigFile, type Config, type ConfigField } from '../config.ts';
import { parseNet } from '../shaper.ts';
import { TraceFile } from '../trace/file.ts';

export interface SamplingOptions {
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly seed?: number;
}

export function integer(low: number): (text: string) => number {
  return (text) => {
    const v = Number(text);
    if (!Number.isInteger(v) || v < low || text.trim() === '') throw new InvalidArgumentError(`expected an integer from ${low}, got ${text}.`);
    return v;
  };
}

/** Numbers with spaces between. */
export const integers =
  (low: number) =>
  (text: string): number[] =>
    text.trim().split(/\s+/).map(integer(low));

export function real(text: string): number {
  const v = Number(text);
  if (!Number.isFinite(v) || text.trim() === '') throw new InvalidArgumentError(`expected a number, got ${text}.`);
  return v;
}

/** HOST:PORT, as init takes it. */
export function hostPort(text: string): string {
  if (!isHostPort(text)) throw new InvalidArgumentError(`expected HOST:PORT, of a port up to 65535, got ${text}.`);
  return text;
}

/** What help texts and completions have for the value of a field that is text. */
const VALUES: Readonly<Partial<Record<ConfigField, string>>> = {
  model: 'dir',
  p0: 'url',
  p1: 'url',
  helper: 'url',
  listen: 'host:port',
  policy: 'policy',
  ledger: 'file',
  store: 'dir',
  storeKey: 'file',
  net: 'net',
};

/** Of fields that a client does nothing with: they are no flags of a command that only asks. */
const PARTYS: readonly ConfigField[] = [
  'listen',
  'clientTimeoutMs',
  'progressMs',
  'maxSessions',
  'memoryMib',
  'aheadMib',
  'ledger',
  'store',
  'storeKey',
  'benchmark',
];

/** The configuration: --config and a flag for every field, which goes before the file. `client`: for those alone that a client reads. */
export function addConfig(command: Command, o: { readonly client?: boolean } = {}): Command {
  command.option('--config <file>', 'configuration, JSON; its fields are flags as well');
  for (const [field, schema] of Object.entries(configSchema.shape) as [ConfigField, z.ZodType][]) {
    if (o.client && PARTYS.includes(field)) continue;
    const standard = schema.safeParse(undefined).data,
      text = `${schema.description}${standard === undefined || standard === false ? '' : ` [${String(standard)}]`}`,
      flag = flagOf(field);
    if (standard === false) command.addOption(new Option(flag, text));
    else if (typeof standard === 'number') command.addOption(new Option(`${flag} <n>`, text).argParser(integer(1)));
    else if (field === 'kernels' || field === 'backend')
      command.addOption(new Option(`${flag} <name>`, text).choices(configSchema.shape[field].unwrap().options));
    else command.addOption(new Option(`${flag} <${VALUES[field]!}>`, text));
  }
  return command;
}

/** Refuses options where they would be passed over in silence: unless `met`, `expected` is wanted and `got` there instead. */
export const idleUnless = (command: Command, met: (command: Command) => boolean, expected: string, got: string, ...options: readonly string[]): Command =>
  command.hook('preAction', (own, acting) => {
    // A command below has options of its own.
    const idle = own !== acting || met(own) ? undefined : options.find((option) => isGiven(own, option));
    if (idle !== undefined)
      throw new CachetError({
        code: 'usage',
        step: idle,
        what: 'option without effect',
        expected,
        got,
        hint: `leave ${idle} out, or see cachet ${nameOf(own)} --help`,
      });
  });

/** Refuses options that say nothing without another one. */
export const needing = (command: Command, other: string, ...options: readonly string[]): Command =>
  idleUnless(command, (own) => isGiven(own, other), `${other} as well`, `no ${other}`, ...options);

const isGiven = (command: Command, option: string): boolean => command.getOptionValueSource(attribute(option)) === 'cli';

/** A command as it is called, without the program's own name. */
export function nameOf(command: Command): string {
  const parent = command.parent?.parent ? `${nameOf(command.parent)} ` : '';
  return `${parent}${command.name()}`;
}

/** The configuration that a command's options give. @throws CachetError 'config' naming the field or the flag. */
export function configOf(o: object & { readonly config?: string }): Promise<Config> {
  const given = o as Readonly<Record<string, unknown>>,
    flags: Record<string, unknown> = {};
  for (const field of Object.keys(configSchema.shape) as ConfigField[]) {
    const value = given[attribute(flagOf(field))];
    if (value !== undefined) flags[field] = value;
  }
  return readConfigFile(o.config, flags);
}

/** A private text from a file, its white space made plain. */
export const readNote = async (path: string): Promise<string> =>
  new TextDecoder()
    .decode(await readBytes(path, 'usage', '--note FILE, with the private text in it'))
    .trim()
    .replaceAll(/\s+/g, ' ');

/** As commander names an option: --memory-mib is memoryMib. */
const attribute = (flag: string): string => flag.slice(2).replaceAll(/-([a-z])/g, (_, c: string) => c.toUpperCase());

export const policyOption = (): Option =>
  new Option(
    '--policy <policy>',
    `what the cache keeps and tokens attend to: ${POLICY_NAMES.join(', ')}, or a JSON file; auto: the cheapest that is good enough, where lengths are known`,
  ).default('full');

/** Of commands that start parties on this machine. */
export const netOption = (): Option =>
  new Option('--net <net>', 'links are made to be loopback, lan, wan or rtt=MS,mbps=N').argParser((net) => parseNet(net).name).default('loopback');

export type Weights = SessionSpec['weights'];

/** For commands that run all parties on this machine. */
export const weightsOption = (): Option =>
  new Option('--weights <who>', 'who knows the weights: all parties and the client, or none of them (split once, kept in the cache)')
    .choices(['open', 'private'])
    .default('open');

/** `stored`: from the parties' stores as well. */
export const dealerOption = (stored = false): Option =>
  new Option(
    '--helper <who>',
    'who deals the correlated randomness: the helper process, this client (two parties)' + (stored ? ", or nobody: it lies in the parties' stores" : ''),
  )
    .choices(['server', 'client', ...(stored ? ['store'] : [])])
    .default('server');

export const addSampling = (command: Command): Command =>
  idleUnless(command, (own) => own.opts<SamplingOptions>().temperature > 0, '--temperature above 0', 'the best token each time', '--top-k', '--top-p', '--seed')
    .addOption(new Option('--max-tokens <n>', 'tokens to generate at most').argParser(integer(1)).default(16))
    .addOption(new Option('--temperature <t>', '0: greedy').argParser(real).default(0))
    .addOption(new Option('--top-k <k>', 'sample from the k best tokens, 0: all').argParser(integer(0)).default(0))
    .addOption(new Option('--top-p <p>', 'sample from the best tokens that have probability p together').argParser(real).default(1))
    .addOption(new Option('--seed <n>', 'makes sampling repeatable (default: cryptographic randomness)').argParser(integer(0)));

export const samplingOf = (o: SamplingOptions): Sampling => ({
  temperature: o.temperature,
  topK: o.topK,
  topP: o.topP,
  ...(o.seed === undefined ? {} : { seed: o.seed }),
});

export const traceOption = (): Option =>
  new Option('--trace <file>', 'write time, rounds and bytes of every gate to this file: .json for Chrome trace events (Perfetto), else JSON lines');

/** A client's trace file: it belongs to this process, trouble is one line on stderr. */
export const beginTrace = (path: string | undefined): TraceFile | undefined =>
  path === undefined ? undefined : new TraceFile({ path, onError: (error) => process.stderr.write(`cachet: ${error.message}\n`) });

export const TRACE_HELP = `
A trace has shapes, counts and times, never a value; see it with cachet trace
FILE. A file that exists is replaced. If the file cannot be written any more (a
full disk), the trace ends with one line of complaint and the session goes on.`;

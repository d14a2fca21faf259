/** The configuration that all parties of a deployment share: a JSON file. */
import { dirname, isAbsolute, join } from 'node:path';
import { z } from 'zod';
import { EMBEDDED_MODEL, readJson } from '../client/node.ts';
import { parseNet } from './shaper.ts';
import { areFieldNames, CachetError } from '../protocols/errors.ts';
import { POLICY_NAMES } from '../protocols/policy.ts';

export const ROLES = ['p0', 'p1', 'helper'] as const;
export type PartyRole = (typeof ROLES)[number];

/** What the dealer's bulk work may run on. */
const BACKEND_NAMES = ['auto', 'wasm', 'onnxruntime', 'webgpu'] as const;
export type BackendName = (typeof BACKEND_NAMES)[number];

const isNet = (text: string): boolean => {
  try {
    return parseNet(text) !== undefined;
  } catch {
    return false;
  }
};

/** Of one engine. */
const MAX_THREADS = 64;

const NET_SYNTAX = 'loopback, lan, wan or rtt=MS,mbps=N';

/** Whether a text is HOST:PORT, of a port that there is. */
export const isHostPort = (text: string): boolean => /^[^\s/:@?#]+:\d+$/.test(text) && URL.canParse(`http://${text}`);

const SCHEME = 'ws://';

const url = z
  .string()
  .refine((text) => text.startsWith(SCHEME) && isHostPort(text.slice(SCHEME.length)), 'an address like ws://127.0.0.1:7700, of a port up to 65535');

/** Every field, with what help texts say of it; each has a flag of its own on the commands that read a configuration (commands/options.ts). */
export const configSchema = z.strictObject({
  model: z.string().default(EMBEDDED_MODEL).describe('model folder, or the embedded model; the same at all'),
  p0: url.describe('address of evaluator P0'),
  p1: url.describe('address of evaluator P1'),
  helper: url.optional().describe('address of the helper; none where all clients deal'),
  listen: z.string().refine(isHostPort, 'HOST:PORT, of a port up to 65535').optional().describe('where this party listens, if not at its address'),
  policy: z
    .string()
    .min(1)
    .optional()
    .describe(`cache policy: ${POLICY_NAMES.join(', ')}, auto for ask, or a JSON file; at a party the only one that it runs`),
  kernels: z.enum(['wasm', 'reference']).default('wasm').describe('kernel backend'),
  backend: z.enum(BACKEND_NAMES).default('wasm').describe("what the dealer's bulk work runs on; auto: what is exact and faster here"),
  threads: z.number().int().min(1).max(MAX_THREADS).default(1).describe("threads that compute a session's large kernels, at each party"),
  timeoutMs: z.number().int().min(100).default(30_000).describe('longest wait for another party in set-up, ms'),
  clientTimeoutMs: z.number().int().min(100).default(600_000).describe("longest wait for the client's next token, ms"),
  silenceMs: z.number().int().min(100).default(20_000).describe('a link that is silent for so long is dead, ms'),
  progressMs: z.number().int().min(100).default(120_000).describe('longest wait within a step, for a round or dealt material, ms'),
  maxSessions: z.number().int().min(1).default(32).describe('sessions at a time, at each party'),
  memoryMib: z.number().int().min(16).default(8192).describe('memory that sessions may reserve together, MiB'),
  aheadMib: z.number().int().min(8).default(64).describe('dealt material that waits at a party for a session at most, MiB'),
  ledger: z.string().optional().describe('file of used tickets and units: none is good twice, ever'),
  store: z.string().optional().describe("folder of material dealt ahead, with each evaluator's part in it"),
  storeKey: z.string().optional().describe("this evaluator's key for its store, if not p0.key or p1.key in it"),
  net: z.string().refine(isNet, NET_SYNTAX).default('loopback').describe(`links are made to be ${NET_SYNTAX}`),
  benchmark: z.boolean().default(false).describe('allow sessions over a cache filled with random keys and values'),
  insecure: z.boolean().default(false).describe('allow other addresses than loopback: no TLS yet'),
});
export type Config = z.infer<typeof configSchema>;
export type ConfigField = keyof typeof configSchema.shape;

const LOOPBACK = /^ws:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\]):/;

/** Of a party's own files: in a configuration they are relative to its folder, so that file and folder can be moved together. */
const PATHS = ['ledger', 'store', 'storeKey'] as const satisfies readonly ConfigField[];

/** A person may have put the key itself there. */
const SECRET: readonly string[] = ['storeKey'] satisfies ConfigField[];

/** What a field should have been, as its schema says it. */
function wanted(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return (
        { string: 'text', number: 'a number', int: 'a whole number', boolean: 'true or false', object: 'fields in { }' }[issue.expected as string] ??
        issue.expected
      );
    case 'invalid_value':
      return issue.values.join(', ');
    case 'too_small':
      return issue.origin === 'string' ? 'text' : `at least ${issue.minimum}`;
    case 'too_big':
      return `at most ${issue.maximum}`;
    case 'unrecognized_keys':
      return 'fields that there are';
    default:
      return issue.message;
  }
}

/** What it was, as far as that may be shown. */
function given(json: unknown, issue: z.core.$ZodIssue): string {
  if (issue.code === 'unrecognized_keys') return areFieldNames(issue.keys) ? issue.keys.join(', ') : 'others';
  const [field] = issue.path,
    value = field === undefined ? json : (json as Readonly<Record<PropertyKey, unknown>>)[field];
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'fields in { }';
  if (typeof value === 'string' && (field === undefined || SECRET.includes(String(field)))) return 'other text';
  return value === '' ? 'empty text' : String(value).slice(0, 60);
}

/** `flags`: fields that were given on the command line, by the names of their options. @throws CachetError 'config' naming the field, or the option. */
export function checkConfig(json: unknown, from: string, flags: Readonly<Partial<Record<string, string>>> = {}): Config {
  const parsed = configSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!,
      flag = flags[String(issue.path[0])];
    throw new CachetError({
      code: 'config',
      step: flag ?? `${from}, ${issue.path.join('.') || 'top level'}`,
      what: flag ? 'bad value' : 'bad configuration',
      expected: wanted(issue),
      got: given(json, issue),
      hint: flag ? '--help says what it takes' : 'cachet init writes configurations, cachet party --help has all fields',
    });
  }
  const config = parsed.data;
  for (const role of ROLES)
    if (!config.insecure && config[role] !== undefined && !LOOPBACK.test(config[role]))
      throw new CachetError({
        code: 'config',
        step: flags[role] ?? `${from}, ${role}`,
        what: 'address is not loopback',
        expected: 'ws://127.0.0.1:port, since links are not encrypted or authenticated yet',
        got: config[role],
        hint: '"insecure": true, or --insecure, if the network itself is trusted',
      });
  return config;
}

/** --helper says who deals, so the helper's address has another name. */
export const flagOf = (field: ConfigField): string => (field === 'helper' ? '--helper-url' : `--${field.replaceAll(/[A-Z]+/g, (c) => `-${c.toLowerCase()}`)}`);

/** A file, and flags that go before it. Without a file the flags alone. */
export async function readConfigFile(path: string | undefined, flags: Readonly<Record<string, unknown>> = {}): Promise<Config> {
  const named = Object.fromEntries(Object.keys(flags).map((field) => [field, flagOf(field as ConfigField)]));
  if (path === undefined) {
    const missing = (['p0', 'p1'] as const).filter((role) => flags[role] === undefined);
    if (missing.length > 0)
      throw new CachetError({
        code: 'config',
        what: 'no configuration',
        expected: '--config FILE, or --p0 and --p1',
        got: missing.length === 2 ? 'neither' : `no ${flagOf(missing[0]!)}`,
        hint: 'cachet init writes configurations',
      });
    return checkConfig(flags, 'flags', named);
  }
  const json = await readJson(path, 'config', 'cachet init writes configurations');
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return checkConfig(json, path);
  const own = json as Record<string, unknown>,
    moved = PATHS.flatMap((field) => (typeof own[field] === 'string' && !isAbsolute(own[field]) ? [[field, join(dirname(path), own[field])]] : []));
  return checkConfig({ ...own, ...Object.fromEntries(moved), ...flags }, path, named);
}

/** @throws CachetError 'config' if the configuration has no address of that party. */
export function addressOf(config: Pick<Config, PartyRole>, role: PartyRole): string {
  const address = config[role];
  if (address === undefined)
    throw new CachetError({
      code: 'config',
      step: role,
      what: 'no address',
      expected: `${role} as ws://host:port in the configuration`,
      got: 'none',
      hint: 'the address, or a client that deals for itself: cachet ask --helper client',
    });
  return address;
}

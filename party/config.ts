/** The configuration that all parties of a deployment share: a JSON file. */
import { z } from 'zod';
import { EMBEDDED_MODEL, readJson } from '../client/node.ts';
import { parseNet } from './shaper.ts';
import { CachetError } from '../protocols/errors.ts';

export const ROLES = ['p0', 'p1', 'helper'] as const;
export type PartyRole = (typeof ROLES)[number];

const isNet = (text: string): boolean => {
  try {
    return parseNet(text) !== undefined;
  } catch {
    return false;
  }
};

const url = z.string().regex(/^ws:\/\/[^/:]+:\d+$/, 'an address like ws://127.0.0.1:7700');

export const configSchema = z.strictObject({
  /** Model folder, or the embedded model's name; must be the same model at all parties. */
  model: z.string().default(EMBEDDED_MODEL),
  p0: url,
  p1: url,
  /** Not needed where all clients deal for themselves. */
  helper: url.optional(),
  /** Kernel backend. */
  kernels: z.enum(['wasm', 'reference']).default('wasm'),
  /** Longest wait for another party while a session is set up, ms. */
  timeoutMs: z.number().int().min(100).default(30_000),
  /** Longest wait for the client's next token, ms. */
  clientTimeoutMs: z.number().int().min(100).default(600_000),
  /** Sessions at a time, at each party. */
  maxSessions: z.number().int().min(1).default(32),
  /** Memory that the sessions of a party may reserve together, MiB; a session of 250 tokens of the embedded model takes about 400. */
  memoryMiB: z.number().int().min(16).default(8192),
  /** File in which a party keeps the tickets of its sessions, so that none is used twice across restarts; without it, in memory alone. */
  ledger: z.string().optional(),
  /** What a party's and the client's links are made to be: loopback (nothing added), lan, wan or rtt=MS,mbps=N; each end shapes what it sends. */
  net: z.string().refine(isNet, 'expected loopback, lan, wan or rtt=MS,mbps=N').default('loopback'),
  /** Links are neither encrypted nor authenticated yet: addresses other than loopback are refused unless this is true. */
  insecure: z.boolean().default(false),
});
export type Config = z.infer<typeof configSchema>;

const LOOPBACK = /^ws:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\]):/;

/** @throws CachetError 'config' naming the field. */
export function checkConfig(json: unknown, from: string): Config {
  const parsed = configSchema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new CachetError({
      code: 'config',
      step: `${from}, ${issue.path.join('.') || 'top level'}`,
      what: 'bad configuration',
      expected: 'p0, p1, helper as ws://host:port; see cachet party --help',
      got: issue.message,
    });
  }
  const config = parsed.data;
  for (const role of ['p0', 'p1', 'helper'] as const)
    if (!config.insecure && config[role] !== undefined && !LOOPBACK.test(config[role]))
      throw new CachetError({
        code: 'config',
        step: `${from}, ${role}`,
        what: 'address is not loopback',
        expected: 'ws://127.0.0.1:port, since links are not encrypted or authenticated yet',
        got: config[role],
        hint: '"insecure": true if the network itself is trusted',
      });
  return config;
}

export const readConfigFile = async (path: string): Promise<Config> =>
  checkConfig(await readJson(path, 'config', 'cachet party --help shows an example'), path);

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

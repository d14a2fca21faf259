/**
 * A store's folder: `dealer.json` (what the dealer needs to go on), and for each evaluator a folder of its own with `store.json`, its halves of the units and,
 * once it is used, `owner`. The evaluator's folder is all that it needs, beside its key and its ledger, which are kept elsewhere.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CachetError } from '../../protocols/errors.ts';
import { KeyExchange } from '../../protocols/handshake.ts';
import { policySchema } from '../../protocols/policy.ts';
import type { UnitTerms } from '../../protocols/session.ts';

const FORMAT = 2;
export const EVALUATORS = ['p0', 'p1'] as const;
export type EvaluatorRole = (typeof EVALUATORS)[number];
export const partyOf = (role: EvaluatorRole): 0 | 1 => (role === 'p0' ? 0 : 1);

const hex = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`)),
  common = {
    version: z.literal(FORMAT),
    /** 16 random bytes: the store's id. */
    store: hex(16),
    /** The artefact's digest. */
    artefact: hex(32),
    promptTokens: z.number().int().min(1),
    maxTokens: z.number().int().min(1),
    /** The whole of it, as in a session's spec. */
    policy: policySchema,
  };
const manifestSchema = z.strictObject({ ...common, role: z.enum(EVALUATORS) }),
  dealerSchema = z.strictObject({
    ...common,
    /** Index of the next unit: none is given twice, whatever became of it. */
    next: z.number().int().min(0),
    /** The evaluators' public keys. */
    keys: z.tuple([hex(32), hex(32)]),
  });
export type Manifest = z.infer<typeof manifestSchema>;
export type DealerManifest = z.infer<typeof dealerSchema>;

/** An evaluator's part of a store in its ledger. */
export const ledgerId = ({ role, store }: Manifest): string => `${role} ${store}`;

export const FILES = { dealer: 'dealer.json', manifest: 'store.json', owner: 'owner', part: '.part' } as const;
const UNIT = /^unit-(\d{8})\.cachet$/;

export const unitName = (index: number): string => `unit-${String(index).padStart(8, '0')}.cachet`;

export const newManifest = (artefact: string, terms: UnitTerms): Omit<Manifest, 'role'> => ({
  version: FORMAT,
  store: randomBytes(16).toString('hex'),
  artefact,
  promptTokens: terms.promptTokens,
  maxTokens: terms.maxTokens,
  policy: terms.policy,
});

/** Indexes of the whole units in a folder, in order. */
export const unitsIn = (folder: string): number[] =>
  read(folder, () => readdirSync(folder))
    .flatMap((name) => UNIT.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);

/** What writers left behind that were killed. */
export const partsIn = (folder: string): string[] => read(folder, () => readdirSync(folder)).filter((name) => name.endsWith(FILES.part));

/** @throws CachetError 'store' for a folder that is no store, of another version, or damaged. */
export const readManifest = (folder: string): Manifest => readRecord(join(folder, FILES.manifest), manifestSchema);

export const readDealer = (folder: string): DealerManifest => readRecord(join(folder, FILES.dealer), dealerSchema);

/** Durable and whole, with a checksum. */
export function writeRecord(path: string, record: Manifest | DealerManifest): void {
  writeDurably(path, `${JSON.stringify({ ...record, sha256: checksum(record) }, null, 2)}\n`);
}

/** Under another name first, then in place; on the disk when it returns. @throws CachetError 'config' naming the file. */
export function writeDurably(path: string, text: string, mode = 0o600): void {
  const part = `${path}.${process.pid}${FILES.part}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(part, text, { mode, flush: true });
    renameSync(part, path);
    syncFolder(dirname(path));
  } catch (cause) {
    rmSync(part, { force: true });
    throw cannotWrite(path, cause);
  }
}

/** New names in it are on the disk when it returns. */
export function syncFolder(folder: string): void {
  const at = openSync(folder, 'r');
  fsyncSync(at);
  closeSync(at);
}

export const cannotWrite = (path: string, cause: unknown): CachetError => {
  const got = (cause as NodeJS.ErrnoException).code ?? 'an error';
  return new CachetError({
    code: 'config',
    what: 'cannot write file',
    expected: path,
    got,
    hint: got === 'ENOSPC' ? 'free some space; what is whole stays, nothing half-written does' : 'another place, or its permissions',
    cause,
  });
};

// ---- keys -------------------------------------------------------------------------------------------------------------------------------

/** Makes a party's key file unless it is there; returns its public key, hex. */
export function ensureKey(path: string): string {
  if (!existsSync(path)) writeDurably(path, `${randomBytes(32).toString('hex')}\n`);
  return Buffer.from(readKey(path).publicKey).toString('hex');
}

/** A public key as commands take it: hex, or the file of the key that it belongs to. */
export const readPublicKey = (text: string | undefined): string | undefined =>
  text === undefined || hex(32).safeParse(text).success ? text : Buffer.from(readKey(text).publicKey).toString('hex');

/** @throws CachetError 'config' for a file that is not a key. */
export function readKey(path: string): KeyExchange {
  const text = read(path, () => readFileSync(path, 'utf8')).trim();
  if (!hex(32).safeParse(text).success)
    throw new CachetError({ code: 'config', step: path, what: 'not a key', expected: '32 bytes in hex, as cachet store key writes them', got: 'other text' });
  return new KeyExchange(new Uint8Array(Buffer.from(text, 'hex')));
}

// ---- records ----------------------------------------------------------------------------------------------------------------------------

const checksum = (record: object): string => createHash('sha256').update(JSON.stringify(record)).digest('hex');

function readRecord<T extends object>(path: string, schema: z.ZodType<T>): T {
  const bad = (what: string, expected: string, got: string): CachetError =>
    new CachetError({ code: 'store', step: path, what, expected, got, hint: 'deal a new store: cachet deal --out DIR' });
  const text = read(path, () => readFileSync(path, 'utf8'));
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch {
    throw bad('damaged store', 'JSON', 'something else');
  }
  if (json['version'] !== FORMAT) throw bad('store of another version', `version ${FORMAT}`, String(json['version']));
  const { sha256, ...record } = json,
    parsed = schema.safeParse(record);
  if (sha256 !== checksum(record) || !parsed.success) throw bad('damaged store', 'a record of the hash in it', 'another');
  return parsed.data;
}

function read<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    throw new CachetError({
      code: 'store',
      what: 'cannot read store',
      expected: path,
      got: (cause as NodeJS.ErrnoException).code ?? 'an error',
      hint: 'cachet deal --out DIR makes a store',
      cause,
    });
  }
}

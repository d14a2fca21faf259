/** From a model to its artefact on disk: what `cachet prepare` does, and what benchmarks do for a random model that has none yet. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ARTEFACT_FILE, artefactPath, isRandom, modelFolder, openModel, packageRoot, partsFolder, readBytes, readModelArtefact } from '../client/node.ts';
import { Tokenizer } from '../client/tokenizer.ts';
import { readArtefact, type Artefact, type SecretRole } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import type { ModelShape } from '../protocols/models/config.ts';
import type { SessionSpec } from '../protocols/session.ts';
import { prepare, type Prepared } from '../protocols/prepare.ts';
import { secretModel, splitModel } from '../protocols/splitWeights.ts';
import { writeAtomically } from './files.ts';

export interface PrepareRequest {
  readonly model: string;
  /** File of sample text, one document a line. @default calibration.txt in the model's folder, or a general text */
  readonly calibration?: string | undefined;
  /** Public text before every prompt. @default how the model's own calibration text begins, else what its chat template writes before a message, else BOS */
  readonly prefix?: string | undefined;
  readonly name?: string | undefined;
  readonly out?: string | undefined;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface SplitRequest {
  /** Folder with a prepared artefact of open weights. */
  readonly model: string;
  /** Folder that gets one folder a role. */
  readonly out: string;
  readonly calibration?: string | undefined;
  /** The client gets the most likely token, no logits. */
  readonly hideLogits?: boolean | undefined;
  readonly onProgress?: (done: number, total: number) => void;
}

/** What each role's folder has, and their common digest. */
export interface SplitResult {
  readonly digest: string;
  readonly files: readonly { readonly role: SecretRole; readonly path: string; readonly bytes: number }[];
}

export interface PrepareResult extends Prepared {
  readonly path: string;
  readonly digest: string;
  readonly documents: number;
  readonly prefixTokens: number;
}

/** @throws CachetError 'usage' for unusable calibration text, 'range' for a model that would overflow; what openModel throws. */
export async function makeArtefact(o: PrepareRequest): Promise<PrepareResult> {
  const model = await openModel(o.model),
    { prefixIds, documents } = isRandom(o.model) ? randomText(model.shape) : await sampleText(o, model.shape, model),
    result = prepare({ name: o.name ?? model.name, weights: model.weights(), prefixIds, documents, ...(o.onProgress ? { onProgress: o.onProgress } : {}) }),
    path = o.out ?? artefactPath(o.model);
  await mkdir(dirname(path), { recursive: true });
  await writeAtomically(path, result.bytes);
  if (model.tokenizer && !existsSync(join(dirname(path), 'tokenizer.json'))) {
    // A folder of its own: whoever is given it has all that a party or a client needs.
    await writeTokenizer(dirname(path), { json: model.tokenizer, config: model.tokenizerConfig });
  }
  return { ...result, path, digest: createHash('sha256').update(result.bytes).digest('hex'), documents: documents.length, prefixTokens: prefixIds.length };
}

/**
 * Splits a prepared model's weights: one folder a role, to be given to nobody else. The client's has the tokenizer. Every call takes fresh masks.
 * @throws CachetError 'artefact' for weights that are split already, 'usage' for unusable calibration text, 'range' for a head that would overflow.
 */
export async function splitWeights(o: SplitRequest): Promise<SplitResult> {
  const artefact = await artefactOf(o.model),
    model = await openModel(o.model),
    { documents } = isRandom(o.model) ? randomText(model.shape) : await sampleText(o, model.shape, model, artefact.prefixIds),
    owner = secretModel({ artefact, documents, hideLogits: o.hideLogits, ...(o.onProgress && { onProgress: o.onProgress }) }),
    files: SplitResult['files'][number][] = [];
  let digest = '';
  for (const { role, bytes } of splitModel(owner)) {
    const path = join(o.out, role, ARTEFACT_FILE);
    await writeAtomically(path, bytes, 0o600);
    files.push({ role, path, bytes: bytes.length });
    digest = readArtefact(bytes).digest;
  }
  if (model.tokenizer) await writeTokenizer(join(o.out, 'client'), { json: model.tokenizer, config: model.tokenizerConfig });
  return { digest, files };
}

/** What a client and the parties read where all of them are on this machine. */
export interface LocalModel {
  /** The client's. */
  readonly artefact: Artefact;
  /** What each party is given instead of the model; undefined where all read the same. */
  readonly parts: Readonly<Record<Exclude<SecretRole, 'owner'>, string>> | undefined;
}

/** A model with open weights, or with private ones: split when they are first asked for, kept in the cache for the next time. @throws what `splitWeights` does. */
export async function localModel(model: string, weights: SessionSpec['weights'], say: (text: string) => void): Promise<LocalModel> {
  const artefact = await artefactOf(model);
  if (weights === 'open') return { artefact, parts: undefined };
  const out = partsFolder(artefact.digest),
    parts = { p0: join(out, 'p0'), p1: join(out, 'p1'), helper: join(out, 'helper'), client: join(out, 'client') };
  // The client's part is written last.
  if (!existsSync(join(parts.client, ARTEFACT_FILE)))
    await splitWeights({ model, out, onProgress: (done, total) => say(`splitting the weights: document ${done} of ${total}`) });
  return { artefact: await readModelArtefact(parts.client), parts };
}

async function writeTokenizer(folder: string, { json, config }: { readonly json: object; readonly config: object }): Promise<void> {
  await writeAtomically(join(folder, 'tokenizer.json'), new TextEncoder().encode(JSON.stringify(json)));
  await writeAtomically(join(folder, 'tokenizer_config.json'), new TextEncoder().encode(JSON.stringify(config)));
}

/** Makes the artefact of a random model unless it is there already. */
async function ensureArtefact(model: string): Promise<void> {
  if (isRandom(model) && !existsSync(artefactPath(model))) await makeArtefact({ model });
}

/** A model's artefact; a random model's is made where it is missing. @throws what makeArtefact and readModelArtefact throw. */
export async function artefactOf(model: string): Promise<Artefact> {
  await ensureArtefact(model);
  return readModelArtefact(model);
}

/** Tokens without meaning for weights without meaning. */
function randomText(shape: ModelShape): { prefixIds: number[]; documents: number[][] } {
  const documents = [0, 1, 2].map((d) => Array.from({ length: 96 }, (_, i) => (7919 * (i + 1) * (d + 1) + 104729 * d) % shape.vocab));
  return { prefixIds: [], documents };
}

/** `known`: the prefix, where it is known already. */
async function sampleText(
  o: Pick<PrepareRequest, 'model' | 'calibration' | 'prefix'>,
  shape: ModelShape,
  model: { readonly tokenizer?: object; readonly tokenizerConfig: object },
  known?: readonly number[],
): Promise<{ prefixIds: number[]; documents: number[][] }> {
  if (!model.tokenizer) throw new CachetError({ code: 'model', step: 'tokenizer.json', what: 'no tokenizer', expected: 'one beside the weights', got: 'none' });
  const tokenizer = new Tokenizer(model.tokenizer, model.tokenizerConfig),
    own = join(modelFolder(o.model), 'calibration.txt'),
    isOwn = o.calibration === undefined && existsSync(own),
    path = o.calibration ?? (isOwn ? own : join(packageRoot(), 'protocols', 'models', 'calibration.txt')),
    text = new TextDecoder().decode(await readBytes(path, 'usage', '--calibration FILE with sample text, one document a line')),
    lines = text.split('\n').filter((line) => line.trim() !== '');
  if (lines.length === 0) throw new CachetError({ code: 'usage', what: 'no calibration text', expected: 'one document a line', got: 'an empty file' });
  const encoded = lines.map((line) => tokenizer.encode(line)),
    opening = openingOf(tokenizer);
  // A model's own calibration text begins as its prompts do.
  const prefixIds = known
    ? [...known]
    : o.prefix !== undefined
      ? tokenizer.encode(o.prefix)
      : isOwn
        ? commonBeginning(encoded)
        : opening !== undefined
          ? tokenizer.encode(opening)
          : shape.bosId === null
            ? []
            : [shape.bosId];
  const documents = encoded.map((ids) => (prefixIds.every((id, i) => ids[i] === id) ? ids : [...prefixIds, ...ids]).slice(0, shape.maxPositions));
  return { prefixIds, documents };
}

const commonBeginning = (lists: readonly number[][]): number[] => {
  const [first, ...rest] = lists,
    n = first!.findIndex((id, i) => rest.some((list) => list[i] !== id));
  return first!.slice(0, n < 0 ? first!.length - 1 : n);
};

/** What the chat template writes before a first message of the user; undefined if there is no template, or nothing before it. */
function openingOf(tokenizer: Tokenizer): string | undefined {
  const mark = 'M',
    text = tokenizer.hasTemplate ? tokenizer.chat([{ role: 'user', content: mark }]) : '',
    at = text.lastIndexOf(mark);
  return at > 0 ? text.slice(0, at) : undefined;
}

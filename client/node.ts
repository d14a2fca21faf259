/** The client's file access: models. The rest of client/ runs in a browser as well. */
import { readFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { homedir } from 'node:os';
import { pipeline } from 'node:stream/promises';
import { closeSync, createReadStream, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ARTEFACT_VERSION, readArtefact, type Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import { readCheckpointConfig, type ModelShape } from '../protocols/models/config.ts';
import { readGguf, type Gguf } from '../protocols/models/gguf.ts';
import { ggufShape, readGgufWeights } from '../protocols/models/ggufModel.ts';
import { ggufTokenizer } from '../protocols/models/ggufTokenizer.ts';
import { randomShape, randomWeights } from '../protocols/models/random.ts';
import { HUGGING_FACE } from '../protocols/models/registry.ts';
import { readSafetensors, readShards, SHARD_INDEX } from '../protocols/models/safetensors.ts';
import type { ByteSource, TensorSource } from '../protocols/models/source.ts';
import type { ModelWeights } from '../protocols/models/weights.ts';
import { cheapestPolicy } from '../protocols/cost.ts';
import { policiesWithin, qualityReportSchema, type QualityReport } from '../protocols/qualityReport.ts';
import { checkPolicy, FULL, parsePolicy, POLICY_NAMES, PRESETS, type Policy } from '../protocols/policy.ts';
import { Tokenizer } from './tokenizer.ts';

/** Model that ships with the package. */
export const EMBEDDED_MODEL = 'tiny-notes';

export const ARTEFACT_FILE = 'model.cachet';
const RANDOM = 'random:';

/** A model whose weights can be read. */
export interface OpenModel {
  /** Of the folder or file, without its ending; or as it was asked for. */
  readonly name: string;
  readonly shape: ModelShape;
  /** Reads them, all in float32; each call reads them again. @throws CachetError 'model' naming what is wrong with which tensor. */
  weights(): ModelWeights;
  /** The parsed tokenizer.json, or what it would be; random models and folders without one have none. */
  readonly tokenizer?: object;
  /** The parsed tokenizer_config.json with the chat template; empty where there is none. */
  readonly tokenizerConfig: object;
}

/** Root of the installed package, from sources and from the build alike. */
export function packageRoot(): string {
  let at = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(at, 'protocols', 'models', EMBEDDED_MODEL))) at = dirname(at);
  return at;
}

/** Of package.json. */
export const packageVersion = (): string => (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;

/** The folder of a model: the embedded model by its name, a folder, or the folder of a GGUF file. @throws CachetError 'usage' for a random model, which has none. */
export function modelFolder(model: string): string {
  if (model === EMBEDDED_MODEL) return join(packageRoot(), 'protocols', 'models', EMBEDDED_MODEL);
  if (model.startsWith(RANDOM))
    throw new CachetError({ code: 'usage', what: 'a random model has no folder', expected: 'a folder or a GGUF file', got: model, hint: 'cachet models' });
  return isGguf(model) ? dirname(model) : model;
}

const isGguf = (path: string): boolean => path.toLowerCase().endsWith('.gguf');

/** The GGUF file that a model is, or the only one of its folder; else undefined. @throws CachetError 'model' if there are several to choose from. */
function ggufPath(model: string): string | undefined {
  if (model.startsWith(RANDOM)) return undefined;
  if (isGguf(model)) return model;
  const folder = modelFolder(model);
  if (existsSync(join(folder, 'config.json')) && safetensorsPath(folder) !== undefined) return undefined;
  const files = existsSync(folder) && statSync(folder).isDirectory() ? readdirSync(folder).filter(isGguf) : [];
  if (files.length > 1)
    throw new CachetError({ code: 'model', step: folder, what: 'several GGUF files', expected: 'one', got: files.join(', '), hint: 'name the file instead' });
  return files[0] === undefined ? undefined : join(folder, files[0]);
}

const safetensorsPath = (folder: string): string | undefined => ['model.safetensors', SHARD_INDEX].map((f) => join(folder, f)).find((f) => existsSync(f));

/** The file that a model's weights are in, or the index of those; undefined where there is none. @throws CachetError 'model' if there are several GGUF files. */
export const weightsPath = (model: string): string | undefined => ggufPath(model) ?? safetensorsPath(modelFolder(model));

const cannotRead = (path: string, code: 'config' | 'artefact' | 'model' | 'policy' | 'usage', cause: unknown, hint?: string): CachetError =>
  new CachetError({
    code,
    what: 'cannot read file',
    expected: path,
    got: (cause as NodeJS.ErrnoException).code ?? String(cause),
    hint: hint ?? UNREADABLE[(cause as NodeJS.ErrnoException).code ?? ''] ?? 'another file',
    cause,
  });

const UNREADABLE: Readonly<Record<string, string>> = {
  ENOENT: 'check the path',
  ENOTDIR: 'check the path',
  EISDIR: 'a file, not a folder',
  EACCES: 'its permissions',
};

/** A file, read by ranges; it is open only while it is being read. @throws CachetError 'model' naming the file. */
export function fileSource(path: string): ByteSource & { readonly path: string; readonly modifiedMs: number } {
  const opened = <T>(f: () => T): T => {
    try {
      return f();
    } catch (cause) {
      throw cause instanceof CachetError ? cause : cannotRead(path, 'model', cause);
    }
  };
  const readInto = (target: Uint8Array, from: number): void =>
    opened(() => {
      const file = openSync(path, 'r');
      try {
        for (let at = 0; at < target.length;) {
          const n = readSync(file, target, at, Math.min(target.length - at, 2 ** 30), from + at);
          if (n === 0)
            throw new CachetError({
              code: 'model',
              step: path,
              what: 'file shrank while it was read',
              expected: `${from + target.length} bytes`,
              got: String(from + at),
            });
          at += n;
        }
      } finally {
        closeSync(file);
      }
    });
  const { size, mtimeMs } = opened(() => statSync(path));
  return {
    path,
    modifiedMs: mtimeMs,
    size,
    readInto,
    read(from, to) {
      const out = new Uint8Array(to - from);
      readInto(out, from);
      return out;
    },
  };
}

/** @throws CachetError naming the file. */
export async function readBytes(path: string, code: 'config' | 'artefact' | 'model' | 'policy' | 'usage', hint?: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw cannotRead(path, code, cause, hint);
  }
}

/** @throws CachetError naming the file. */
export async function readJson(path: string, code: 'config' | 'model' | 'policy' | 'usage', hint?: string): Promise<unknown> {
  return parseJson(new TextDecoder().decode(await readBytes(path, code, hint)), path, code);
}

function parseJson(text: string, path: string, code: 'config' | 'model' | 'policy' | 'usage'): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CachetError({ code, what: 'not JSON', expected: `JSON in ${path}`, got: whereNot(cause as Error), hint: 'another file, or mend this one' });
  }
}

/** Where a parser stopped. Its message may quote the text, which may be a private one; a position at its end follows no quotation. */
function whereNot(error: Error): string {
  const at = / at position (\d+)(?: \(line \d+ column \d+\))?$/.exec(error.message)?.[1];
  return at === undefined ? 'other text' : `other text at character ${at}`;
}

/** Its artefact: `model.cachet` in the folder, beside a GGUF file under its name, or for a random model in the cache. */
export const artefactPath = (model: string): string =>
  model.startsWith(RANDOM)
    ? join(cacheFolder(), `${model.replace(':', '-')}-v${ARTEFACT_VERSION}.cachet`)
    : isGguf(model)
      ? model.replace(/\.gguf$/i, '.cachet')
      : join(modelFolder(model), ARTEFACT_FILE);

/** Where artefacts of random models and parts of private ones are kept: the folder that CACHET_CACHE names, or one in the user's cache. */
const cacheFolder = (): string => process.env['CACHET_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'cachet');

/** Where a private model's parts are kept for benchmarks and demos on this machine, by the digest of its open artefact. */
export const partsFolder = (digest: string): string => join(cacheFolder(), `private-${digest.slice(0, 16)}`);

/** Whether a model is one of random weights, for benchmarks. */
export const isRandom = (model: string): boolean => model.startsWith(RANDOM);

/** The integer artefact of a model: its tensors are read from the file as they are needed. */
export async function readModelArtefact(model: string): Promise<Artefact> {
  const path = artefactPath(model);
  if (!existsSync(path))
    throw new CachetError({ code: 'artefact', what: 'cannot read file', expected: path, got: 'ENOENT', hint: `cachet prepare --model ${model}` });
  const sum = async (start: number): Promise<string> => {
    const hash = createHash('sha256');
    await pipeline(createReadStream(path, { start, highWaterMark: 1 << 20 }), hash).catch((cause: unknown) => {
      throw cannotRead(path, 'artefact', cause);
    });
    return hash.digest('hex');
  };
  // The header alone is read here: its digest is a split model's, an open one's is that of the file.
  const artefact = readArtefact(fileSource(path), '');
  if (!artefact.header.secret) return { ...artefact, digest: await sum(0) };
  // What is private in a split model is not in its digest, which all roles share: each file has a checksum of its own.
  if ((await sum(artefact.tensors.start)) !== artefact.tensors.metadata['tensors'])
    throw new CachetError({
      code: 'artefact',
      step: path,
      what: 'corrupt file',
      expected: "the tensors' checksum in its header",
      got: 'another',
      hint: 'copy it again from where cachet weights split wrote it',
    });
  return artefact;
}

/** The name of the choice by cost. */
export const AUTO = 'auto';

/** The quality report beside a model's artefact, where it has one of this artefact. @throws CachetError 'policy' if it cannot be read. */
async function readQualityReport(model: string, artefact: Artefact): Promise<QualityReport | undefined> {
  const path = qualityReportPath(model);
  if (!existsSync(path)) return undefined;
  const parsed = qualityReportSchema.safeParse(await readJson(path, 'policy'));
  if (!parsed.success)
    throw new CachetError({
      code: 'policy',
      step: `${path}, ${parsed.error.issues[0]!.path.join('.') || 'top level'}`,
      what: 'bad quality report',
      expected: 'what cachet eval --report writes',
      got: parsed.error.issues[0]!.message,
      hint: 'cachet eval --report again, or remove the file',
    });
  return parsed.data.artefact === artefact.digest ? parsed.data : undefined;
}

/** Beside the artefact. */
export const qualityReportPath = (model: string): string => artefactPath(model).replace(/\.cachet$/, '.quality.json');

/**
 * A cache policy for a model: a preset's name, or a JSON file. `mpcache` is what the model's quality report recommends, where it has one, with the full cache where
 * that finds none good enough. `auto`, where the `use` is known, is what costs fewest bytes for it of those that are good enough (goodPolicies), each also without its
 * selection. @throws CachetError 'policy' for neither, or for one that the model cannot follow.
 */
export async function readPolicy(
  text: string,
  model: string,
  artefact: Artefact,
  use?: { readonly promptTokens: number; readonly maxTokens: number },
): Promise<Policy> {
  if (text === AUTO) {
    if (!use)
      throw new CachetError({
        code: 'policy',
        what: 'no length for the policy auto',
        expected: 'one prompt and one answer, as in ask, demo, cost and bench; in chat a note',
        got: 'none',
        hint: `--policy ${POLICY_NAMES.join(', ')}, or a JSON file`,
      });
    return cheapestPolicy(artefact, await goodPolicies(model, artefact), use.promptTokens, use.maxTokens);
  }
  const preset = text === 'mpcache' ? await mpcacheOf(model, artefact) : (PRESETS as Readonly<Record<string, Policy>>)[text];
  if (!preset && !existsSync(text))
    throw new CachetError({
      code: 'policy',
      what: 'unknown cache policy',
      expected: `${POLICY_NAMES.join(', ')}, auto, or a JSON file`,
      got: text,
      hint: 'cachet policy lists the presets',
    });
  const policy = preset ?? parsePolicy(await readJson(text, 'policy'), text);
  checkPolicy(policy, artefact.shape);
  return policy;
}

/** What `auto` chooses from: the full cache, and the policies of the model's quality report that are good enough; for random weights all presets. */
export const goodPolicies = async (model: string, artefact: Artefact): Promise<Policy[]> => [
  FULL,
  ...(isRandom(model) ? Object.values(PRESETS) : policiesWithin((await readQualityReport(model, artefact))?.policies ?? [])),
];

async function mpcacheOf(model: string, artefact: Artefact): Promise<Policy> {
  const report = await readQualityReport(model, artefact);
  return report ? (report.recommended ?? { ...FULL, name: 'mpcache' }) : PRESETS.mpcache;
}

/** The embedded model's name, a Hugging Face folder, a GGUF file or a folder with one, or `random:` and a name of protocols/models/random.ts. @throws CachetError 'model'. */
export async function openModel(model: string): Promise<OpenModel> {
  if (model.startsWith(RANDOM)) {
    const shape = randomShape(model.slice(RANDOM.length));
    return { name: model, shape, weights: () => randomWeights(shape), tokenizerConfig: {} };
  }
  const path = ggufPath(model);
  if (path !== undefined) {
    const file = openGguf(path),
      shape = ggufShape(file),
      { json, config } = ggufTokenizer(file);
    return { name: basename(path).replace(/\.gguf$/i, ''), shape, weights: () => readGgufWeights(shape, file), tokenizer: json, tokenizerConfig: config };
  }
  const folder = modelFolder(model),
    { shape, biases } = readCheckpointConfig(await readJson(join(folder, 'config.json'), 'model', 'a Hugging Face model folder, or a GGUF file')),
    files = existsSync(join(folder, 'tokenizer.json')) ? await folderTokenizer(folder) : undefined;
  return {
    name: basename(resolve(folder)),
    shape,
    weights: () => HUGGING_FACE[shape.architecture](shape, biases, openTensors(folder)),
    ...(files && { tokenizer: files.json }),
    tokenizerConfig: files?.config ?? {},
  };
}

/**
 * Of a folder its tokenizer.json, unless only a GGUF file in it has a chat template.
 * @throws CachetError 'model' if there is none, or one that cannot be used; 'usage' for a random model, which has none.
 */
export async function readTokenizer(model: string): Promise<Tokenizer> {
  const folder = modelFolder(model),
    path = ggufPath(model),
    own = path === undefined || (!isGguf(model) && existsSync(join(folder, 'tokenizer.json'))) ? await folderTokenizer(folder) : undefined,
    { json, config } = path === undefined || (own && 'chat_template' in own.config) ? own! : ggufTokenizer(openGguf(path));
  return new Tokenizer(json, config);
}

/** The file's name in errors that say no other place. */
function inFile<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof CachetError) || error.details.step !== undefined) throw error;
    throw new CachetError({ ...error.details, step: path });
  }
}

const openGguf = (path: string): Gguf => inFile(path, () => readGguf(fileSource(path)));

function openTensors(folder: string): TensorSource {
  const path = safetensorsPath(folder) ?? join(folder, 'model.safetensors');
  if (!path.endsWith(SHARD_INDEX)) return inFile(path, () => readSafetensors(fileSource(path)));
  return readShards(parseJson(readFileSync(path, 'utf8'), path, 'model'), (file) => fileSource(join(folder, file)));
}

/** Both files of a folder; a chat template may be in a file of its own. */
async function folderTokenizer(folder: string): Promise<{ readonly json: object; readonly config: object }> {
  const json = (await readJson(join(folder, 'tokenizer.json'), 'model')) as object,
    config = join(folder, 'tokenizer_config.json'),
    template = join(folder, 'chat_template.jinja');
  return {
    json,
    config: {
      ...(existsSync(config) ? ((await readJson(config, 'model')) as object) : {}),
      ...(existsSync(template) ? { chat_template: readFileSync(template, 'utf8') } : {}),
    },
  };
}

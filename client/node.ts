/** The client's file access: model folders. The rest of client/ runs in a browser as well. */
import { readFile } from 'node:fs/promises';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readArtefact, type Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import { Tokenizer } from './tokenizer.ts';

/** Model that ships with the package. */
export const EMBEDDED_MODEL = 'tiny-notes';

const ARTEFACT_FILE = 'model.cachet';

/** Root of the installed package, from sources and from the build alike. */
export function packageRoot(): string {
  let at = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(at, 'protocols', 'models', EMBEDDED_MODEL))) at = dirname(at);
  return at;
}

/** Of package.json. */
export const packageVersion = (): string => (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;

/** The folder of a model: the embedded model by its name, or a path. */
export const modelFolder = (model: string): string => (model === EMBEDDED_MODEL ? join(packageRoot(), 'protocols', 'models', EMBEDDED_MODEL) : model);

/** @throws CachetError naming the file. */
export async function readBytes(path: string, code: 'config' | 'artefact' | 'model' | 'usage', hint?: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new CachetError({
      code,
      what: 'cannot read file',
      expected: path,
      got: (cause as NodeJS.ErrnoException).code ?? String(cause),
      ...(hint === undefined ? {} : { hint }),
      cause,
    });
  }
}

/** @throws CachetError naming the file. */
export async function readJson(path: string, code: 'config' | 'model' | 'usage', hint?: string): Promise<unknown> {
  const text = new TextDecoder().decode(await readBytes(path, code, hint));
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CachetError({ code, what: 'not JSON', expected: `JSON in ${path}`, got: (cause as Error).message, cause });
  }
}

/** The integer artefact of a model folder. */
export async function readModelArtefact(model: string): Promise<Artefact> {
  return readArtefact(await readBytes(join(modelFolder(model), ARTEFACT_FILE), 'artefact', `cachet prepare --model ${model}`));
}

export async function readTokenizer(model: string): Promise<Tokenizer> {
  const folder = modelFolder(model),
    config = join(folder, 'tokenizer_config.json');
  return new Tokenizer(
    (await readJson(join(folder, 'tokenizer.json'), 'model')) as object,
    existsSync(config) ? ((await readJson(config, 'model')) as object) : {},
  );
}

export const artefactPath = (model: string): string => join(modelFolder(model), ARTEFACT_FILE);

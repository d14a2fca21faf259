/** `cachet models`: what is supported, and what is found. */
import { existsSync, statSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { artefactPath, EMBEDDED_MODEL, modelFolder, openModel, readModelArtefact, weightsPath } from '../../client/node.ts';
import { CachetError } from '../../protocols/errors.ts';
import { ARCHITECTURES, type Architecture } from '../../protocols/models/config.ts';
import { RANDOM_SHAPES } from '../../protocols/models/random.ts';
import { FORMATS } from '../../protocols/models/registry.ts';
import { parameterCount } from '../../protocols/models/weights.ts';
import { bytes, count, table, wrap } from '../terminal.ts';

interface Found {
  readonly model: string;
  readonly architecture?: Architecture;
  readonly layers?: number;
  readonly width?: number;
  readonly parameters?: number;
  /** SHA-256 of the artefact; absent: not prepared. */
  readonly digest?: string;
  readonly artefactBytes?: number;
  /** Why it cannot be used. */
  readonly problem?: string;
}

async function look(model: string): Promise<Found> {
  try {
    const prepared = existsSync(artefactPath(model)) ? await readModelArtefact(model) : undefined,
      { shape } = prepared ?? (await openModel(model)),
      { architecture, layers, width } = shape,
      found = { model, architecture, layers, width, parameters: parameterCount(shape) };
    if (prepared) return { ...found, digest: prepared.digest, artefactBytes: (await stat(artefactPath(model))).size };
    return weightsPath(model) === undefined ? { ...found, problem: 'neither model.safetensors nor a GGUF file: nothing to prepare' } : found;
  } catch (error) {
    return { model, problem: (error as Error).message };
  }
}

/** Models of one folder: itself, and where it has several GGUF files, or artefacts beside them, those. */
async function modelsOf(folder: string): Promise<string[]> {
  const names = await readdir(folder),
    files = names.filter((name) => name.toLowerCase().endsWith('.gguf')).map((name) => join(folder, name)),
    named = files.length > 1 || files.some((file) => existsSync(artefactPath(file))),
    whole = ['model.safetensors', 'model.safetensors.index.json', 'model.cachet'].some((name) => names.includes(name));
  if (whole || (names.includes('config.json') && !named)) return named ? [folder, ...files] : [folder];
  return named ? files : files.length > 0 ? [folder] : [];
}

/** Those of the folder itself, or of the folders in it. */
async function modelsIn(folder: string): Promise<string[]> {
  if (!existsSync(folder)) return [];
  const own = await modelsOf(folder);
  if (own.length > 0) return own;
  const entries = await readdir(folder, { withFileTypes: true });
  const inside = entries.filter((e) => e.isDirectory() && !e.name.startsWith('.') && e.name !== 'node_modules');
  return (await Promise.all(inside.map((e) => modelsOf(join(folder, e.name))))).flat();
}

/** @throws CachetError 'usage' for what is not a folder. */
function checkFolder(path: string): string {
  const got = statSync(path, { throwIfNoEntry: false });
  if (got?.isDirectory()) return path;
  throw new CachetError({
    code: 'usage',
    step: '--dir',
    what: 'not a folder',
    expected: 'a folder with models in it, or a model',
    got: got ? `a file, ${path}` : `${path}, which does not exist`,
    hint: 'check the path',
  });
}

const place = (model: string): string => resolve(model === EMBEDDED_MODEL ? modelFolder(model) : model);

export const modelsCommand = new Command('models')
  .description('What models are supported, and which are found here.')
  .option('--dir <dir>', 'look there too (default: the folders of CACHET_MODELS and the present one)')
  .option('--json', 'as JSON on stdout')
  .action(async (o: { dir?: string; json?: boolean }) => {
    const places = o.dir === undefined ? [...(process.env['CACHET_MODELS'] ?? '').split(':').filter(Boolean), '.'] : [checkFolder(o.dir)],
      folders = (await Promise.all(places.map((p) => modelsIn(p)))).flat(),
      names = [...new Map([EMBEDDED_MODEL, ...folders].map((m) => [place(m), m])).values()],
      found = await Promise.all(names.map(look));
    const random = Object.keys(RANDOM_SHAPES).map((name) => `random:${name}`);
    if (o.json) return void console.log(JSON.stringify({ architectures: ARCHITECTURES, formats: FORMATS, random, models: found }));
    console.log('what can be prepared, and what is there for benchmarks:');
    for (const [name, items] of [
      ['architectures', ARCHITECTURES],
      ...FORMATS.map((f) => [f.format, f.tensorTypes] as const),
      ['random weights', random],
    ] as const)
      console.log(wrap(`${name}: ${items.join(', ')}`));
    console.log();
    console.log(
      table([
        ['model', 'architecture', 'layers', 'width', 'parameters', 'artefact', 'digest'],
        ...found.map((f) => [
          f.model,
          f.architecture ?? '',
          f.layers === undefined ? '' : String(f.layers),
          f.width === undefined ? '' : String(f.width),
          f.parameters === undefined ? '' : count(f.parameters),
          f.artefactBytes === undefined ? 'none' : bytes(f.artefactBytes),
          f.digest === undefined ? '' : f.digest.slice(0, 16),
        ]),
      ]),
    );
    for (const f of found) {
      if (f.problem !== undefined) console.log(`\n${f.model}: ${f.problem}`);
      else if (f.digest === undefined) console.log(`\n${f.model} is not prepared: cachet prepare --model ${f.model}`);
    }
  });

/** `cachet models`: what is supported, and what is found. */
import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { artefactPath, EMBEDDED_MODEL, modelFolder, readJson, readModelArtefact } from '../../client/node.ts';
import { ARCHITECTURES, readConfig, type ModelShape } from '../../protocols/models/config.ts';
import { WEIGHT_TYPES } from '../../protocols/models/safetensors.ts';
import { bytes, count, table } from '../terminal.ts';

interface Found {
  readonly model: string;
  readonly layers?: number;
  readonly width?: number;
  readonly parameters?: number;
  /** SHA-256 of the artefact; absent: not prepared. */
  readonly digest?: string;
  readonly artefactBytes?: number;
  /** Why it cannot be used. */
  readonly problem?: string;
}

const parametersOf = (s: ModelShape): number =>
  s.vocab * s.width * (s.tied ? 1 : 2) + s.layers * (s.width * s.headDim * (2 * s.heads + 2 * s.kvHeads) + 3 * s.width * s.inner + 2 * s.width) + s.width;

async function look(model: string): Promise<Found> {
  try {
    const prepared = existsSync(artefactPath(model)),
      shape = readConfig(await readJson(join(modelFolder(model), 'config.json'), 'model')),
      found = { model, layers: shape.layers, width: shape.width, parameters: parametersOf(shape) };
    if (!prepared && !existsSync(join(modelFolder(model), 'model.safetensors'))) return { ...found, problem: 'no model.safetensors: nothing to prepare' };
    if (!prepared) return found;
    const { digest } = await readModelArtefact(model);
    return { ...found, digest, artefactBytes: (await stat(artefactPath(model))).size };
  } catch (error) {
    return { model, problem: (error as Error).message };
  }
}

const isModel = (folder: string): boolean => existsSync(join(folder, 'config.json')) || existsSync(artefactPath(folder));

/** The folder itself, or those in it. */
async function modelsIn(folder: string): Promise<string[]> {
  if (!existsSync(folder)) return [];
  if (isModel(folder)) return [folder];
  const entries = await readdir(folder, { withFileTypes: true });
  return entries
    .filter((e) => e.isDirectory() && !e.name.startsWith('.') && e.name !== 'node_modules')
    .map((e) => join(folder, e.name))
    .filter(isModel);
}

export const modelsCommand = new Command('models')
  .description('What models are supported, and which are found here.')
  .option('--dir <dir>', 'look there too (default: the folders of CACHET_MODELS and the present one)')
  .option('--json', 'as JSON on stdout')
  .action(async (o: { dir?: string; json?: boolean }) => {
    const places = o.dir === undefined ? [...(process.env['CACHET_MODELS'] ?? '').split(':').filter(Boolean), '.'] : [o.dir],
      folders = (await Promise.all(places.map((p) => modelsIn(p)))).flat(),
      names = [...new Map([EMBEDDED_MODEL, ...folders].map((m) => [resolve(modelFolder(m)), m])).values()],
      found = await Promise.all(names.map(look));
    if (o.json) return void console.log(JSON.stringify({ architectures: ARCHITECTURES, tensorTypes: WEIGHT_TYPES, models: found }));
    console.log(`supported: ${ARCHITECTURES.join(', ')}; safetensors of ${WEIGHT_TYPES.join(', ')}\n`);
    console.log(
      table([
        ['model', 'layers', 'width', 'parameters', 'artefact', 'digest'],
        ...found.map((f) => [
          f.model,
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

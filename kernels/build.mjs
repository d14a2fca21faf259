/** Compiles wasm/assembly to wasm/binary.ts (the module as base64, so that Node, workers and browsers load it alike). */
import { readFile, writeFile, readdir, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const here = fileURLToPath(new URL('./wasm/', import.meta.url));
const target = here + 'binary.ts';
const sources = await Promise.all((await readdir(here + 'assembly')).map((f) => stat(here + 'assembly/' + f)));
const newest = Math.max(...sources.map((s) => s.mtimeMs), (await stat(fileURLToPath(import.meta.url))).mtimeMs);
const built = await stat(target).catch(() => undefined);
if (!built || built.mtimeMs < newest || process.argv.includes('--force')) {
  const output = new Map();
  const { error, stderr } = await asc.main(
    [
      'index.ts',
      '--outFile',
      'out.wasm',
      '-O3',
      '--noAssert',
      '--runtime',
      'stub',
      '--enable',
      'simd,threads,bulk-memory',
      '--importMemory',
      '--sharedMemory',
      '--initialMemory',
      '1',
      '--maximumMemory',
      '65536',
    ],
    {
      readFile: (name) => readFile(here + 'assembly/' + name, 'utf8').catch(() => null),
      writeFile: (name, contents) => void output.set(name, contents),
      listFiles: () => [],
    },
  );
  if (error) {
    console.error(stderr.toString());
    process.exit(1);
  }
  await writeFile(target, `export const binary =\n  '${Buffer.from(output.get('out.wasm')).toString('base64')}';\n`);
}

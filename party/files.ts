/** Files that are whole or not there. */
import { existsSync, statSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CachetError } from '../protocols/errors.ts';

/** Under another name first, then in place; folders are made. `mode`: permissions of a new file. @throws CachetError 'config' naming the file; nothing half-written stays. */
export async function writeAtomically(path: string, data: string | Uint8Array, mode = 0o666): Promise<void> {
  // A device is written itself.
  const direct = existsSync(path) && !statSync(path).isFile(),
    at = direct ? path : `${path}.${process.pid}.part`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(at, data, { mode });
    if (!direct) await rename(at, path);
  } catch (cause) {
    if (!direct) await rm(at, { force: true }).catch(() => undefined);
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new CachetError({
      code: 'config',
      what: 'cannot write file',
      expected: path,
      got: code,
      hint: code === 'ENOSPC' ? 'free some space; nothing half-written is left' : 'another place, or its permissions',
      cause,
    });
  }
}

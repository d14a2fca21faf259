/** How an engine's thread gets at an artefact: from the file, weights straight into the engine's memory; or, for one that came from elsewhere, from shared bytes. */
import { fileSource } from '../client/node.ts';
import { partyBytes, readArtefact, type Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';

export type SharedArtefact = { readonly digest: string } & (
  { readonly path: string; readonly modifiedMs: number } | { readonly bytes: Uint8Array<SharedArrayBuffer>; readonly size: number }
);

const shared = new WeakMap<Artefact, SharedArtefact>();

/** Made once for an artefact; parties' tensors alone where bytes are shared. */
export function shareArtefact(a: Artefact): SharedArtefact {
  let found = shared.get(a);
  if (!found) {
    const { digest, source } = a;
    if (isFile(source)) found = { digest, path: source.path, modifiedMs: source.modifiedMs };
    else {
      const bytes = new Uint8Array(new SharedArrayBuffer(partyBytes(a)));
      source.readInto(bytes, 0);
      found = { digest, bytes, size: source.size };
    }
    shared.set(a, found);
  }
  return found;
}

/** In the engine's thread. @throws CachetError 'artefact' if the file is not the one whose digest is known. */
export function openShared(s: SharedArtefact): Artefact {
  if (!('path' in s))
    return readArtefact(
      {
        size: s.size,
        read: (from, to) => new Uint8Array(s.bytes.subarray(from, to)),
        readInto: (target, from) => target.set(s.bytes.subarray(from, from + target.length)),
      },
      s.digest,
    );
  const source = fileSource(s.path);
  if (source.modifiedMs !== s.modifiedMs)
    throw new CachetError({
      code: 'artefact',
      step: s.path,
      what: 'file has changed since this party started',
      expected: `artefact ${s.digest.slice(0, 16)}`,
      got: 'a newer file',
      hint: 'start the party again',
    });
  return readArtefact(source, s.digest);
}

const isFile = (source: Artefact['source']): source is ReturnType<typeof fileSource> => 'path' in source;

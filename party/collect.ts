/**
 * Garbage collection on request. A session's memory is one large shared buffer that V8 frees with the last object that refers to it, on either thread;
 * its size does not count for V8's own schedule, so an idle party would keep the memory of its last sessions. Node has no other way to ask than this flag.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as (options?: { readonly type: 'minor' }) => void;

/** Collects on this thread, soon: not before the present call chain has let go of its objects. */
export const collectSoon = (): void => void setTimeout(() => gc(), 50).unref();

const YOUNG_BYTES = 8 << 20;
let young = 0;

/**
 * Notes bytes that came in buffers of their own. They die at once, but lie outside of V8's heap, which therefore sees no reason for one of its quick
 * collections until their sum asks for a full one: 70 to 100 ms of every token that deals 26 MB. A quick one every 8 MiB takes about 1 ms.
 */
export function passed(bytes: number): void {
  young += bytes;
  if (young < YOUNG_BYTES) return;
  young = 0;
  gc({ type: 'minor' });
}

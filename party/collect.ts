/**
 * Garbage collection on request. A session's memory is one large shared buffer that V8 frees with the last object that refers to it, on either thread;
 * its size does not count for V8's own schedule, so an idle party would keep the memory of its last sessions. Node has no other way to ask than this flag.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Collects on this thread, soon: not before the present call chain has let go of its objects. */
export const collectSoon = (): void => void setTimeout(gc, 50).unref();

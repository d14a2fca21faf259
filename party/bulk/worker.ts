/** The thread of a bulk backend: opens it, tries it, then answers engines' lists. Engines block on their memories meanwhile; this thread never does. */
import { parentPort } from 'node:worker_threads';
import type { BulkBackend } from '../../kernels/bulk.ts';
import { BULK_BACKENDS, openBackend } from './backends.ts';
import { BULK, type BulkRequest, type FromBulk, type ToBulk } from './messages.ts';
import { fasterKinds, inexactKinds } from './trial.ts';

const post = (message: FromBulk): void => parentPort!.postMessage(message);
const reasonOf = (error: unknown): string => (error as Error).message.split('\n')[0]!.slice(0, 200);

let backend: BulkBackend | undefined;
/** Lists of different engines go through one device, one after another. */
let last: Promise<void> = Promise.resolve();

/** `auto`: the first backend that computes anything faster than the engine itself, with what it computes faster; otherwise the one that is named, with all. */
async function open(name: string): Promise<void> {
  const reasons: string[] = [];
  for (const candidate of name === 'auto' ? BULK_BACKENDS : [name])
    try {
      const opened = await openBackend(candidate);
      backend = opened;
      const wrong = await inexactKinds(opened);
      if (wrong.length === 0) {
        const kinds = name !== 'auto' ? opened.kinds : opened.emulated ? [] : await fasterKinds(opened);
        if (kinds.length > 0) return post({ type: 'opened', name: opened.name, device: opened.device, kinds });
        reasons.push(`${candidate}: slower than wasm here, ${opened.device}`);
      } else reasons.push(`${candidate}: not exact in ${wrong.join(', ')}, ${opened.device}`);
      backend = undefined;
      await opened.close();
    } catch (error) {
      backend = undefined;
      reasons.push(`${candidate}: ${reasonOf(error)}`);
    }
  post({ type: 'refused', reason: reasons.join('; ') });
}

async function answer(memory: WebAssembly.Memory, { jobs, state }: BulkRequest): Promise<void> {
  let result: number = BULK.failed;
  try {
    if (backend) {
      await backend.run(memory, jobs);
      result = BULK.done;
    }
  } catch (error) {
    const failed = backend;
    backend = undefined;
    await failed?.close().catch(() => undefined);
    post({ type: 'failed', reason: reasonOf(error) });
  }
  Atomics.store(state, 0, result);
  Atomics.notify(state, 0);
}

parentPort!.on('message', (m: ToBulk) => {
  if (m.type === 'open') last = last.then(() => open(m.backend));
  else if (m.type === 'close')
    last = last
      .then(() => backend?.close())
      .catch(() => undefined)
      // Engines' ports may still be open.
      .then(() => process.exit());
  else m.port.on('message', (request: BulkRequest) => (last = last.then(() => answer(m.memory, request)))).on('close', () => m.port.close());
});

/** The threads that compute for one engine beside the one that it runs on (kernels/threads.ts). They are kept between sessions. */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { packageRoot } from '../client/node.ts';
import { endThreads } from '../kernels/threads.ts';

/** What a thread is told: to serve this memory, as which of its threads. */
export interface KernelStart {
  readonly memory: WebAssembly.Memory;
  /** Name of the backend. */
  readonly kernels: string;
  readonly thread: number;
}

/** Threads without a memory to serve: as many as one engine uses. */
const idle: Worker[] = [];

export class KernelThreads {
  private readonly memory: WebAssembly.Memory;
  private readonly threads: number;

  /** Starts `threads` - 1 of them; none keeps the process alive. The memory's last `threads` - 1 pages are theirs. */
  constructor(o: { memory: WebAssembly.Memory; kernels: string; threads: number; onError: (cause: Error) => void }) {
    const { memory, kernels, threads } = o;
    this.memory = memory;
    this.threads = threads;
    for (let thread = 1; thread < threads; thread++) {
      const worker = idle.pop() ?? new Worker(join(packageRoot(), 'dist', 'party', 'kernelWorker.js'));
      worker.unref();
      worker.once('error', o.onError);
      worker.once('message', () => {
        worker.off('error', o.onError);
        if (idle.length < threads - 1) idle.push(worker);
        else void worker.terminate();
      });
      const start: KernelStart = { memory, kernels, thread };
      worker.postMessage(start);
    }
  }

  /** Ends them; a kernel that runs is completed. May be called again. */
  stop(): void {
    if (this.threads > 1) endThreads(this.memory);
  }
}

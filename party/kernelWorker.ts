/** A thread that computes for an engine: serves memories, one after another, so that its compiled code stays warm. It blocks on the memory. */
import { parentPort } from 'node:worker_threads';
import { workingSpace } from '../kernels/memory.ts';
import { createKernels } from '../kernels/registry.ts';
import { serveKernels } from '../kernels/threads.ts';
import { collectSoon } from './collect.ts';
import type { KernelStart } from './kernelThreads.ts';

parentPort!.on('message', ({ memory, kernels, thread }: KernelStart) => {
  serveKernels(createKernels(kernels, memory, workingSpace(memory, thread)));
  parentPort!.postMessage('idle');
  collectSoon();
});

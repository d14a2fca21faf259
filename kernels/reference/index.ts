/** The reference backend: plain TypeScript over BigInt, as close to the definitions in kernels.ts as it gets. Slow; every backend is tested against it. */
import type { Kernels } from '../kernels.ts';
import { gateKernels } from './gates.ts';
import { keyedKernels } from './keyed.ts';
import { ringKernels } from './ring.ts';

export function referenceKernels(memory: WebAssembly.Memory): Kernels {
  return { name: 'reference', choices: '', memory, ...ringKernels(memory), ...keyedKernels(memory), ...gateKernels(memory) };
}

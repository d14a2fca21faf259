/** The kernel backends. All implement `Kernels` and pass test/kernels.test.ts against `reference`. */
import type { Kernels } from './kernels.ts';
import { KernelError } from './memory.ts';
import { referenceKernels } from './reference/index.ts';
import { wasmKernels } from './wasm/index.ts';

export const backends: Readonly<Record<string, (memory: WebAssembly.Memory, working?: number) => Kernels>> = { wasm: wasmKernels, reference: referenceKernels };

/** Their names. */
export const BACKENDS: readonly string[] = Object.keys(backends);

/** `working`: address of the page that is the instance's working space. @throws KernelError for an unknown name. */
export function createKernels(name: string, memory: WebAssembly.Memory, working = 0): Kernels {
  const create = backends[name];
  if (!create) throw new KernelError(`unknown kernel backend: expected one of ${Object.keys(backends).join(', ')}, got ${name}`);
  return create(memory, working);
}

/** The backends of bulk jobs on Node, by name: one line each. Their packages are optional, loaded where one is asked for. */
import type { BulkBackend } from '../../kernels/bulk.ts';
import { KernelError } from '../../kernels/memory.ts';
import { openOnnxruntime, type Onnxruntime } from '../../kernels/onnxruntime/index.ts';
import { openWebgpu } from '../../kernels/webgpu/index.ts';

/** Dawn's instance: a process that loses it while a device lives crashes, one that keeps it does not end. */
let dawn: GPU | undefined;

const loaders: Readonly<Record<string, () => Promise<BulkBackend>>> = {
  webgpu: async () => {
    const { create } = await load('webgpu', () => import('webgpu'));
    dawn ??= create([]);
    const backend = await openWebgpu(dawn).catch((error: unknown) => {
      dawn = undefined;
      throw error;
    });
    return {
      ...backend,
      async close() {
        await backend.close();
        dawn = undefined;
      },
    };
  },
  onnxruntime: async () => openOnnxruntime((await load('onnxruntime-node', () => import('onnxruntime-node'))) as unknown as Onnxruntime),
};

/** Their names, the one that `auto` tries first in front. */
export const BULK_BACKENDS: readonly string[] = Object.keys(loaders);

/** @throws KernelError where its package or its device is not there, with what to try. */
export async function openBackend(name: string): Promise<BulkBackend> {
  const loader = loaders[name];
  if (!loader) throw new KernelError(`unknown backend: expected one of ${BULK_BACKENDS.join(', ')}, got ${name}`);
  return loader();
}

async function load<T>(name: string, importing: () => Promise<T>): Promise<T> {
  try {
    return await importing();
  } catch {
    throw new KernelError(`package ${name} is not installed: expected it beside cachet, for this machine; try: npm install ${name}`);
  }
}

/** The WebAssembly backend: AssemblyScript with 128-bit SIMD (wasm/assembly), compiled by build.mjs. Its exports are the implementation. */
import type { Kernels } from '../kernels.ts';
import { binary } from './binary.ts';

let module: WebAssembly.Module | undefined;

/** Several instances may share one memory. */
export function wasmKernels(memory: WebAssembly.Memory): Kernels {
  module ??= new WebAssembly.Module(decode(binary));
  const instance = new WebAssembly.Instance(module, { env: { memory, abort } });
  return { ...(instance.exports as unknown as Omit<Kernels, 'name' | 'memory'>), name: 'wasm', memory };
}

function abort(): never {
  throw new Error('kernel aborted');
}

function decode(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64),
    bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The WebAssembly backend: AssemblyScript with 128-bit SIMD (wasm/assembly), compiled by build.mjs. Its exports are the implementation. */
import type { Kernels } from '../kernels.ts';
import { reserveMemory } from '../memory.ts';
import { binary } from './binary.ts';

/** Forms of `gemmI16`: limbs (16-bit multiply-add, on every CPU) and lanes (64-bit multiply, native with AVX-512DQ). */
export type GemmForm = 'limbs' | 'lanes';

interface Exports extends Omit<Kernels, 'name' | 'choices' | 'memory' | 'gemmI16'> {
  readonly gemmI16Limbs: Kernels['gemmI16'];
  readonly gemmI16Lanes: Kernels['gemmI16'];
}

/** Weights of the measurement: 256 KiB, as many as leave the first-level cache. */
const INNER = 512,
  COLS = 256,
  MEASURE_MS = 10;

let module: WebAssembly.Module | undefined, fastest: GemmForm | undefined;

/**
 * Several instances may share one memory; those that compute at a time have different pages of it as `working` space. `form`: the faster one on this
 * machine, measured once a thread, unless given.
 */
export function wasmKernels(memory: WebAssembly.Memory, working = 0, form: GemmForm = (fastest ??= fasterForm())): Kernels {
  const { gemmI16Limbs, gemmI16Lanes, ...kernels } = instantiate(memory, working);
  return { ...kernels, gemmI16: form === 'limbs' ? gemmI16Limbs : gemmI16Lanes, name: 'wasm', choices: `gemmI16 in ${form}`, memory };
}

function instantiate(memory: WebAssembly.Memory, working: number): Exports {
  module ??= new WebAssembly.Module(decode(binary));
  return new WebAssembly.Instance(module, { env: { memory, abort, working } }).exports as unknown as Exports;
}

/** Both forms in turn on one row of 64 bits, the slowest case of limbs; the best call of each counts, so that a busy machine does not decide. */
function fasterForm(): GemmForm {
  const k = instantiate(reserveMemory(1 << 20), 0),
    best = { limbs: Infinity, lanes: Infinity },
    [x, dst, w] = [1 << 16, 1 << 17, 1 << 18] as const,
    start = performance.now();
  const time = (form: GemmForm, gemm: Kernels['gemmI16']): void => {
    const from = performance.now();
    gemm(dst, x, w, 1, INNER, COLS, 64);
    best[form] = Math.min(best[form], performance.now() - from);
  };
  do {
    time('limbs', k.gemmI16Limbs);
    time('lanes', k.gemmI16Lanes);
  } while (performance.now() - start < MEASURE_MS);
  return best.limbs <= best.lanes ? 'limbs' : 'lanes';
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

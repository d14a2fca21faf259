/** Exactness of a backend on this machine: a few kernels on random values, byte for byte against the reference. */
import { reserveMemory } from './memory.ts';
import { createKernels } from './registry.ts';

const ROWS = 3,
  INNER = 40,
  COLS = 16;

/** @throws what the backend throws where it cannot run at all. */
export function selfTest(backend: string): { readonly exact: boolean; readonly choices: string } {
  const weights = new Int16Array(INNER * COLS),
    values = new Uint8Array(8 * ROWS * INNER),
    key = new Uint8Array(32);
  for (const part of [weights, values, key]) crypto.getRandomValues(part);
  const runs = [backend, 'reference'].map((name) => {
    const memory = reserveMemory(1 << 20),
      k = createKernels(name, memory),
      bytes = new Uint8Array(memory.buffer),
      [x, w, at, product, stream, packed] = [65536, 131072, 196608, 262144, 327680, 393216] as const;
    bytes.set(values, x);
    bytes.set(new Uint8Array(weights.buffer), w);
    bytes.set(key, at);
    k.gemmI16(product, x, w, ROWS, INNER, COLS, 64);
    k.prg(stream, at, 5, 0, 3, 44, 100);
    k.pack(packed, stream, 44, 100);
    return { choices: k.choices, parts: [product, stream, packed].map((from) => bytes.slice(from, from + 1024)) };
  });
  const [got, want] = runs as [(typeof runs)[number], (typeof runs)[number]];
  return { exact: got.parts.every((part, i) => part.every((b, j) => b === want.parts[i]![j])), choices: got.choices };
}

/** A private matrix for tests, split under fixed seeds. */
import type { Engine } from '../../protocols/engines/engine.ts';
import type { WeightWire } from '../../protocols/tensor.ts';
import { place } from './local.ts';

/** [cols, inner] of these integers over Z_2^bits with 10 fraction bits. Evaluators keep m and their own seed. */
export function secretMatrix(
  e: Engine,
  bits: 32 | 64,
  { cols, inner, values, seeds = [1, 2] }: { cols: number; inner: number; values: (i: number) => number; seeds?: readonly [number, number] },
): WeightWire {
  const { kernels: k, arena } = place('reference', 1 << 20),
    elements = cols * inner,
    whole = Int32Array.from({ length: elements }, (_, i) => values(i)),
    keys = seeds.map((s) => Uint8Array.from({ length: 32 }, (_, i) => s * i)),
    [m, key, packed] = [arena.alloc(8 * elements), arena.alloc(32), arena.alloc(8 * elements)];
  const lane = new BigInt64Array(k.memory.buffer, m, elements);
  whole.forEach((v, i) => (lane[i] = BigInt(v)));
  for (const seed of keys) {
    new Uint8Array(k.memory.buffer, key, 32).set(seed);
    k.prg(packed, key, 7, 0, 0, bits, elements);
    k.add(m, m, packed, elements);
  }
  k.reduce(m, m, bits, elements);
  k.pack(packed, m, bits, elements);
  return e.secretMatrix(
    { cols, inner, fraction: 10, bits },
    {
      elements,
      index: 7,
      seeded: true,
      masked: (target) => target.set(new Uint8Array(k.memory.buffer, packed, target.length)),
      seed: (party) => keys[party]!,
      matrix: () => whole,
      wire: () => new BigInt64Array(0),
    },
  );
}

/** Kernel rates of one core, against the floors that the protocol's speed rests on. */
import { SET } from '../../kernels/kernels.ts';
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import { createKernels } from '../../kernels/registry.ts';

export interface KernelRow {
  readonly name: string;
  readonly unit: string;
  readonly rate: number;
  /** What the project asks of it. */
  readonly floor?: number;
}

/** Work a nanosecond: the best of five runs of about 100 ms each. */
export function rate(work: number, call: () => void): number {
  call();
  let best = 0;
  for (let run = 0; run < 5; run++) {
    let n = 0;
    const start = performance.now();
    while (performance.now() - start < 100) {
      call();
      n++;
    }
    best = Math.max(best, (work * n) / (performance.now() - start) / 1e6);
  }
  return best;
}

/** Measures all rows, about half a second each; `onRow` is called as they come. */
export function benchKernels(backend: string, onRow: (row: KernelRow) => void = () => undefined): KernelRow[] {
  const memory = reserveMemory(256 << 20),
    k = createKernels(backend, memory),
    arena = new Arena(memory, 1 << 16, 255 << 20);
  const key = arena.alloc(32),
    rows: KernelRow[] = [];
  const bench = (name: string, unit: string, work: number, floor: number | undefined, call: () => void): void => {
    const row = { name, unit, rate: rate(work, call), ...(floor === undefined ? {} : { floor }) };
    rows.push(row);
    onRow(row);
  };
  {
    const n = 1 << 13,
      dst = arena.alloc(8 * n);
    bench('prg', 'GB/s', 8 * n, 1, () => k.prg(dst, key, 1, 0, 0, 64, n));
  }
  for (const [inner, cols, r] of [
    [160, 768, 1],
    [384, 160, 1],
    [768, 3072, 1],
    [160, 768, 150],
  ] as const) {
    const x = arena.alloc(8 * r * inner),
      w = arena.alloc(2 * inner * cols),
      dst = arena.alloc(8 * r * cols);
    k.prg(x, key, 2, 0, 0, 64, r * inner);
    k.prg(w, key, 3, 0, 0, 64, (inner * cols) / 4);
    bench(`gemmI16 ${r} x ${inner} x ${cols}`, 'GMAC/s', r * inner * cols, 2, () => k.gemmI16(dst, x, w, r, inner, cols));
  }
  for (const bits of [1, 32, 44, 52, 64]) {
    const n = 1 << 13,
      src = arena.alloc(8 * n),
      dst = arena.alloc(8 * n);
    k.prg(src, key, 4, 0, 0, bits, n);
    bench(`pack ${bits}`, 'GB/s in', 8 * n, bits === 1 ? undefined : 1, () => void k.pack(dst, src, bits, n));
    bench(`unpack ${bits}`, 'GB/s out', 8 * n, bits === 1 ? undefined : 1, () => k.unpack(src, dst, bits, n));
  }
  {
    const n = 64,
      cells = 256,
      bits = 12,
      words = 3,
      keys = arena.alloc(n * ((bits - 1) * 17 + 48)),
      zero = arena.alloc(8 * 4096),
      dst = arena.alloc(8 * n),
      scratch = arena.alloc(k.dpfScratchBytes(cells, words));
    bench('dpfGenerate 12 bits, 3 words', 'Mkeys/s', n * 1e3, undefined, () => k.dpfGenerate(keys, zero, zero, zero, zero, n, bits, words, key, 0, 5, 0));
    bench('splineEvaluate 256 cells', 'Mleaves/s', n * cells * 1e3, undefined, () =>
      k.splineEvaluate(dst, zero, keys, zero, 0, n, 20, bits, 0, cells, zero, words, key, 0, 5, 0, scratch),
    );
  }
  {
    const heads = 6,
      dim = 32,
      past = 255,
      q = arena.alloc(8 * heads * dim),
      kv = arena.alloc(8 * 3 * 256 * dim),
      s = arena.alloc(8 * heads * 256);
    bench('scores 256 keys, 32 bits', 'GMAC/s', heads * 256 * dim, undefined, () => k.scores(s, q, kv, 1, heads, 2, dim, past, 256, 32, SET));
    bench('mix 256 keys', 'GMAC/s', heads * 256 * dim, undefined, () => k.mix(q, s, kv, 1, heads, 2, dim, past, 256, SET));
  }
  return rows;
}

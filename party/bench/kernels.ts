/** Kernel rates of one core, against the floors that the protocol's speed rests on and against the limit that applies: memory, multiplier or PRG. */
import { SET } from '../../kernels/kernels.ts';
import { Arena, reserveMemory, WORKING_BYTES } from '../../kernels/memory.ts';
import { createKernels } from '../../kernels/registry.ts';

export interface KernelRow {
  readonly name: string;
  readonly unit: string;
  readonly rate: number;
  /** What the project asks of it. */
  readonly floor?: number;
  /** What bounds the row, in its unit: a rate measured in the same run, hence on a busy machine sometimes below the row's own. */
  readonly limit?: { readonly rate: number; readonly of: 'memory' | 'multiplier' | 'PRG' };
}

/** A row for people. */
export function describeKernel({ name, unit, rate, floor, limit }: KernelRow): string {
  const notes = [
    ...(limit ? [`${Math.round((100 * rate) / limit.rate)} % of the ${limit.of} limit`] : []),
    ...(floor === undefined ? [] : [`floor ${floor}${rate < floor ? ', MISSED' : ''}`]),
  ];
  return `${name.padEnd(36)} ${rate.toFixed(2).padStart(8)} ${unit}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}`;
}

const RUNS = 120,
  RUN_MS = 2;

/** Work a nanosecond: the best of many short runs, so that other processes do not count. */
export function rate(work: number, call: () => void): number {
  call();
  let best = 0;
  for (let run = 0; run < RUNS; run++) {
    let n = 0,
      now = 0;
    const start = performance.now();
    do {
      call();
      n++;
      now = performance.now();
    } while (now - start < RUN_MS);
    best = Math.max(best, (work * n) / (now - start) / 1e6);
  }
  return best;
}

const MEMORY_BYTES = 512 << 20,
  /** More than any cache holds. */
  STREAM_BYTES = 128 << 20;

/** Measures all rows, about a third of a second each; `onRow` is called as they come. */
export function benchKernels(backend: string, onRow: (row: KernelRow) => void = () => undefined): KernelRow[] {
  const memory = reserveMemory(MEMORY_BYTES),
    k = createKernels(backend, memory),
    arena = new Arena(memory, WORKING_BYTES, MEMORY_BYTES - WORKING_BYTES);
  const key = arena.alloc(32),
    rows: KernelRow[] = [];
  const bench = (name: string, unit: string, work: number, call: () => void, bounds: Pick<KernelRow, 'floor' | 'limit'> = {}): number => {
    const row = { name, unit, rate: rate(work, call), ...bounds };
    rows.push(row);
    onRow(row);
    return row.rate;
  };
  /** u64[n] of the stream. */
  const random = (n: number, bits = 64): number => {
    const at = arena.alloc(8 * n);
    k.prg(at, key, 1, 0, 0, bits, n);
    return at;
  };
  /** Buffers of a group of rows are freed after it. */
  const group = (run: () => void): void => {
    const mark = arena.mark();
    run();
    arena.release(mark);
  };

  let stream = 0,
    prg = 0,
    macs = 0;
  const fromMemory = (rate: number): Pick<KernelRow, 'limit'> => ({ limit: { rate, of: 'memory' } }),
    ofMultiplier = (bits: number): Pick<KernelRow, 'limit'> => ({ limit: { rate: macs / limbs(bits), of: 'multiplier' } });
  group(() => {
    const n = STREAM_BYTES / 8,
      src = random(n),
      length = arena.alloc(4);
    new Uint32Array(memory.buffer, length, 1)[0] = n;
    stream = bench('memory, read in order', 'GB/s', STREAM_BYTES, () => k.segmentSum(key, src, length, 1));
  });
  group(() => {
    const n = 1 << 13,
      dst = arena.alloc(8 * n);
    prg = bench('prg', 'GB/s', 8 * n, () => k.prg(dst, key, 1, 0, 0, 64, n), { floor: 1 });
  });
  group(() => {
    // The best case: weights in the second-level cache, enough columns for the split into four limbs, long rows.
    const [r, inner, cols] = [8, 768, 128],
      x = random(r * inner),
      w = random((inner * cols) / 4),
      dst = arena.alloc(8 * r * cols);
    macs = 4 * bench(`gemmI16 ${r} x ${inner} x ${cols}, 52 bits`, 'GMAC/s', r * inner * cols, () => k.gemmI16(dst, x, w, r, inner, cols, 52));
  });
  for (const [r, inner, cols, ring] of [
    [1, 160, 768, [64]],
    [1, 768, 3072, [64, 52, 44]],
    [1, 768, 49152, [52]],
    [1, 4096, 8192, [52]],
    [32, 768, 3072, [64, 52]],
    [150, 160, 768, [64]],
    [8, 4096, 2048, [52]],
  ] as const)
    group(() => {
      const x = random(r * inner),
        w = random((inner * cols) / 4),
        dst = arena.alloc(8 * r * cols),
        large = r === 1 && 2 * inner * cols > STREAM_BYTES / 4;
      for (const bits of ring)
        bench(`gemmI16 ${r} x ${inner} x ${cols}, ${bits} bits`, 'GMAC/s', r * inner * cols, () => k.gemmI16(dst, x, w, r, inner, cols, bits), {
          floor: 2,
          ...(large ? fromMemory(stream / 2) : ofMultiplier(bits)),
        });
    });
  for (const [inner, cols] of [
    [768, 24576],
    [3072, 6144],
  ] as const)
    group(() => {
      const x = random(inner),
        w = random(inner * cols),
        dst = arena.alloc(8 * cols);
      for (const bits of [32, 64])
        bench(
          `gemmRing 1 x ${inner} x ${cols}, ${bits} bits`,
          'GMAC/s',
          inner * cols,
          () => k.gemmRing(dst, x, w, 1, inner, cols, bits, SET),
          fromMemory((8 * stream) / bits),
        );
    });
  group(() => {
    const [inner, cols] = [768, 50257],
      w = arena.alloc(4 * inner * cols),
      x = arena.alloc(4 * inner),
      dst = arena.alloc(4 * cols);
    new Float32Array(memory.buffer, w, inner * cols).fill(0.5);
    bench(`gemmF32 1 x ${inner} x ${cols}`, 'GFLOP/s', 2 * inner * cols, () => k.gemmF32(dst, x, w, 1, inner, cols), fromMemory(stream / 2));
  });
  for (const bits of [1, 32, 44, 52, 64])
    group(() => {
      const n = 1 << 13,
        src = random(n, bits),
        dst = arena.alloc(8 * n),
        floor = bits === 1 ? {} : { floor: 1 };
      bench(`pack ${bits}`, 'GB/s in', 8 * n, () => void k.pack(dst, src, bits, n), floor);
      bench(`unpack ${bits}`, 'GB/s out', 8 * n, () => k.unpack(src, dst, bits, n), floor);
    });
  group(() => {
    const n = 64,
      cells = 256,
      bits = 12,
      words = 3,
      keys = random((n * ((bits - 1) * 17 + 48)) / 8),
      zero = arena.alloc(8 * 4096),
      dst = arena.alloc(8 * n),
      scratch = arena.alloc(k.dpfScratchBytes(cells, words));
    bench('dpfGenerate 12 bits, 3 words', 'Mkeys/s', n * 1e3, () => k.dpfGenerate(keys, zero, zero, zero, zero, n, bits, words, key, 0, 5, 0));
    // A block of 64 bytes a leaf: half of one for its payload, half for its ancestors.
    bench(
      'splineEvaluate 256 cells',
      'Mleaves/s',
      n * cells * 1e3,
      () => k.splineEvaluate(dst, zero, keys, zero, 0, n, 20, bits, 0, cells, zero, words, key, 0, 5, 0, scratch),
      { limit: { rate: (prg * 1e3) / 64, of: 'PRG' } },
    );
  });
  group(() => {
    const n = 4096,
      words = random(n),
      length = arena.alloc(4),
      dst = arena.alloc(512);
    new Uint32Array(memory.buffer, length, 1)[0] = n;
    bench('parities', 'Mwords/s', n * 1e3, () => k.parities(dst, words, length, 1, 0, 64, key, 4, 0), { limit: { rate: (prg * 1e3) / 64, of: 'PRG' } });
  });
  group(() => {
    const [r, c] = [64, 64],
      a = random(r * c),
      b = random(r * c),
      dst = arena.alloc(8 * r * c);
    bench('hadamard', 'GMAC/s', r * c, () => k.hadamard(dst, a, b, r * c, SET));
    bench('scaleRows', 'GMAC/s', r * c, () => k.scaleRows(dst, a, b, r, c, SET));
    bench('dotRows', 'GMAC/s', r * c, () => k.dotRows(dst, a, b, r, c, SET));
  });
  for (const [heads, kvHeads, dim, keys, large] of [
    [6, 3, 32, 256, false],
    [12, 12, 64, 2048, true],
  ] as const)
    group(() => {
      // Large: eight caches in turn, as layers take them, 100 MB together.
      const elements = kvHeads * keys * dim,
        caches = Array.from({ length: large ? 8 : 1 }, () => random(elements)),
        q = random(heads * dim),
        s = random(heads * keys),
        bound = large ? fromMemory(stream / 8) : {};
      let turn = 0;
      const next = (): number => caches[turn++ % caches.length]!;
      bench(
        `scores ${keys} keys, 32 bits`,
        'GMAC/s',
        heads * keys * dim,
        () => k.scores(s, q, next(), 1, heads, heads / kvHeads, dim, keys - 1, keys, 32, SET),
        bound,
      );
      bench(`mix ${keys} keys`, 'GMAC/s', heads * keys * dim, () => k.mix(q, s, next(), 1, heads, heads / kvHeads, dim, keys - 1, keys, SET), bound);
    });
  return rows;
}

/** Multiplications of 16 bits that an element of x costs in `gemmI16` by limbs. */
const limbs = (bits: number): number => (bits <= 32 ? 2 : bits <= 44 ? 3 : bits <= 56 ? 4 : 5);

/**
 * One suite for all backends of bulk jobs: the same lists on two memories with the same random contents, one in place with the reference kernels, one with the
 * backend; afterwards both memories are equal, byte for byte. Where there is no adapter, WebGPU's part is skipped, by name.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { BULK_KINDS, runInPlace, type BulkBackend, type BulkJob, type GemmJob } from '../kernels/bulk.ts';
import { reserveMemory, u8 } from '../kernels/memory.ts';
import { createKernels } from '../kernels/registry.ts';
import { openBackend } from '../party/bulk/backends.ts';
import { expTables } from '../protocols/gates/expTable.ts';
import { fitFourier } from '../protocols/gates/fourier.ts';

const SIZE = 1 << 22,
  LOW = 1 << 16;
/** Regions: two sources, tables, then results. */
const A = LOW,
  POINTS = A + (1 << 15),
  B = A + (1 << 19),
  EXP = B + (1 << 19),
  COS = EXP + (1 << 16),
  D = COS + (1 << 16);

const expPlan = { inputScale: 12, low: -100 * 4096, domainBits: 19, cellsLog2: 3, outputScale: 22, shifts: [0, 5] },
  series = fitFourier({ name: 'silu', inputScale: 12, periodBits: 16, terms: 6, edge: 5, bits: 56, drop: 0 });

/** A memory with pseudorandom contents and both tables. */
function place(seed: number): WebAssembly.Memory {
  const memory = reserveMemory(SIZE),
    k = createKernels('wasm', memory),
    tables = (at: number, table: ArrayBufferView): void =>
      u8(memory, at, table.byteLength).set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
  u8(memory, A, 32).fill(seed);
  k.prg(A + 32, A, 1, 2, 0, 64, (SIZE - A - 32) / 8);
  // Points of keys are below 2^32.
  k.reduce(POINTS, POINTS, 32, 130);
  tables(EXP, expTables(expPlan));
  tables(COS, series.tables);
  return memory;
}

const gemm = (dst: number, batch: number, rows: number, inner: number, cols: number, o: Partial<GemmJob> = {}): GemmJob => ({
  kind: 'gemm',
  dst,
  dstBatch: rows * cols,
  dstRow: cols,
  x: A,
  xBatch: rows * inner,
  xRow: inner,
  y: B,
  yBatch: cols * inner,
  yBits: 64,
  transposed: false,
  batch,
  rows,
  inner,
  cols,
  bits: 64,
  ...o,
});

/** Lists by what they show; odd sizes on purpose. */
const lists: Readonly<Record<string, readonly BulkJob[]>> = {
  'gemm: one row, few rows, many rows': [gemm(D, 1, 1, 64, 33), gemm(D + 65536, 3, 2, 37, 5), gemm(D + 131072, 2, 19, 50, 21), gemm(D + 262144, 1, 8, 1, 1)],
  'gemm: y by columns': [
    gemm(D, 1, 1, 64, 70, { transposed: true }),
    gemm(D + 65536, 3, 2, 37, 5, { transposed: true }),
    gemm(D + 131072, 2, 19, 50, 21, { transposed: true }),
  ],
  'gemm: y of 32 bits': [
    gemm(D, 2, 3, 48, 17, { yBits: 32, bits: 32 }),
    gemm(D + 65536, 1, 1, 200, 70, { yBits: 32, bits: 32 }),
    gemm(D + 131072, 1, 19, 40, 21, { yBits: 32, bits: 30 }),
  ],
  'gemm: strides, gaps in the result, shared operands': [
    gemm(D, 3, 2, 16, 9, { dstBatch: 100, dstRow: 20, xBatch: 64, xRow: 16, yBatch: 1000 }),
    gemm(D + 65536, 3, 2, 16, 9, { dstBatch: 40, dstRow: 20, xBatch: 0, xRow: 3, yBatch: 0, transposed: true }),
  ],
  'prg: from anywhere in a stream, any width': [
    { kind: 'prg', dst: D, key: A, gate: 7, sub: 3, first: 0, bits: 64, n: 1000 },
    { kind: 'prg', dst: D + 65536, key: A + 32, gate: 2 ** 31 + 5, sub: 0, first: 29, bits: 24, n: 77 },
    { kind: 'prg', dst: D + 131072, key: A, gate: 1, sub: 1, first: 2 ** 35 + 5, bits: 1, n: 3 },
    { kind: 'prg', dst: D + 196608, key: A, gate: 1, sub: 1, first: 2 ** 35 - 9, bits: 33, n: 40 },
  ],
  'exp: cells': [
    { kind: 'exp', dst: D, r: A, domainBits: 19, cellsLog2: 3, tables: EXP, n: 333 },
    { kind: 'exp', dst: D + 131072, r: A + 8, domainBits: 16, cellsLog2: 0, tables: EXP, n: 1 },
  ],
  'fourier: cosines and sines': [{ kind: 'fourier', dst: D, r: A, periodBits: 16, terms: 6, tables: COS, n: 333 }],
  'table: rotated and permuted': [6, 8, 12].flatMap((bits, i): BulkJob[] => [
    { kind: 'table', dst: D + 262144 * i, table: B, r: A, bits, xor: false, n: 37 },
    { kind: 'table', dst: D + 262144 * i + 131072, table: B, r: A, bits, xor: true, n: 37 },
  ]),
  'keys: of points, of any depth and payload': (
    [
      [1, 1, 1],
      [5, 1, 40],
      [7, 3, 130],
      [9, 4, 3],
      [12, 9, 2],
    ] as const
  ).map(([bits, words, n], i) => ({
    kind: 'keys',
    dst: D + 65536 * i,
    roots0: A + 8,
    roots1: A + 16384,
    points: POINTS,
    payload: B,
    bits,
    words,
    tweak: B + 65536,
    index: 3,
    gate: 11 + i,
    n,
  })),
  'jobs of nothing': [{ kind: 'prg', dst: D, key: A, gate: 7, sub: 3, first: 0, bits: 64, n: 0 }],
};

const opened = new Map<string, BulkBackend | Error>();
for (const name of ['onnxruntime', 'webgpu']) opened.set(name, await openBackend(name).catch((error: unknown) => error as Error));
afterAll(async () => {
  for (const b of opened.values()) if (!(b instanceof Error)) await b.close();
});

/** Bytes after a list, by a way to compute it. A gemm's upper bits are arbitrary: they are compared within `bits`. */
async function after(jobs: readonly BulkJob[], run: (memory: WebAssembly.Memory) => void | Promise<void>): Promise<Buffer> {
  const memory = place(5);
  await run(memory);
  const k = createKernels('wasm', memory);
  for (const j of jobs)
    if (j.kind === 'gemm' && j.bits < 64)
      for (let b = 0; b < j.batch; b++)
        for (let r = 0; r < j.rows; r++) {
          const at = j.dst + 8 * (b * j.dstBatch + r * j.dstRow);
          k.reduce(at, at, j.bits, j.cols);
        }
  return Buffer.from(u8(memory, LOW, SIZE - LOW));
}
const wanted = (jobs: readonly BulkJob[]): Promise<Buffer> => after(jobs, (memory) => runInPlace(createKernels('reference', memory), jobs));

describe.each(['wasm', ...opened.keys()])('bulk jobs by %s', (name) => {
  const backend = opened.get(name),
    absent = backend instanceof Error,
    run = (jobs: readonly BulkJob[]) => (memory: WebAssembly.Memory) =>
      backend instanceof Object && !absent ? (backend as BulkBackend).run(memory, jobs) : runInPlace(createKernels('wasm', memory), jobs),
    kinds = backend === undefined || absent ? BULK_KINDS : backend.kinds;
  for (const [what, jobs] of Object.entries(lists))
    it.skipIf(absent || !jobs.every((j) => kinds.includes(j.kind)))(what, async () => {
      expect((await after(jobs, run(jobs))).equals(await wanted(jobs))).toBe(true);
    });
  it.skipIf(absent)('gemm: only the bits that are needed', async () => {
    for (const bits of [1, 8, 31, 32, 33, 48, 63])
      for (const transposed of [false, true]) {
        const jobs = [gemm(D, 2, 3, 40, 17, { bits, transposed }), gemm(D + 65536, 1, 9, 40, 17, { bits, transposed })];
        expect((await after(jobs, run(jobs))).equals(await wanted(jobs)), `${bits} bits`).toBe(true);
      }
  });
  it.skipIf(absent)('gemm: operands whose digits are as large as they get', async () => {
    const jobs = [gemm(D, 1, 2, 3000, 3, { xBatch: 0, xRow: 0, yBatch: 0 })];
    const full = (compute: (memory: WebAssembly.Memory) => void | Promise<void>) => (memory: WebAssembly.Memory) => {
      u8(memory, A, 8 * 3000).fill(255);
      u8(memory, B, 8 * 9000).fill(255);
      return compute(memory);
    };
    expect(
      (await after(jobs, full(run(jobs)))).equals(
        await after(
          jobs,
          full((m) => runInPlace(createKernels('reference', m), jobs)),
        ),
      ),
    ).toBe(true);
  });
  it.runIf(absent)('is refused with a reason', () => expect((backend as Error).message).toMatch(/^no WebGPU adapter|not installed/));
});

/** What a backend is tried with when it is opened, and what `cachet bench backends` measures: a list of jobs of each kind, about a layer's. */
import { BULK_KINDS, resultBytes, resultsOf, runInPlace, type BulkBackend, type BulkJob, type BulkKind } from '../../kernels/bulk.ts';
import { Arena, reserveMemory, WORKING_BYTES } from '../../kernels/memory.ts';
import { dpfKeyBytes } from '../../kernels/kernels.ts';
import { createKernels } from '../../kernels/registry.ts';

const MEMORY_BYTES = 64 << 20;

/** A shape of jobs, by what the rows of a report call it. */
export interface Trial {
  readonly kind: BulkKind;
  readonly name: string;
  /** What a rate counts (multiplications, elements, table bits), and its name. */
  readonly work: number;
  readonly unit: string;
  readonly jobs: readonly BulkJob[];
}

/** A memory with random contents, and lists over it, of about a layer's size or `small`; each result has a place of its own. */
export function trials(small = false): { readonly memory: WebAssembly.Memory; readonly trials: readonly Trial[] } {
  const memory = reserveMemory(MEMORY_BYTES),
    k = createKernels('wasm', memory),
    arena = new Arena(memory, WORKING_BYTES, MEMORY_BYTES - WORKING_BYTES),
    key = arena.alloc(32);
  new Uint8Array(memory.buffer, key, 32).set(crypto.getRandomValues(new Uint8Array(32)));
  let gate = 0;
  const random = (n: number, bits = 64): number => {
      const at = arena.alloc(8 * n);
      k.prg(at, key, gate++, 0, 0, bits, n);
      return at;
    },
    space = (n: number): number => arena.alloc(8 * n);
  const gemm = (batch: number, rows: number, inner: number, cols: number): BulkJob => ({
    kind: 'gemm',
    dst: space(batch * rows * cols),
    dstBatch: rows * cols,
    dstRow: cols,
    x: random(batch * rows * inner),
    xBatch: rows * inner,
    xRow: inner,
    y: random(batch * inner * cols),
    yBatch: inner * cols,
    yBits: 64,
    transposed: false,
    batch,
    rows,
    inner,
    cols,
    bits: 64,
  });
  const of = (name: string, unit: string, job: BulkJob, work: number): Trial => ({ kind: job.kind, name, unit, work, jobs: [job] });
  const elements = small ? 5000 : 1 << 18,
    logits = small ? 100 : 12 * 512,
    values = small ? 64 : 3072,
    keyCount = small ? 100 : 2048,
    products = small
      ? ([
          [3, 1, 64, 40],
          [1, 1, 200, 70],
          [1, 19, 100, 40],
        ] as const)
      : ([
          [12, 1, 64, 512],
          [1, 1, 768, 768],
          [1, 64, 768, 256],
        ] as const);
  const prg: BulkJob = { kind: 'prg', dst: space(elements), key, gate: 1, sub: 0, first: 5, bits: 52, n: elements },
    exp: BulkJob = {
      kind: 'exp',
      dst: space(8 * logits),
      r: random(logits),
      domainBits: 19,
      cellsLog2: 3,
      tables: random(512, 22),
      n: logits,
    },
    fourier: BulkJob = { kind: 'fourier', dst: space(32 * values), r: random(values), periodBits: 17, terms: 16, tables: random(1536, 30), n: values },
    keys: BulkJob = {
      kind: 'keys',
      dst: space(keyCount * 20),
      roots0: random(2 * keyCount),
      roots1: random(2 * keyCount),
      points: random(keyCount, 7),
      payload: random(3 * keyCount),
      bits: 7,
      words: 3,
      tweak: key,
      index: 5,
      gate: 9,
      n: keyCount,
    },
    table: BulkJob = { kind: 'table', dst: space(logits * 16), table: random(16), r: random(logits), bits: 10, xor: false, n: logits };
  return {
    memory,
    trials: [
      ...products.map(([b, r, i, c]) => of(`gemm ${b === 1 ? '' : `${b} of `}${r} x ${i} x ${c}`, 'GMAC/s', gemm(b, r, i, c), b * r * i * c)),
      of('prg', 'GB/s', prg, 8 * elements),
      of('exp 8 cells', 'Gelements/s', exp, resultsOf(exp)),
      of('fourier 16 terms', 'Gelements/s', fourier, resultsOf(fourier)),
      of('table 10 bits', 'GB/s', table, 8 * resultsOf(table)),
      of('keys of 7 bits', 'GB/s', keys, keyCount * dpfKeyBytes(7, 3)),
    ],
  };
}

/** Kinds that a backend computes wrongly on this machine: its results against the wasm kernels', byte for byte. Rejects where the device fails. */
export async function inexactKinds(backend: BulkBackend): Promise<readonly BulkKind[]> {
  const { memory, trials: all } = trials(true),
    mine = all.filter(({ kind }) => backend.kinds.includes(kind)),
    bytes = new Uint8Array(memory.buffer, WORKING_BYTES),
    wrong = new Set<BulkKind>();
  for (const { kind, jobs } of mine) {
    runInPlace(createKernels('wasm', memory), jobs);
    const wanted = digest(bytes, jobs);
    for (const j of jobs) bytes.fill(0xa5, j.dst - WORKING_BYTES, j.dst - WORKING_BYTES + resultBytes(j));
    await backend.run(memory, jobs);
    if (digest(bytes, jobs) !== wanted) wrong.add(kind);
  }
  return [...wrong];
}

const digest = (bytes: Uint8Array, jobs: readonly BulkJob[]): string =>
  jobs.map((j) => Buffer.from(bytes.subarray(j.dst - WORKING_BYTES, j.dst - WORKING_BYTES + resultBytes(j))).toString('base64')).join();

/** What the runs of one time may take together, ms, after the first two. */
const RUNS_MS = 200;

/** Best time of a few runs, ms; the first one, in which programs are compiled, does not count. */
export async function timeOf(runs: number, run: () => void | Promise<void>): Promise<number> {
  await run();
  let best = Infinity;
  for (let i = 0, spent = 0; i < runs && spent < RUNS_MS; i++) {
    const start = performance.now();
    await run();
    const ms = performance.now() - start;
    best = Math.min(best, ms);
    spent += ms;
  }
  return best;
}

/** Kinds that a backend computes faster than the wasm kernels do in place, in every shape of theirs. */
export async function fasterKinds(backend: BulkBackend): Promise<readonly BulkKind[]> {
  const { memory, trials: all } = trials(),
    k = createKernels('wasm', memory),
    slower = new Set<BulkKind>();
  for (const { kind, jobs } of all)
    if (backend.kinds.includes(kind) && !slower.has(kind)) {
      const own = await timeOf(3, () => runInPlace(k, jobs)),
        its = await timeOf(3, () => backend.run(memory, jobs));
      if (its >= own) slower.add(kind);
    }
  return BULK_KINDS.filter((kind) => backend.kinds.includes(kind) && !slower.has(kind));
}

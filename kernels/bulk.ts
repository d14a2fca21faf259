/**
 * Bulk jobs: what the dealer computes from masks alone, in lists that an asynchronous backend answers as a whole. A job is a plain description over the
 * engine's memory (pointers are byte offsets, strides are in elements of 8 bytes), exact modulo 2^64, so that every backend writes the same bytes and a
 * re-deal is byte-identical whatever computed it. Jobs of one list read only what was there before the list; none reads another's result.
 *
 * Every backend passes test/bulk.test.ts against `reference`, byte for byte.
 */
import { dpfKeyBytes, SET, type Kernels } from './kernels.ts';

/**
 * dst[b, r, c] = sum_i x[b, r, i] y[b, c, i] mod 2^bits; the upper bits are arbitrary. Batches and rows have strides; elements of a row of dst and of x are
 * adjacent. y of a batch is [cols, inner], or with `transposed` [inner, cols]; its elements have `yBits`: 64, or packed 32 for a result of no more and not `transposed`.
 */
export interface GemmJob {
  readonly kind: 'gemm';
  readonly dst: number;
  readonly dstBatch: number;
  readonly dstRow: number;
  readonly x: number;
  readonly xBatch: number;
  readonly xRow: number;
  readonly y: number;
  readonly yBatch: number;
  readonly yBits: 32 | 64;
  readonly transposed: boolean;
  readonly batch: number;
  readonly rows: number;
  readonly inner: number;
  readonly cols: number;
  readonly bits: number;
}

/** `prg` of kernels.ts: n elements of a ChaCha8 stream, mod 2^bits. */
export interface PrgJob {
  readonly kind: 'prg';
  readonly dst: number;
  readonly key: number;
  readonly gate: number;
  readonly sub: number;
  readonly first: number;
  readonly bits: number;
  readonly n: number;
}

/** `expDeal` of kernels.ts: dst u64[n, 2^cellsLog2]. */
export interface ExpJob {
  readonly kind: 'exp';
  readonly dst: number;
  readonly r: number;
  readonly domainBits: number;
  readonly cellsLog2: number;
  readonly tables: number;
  readonly n: number;
}

/** `fourierDeal` of kernels.ts: dst u64[n, 2 terms]. */
export interface FourierJob {
  readonly kind: 'fourier';
  readonly dst: number;
  readonly r: number;
  readonly periodBits: number;
  readonly terms: number;
  readonly tables: number;
  readonly n: number;
}

/** `tableRotate` of kernels.ts: dst holds n tables of 2^bits bits, 6 <= bits <= 16. */
export interface TableJob {
  readonly kind: 'table';
  readonly dst: number;
  readonly table: number;
  readonly r: number;
  readonly bits: number;
  readonly xor: boolean;
  readonly n: number;
}

/** `dpfGenerate` of kernels.ts, sub 0: dst holds n keys of dpfKeyBytes(bits, words) bytes. */
export interface KeysJob {
  readonly kind: 'keys';
  readonly dst: number;
  readonly roots0: number;
  readonly roots1: number;
  readonly points: number;
  readonly payload: number;
  readonly bits: number;
  readonly words: number;
  readonly tweak: number;
  readonly index: number;
  readonly gate: number;
  readonly n: number;
}

export type BulkJob = GemmJob | PrgJob | ExpJob | FourierJob | TableJob | KeysJob;
export type BulkKind = BulkJob['kind'];

/** All kinds, in the order of reports. */
export const BULK_KINDS: readonly BulkKind[] = ['gemm', 'prg', 'exp', 'fourier', 'table', 'keys'];

/** A backend for bulk jobs. */
export interface BulkBackend {
  /** As `--backend` names it. */
  readonly name: string;
  /** What computes, for people. */
  readonly device: string;
  /** A GPU that is emulated on the CPU: good for tests, never faster than the kernels. */
  readonly emulated: boolean;
  /** Kinds that it computes; others are left to the engine. */
  readonly kinds: readonly BulkKind[];
  /** Computes a list over a memory; rejects where the device fails, having written any part of the results. */
  run(memory: WebAssembly.Memory, jobs: readonly BulkJob[]): Promise<void>;
  /** Gives the device back. */
  close(): Promise<void>;
}

/** Computes a list in place, at once, by an engine's kernels; results beyond a gemm's `bits` included it equals every backend's. */
export function runInPlace(k: Kernels, jobs: readonly BulkJob[]): void {
  for (const j of jobs)
    switch (j.kind) {
      case 'gemm':
        gemmInPlace(k, j);
        break;
      case 'prg':
        k.prg(j.dst, j.key, j.gate, j.sub, j.first, j.bits, j.n);
        break;
      case 'exp':
        k.expDeal(j.dst, j.r, j.domainBits, j.cellsLog2, j.tables, j.n);
        break;
      case 'fourier':
        k.fourierDeal(j.dst, j.r, j.periodBits, j.terms, j.tables, j.n);
        break;
      case 'table':
        k.tableRotate(j.dst, j.table, j.r, j.bits, j.xor ? 1 : 0, j.n);
        break;
      case 'keys':
        k.dpfGenerate(j.dst, j.roots0, j.roots1, j.points, j.payload, j.n, j.bits, j.words, j.tweak, j.index, j.gate, 0);
        break;
    }
}

/** One row at a time, as the logits or the mixed values of one query. */
function gemmInPlace(k: Kernels, j: GemmJob): void {
  for (let b = 0; b < j.batch; b++)
    for (let r = 0; r < j.rows; r++) {
      const dst = j.dst + 8 * (b * j.dstBatch + r * j.dstRow),
        x = j.x + 8 * (b * j.xBatch + r * j.xRow),
        y = j.y + (j.yBits / 8) * b * j.yBatch;
      if (j.yBits === 32) k.gemmRing(dst, x, y, 1, j.inner, j.cols, 32, SET);
      else if (j.transposed) k.mix(dst, x, y, 1, 1, 1, j.cols, j.inner - 1, j.inner, SET);
      else k.scores(dst, x, y, 1, 1, 1, j.inner, j.cols - 1, j.cols, j.bits, SET);
    }
}

/** A run of bytes of the memory. */
export interface Region {
  readonly pointer: number;
  readonly bytes: number;
}

/** What a job reads, in a fixed order of its kind. */
export function inputsOf(j: BulkJob): readonly Region[] {
  switch (j.kind) {
    case 'gemm': {
      const last = j.batch - 1;
      return [
        { pointer: j.x, bytes: 8 * (last * j.xBatch + (j.rows - 1) * j.xRow + j.inner) },
        { pointer: j.y, bytes: (j.yBits / 8) * (last * j.yBatch + j.cols * j.inner) },
      ];
    }
    case 'prg':
      return [{ pointer: j.key, bytes: 32 }];
    case 'exp':
      return [
        { pointer: j.r, bytes: 8 * j.n },
        { pointer: j.tables, bytes: 8 * 512 },
      ];
    case 'fourier':
      return [
        { pointer: j.r, bytes: 8 * j.n },
        { pointer: j.tables, bytes: 8 * (2 ** (j.periodBits - 7) + 512) },
      ];
    case 'table':
      return [
        { pointer: j.r, bytes: 8 * j.n },
        { pointer: j.table, bytes: 2 ** j.bits / 8 },
      ];
    case 'keys':
      return [
        { pointer: j.roots0, bytes: 16 * j.n },
        { pointer: j.roots1, bytes: 16 * j.n },
        { pointer: j.points, bytes: 8 * j.n },
        { pointer: j.payload, bytes: 8 * j.words * j.n },
        { pointer: j.tweak, bytes: 16 },
      ];
  }
}

/** Whether a job reads anything of `from` .. `to`; between the operands of a batch may lie what it does not read. */
export function readsWithin(j: BulkJob, from: number, to: number): boolean {
  const touches = ({ pointer, bytes }: Region): boolean => pointer < to && from < pointer + bytes,
    regions = inputsOf(j);
  if (!regions.some(touches)) return false;
  if (j.kind !== 'gemm') return true;
  const one = inputsOf({ ...j, batch: 1 }) as [Region, Region],
    each = [8 * j.xBatch, (j.yBits / 8) * j.yBatch];
  for (let b = 0; b < j.batch; b++) if (one.some(({ pointer, bytes }, i) => touches({ pointer: pointer + b * each[i]!, bytes }))) return true;
  return false;
}

/** Elements (u64) that a backend computes for a job, without gaps; each key takes whole ones. */
export function resultsOf(j: BulkJob): number {
  switch (j.kind) {
    case 'gemm':
      return j.batch * j.rows * j.cols;
    case 'prg':
      return j.n;
    case 'exp':
      return j.n << j.cellsLog2;
    case 'fourier':
      return 2 * j.terms * j.n;
    case 'table':
      return (j.n * 2 ** j.bits) / 64;
    case 'keys':
      return j.n * keyElements(j);
  }
}

/** Bytes at a job's dst that its results take, where they have no gaps. */
export const resultBytes = (j: BulkJob): number => (j.kind === 'keys' ? j.n * dpfKeyBytes(j.bits, j.words) : 8 * resultsOf(j));

/** Elements that hold one key. */
export const keyElements = (j: KeysJob): number => Math.ceil(dpfKeyBytes(j.bits, j.words) / 8);

/** Puts a job's results, in order and without gaps, to where they belong in the memory. */
export function placeResults(memory: WebAssembly.Memory, j: BulkJob, results: Uint8Array): void {
  const bytes = new Uint8Array(memory.buffer);
  if (j.kind === 'gemm') {
    const row = 8 * j.cols;
    for (let b = 0, at = 0; b < j.batch; b++)
      for (let r = 0; r < j.rows; r++, at += row) bytes.set(results.subarray(at, at + row), j.dst + 8 * (b * j.dstBatch + r * j.dstRow));
  } else if (j.kind === 'keys') {
    const [key, slot] = [dpfKeyBytes(j.bits, j.words), 8 * keyElements(j)];
    for (let i = 0; i < j.n; i++) bytes.set(results.subarray(i * slot, i * slot + key), j.dst + i * key);
  } else bytes.set(results, j.dst);
}

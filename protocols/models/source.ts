/** Where weights come from: bytes that are read by ranges, and tensors by name; every checkpoint format implements the second over the first. */
import { CachetError } from '../errors.ts';

/** A file that is read by ranges, so that a checkpoint of several GB is never in memory as a whole. */
export interface ByteSource {
  /** Bytes. */
  readonly size: number;
  /** Bytes from..to - 1, a copy with a buffer of its own; 0 <= from <= to <= size. */
  read(from: number, to: number): Uint8Array<ArrayBuffer>;
  /** The same into `target`, as many bytes as it has, without a copy between. */
  readInto(target: Uint8Array, from: number): void;
}

/** Named tensors of float32, whatever they are stored as. */
export interface TensorSource {
  readonly names: readonly string[];
  /** Outermost dimension first. @throws CachetError 'model' for a missing tensor. */
  shape(name: string): readonly number[];
  /** A copy, row by row. @throws CachetError 'model' for a missing tensor, or one stored in a type that is not supported. */
  float32(name: string): Float32Array<ArrayBuffer>;
}

/** Bytes in memory as a source. */
export const bytesSource = (bytes: Uint8Array): ByteSource => ({
  size: bytes.length,
  read: (from, to) => new Uint8Array(bytes.subarray(from, to)),
  readInto: (target, from) => target.set(bytes.subarray(from, from + target.length)),
});

/** A tensor of exactly this shape. @throws CachetError 'model' naming the tensor if it is missing, of another shape, or has a number that is not finite. */
export function readTensor(source: TensorSource, name: string, expected: readonly number[]): Float32Array<ArrayBuffer> {
  const got = source.shape(name);
  if (got.join() !== expected.join())
    throw new CachetError({
      code: 'model',
      step: name,
      what: 'wrong tensor shape',
      expected: expected.join(' x '),
      got: got.join(' x '),
      hint: 'check that configuration and weights belong together',
    });
  const data = source.float32(name);
  if (!allFinite(data))
    throw new CachetError({
      code: 'model',
      step: name,
      what: 'corrupt weights',
      expected: 'finite numbers',
      got: 'NaN or infinity',
      hint: 'download the checkpoint again',
    });
  return data;
}

function allFinite(data: Float32Array): boolean {
  for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i])) return false;
  return true;
}

/** [rows, cols] to [cols, rows]. */
export function transpose(x: Float32Array, rows: number, cols: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c * rows + r] = x[r * cols + c]!;
  return out;
}

/**
 * The onnxruntime backend: products over Z_2^64 as integer products of bytes. An element is eight unsigned digits of 8 bits; `MatMulInteger` of u8 by u8 gives
 * exact sums over int32, and the digit products below the ring's width are added with their carries. u8 x s8, which is faster on some CPUs, saturates on
 * others and is not used.
 */
import type { InferenceSession, Tensor } from 'onnxruntime-node';
import { placeResults, resultsOf, type BulkBackend, type BulkJob, type GemmJob } from '../bulk.ts';
import { KernelError } from '../memory.ts';

/** What is used of the package onnxruntime-node. */
export interface Onnxruntime {
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<InferenceSession> };
  readonly Tensor: new (type: 'uint8', data: Uint8Array, dims: readonly number[]) => Tensor;
}

/** 255^2 inner < 2^31. */
const MAX_INNER = 33_000;

/** @throws KernelError in a job of another kind than gemm, or with rows of more than 33 000 elements. */
export async function openOnnxruntime(ort: Onnxruntime): Promise<BulkBackend> {
  const session = await ort.InferenceSession.create(matMulInteger(), { executionProviders: ['cpu'], intraOpNumThreads: 1, logSeverityLevel: 3 });
  return {
    name: 'onnxruntime',
    device: 'CPU, MatMulInteger of bytes',
    emulated: false,
    kinds: ['gemm'],
    async run(memory, jobs) {
      for (const job of jobs) placeResults(memory, job, await gemm(ort, session, memory, job));
    },
    close: () => session.release(),
  };
}

/**
 * y is the left operand, digit by digit (its rows need no transposing), all digits of x the right one: of digit j of y the digits i <= d - 1 - j of x count, with
 * d digits in the ring.
 */
async function gemm(ort: Onnxruntime, session: InferenceSession, memory: WebAssembly.Memory, job: BulkJob): Promise<Uint8Array> {
  if (job.kind !== 'gemm') throw new KernelError(`not a product: expected a gemm, got ${job.kind}`);
  const { batch, rows, inner, cols } = job,
    digits = Math.ceil(job.bits / 8),
    out = new Uint8Array(8 * resultsOf(job));
  if (inner > MAX_INNER) throw new KernelError(`rows too long: expected at most ${MAX_INNER} elements, got ${inner}`);
  for (let b = 0; b < batch; b++) {
    /** Sums of all digit products of one weight 2^(8 w): exact, below 8 x 2^31. */
    const sums = Array.from({ length: digits }, () => new Float64Array(rows * cols)),
      x = digitsOfX(memory, job, b, digits);
    for (let j = 0; j < digits; j++) {
      const width = rows * (digits - j),
        y = digitOfY(memory, job, b, j),
        right = new Uint8Array(inner * width);
      for (let i = 0; i < inner; i++) right.set(x.subarray(i * rows * digits, i * rows * digits + width), i * width);
      const { products } = await session.run({ left: new ort.Tensor('uint8', y, [cols, inner]), right: new ort.Tensor('uint8', right, [inner, width]) }),
        values = products!.data as Int32Array;
      for (let c = 0; c < cols; c++)
        for (let i = 0; i < digits - j; i++) {
          const sum = sums[i + j]!;
          for (let r = 0; r < rows; r++) sum[r * cols + c]! += values[c * width + i * rows + r]!;
        }
    }
    for (let e = 0, at = 8 * b * rows * cols; e < rows * cols; e++, at += 8)
      for (let w = 0, carry = 0; w < digits; w++) {
        carry += sums[w]![e]!;
        out[at + w] = carry % 256;
        carry = Math.floor(carry / 256);
      }
  }
  return out;
}

/** [inner, digits, rows]: digits from the lowest. */
function digitsOfX(memory: WebAssembly.Memory, job: GemmJob, b: number, digits: number): Uint8Array {
  const { rows, inner } = job,
    bytes = new Uint8Array(memory.buffer),
    out = new Uint8Array(inner * digits * rows);
  for (let r = 0; r < rows; r++) {
    const from = job.x + 8 * (b * job.xBatch + r * job.xRow);
    for (let i = 0; i < inner; i++) for (let d = 0; d < digits; d++) out[(i * digits + d) * rows + r] = bytes[from + 8 * i + d]!;
  }
  return out;
}

/** [cols, inner]: one digit. */
function digitOfY(memory: WebAssembly.Memory, job: GemmJob, b: number, digit: number): Uint8Array {
  const { inner, cols } = job,
    size = job.yBits / 8,
    from = job.y + size * b * job.yBatch + digit,
    bytes = new Uint8Array(memory.buffer, from, size * inner * cols - digit),
    out = new Uint8Array(inner * cols);
  if (job.transposed) for (let i = 0, at = 0; i < inner; i++) for (let c = 0; c < cols; c++, at += size) out[c * inner + i] = bytes[at]!;
  else for (let e = 0; e < out.length; e++) out[e] = bytes[size * e]!;
  return out;
}

/** An ONNX model of one MatMulInteger node, u8 [m, k] by u8 [k, n] to int32, in the protocol-buffer wire format (onnx.proto3, opset 10). */
function matMulInteger(): Uint8Array {
  const text = (s: string): number[] => [...new TextEncoder().encode(s)],
    varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]),
    number = (field: number, v: number): number[] => [field << 3, ...varint(v)],
    part = (field: number, bytes: readonly number[]): number[] => [(field << 3) | 2, ...varint(bytes.length), ...bytes],
    UINT8 = 2,
    INT32 = 6;
  const value = (name: string, type: number, dims: readonly string[]): number[] => {
    const shape = dims.flatMap((d) => part(1, part(2, text(d))));
    return [...part(1, text(name)), ...part(2, part(1, [...number(1, type), ...part(2, shape)]))];
  };
  const node = [...part(1, text('left')), ...part(1, text('right')), ...part(2, text('products')), ...part(4, text('MatMulInteger'))],
    graph = [
      ...part(1, node),
      ...part(2, text('digits')),
      ...part(11, value('left', UINT8, ['m', 'k'])),
      ...part(11, value('right', UINT8, ['k', 'n'])),
      ...part(12, value('products', INT32, ['m', 'n'])),
    ];
  return Uint8Array.from([...number(1, 8), ...part(7, graph), ...part(8, number(2, 10))]);
}

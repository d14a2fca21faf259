/** Products with weights on real numbers, for the Float engine and Fixed's shadow: float32 kernels, a panel of the matrix at a time. */
import { createKernels } from '../kernels/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { reserveMemory } from '../kernels/memory.ts';
import type { Matrix, WeightWire } from './tensor.ts';

const START = 1 << 16,
  PANEL_BYTES = 1 << 20;

let kernels: Kernels | undefined,
  bytes = 0;

/** Kernels over a memory of at least so many bytes behind START; a larger one replaces it. */
function space(needed: number): Kernels {
  if (!kernels || bytes < needed) {
    bytes = Math.max(needed, 16 << 20);
    kernels = createKernels('wasm', reserveMemory(START + bytes));
  }
  return kernels;
}

/** dst[rows, cols] = x[rows, inner] W^T: unquantised weights where the matrix has them, in float32 (relative error about 2^-22). */
export function realProduct(dst: Float64Array, x: Float64Array, w: Matrix | WeightWire, rows: number): void {
  const { inner, cols } = w,
    real = 'real' in w ? w.real : undefined,
    unit = real ? 1 : 2 ** -w.fraction;
  realGemm(x, real ?? w.array, rows, inner, cols, (out, row, col) => {
    for (let c = 0, to = row * cols + col; c < out.length; c++) dst[to + c] = out[c]! * unit;
  });
}

/**
 * Products of rows x [rows, inner] with rows w [cols, inner] in float32, inner % 8 == 0, a panel of w at a time: `take` gets pieces of the results' rows.
 */
export function realGemm(
  x: Float32Array | Float64Array,
  w: Float32Array | Int16Array | Int32Array,
  rows: number,
  inner: number,
  cols: number,
  take: (out: Float32Array, row: number, col: number) => void,
): void {
  const panel = Math.min(cols, Math.max(4, Math.floor(PANEL_BYTES / (4 * inner)))),
    at = { x: START, w: START + 4 * rows * inner, out: START + 4 * (rows * inner + panel * inner) },
    k = space(4 * (rows * inner + panel * inner + rows * panel)),
    { buffer } = k.memory,
    weights = new Float32Array(buffer, at.w, panel * inner),
    out = new Float32Array(buffer, at.out, rows * panel);
  new Float32Array(buffer, at.x, rows * inner).set(x);
  for (let first = 0; first < cols; first += panel) {
    const n = Math.min(panel, cols - first);
    weights.set(w.subarray(first * inner, (first + n) * inner));
    k.gemmF32(at.out, at.x, at.w, rows, inner, n);
    for (let r = 0; r < rows; r++) take(out.subarray(r * n, (r + 1) * n), r, first);
  }
}

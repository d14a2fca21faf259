/** Ring arithmetic, linear and bilinear maps, packing: the plain reference, BigInt and loops. */
import { ADD, SUB, type Kernels } from '../kernels.ts';

export const MASK64 = (1n << 64n) - 1n;
export const maskOf = (bits: number): bigint => (1n << BigInt(bits)) - 1n;

export class View {
  readonly buffer: ArrayBufferLike;
  constructor(memory: WebAssembly.Memory) {
    this.buffer = memory.buffer;
  }
  u64 = (pointer: number, n: number): BigUint64Array => new BigUint64Array(this.buffer, pointer, n);
  i64 = (pointer: number, n: number): BigInt64Array => new BigInt64Array(this.buffer, pointer, n);
  u32 = (pointer: number, n: number): Uint32Array => new Uint32Array(this.buffer, pointer, n);
  u8 = (pointer: number, n: number): Uint8Array => new Uint8Array(this.buffer, pointer, n);
}

const put = (dst: BigUint64Array, i: number, v: bigint, mode: number): void => void (dst[i] = mode === ADD ? dst[i]! + v : mode === SUB ? dst[i]! - v : v);

const little = (bytes: Uint8Array): bigint => bytes.reduceRight((v, b) => (v << 8n) | BigInt(b), 0n);
const putLittle = (bytes: Uint8Array, v: bigint): void => bytes.forEach((_, b) => (bytes[b] = Number((v >> BigInt(8 * b)) & 255n)));

type RingKernels = Pick<
  Kernels,
  | 'copy'
  | 'fill'
  | 'add'
  | 'sub'
  | 'xor'
  | 'addScalar'
  | 'mulScalar'
  | 'reduce'
  | 'shiftRight'
  | 'copyRows'
  | 'segmentSum'
  | 'segmentSpread'
  | 'gemmI16'
  | 'gemmRing'
  | 'gemmF32'
  | 'hadamard'
  | 'scaleRows'
  | 'dotRows'
  | 'scores'
  | 'mix'
  | 'addTails'
  | 'rope'
  | 'pack'
  | 'unpack'
  | 'subPack'
  | 'subWide'
  | 'subPackWide'
  | 'unpackWide'
  | 'signWords'
>;

export function ringKernels(memory: WebAssembly.Memory): RingKernels {
  const { u64, i64, u32, u8, buffer } = new View(memory);
  const map = (dst: number, n: number, f: (i: number) => bigint): void => {
    const values = Array.from({ length: n }, (_, i) => BigInt.asUintN(64, f(i)));
    u64(dst, n).set(values);
  };
  return {
    copy: (dst, a, n) => u64(dst, n).set(u64(a, n)),
    fill: (dst, scalar, n) => void u64(dst, n).fill(BigInt.asUintN(64, BigInt(scalar))),
    add: (dst, a, b, n) => map(dst, n, (i) => u64(a, n)[i]! + u64(b, n)[i]!),
    sub: (dst, a, b, n) => map(dst, n, (i) => u64(a, n)[i]! - u64(b, n)[i]!),
    xor: (dst, a, b, n) => map(dst, n, (i) => u64(a, n)[i]! ^ u64(b, n)[i]!),
    addScalar: (dst, a, scalar, n) => map(dst, n, (i) => u64(a, n)[i]! + BigInt(scalar)),
    mulScalar(dst, a, scalar, n, mode) {
      const out = u64(dst, n),
        x = u64(a, n);
      for (let i = 0; i < n; i++) put(out, i, x[i]! * BigInt(scalar), mode);
    },
    reduce: (dst, a, bits, n) => map(dst, n, (i) => u64(a, n)[i]! & maskOf(bits)),
    shiftRight: (dst, a, bits, shift, n) => map(dst, n, (i) => (u64(a, n)[i]! & maskOf(bits)) >> BigInt(shift)),
    copyRows(dst, dstStride, src, srcStride, rows, cols) {
      for (let r = 0; r < rows; r++) u64(dst + 8 * r * dstStride, cols).set(u64(src + 8 * r * srcStride, cols));
    },
    segmentSum(dst, src, lengths, segments) {
      const out = u64(dst, segments);
      u32(lengths, segments).forEach((n, s) => {
        out[s] = u64(src, n).reduce((sum, v) => sum + v, 0n);
        src += 8 * n;
      });
    },
    segmentSpread(dst, a, lengths, segments, scalar, mode) {
      const x = u64(a, segments);
      u32(lengths, segments).forEach((n, s) => {
        const out = u64(dst, n);
        for (let i = 0; i < n; i++) put(out, i, x[s]! * BigInt(scalar), mode);
        dst += 8 * n;
      });
    },
    gemmI16(dst, x, w, rows, inner, cols, bits, stride = cols) {
      const out = u64(dst, rows * stride),
        a = u64(x, rows * inner),
        b = new Int16Array(buffer, w, cols * inner);
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < cols; c++) {
          let sum = 0n;
          for (let i = 0; i < inner; i++) sum += a[r * inner + i]! * BigInt(b[c * inner + i]!);
          out[r * stride + c] = BigInt.asUintN(bits, sum);
        }
    },
    gemmRing(dst, x, w, rows, inner, cols, bits, mode, stride = cols) {
      const out = u64(dst, rows * stride),
        a = u64(x, rows * inner),
        b = bits === 32 ? u32(w, cols * inner) : u64(w, cols * inner);
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < cols; c++) {
          let sum = 0n;
          for (let i = 0; i < inner; i++) sum += a[r * inner + i]! * BigInt(b[c * inner + i]!);
          put(out, r * stride + c, BigInt.asUintN(bits, sum), mode);
        }
    },
    gemmF32(dst, x, w, rows, inner, cols) {
      const out = new Float32Array(buffer, dst, rows * cols),
        a = new Float32Array(buffer, x, rows * inner),
        b = new Float32Array(buffer, w, cols * inner);
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < cols; c++) {
          const s = new Float32Array(8);
          for (let i = 0; i < inner; i++) s[i % 8] = s[i % 8]! + Math.fround(a[r * inner + i]! * b[c * inner + i]!);
          const [t0, t1, t2, t3] = [0, 1, 2, 3].map((j) => Math.fround(s[j]! + s[j + 4]!));
          out[r * cols + c] = Math.fround(t0! + t1!) + Math.fround(t2! + t3!);
        }
    },
    hadamard(dst, a, b, n, mode) {
      const out = u64(dst, n),
        x = u64(a, n),
        y = u64(b, n);
      for (let i = 0; i < n; i++) put(out, i, x[i]! * y[i]!, mode);
    },
    scaleRows(dst, a, s, rows, cols, mode) {
      const out = u64(dst, rows * cols),
        x = u64(a, rows * cols),
        f = u64(s, rows);
      for (let i = 0; i < rows * cols; i++) put(out, i, x[i]! * f[Math.floor(i / cols)]!, mode);
    },
    dotRows(dst, a, b, rows, cols, mode) {
      const out = u64(dst, rows),
        x = u64(a, rows * cols),
        y = u64(b, rows * cols);
      for (let r = 0; r < rows; r++) {
        let sum = 0n;
        for (let c = r * cols; c < (r + 1) * cols; c++) sum += x[c]! * y[c]!;
        put(out, r, sum, mode);
      }
    },
    scores(dst, q, k, queries, heads, group, dim, past, capacity, _bits, mode, stride = heads * dim) {
      const a = u64(q, queries * stride),
        b = u64(k, (heads / group) * capacity * dim);
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < queries; i++) {
          const n = past + i + 1,
            out = u64(dst, n);
          for (let t = 0; t < n; t++) {
            let sum = 0n;
            for (let d = 0; d < dim; d++) sum += a[i * stride + h * dim + d]! * b[(Math.floor(h / group) * capacity + t) * dim + d]!;
            put(out, t, sum, mode);
          }
          dst += 8 * n;
        }
    },
    mix(dst, p, v, queries, heads, group, dim, past, capacity, mode, stride = heads * dim) {
      const out = u64(dst, queries * stride),
        b = u64(v, (heads / group) * capacity * dim);
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < queries; i++) {
          const n = past + i + 1,
            a = u64(p, n);
          for (let d = 0; d < dim; d++) {
            let sum = 0n;
            for (let t = 0; t < n; t++) sum += a[t]! * b[(Math.floor(h / group) * capacity + t) * dim + d]!;
            put(out, i * stride + h * dim + d, sum, mode);
          }
          p += 8 * n;
        }
    },
    addTails(dst, src, queries, heads, past, skip) {
      for (let h = 0; h < heads; h++)
        for (let i = 0; i < queries; i++) {
          const n = past - skip + i + 1,
            out = u64(dst + 8 * skip, n),
            a = u64(src, n);
          for (let t = 0; t < n; t++) out[t] = out[t]! + a[t]!;
          dst += 8 * (skip + n);
          src += 8 * n;
        }
    },
    rope(dst, src, srcStride, cos, sin, position0, rows, heads, dim) {
      const half = dim / 2;
      for (let r = 0; r < rows; r++) {
        const c = new Int32Array(buffer, cos + 4 * (position0 + r) * half, half),
          s = new Int32Array(buffer, sin + 4 * (position0 + r) * half, half);
        for (let h = 0; h < heads; h++) {
          const x = u64(src + 8 * (r * srcStride + h * dim), dim),
            y = u64(dst + 8 * (r * heads + h) * dim, dim);
          for (let j = 0; j < half; j++) {
            y[j] = BigInt.asUintN(64, x[j]! * BigInt(c[j]!) - x[j + half]! * BigInt(s[j]!));
            y[j + half] = BigInt.asUintN(64, x[j + half]! * BigInt(c[j]!) + x[j]! * BigInt(s[j]!));
          }
        }
      }
    },
    pack(dst, src, bits, n) {
      const values = u64(src, n),
        width = Math.ceil(bits / 8);
      let bad = 0;
      if (bits === 1) u8(dst, Math.ceil(n / 8)).fill(0);
      for (let i = 0; i < n; i++) {
        let v = values[i]!;
        if (v > maskOf(bits)) {
          bad++;
          v = 0n;
        }
        if (bits === 1) u8(dst, Math.ceil(n / 8))[i >> 3]! |= Number(v) << (i & 7);
        else for (let b = 0; b < width; b++) u8(dst, n * width)[i * width + b] = Number((v >> BigInt(8 * b)) & 255n);
      }
      return bad;
    },
    unpack(dst, src, bits, n) {
      const width = Math.ceil(bits / 8),
        out = u64(dst, n);
      for (let i = 0; i < n; i++) {
        let v = 0n;
        if (bits === 1) v = BigInt((u8(src, Math.ceil(n / 8))[i >> 3]! >> (i & 7)) & 1);
        else for (let b = width - 1; b >= 0; b--) v = (v << 8n) | BigInt(u8(src, n * width)[i * width + b]!);
        out[i] = v;
      }
    },
    subPack(dst, a, b, bits, n) {
      const width = Math.ceil(bits / 8);
      for (let i = 0; i < n; i++) putLittle(u8(dst + width * i, width), BigInt.asUintN(bits, u64(a, n)[i]! - u64(b, n)[i]!));
    },
    subWide(lo, hi, lo0, hi0, hiBits, n) {
      for (let i = 0; i < n; i++) {
        const v = ((u64(hi, n)[i]! << 64n) | u64(lo, n)[i]!) - ((u64(hi0, n)[i]! << 64n) | u64(lo0, n)[i]!);
        u64(lo, n)[i] = BigInt.asUintN(64, v);
        u64(hi, n)[i] = BigInt.asUintN(64 + hiBits, v) >> 64n;
      }
    },
    subPackWide(dst, a, lo0, hi0, hiBits, n) {
      const width = hiBits / 8;
      for (let i = 0; i < n; i++) {
        const v = i64(a, n)[i]! - ((little(u8(hi0 + width * i, width)) << 64n) | u64(lo0, n)[i]!);
        putLittle(u8(dst + (8 + width) * i, 8 + width), BigInt.asUintN(64 + hiBits, v));
      }
    },
    unpackWide(lo, hi, src, hiBits, n) {
      const width = 8 + hiBits / 8;
      for (let i = 0; i < n; i++) {
        let v = 0n;
        for (let b = width - 1; b >= 0; b--) v = (v << 8n) | BigInt(u8(src, width * n)[width * i + b]!);
        u64(lo, n)[i] = v & MASK64;
        u64(hi, n)[i] = v >> 64n;
      }
    },
    signWords(hi, a, hiBits, n) {
      for (let i = 0; i < n; i++) u64(hi, n)[i] = u64(a, n)[i]! >> 63n ? maskOf(hiBits) : 0n;
    },
  };
}

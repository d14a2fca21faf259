// Products over Z_2^64 of wires: element-wise, row by row, causal attention.
import { put, putOne } from './element';
import { sum2 } from './gemm';

export function hadamard(dst: usize, a: usize, b: usize, n: i32, mode: i32): void {
  const end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    put(dst, i64x2.mul(v128.load(a), v128.load(b)), mode);
    dst += 16; a += 16; b += 16;
  }
  if (n & 1) putOne(dst, load<u64>(a) * load<u64>(b), mode);
}

export function scaleRows(dst: usize, a: usize, s: usize, rows: i32, cols: i32, mode: i32): void {
  for (let r = 0; r < rows; r++) {
    const f = load<u64>(s + (<usize>r << 3)), wide = i64x2.splat(f);
    let c = 0;
    for (; c + 2 <= cols; c += 2) {
      put(dst, i64x2.mul(v128.load(a), wide), mode);
      dst += 16; a += 16;
    }
    if (c < cols) {
      putOne(dst, load<u64>(a) * f, mode);
      dst += 8; a += 8;
    }
  }
}

// @ts-ignore: decorator
@inline
function dot(a: usize, b: usize, n: i32): u64 {
  let s0 = i64x2.splat(0), s1 = i64x2.splat(0), i = 0;
  for (; i + 4 <= n; i += 4, a += 32, b += 32) {
    s0 = i64x2.add(s0, i64x2.mul(v128.load(a), v128.load(b)));
    s1 = i64x2.add(s1, i64x2.mul(v128.load(a, 16), v128.load(b, 16)));
  }
  let sum = sum2(i64x2.add(s0, s1));
  for (; i < n; i++, a += 8, b += 8) sum += load<u64>(a) * load<u64>(b);
  return sum;
}

/** The same mod 2^32: four products of low halves an instruction. */
// @ts-ignore: decorator
@inline
function dot32(a: usize, b: usize, n: i32): u64 {
  let s = i32x4.splat(0), i = 0;
  for (; i + 4 <= n; i += 4, a += 32, b += 32)
    s = i32x4.add(s, i32x4.mul(v128.shuffle<i32>(v128.load(a), v128.load(a, 16), 0, 2, 4, 6), v128.shuffle<i32>(v128.load(b), v128.load(b, 16), 0, 2, 4, 6)));
  let sum = <u32>i32x4.extract_lane(s, 0) + <u32>i32x4.extract_lane(s, 1) + <u32>i32x4.extract_lane(s, 2) + <u32>i32x4.extract_lane(s, 3);
  for (; i < n; i++, a += 8, b += 8) sum += load<u32>(a) * load<u32>(b);
  return <u64>sum;
}

export function dotRows(dst: usize, a: usize, b: usize, rows: i32, cols: i32, mode: i32): void {
  for (let r = 0; r < rows; r++) {
    const at = (<usize>r * cols) << 3;
    putOne(dst + (<usize>r << 3), dot(a + at, b + at, cols), mode);
  }
}

export function scores(dst: usize, q: usize, k: usize, queries: i32, heads: i32, group: i32, dim: i32, past: i32, capacity: i32, bits: i32, mode: i32): void {
  const bytes = <usize>dim << 3;
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < queries; i++) {
      const query = q + (<usize>i * heads + h) * bytes;
      let key = k + <usize>(h / group) * capacity * bytes;
      const end = dst + (<usize>(past + i + 1) << 3);
      if (bits <= 32) for (; dst < end; dst += 8, key += bytes) putOne(dst, dot32(query, key, dim), mode);
      else for (; dst < end; dst += 8, key += bytes) putOne(dst, dot(query, key, dim), mode);
    }
}

export function mix(dst: usize, p: usize, v: usize, queries: i32, heads: i32, group: i32, dim: i32, past: i32, capacity: i32, mode: i32): void {
  const bytes = <usize>dim << 3;
  if (mode == 0) memory.fill(dst, 0, <usize>queries * heads * bytes);
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < queries; i++) {
      const out = dst + (<usize>i * heads + h) * bytes, values = v + <usize>(h / group) * capacity * bytes, n = past + i + 1;
      // Eight columns at a time stay in registers over the whole row.
      let d = 0;
      for (; d + 8 <= dim; d += 8) {
        let s0 = i64x2.splat(0), s1 = i64x2.splat(0), s2 = i64x2.splat(0), s3 = i64x2.splat(0);
        let at = values + (<usize>d << 3);
        for (let t = 0; t < n; t++, at += bytes) {
          const f = v128.load_splat<u64>(p + (<usize>t << 3));
          s0 = i64x2.add(s0, i64x2.mul(f, v128.load(at)));
          s1 = i64x2.add(s1, i64x2.mul(f, v128.load(at, 16)));
          s2 = i64x2.add(s2, i64x2.mul(f, v128.load(at, 32)));
          s3 = i64x2.add(s3, i64x2.mul(f, v128.load(at, 48)));
        }
        const o = out + (<usize>d << 3), m = mode < 0 ? -1 : 1;
        put(o, s0, m); put(o + 16, s1, m); put(o + 32, s2, m); put(o + 48, s3, m);
      }
      for (; d < dim; d++) {
        let sum: u64 = 0;
        for (let t = 0; t < n; t++) sum += load<u64>(p + (<usize>t << 3)) * load<u64>(values + <usize>t * bytes + (<usize>d << 3));
        putOne(out + (<usize>d << 3), sum, mode < 0 ? -1 : 1);
      }
      p += <usize>n << 3;
    }
}

export function addTails(dst: usize, src: usize, queries: i32, heads: i32, past: i32, skip: i32): void {
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < queries; i++) {
      dst += <usize>skip << 3;
      const end = dst + (<usize>(past - skip + i + 1) << 3);
      for (; dst < end; dst += 8, src += 8) store<u64>(dst, load<u64>(dst) + load<u64>(src));
    }
}

export function rope(dst: usize, src: usize, srcStride: i32, cos: usize, sin: usize, position0: i32, rows: i32, heads: i32, dim: i32): void {
  const half = dim >> 1;
  for (let r = 0; r < rows; r++)
    for (let h = 0; h < heads; h++) {
      const x = src + ((<usize>r * srcStride + h * dim) << 3), y = dst + ((<usize>(r * heads + h) * dim) << 3), table = (<usize>(position0 + r) * half) << 2;
      for (let j = 0; j < half; j++) {
        const a = load<u64>(x + (<usize>j << 3)), b = load<u64>(x + (<usize>(j + half) << 3));
        const c = <u64>(<i64>load<i32>(cos + table + (<usize>j << 2))), s = <u64>(<i64>load<i32>(sin + table + (<usize>j << 2)));
        store<u64>(y + (<usize>j << 3), a * c - b * s);
        store<u64>(y + (<usize>(j + half) << 3), b * c + a * s);
      }
    }
}

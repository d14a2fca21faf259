// Ring arithmetic on flat u64 arrays: two elements a step in i64x2.
import { maskOf, put, putOne, toInteger } from './element';

export function copy(dst: usize, a: usize, n: i32): void {
  memory.copy(dst, a, <usize>n << 3);
}

export function fill(dst: usize, scalar: f64, n: i32): void {
  const v = toInteger(scalar);
  for (let i = 0; i < n; i++) store<u64>(dst + (<usize>i << 3), v);
}

export function add(dst: usize, a: usize, b: usize, n: i32): void {
  const end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    v128.store(dst, i64x2.add(v128.load(a), v128.load(b)));
    dst += 16; a += 16; b += 16;
  }
  if (n & 1) store<u64>(dst, load<u64>(a) + load<u64>(b));
}

export function sub(dst: usize, a: usize, b: usize, n: i32): void {
  const end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    v128.store(dst, i64x2.sub(v128.load(a), v128.load(b)));
    dst += 16; a += 16; b += 16;
  }
  if (n & 1) store<u64>(dst, load<u64>(a) - load<u64>(b));
}

export function xor(dst: usize, a: usize, b: usize, n: i32): void {
  const end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    v128.store(dst, v128.xor(v128.load(a), v128.load(b)));
    dst += 16; a += 16; b += 16;
  }
  if (n & 1) store<u64>(dst, load<u64>(a) ^ load<u64>(b));
}

export function addScalar(dst: usize, a: usize, scalar: f64, n: i32): void {
  const s = toInteger(scalar);
  for (let i = 0; i < n; i++) store<u64>(dst + (<usize>i << 3), load<u64>(a + (<usize>i << 3)) + s);
}

export function mulScalar(dst: usize, a: usize, scalar: f64, n: i32, mode: i32): void {
  const s = toInteger(scalar);
  for (let i = 0; i < n; i++) putOne(dst + (<usize>i << 3), load<u64>(a + (<usize>i << 3)) * s, mode);
}

export function reduce(dst: usize, a: usize, bits: i32, n: i32): void {
  const mask = maskOf(bits), wide = i64x2.splat(mask), end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    v128.store(dst, v128.and(v128.load(a), wide));
    dst += 16; a += 16;
  }
  if (n & 1) store<u64>(dst, load<u64>(a) & mask);
}

export function shiftRight(dst: usize, a: usize, bits: i32, shift: i32, n: i32): void {
  const mask = maskOf(bits), wide = i64x2.splat(mask), end = dst + ((<usize>n & ~1) << 3);
  while (dst < end) {
    v128.store(dst, i64x2.shr_u(v128.and(v128.load(a), wide), shift));
    dst += 16; a += 16;
  }
  if (n & 1) store<u64>(dst, (load<u64>(a) & mask) >> <u64>shift);
}

export function copyRows(dst: usize, dstStride: i32, src: usize, srcStride: i32, rows: i32, cols: i32): void {
  if (cols == 1) {
    for (let r = 0; r < rows; r++) store<u64>(dst + ((<usize>r * dstStride) << 3), load<u64>(src + ((<usize>r * srcStride) << 3)));
    return;
  }
  for (let r = 0; r < rows; r++) memory.copy(dst + ((<usize>r * dstStride) << 3), src + ((<usize>r * srcStride) << 3), <usize>cols << 3);
}

export function segmentSum(dst: usize, src: usize, lengths: usize, segments: i32): void {
  for (let s = 0; s < segments; s++) {
    let sum: u64 = 0;
    const end = src + (<usize>load<u32>(lengths + (<usize>s << 2)) << 3);
    if (end - src >= 64) {
      let s0 = i64x2.splat(0), s1 = i64x2.splat(0), s2 = i64x2.splat(0), s3 = i64x2.splat(0);
      for (; src + 64 <= end; src += 64) {
        s0 = i64x2.add(s0, v128.load(src)); s1 = i64x2.add(s1, v128.load(src, 16));
        s2 = i64x2.add(s2, v128.load(src, 32)); s3 = i64x2.add(s3, v128.load(src, 48));
      }
      s0 = i64x2.add(i64x2.add(s0, s1), i64x2.add(s2, s3));
      sum = i64x2.extract_lane(s0, 0) + i64x2.extract_lane(s0, 1);
    }
    for (; src < end; src += 8) sum += load<u64>(src);
    store<u64>(dst + (<usize>s << 3), sum);
  }
}

export function segmentSpread(dst: usize, a: usize, lengths: usize, segments: i32, scalar: f64, mode: i32): void {
  const factor = toInteger(scalar);
  for (let s = 0; s < segments; s++) {
    const v = load<u64>(a + (<usize>s << 3)) * factor, end = dst + (<usize>load<u32>(lengths + (<usize>s << 2)) << 3);
    for (; dst < end; dst += 8) putOne(dst, v, mode);
  }
}

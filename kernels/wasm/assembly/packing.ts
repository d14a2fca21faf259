// Packing ring elements to ceil(bits / 8) bytes. Unaligned 8-byte stores overlap; the last elements are written byte by byte.
import { maskOf } from './element';

export function pack(dst: usize, src: usize, bits: i32, n: i32): i32 {
  if (bits == 1) return packBits(dst, src, n);
  const width = <usize>((bits + 7) >> 3), mask = maskOf(bits), safe = n - 8;
  let bad: i32 = 0, i = 0;
  for (; i < safe; i++, src += 8, dst += width) {
    const v = load<u64>(src), high = i32((v & ~mask) != 0);
    bad += high;
    store<u64>(dst, v & (<u64>high - 1));
  }
  for (; i < n; i++, src += 8, dst += width) {
    const v = load<u64>(src), high = i32((v & ~mask) != 0);
    bad += high;
    let rest = v & (<u64>high - 1);
    for (let b: usize = 0; b < width; b++, rest >>= 8) store<u8>(dst + b, <u8>rest);
  }
  return bad;
}

function packBits(dst: usize, src: usize, n: i32): i32 {
  let bad: i32 = 0;
  for (let i = 0; i < n; i += 8) {
    let byte: u32 = 0;
    const most = min(8, n - i);
    for (let j = 0; j < most; j++, src += 8) {
      const v = load<u64>(src), high = i32(v > 1);
      bad += high;
      byte |= <u32>(v & (<u64>high - 1)) << j;
    }
    store<u8>(dst++, <u8>byte);
  }
  return bad;
}

export function unpack(dst: usize, src: usize, bits: i32, n: i32): void {
  if (bits == 1) {
    for (let i = 0; i < n; i++, dst += 8) store<u64>(dst, <u64>((load<u8>(src + (<usize>i >> 3)) >> (<u8>i & 7)) & 1));
    return;
  }
  const width = <usize>((bits + 7) >> 3), mask = maskOf(<i32>width << 3), safe = n - 8;
  let i = 0;
  for (; i < safe; i++, dst += 8, src += width) store<u64>(dst, load<u64>(src) & mask);
  for (; i < n; i++, dst += 8, src += width) {
    let v: u64 = 0;
    for (let b: usize = width; b > 0; b--) v = (v << 8) | <u64>load<u8>(src + b - 1);
    store<u64>(dst, v);
  }
}

export function subPack(dst: usize, a: usize, b: usize, bits: i32, n: i32): void {
  const width = <usize>((bits + 7) >> 3), mask = maskOf(bits), safe = n - 8;
  let i = 0;
  for (; i < safe; i++, a += 8, b += 8, dst += width) store<u64>(dst, (load<u64>(a) - load<u64>(b)) & mask);
  for (; i < n; i++, a += 8, b += 8, dst += width) {
    let rest = (load<u64>(a) - load<u64>(b)) & mask;
    for (let j: usize = 0; j < width; j++, rest >>= 8) store<u8>(dst + j, <u8>rest);
  }
}

export function subWide(lo: usize, hi: usize, lo0: usize, hi0: usize, hiBits: i32, n: i32): void {
  const mask = maskOf(hiBits);
  for (let i = 0; i < n; i++, lo += 8, hi += 8, lo0 += 8, hi0 += 8) {
    const a = load<u64>(lo), b = load<u64>(lo0);
    store<u64>(lo, a - b);
    store<u64>(hi, (load<u64>(hi) - load<u64>(hi0) - u64(a < b)) & mask);
  }
}

export function subPackWide(dst: usize, a: usize, lo0: usize, hi0: usize, hiBits: i32, n: i32): void {
  const width = <usize>(hiBits >> 3), safe = n - 4;
  let i = 0;
  for (; i < safe; i++, a += 8, lo0 += 8, hi0 += width, dst += 8 + width) {
    const v = load<u64>(a), low = load<u64>(lo0);
    store<u64>(dst, v - low);
    store<u32>(dst, <u32>((<u64>(<i64>v >> 63)) - <u64>load<u32>(hi0) - u64(v < low)), 8);
  }
  for (; i < n; i++, a += 8, lo0 += 8, hi0 += width, dst += 8 + width) {
    const v = load<u64>(a), low = load<u64>(lo0);
    let high: u64 = 0;
    for (let b = width; b > 0; b--) high = (high << 8) | <u64>load<u8>(hi0 + b - 1);
    high = (<u64>(<i64>v >> 63)) - high - u64(v < low);
    store<u64>(dst, v - low);
    for (let b: usize = 0; b < width; b++, high >>= 8) store<u8>(dst + b, <u8>high, 8);
  }
}

export function unpackWide(lo: usize, hi: usize, src: usize, hiBits: i32, n: i32): void {
  const width = <usize>(hiBits >> 3);
  for (let i = 0; i < n; i++, lo += 8, hi += 8, src += 8 + width) {
    store<u64>(lo, load<u64>(src));
    let h: u64 = 0;
    for (let b = width; b > 0; b--) h = (h << 8) | <u64>load<u8>(src + b - 1, 8);
    store<u64>(hi, h);
  }
}

export function signWords(hi: usize, a: usize, hiBits: i32, n: i32): void {
  const mask = maskOf(hiBits);
  for (let i = 0; i < n; i++, hi += 8, a += 8) store<u64>(hi, <u64>(load<i64>(a) >> 63) & mask);
}

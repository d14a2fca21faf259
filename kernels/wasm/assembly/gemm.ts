// int16 weights times shares, in two forms: 64-bit lanes (i64x2.mul: native on AVX-512DQ, eight instructions elsewhere), and 16-bit limbs (pmaddwd everywhere).
//
// Limb form: x mod 2^bits is split once into signed digits, x = sum_(l < L - 2) d_l 2^(b l) + e 2^q + f 2^(q + 16) with q = b (L - 2) >= bits - 32. The digits d
// have b <= 12 bits: |w d| <= 2^(b + 14), so 2^(16 - b) - 1 products of pairs add up below 2^31 before they are widened to 64 bits. Of e only the sum mod 2^32
// matters, of f mod 2^16: they use all 16 bits and their 32-bit sums may wrap, so they are widened once, at the end.
import { putOne } from './element';
import { working } from './working';

/** Sum of the two lanes. */
// @ts-ignore: decorator
@inline
export function sum2(v: v128): u64 {
  return i64x2.extract_lane(v, 0) + i64x2.extract_lane(v, 1);
}

// ---- 64-bit lanes -------------------------------------------------------------------------------------------------------

/** Four columns at a time, a quarter apart, so that a row of x is read from registers four times; weights are widened on the way. */
export function gemmI16Lanes(dst: usize, x: usize, w: usize, rows: i32, inner: i32, cols: i32, bits: i32, stride: i32): void {
  const bytes = <usize>inner << 1, line = stride ? stride : cols, quarter = cols >> 2, far = <usize>quarter * bytes, apart = <usize>quarter << 3;
  for (let r = 0; r < rows; r++) {
    const row = x + ((<usize>r * inner) << 3), end = row + (<usize>inner << 3);
    for (let c = 0; c < quarter; c++) {
      let a0 = i64x2.splat(0), a1 = i64x2.splat(0), a2 = i64x2.splat(0), a3 = i64x2.splat(0);
      let w0 = w + <usize>c * bytes, w1 = w0 + far, w2 = w1 + far, w3 = w2 + far;
      for (let p = row; p < end; p += 64, w0 += 16, w1 += 16, w2 += 16, w3 += 16) {
        const x0 = v128.load(p), x1 = v128.load(p, 16), x2 = v128.load(p, 32), x3 = v128.load(p, 48);
        a0 = i64x2.add(a0, dot8(x0, x1, x2, x3, v128.load(w0)));
        a1 = i64x2.add(a1, dot8(x0, x1, x2, x3, v128.load(w1)));
        a2 = i64x2.add(a2, dot8(x0, x1, x2, x3, v128.load(w2)));
        a3 = i64x2.add(a3, dot8(x0, x1, x2, x3, v128.load(w3)));
      }
      const out = dst + ((<usize>r * line + c) << 3);
      store<u64>(out, sum2(a0));
      store<u64>(out + apart, sum2(a1));
      store<u64>(out + 2 * apart, sum2(a2));
      store<u64>(out + 3 * apart, sum2(a3));
    }
    for (let c = 4 * quarter; c < cols; c++) {
      let a = i64x2.splat(0), wp = w + <usize>c * bytes;
      for (let p = row; p < end; p += 64, wp += 16) a = i64x2.add(a, dot8(v128.load(p), v128.load(p, 16), v128.load(p, 32), v128.load(p, 48), v128.load(wp)));
      store<u64>(dst + ((<usize>r * line + c) << 3), sum2(a));
    }
  }
}

// @ts-ignore: decorator
@inline
function dot8(x0: v128, x1: v128, x2: v128, x3: v128, w: v128): v128 {
  const lo = i32x4.extend_low_i16x8_s(w), hi = i32x4.extend_high_i16x8_s(w);
  return i64x2.add(
    i64x2.add(i64x2.mul(x0, i64x2.extend_low_i32x4_s(lo)), i64x2.mul(x1, i64x2.extend_high_i32x4_s(lo))),
    i64x2.add(i64x2.mul(x2, i64x2.extend_low_i32x4_s(hi)), i64x2.mul(x3, i64x2.extend_high_i32x4_s(hi))),
  );
}

// ---- 16-bit limbs -------------------------------------------------------------------------------------------------------

/** Limbs of a tile of rows, their offset in the working space: for every eight elements, L vectors of eight digits. */
const LIMBS: usize = 16384, LIMB_BYTES = 49152;

/** A tile of rows of x (all of them use a pair of columns while it is in L1), `inner` cut into pieces of which the tile holds two rows at least. */
export function gemmI16Limbs(dst: usize, x: usize, w: usize, rows: i32, inner: i32, cols: i32, bits: i32, stride: i32): void {
  const tiles = working + LIMBS, line = <usize>(stride ? stride : cols) << 3, half = cols >> 1, far = (<usize>half * inner) << 1, apart = <usize>half << 3;
  const limbs = bits <= 32 ? 2 : bits <= 44 ? 3 : bits <= 56 ? 4 : 5, digits = limbs - 2;
  const b = digits ? max(1, (bits - 32 + digits - 1) / digits) : 0, flush = digits ? (1 << min(16 - b, 10)) - 1 : i32.MAX_VALUE;
  const most = LIMB_BYTES / (2 * limbs * min(rows, 2)) & ~7, pieces = (inner + most - 1) / most, piece = ((inner + pieces - 1) / pieces + 7) & ~7;
  for (let from = 0; from < inner; from += piece) {
    const length = min(piece, inner - from), rowBytes = <usize>length * limbs << 1, tile = LIMB_BYTES / <i32>rowBytes;
    for (let r = 0; r < rows; r += tile) {
      const count = min(tile, rows - r);
      for (let i = 0; i < count; i++) split(tiles + <usize>i * rowBytes, x + ((<usize>(r + i) * inner + from) << 3), length, digits, b);
      const out = dst + <usize>r * line;
      // Columns c and c + half: two long streams of weights, which the processor reads ahead better than many short ones. What is left comes last, alone.
      for (let n = 0; n < cols - half; n++) {
        const last = n == half, c = last ? cols - 1 : n;
        const w0 = w + ((<usize>c * inner + from) << 1), w1 = last ? w0 : w0 + far;
        let at = out + (<usize>c << 3), p = tiles;
        for (let i = 0; i < count; i++, at += line, p += rowBytes) {
          let s: v128;
          if (limbs == 2) s = pair2(p, w0, w1, length);
          else if (limbs == 3) s = pair3(p, w0, w1, length, b, flush);
          else if (limbs == 4) s = pair4(p, w0, w1, length, b, flush);
          else s = pair5(p, w0, w1, length, b, flush);
          // The first piece sets, further ones add.
          putOne(at, i64x2.extract_lane(s, 0), from);
          if (!last) putOne(at + apart, i64x2.extract_lane(s, 1), from);
        }
      }
    }
  }
}

/** Digits of n (a multiple of 8) elements. */
function split(dst: usize, x: usize, n: i32, digits: i32, b: i32): void {
  const half = i64x2.splat((<i64>1 << <i64>b) >> 1), mask = i64x2.splat((<i64>1 << <i64>b) - 1);
  for (let end = x + (<usize>n << 3); x < end; x += 64) {
    let x0 = v128.load(x), x1 = v128.load(x, 16), x2 = v128.load(x, 32), x3 = v128.load(x, 48);
    // With y = x + half: digit (y mod 2^b) - half, rest y >> b.
    for (let l = 0; l < digits; l++, dst += 16) {
      x0 = i64x2.add(x0, half); x1 = i64x2.add(x1, half); x2 = i64x2.add(x2, half); x3 = i64x2.add(x3, half);
      v128.store(dst, narrow(i64x2.sub(v128.and(x0, mask), half), i64x2.sub(v128.and(x1, mask), half), i64x2.sub(v128.and(x2, mask), half), i64x2.sub(v128.and(x3, mask), half)));
      x0 = i64x2.shr_u(x0, b); x1 = i64x2.shr_u(x1, b); x2 = i64x2.shr_u(x2, b); x3 = i64x2.shr_u(x3, b);
    }
    v128.store(dst, narrow(x0, x1, x2, x3));
    const carry = i64x2.splat(0x8000);
    x0 = i64x2.add(x0, carry); x1 = i64x2.add(x1, carry); x2 = i64x2.add(x2, carry); x3 = i64x2.add(x3, carry);
    v128.store(dst, narrow(i64x2.shr_u(x0, 16), i64x2.shr_u(x1, 16), i64x2.shr_u(x2, 16), i64x2.shr_u(x3, 16)), 16);
    dst += 32;
  }
}

/** The low 16 bits of eight 64-bit lanes. */
// @ts-ignore: decorator
@inline
function narrow(x0: v128, x1: v128, x2: v128, x3: v128): v128 {
  const lo = v128.shuffle<i32>(x0, x1, 0, 2, 4, 6), hi = v128.shuffle<i32>(x2, x3, 0, 2, 4, 6);
  return i16x8.narrow_i32x4_s(i32x4.shr_s(i32x4.shl(lo, 16), 16), i32x4.shr_s(i32x4.shl(hi, 16), 16));
}

/** The four signed 32-bit lanes, added up in two 64-bit lanes, times 2^shift. */
// @ts-ignore: decorator
@inline
function widen(v: v128, shift: i32): v128 {
  return i64x2.shl(i64x2.add(i64x2.extend_low_i32x4_s(v), i64x2.extend_high_i32x4_s(v)), shift);
}

// @ts-ignore: decorator
@inline
function both(s: v128, t: v128): v128 {
  return i64x2.add(v128.shuffle<i64>(s, t, 0, 2), v128.shuffle<i64>(s, t, 1, 3));
}

// Inner products of one row of limbs with two columns of weights.

function pair2(p: usize, w0: usize, w1: usize, n: i32): v128 {
  let a0 = i32x4.splat(0), a1 = i32x4.splat(0), b0 = i32x4.splat(0), b1 = i32x4.splat(0);
  for (const end = w0 + (<usize>n << 1); w0 < end; w0 += 16, w1 += 16, p += 32) {
    const v0 = v128.load(w0), v1 = v128.load(w1), x0 = v128.load(p), x1 = v128.load(p, 16);
    a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x0, v0)); b0 = i32x4.add(b0, i32x4.dot_i16x8_s(x0, v1));
    a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x1, v0)); b1 = i32x4.add(b1, i32x4.dot_i16x8_s(x1, v1));
  }
  return both(i64x2.add(widen(a0, 0), widen(a1, 16)), i64x2.add(widen(b0, 0), widen(b1, 16)));
}

function pair3(p: usize, w0: usize, w1: usize, n: i32, b: i32, flush: i32): v128 {
  let s = i64x2.splat(0), t = i64x2.splat(0);
  let a1 = i32x4.splat(0), a2 = i32x4.splat(0), b1 = i32x4.splat(0), b2 = i32x4.splat(0);
  for (const end = w0 + (<usize>n << 1); w0 < end; ) {
    let a0 = i32x4.splat(0), b0 = i32x4.splat(0);
    for (const stop = min(end, w0 + (<usize>flush << 4)); w0 < stop; w0 += 16, w1 += 16, p += 48) {
      const v0 = v128.load(w0), v1 = v128.load(w1), x0 = v128.load(p), x1 = v128.load(p, 16), x2 = v128.load(p, 32);
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x0, v0)); b0 = i32x4.add(b0, i32x4.dot_i16x8_s(x0, v1));
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x1, v0)); b1 = i32x4.add(b1, i32x4.dot_i16x8_s(x1, v1));
      a2 = i32x4.add(a2, i32x4.dot_i16x8_s(x2, v0)); b2 = i32x4.add(b2, i32x4.dot_i16x8_s(x2, v1));
    }
    s = i64x2.add(s, widen(a0, 0)); t = i64x2.add(t, widen(b0, 0));
  }
  return both(i64x2.add(s, i64x2.add(widen(a1, b), widen(a2, b + 16))), i64x2.add(t, i64x2.add(widen(b1, b), widen(b2, b + 16))));
}

function pair4(p: usize, w0: usize, w1: usize, n: i32, b: i32, flush: i32): v128 {
  let s = i64x2.splat(0), t = i64x2.splat(0);
  let a2 = i32x4.splat(0), a3 = i32x4.splat(0), b2 = i32x4.splat(0), b3 = i32x4.splat(0);
  for (const end = w0 + (<usize>n << 1); w0 < end; ) {
    let a0 = i32x4.splat(0), a1 = i32x4.splat(0), b0 = i32x4.splat(0), b1 = i32x4.splat(0);
    for (const stop = min(end, w0 + (<usize>flush << 4)); w0 < stop; w0 += 16, w1 += 16, p += 64) {
      const v0 = v128.load(w0), v1 = v128.load(w1), x0 = v128.load(p), x1 = v128.load(p, 16), x2 = v128.load(p, 32), x3 = v128.load(p, 48);
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x0, v0)); b0 = i32x4.add(b0, i32x4.dot_i16x8_s(x0, v1));
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x1, v0)); b1 = i32x4.add(b1, i32x4.dot_i16x8_s(x1, v1));
      a2 = i32x4.add(a2, i32x4.dot_i16x8_s(x2, v0)); b2 = i32x4.add(b2, i32x4.dot_i16x8_s(x2, v1));
      a3 = i32x4.add(a3, i32x4.dot_i16x8_s(x3, v0)); b3 = i32x4.add(b3, i32x4.dot_i16x8_s(x3, v1));
    }
    s = i64x2.add(s, i64x2.add(widen(a0, 0), widen(a1, b))); t = i64x2.add(t, i64x2.add(widen(b0, 0), widen(b1, b)));
  }
  return both(i64x2.add(s, i64x2.add(widen(a2, 2 * b), widen(a3, 2 * b + 16))), i64x2.add(t, i64x2.add(widen(b2, 2 * b), widen(b3, 2 * b + 16))));
}

function pair5(p: usize, w0: usize, w1: usize, n: i32, b: i32, flush: i32): v128 {
  let s = i64x2.splat(0), t = i64x2.splat(0);
  let a3 = i32x4.splat(0), a4 = i32x4.splat(0), b3 = i32x4.splat(0), b4 = i32x4.splat(0);
  for (const end = w0 + (<usize>n << 1); w0 < end; ) {
    let a0 = i32x4.splat(0), a1 = i32x4.splat(0), a2 = i32x4.splat(0), b0 = i32x4.splat(0), b1 = i32x4.splat(0), b2 = i32x4.splat(0);
    for (const stop = min(end, w0 + (<usize>flush << 4)); w0 < stop; w0 += 16, w1 += 16, p += 80) {
      const v0 = v128.load(w0), v1 = v128.load(w1), x0 = v128.load(p), x1 = v128.load(p, 16), x2 = v128.load(p, 32), x3 = v128.load(p, 48), x4 = v128.load(p, 64);
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x0, v0)); b0 = i32x4.add(b0, i32x4.dot_i16x8_s(x0, v1));
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x1, v0)); b1 = i32x4.add(b1, i32x4.dot_i16x8_s(x1, v1));
      a2 = i32x4.add(a2, i32x4.dot_i16x8_s(x2, v0)); b2 = i32x4.add(b2, i32x4.dot_i16x8_s(x2, v1));
      a3 = i32x4.add(a3, i32x4.dot_i16x8_s(x3, v0)); b3 = i32x4.add(b3, i32x4.dot_i16x8_s(x3, v1));
      a4 = i32x4.add(a4, i32x4.dot_i16x8_s(x4, v0)); b4 = i32x4.add(b4, i32x4.dot_i16x8_s(x4, v1));
    }
    s = i64x2.add(s, i64x2.add(widen(a0, 0), i64x2.add(widen(a1, b), widen(a2, 2 * b))));
    t = i64x2.add(t, i64x2.add(widen(b0, 0), i64x2.add(widen(b1, b), widen(b2, 2 * b))));
  }
  return both(i64x2.add(s, i64x2.add(widen(a3, 3 * b), widen(a4, 3 * b + 16))), i64x2.add(t, i64x2.add(widen(b3, 3 * b), widen(b4, 3 * b + 16))));
}

// ---- ring elements of 32 or 64 bits -------------------------------------------------------------------------------------

/**
 * Four columns at a time, a quarter of the matrix apart: all rows use them while they are in the cache, and the weights are four long streams, each read
 * once and in order, which the processor reads ahead better than one, or than four short ones. What four does not divide comes last, column by column.
 */
export function gemmRing(dst: usize, x: usize, w: usize, rows: i32, inner: i32, cols: i32, bits: i32, mode: i32, stride: i32): void {
  const low = bits <= 32, bytes = <usize>inner << (low ? 2 : 3), line = <usize>(stride ? stride : cols) << 3, quarter = <usize>cols >> 2, far = quarter * bytes;
  for (const end = w + far; w < end; w += bytes, dst += 8) ringRows(dst, line, x, w, far, quarter << 3, rows, inner, low, mode);
  w += 3 * far; dst += 24 * quarter;
  for (let c = <usize>cols & 3; c > 0; c--, w += bytes, dst += 8) ringRows(dst, line, x, w, 0, 0, rows, inner, low, mode);
}

// @ts-ignore: decorator
@inline
function ringRows(dst: usize, line: usize, x: usize, w: usize, far: usize, apart: usize, rows: i32, inner: i32, low: bool, mode: i32): void {
  for (let r = 0; r < rows; r++, dst += line, x += <usize>inner << 3) {
    if (low) ringLow(dst, apart, x, w, far, inner, mode);
    else ringWide(dst, apart, x, w, far, inner, mode);
  }
}

function ringLow(out: usize, apart: usize, x: usize, w0: usize, far: usize, inner: i32, mode: i32): void {
  let w1 = w0 + far, w2 = w1 + far, w3 = w2 + far;
  let a0 = i32x4.splat(0), a1 = i32x4.splat(0), a2 = i32x4.splat(0), a3 = i32x4.splat(0);
  for (const end = x + (<usize>inner << 3); x < end; x += 32, w0 += 16, w1 += 16, w2 += 16, w3 += 16) {
    const v = v128.shuffle<i32>(v128.load(x), v128.load(x, 16), 0, 2, 4, 6);
    a0 = i32x4.add(a0, i32x4.mul(v, v128.load(w0)));
    a1 = i32x4.add(a1, i32x4.mul(v, v128.load(w1)));
    a2 = i32x4.add(a2, i32x4.mul(v, v128.load(w2)));
    a3 = i32x4.add(a3, i32x4.mul(v, v128.load(w3)));
  }
  putFour(out, apart, sumLow(a0), sumLow(a1), sumLow(a2), sumLow(a3), mode);
}

/** Four results, `apart` bytes from each other; 0: one. */
// @ts-ignore: decorator
@inline
function putFour(out: usize, apart: usize, s0: u64, s1: u64, s2: u64, s3: u64, mode: i32): void {
  putOne(out, s0, mode);
  if (!apart) return;
  putOne(out + apart, s1, mode);
  putOne(out + 2 * apart, s2, mode);
  putOne(out + 3 * apart, s3, mode);
}

/** Sum of the four lanes mod 2^32. */
// @ts-ignore: decorator
@inline
function sumLow(v: v128): u64 {
  const t = i32x4.add(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  return <u64>(<u32>(i32x4.extract_lane(t, 0) + i32x4.extract_lane(t, 1)));
}

function ringWide(out: usize, apart: usize, x: usize, w0: usize, far: usize, inner: i32, mode: i32): void {
  let w1 = w0 + far, w2 = w1 + far, w3 = w2 + far;
  let a0 = i64x2.splat(0), a1 = i64x2.splat(0), a2 = i64x2.splat(0), a3 = i64x2.splat(0);
  for (const end = x + (<usize>inner << 3); x < end; x += 16, w0 += 16, w1 += 16, w2 += 16, w3 += 16) {
    const v = v128.load(x);
    a0 = i64x2.add(a0, i64x2.mul(v, v128.load(w0)));
    a1 = i64x2.add(a1, i64x2.mul(v, v128.load(w1)));
    a2 = i64x2.add(a2, i64x2.mul(v, v128.load(w2)));
    a3 = i64x2.add(a3, i64x2.mul(v, v128.load(w3)));
  }
  putFour(out, apart, sum2(a0), sum2(a1), sum2(a2), sum2(a3), mode);
}

// ---- float32 ------------------------------------------------------------------------------------------------------------

/** Two columns at a time, half the matrix apart, so that the weights are two long streams; all rows use a column while it is in the first-level cache. */
export function gemmF32(dst: usize, x: usize, w: usize, rows: i32, inner: i32, cols: i32): void {
  const bytes = <usize>inner << 2,
    step = <usize>cols << 2,
    half = <usize>cols >> 1,
    far = half * bytes,
    apart = half << 2;
  for (const end = w + far; w < end; w += bytes, dst += 4) {
    let p = x, out = dst, r = 0;
    // Two rows and two columns at once: each value is loaded for two products.
    for (; r + 2 <= rows; r += 2, p += bytes, out += 2 * step) {
      let a0 = f32x4.splat(0), b0 = a0, a1 = a0, b1 = a0, a2 = a0, b2 = a0, a3 = a0, b3 = a0;
      let v = w;
      for (const end = p + bytes; p < end; p += 32, v += 32) {
        const q = p + bytes, u = v + far;
        const xa = v128.load(p), xb = v128.load(p, 16), ya = v128.load(q), yb = v128.load(q, 16);
        const va = v128.load(v), vb = v128.load(v, 16), ua = v128.load(u), ub = v128.load(u, 16);
        a0 = f32x4.add(a0, f32x4.mul(xa, va));
        b0 = f32x4.add(b0, f32x4.mul(xb, vb));
        a1 = f32x4.add(a1, f32x4.mul(xa, ua));
        b1 = f32x4.add(b1, f32x4.mul(xb, ub));
        a2 = f32x4.add(a2, f32x4.mul(ya, va));
        b2 = f32x4.add(b2, f32x4.mul(yb, vb));
        a3 = f32x4.add(a3, f32x4.mul(ya, ua));
        b3 = f32x4.add(b3, f32x4.mul(yb, ub));
      }
      store<f32>(out, sum4(f32x4.add(a0, b0)));
      store<f32>(out + apart, sum4(f32x4.add(a1, b1)));
      store<f32>(out + step, sum4(f32x4.add(a2, b2)));
      store<f32>(out + step + apart, sum4(f32x4.add(a3, b3)));
    }
    if (r < rows) {
      store<f32>(out, dotF32(p, w, bytes));
      store<f32>(out + apart, dotF32(p, w + far, bytes));
    }
  }
  w += far; dst += apart;
  if (cols & 1) {
    let p = x, out = dst;
    for (let r = 0; r < rows; r++, p += bytes, out += step) store<f32>(out, dotF32(p, w, bytes));
  }
}

function dotF32(p: usize, v: usize, bytes: usize): f32 {
  let a = f32x4.splat(0), b = f32x4.splat(0);
  for (const end = p + bytes; p < end; p += 32, v += 32) {
    a = f32x4.add(a, f32x4.mul(v128.load(p), v128.load(v)));
    b = f32x4.add(b, f32x4.mul(v128.load(p, 16), v128.load(v, 16)));
  }
  return sum4(f32x4.add(a, b));
}

// @ts-ignore: decorator
@inline
function sum4(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

// Inner loops of the gates that are neither linear nor keyed; see kernels.ts for the tables' layouts.
import { maskOf } from './element';
import { BLOCKS } from './chacha';
import { prg } from './prg';
import { working } from './working';

// ---- expTable -----------------------------------------------------------------------------------------------------------------

export function expDeal(dst: usize, r: usize, domainBits: i32, cellsLog2: i32, tables: usize, n: i32): void {
  const row = <usize>8 << cellsLog2, cellBits = <u64>(domainBits - cellsLog2), mask = maskOf(domainBits), low = maskOf(domainBits - cellsLog2);
  for (let i = 0; i < n; i++, dst += row) {
    const R = load<u64>(r + (<usize>i << 3)) & mask, rho = R & low;
    const e = (load<u64>(tables + 2048 + (<usize>(rho >> 8) << 3)) * load<u64>(tables + (<usize>(rho & 255) << 3)) + (<u64>1 << 28)) >> 29;
    for (let at: usize = 0; at < row; at += 8) store<u64>(dst + at, 0);
    store<u64>(dst + (<usize>(R >> cellBits) << 3), e);
  }
}

// @ts-ignore: decorator
@inline
function mulHigh(a: u64, b: u64): u64 {
  const al = a & 0xffffffff, ah = a >> 32, bl = b & 0xffffffff, bh = b >> 32;
  const mid = ah * bl + ((al * bl) >> 32), mid2 = al * bh + (mid & 0xffffffff);
  return ah * bh + (mid >> 32) + (mid2 >> 32);
}

export function expEvaluate(dst: usize, m: usize, lo: usize, hi: usize, party: i32, domainBits: i32, cellsLog2: i32, tables: usize, shiftIndex: i32, shift: i32, n: i32): void {
  const cells = 1 << cellsLog2, cellBits = <u64>(domainBits - cellsLog2), mask = maskOf(domainBits), low = maskOf(domainBits - cellsLog2);
  const factors = tables + 8192 + (<usize>(shiftIndex << cellsLog2) << 4), right = <u64>shift;
  for (let i = 0; i < n; i++) {
    const M = load<u64>(m + (<usize>i << 3)) & mask, mu = <i32>(M >> cellBits), ml = M & low;
    const e = (load<u64>(tables + 6144 + (<usize>(ml >> 8) << 3)) * load<u64>(tables + 4096 + (<usize>(ml & 255) << 3)) + (<u64>1 << 19)) >> 20;
    let yl: u64 = 0, yh: u64 = 0;
    for (let a = 0; a < cells; a++, lo += 8, hi += 8) {
      const f = factors + (<usize>((mu - a) & (cells - 1)) << 4), s = load<u64>(f, 8);
      const g = s > 63 ? 0 : (e * load<u64>(f) + (<u64>1 << (s - 1))) >> s;
      const el = load<u64>(lo), p = g * el;
      yl += p;
      yh += mulHigh(g, el) + g * load<u64>(hi) + u64(yl < p);
    }
    yh &= 0xffffff;
    let out: u64;
    if (party == 0) out = (yl >> right) | (yh << (64 - right));
    else {
      const nl = 0 - yl, nh = (0 - yh - u64(yl != 0)) & 0xffffff;
      out = 0 - ((nl >> right) | (nh << (64 - right)));
    }
    store<u64>(dst + (<usize>i << 3), out);
  }
}

// ---- fourier ------------------------------------------------------------------------------------------------------------------

// `tables` as kernels.ts lays them out; `highs` bytes of each high table.
// @ts-ignore: decorator
@inline
function cosine(tables: usize, highs: usize, angle: u64): i64 {
  const h = tables + (<usize>(angle >> 8) << 3), l = tables + 2 * highs + (<usize>(angle & 255) << 3);
  return load<i64>(h) * load<i64>(l) - load<i64>(h + highs) * load<i64>(l, 2048);
}
// @ts-ignore: decorator
@inline
function sine(tables: usize, highs: usize, angle: u64): i64 {
  const h = tables + (<usize>(angle >> 8) << 3), l = tables + 2 * highs + (<usize>(angle & 255) << 3);
  return load<i64>(h + highs) * load<i64>(l) + load<i64>(h) * load<i64>(l, 2048);
}

export function fourierDeal(dst: usize, r: usize, periodBits: i32, terms: i32, tables: usize, n: i32): void {
  const mask = maskOf(periodBits), half = <usize>terms << 3, highs = <usize>8 << (periodBits - 8);
  for (let i = 0; i < n; i++, dst += half) {
    const R = load<u64>(r + (<usize>i << 3));
    for (let k: u64 = 1; k <= <u64>terms; k++, dst += 8) {
      const angle = (R * k) & mask;
      store<i64>(dst, (cosine(tables, highs, angle) + (<i64>1 << 41)) >> 42);
      store<i64>(dst + half, (sine(tables, highs, angle) + (<i64>1 << 41)) >> 42);
    }
  }
}

// @ts-ignore: decorator
@inline
function factor(coefficient: i64, v: i64): i64 {
  return (coefficient * ((v + (<i64>1 << 29)) >> 30) + (<i64>1 << 39)) >> 40;
}

export function fourierEvaluate(dst: usize, m: usize, corr: usize, periodBits: i32, terms: i32, tables: usize, n: i32): void {
  const mask = maskOf(periodBits), half = <usize>terms << 3, highs = <usize>8 << (periodBits - 8), coefficients = tables + 2 * highs + 4088;
  for (let i = 0; i < n; i++, dst += 8, corr += half) {
    const M = load<u64>(m + (<usize>i << 3));
    let sum = load<u64>(dst);
    for (let k: u64 = 1; k <= <u64>terms; k++, corr += 8) {
      const angle = (M * k) & mask, a = load<i64>(coefficients + (<usize>k << 3));
      sum += <u64>factor(a, cosine(tables, highs, angle)) * load<u64>(corr) + <u64>factor(a, sine(tables, highs, angle)) * load<u64>(corr + half);
    }
    store<u64>(dst, sum);
  }
}

export function fourierEvaluateWide(dst: usize, m: usize, lo: usize, hi: usize, party: i32, periodBits: i32, terms: i32, tables: usize, drop: i32, n: i32): void {
  const mask = maskOf(periodBits), half = <usize>terms << 3, highs = <usize>8 << (periodBits - 8), coefficients = tables + 2 * highs + 4088;
  const low36 = maskOf(36), right = <u64>drop;
  for (let i = 0; i < n; i++, dst += 8, lo += half, hi += half) {
    const M = load<u64>(m + (<usize>i << 3));
    // Elements as two 36-bit digits: factors have at most 20 bits, so both sums stay below 2^63.
    let s0: i64 = 0, s1: i64 = 0;
    for (let k: u64 = 1; k <= <u64>terms; k++, lo += 8, hi += 8) {
      const angle = (M * k) & mask, a = load<i64>(coefficients + (<usize>k << 3));
      const c = factor(a, cosine(tables, highs, angle)), s = factor(a, sine(tables, highs, angle));
      const cl = load<u64>(lo), sl = load<u64>(lo + half);
      s0 += c * <i64>(cl & low36) + s * <i64>(sl & low36);
      s1 += c * <i64>((cl >> 36) | (load<u64>(hi) << 28)) + s * <i64>((sl >> 36) | (load<u64>(hi + half) << 28));
    }
    // y = s0 + 2^36 s1 mod 2^72, as digits.
    let y0 = <u64>s0 & low36, y1 = <u64>(s1 + (s0 >> 36)) & low36;
    if (party != 0) {
      const borrow = u64(y0 != 0);
      y0 = (0 - y0) & low36;
      y1 = (0 - y1 - borrow) & low36;
    }
    const shifted = (y0 >> right) | (y1 << (36 - right));
    store<u64>(dst, party == 0 ? load<u64>(dst) + shifted : load<u64>(dst) - shifted);
  }
}

// ---- Boolean ------------------------------------------------------------------------------------------------------------------

export function oneHot64(dst: usize, r: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n; i++) store<u64>(dst + (i << 3), <u64>1 << (load<u64>(r + (i << 3)) & 63));
}

// @ts-ignore: decorator
@inline
function reverse(x: u64): u64 {
  x = ((x >> 1) & 0x5555555555555555) | ((x & 0x5555555555555555) << 1);
  x = ((x >> 2) & 0x3333333333333333) | ((x & 0x3333333333333333) << 2);
  x = ((x >> 4) & 0x0f0f0f0f0f0f0f0f) | ((x & 0x0f0f0f0f0f0f0f0f) << 4);
  return bswap<u64>(x);
}

export function suffix64(dst: usize, m: usize, t: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n; i++) {
    // Bit v of u is bit m - v of t; then XOR of all bits from b up.
    let u = rotr<u64>(reverse(load<u64>(t + (i << 3))), (63 - load<u64>(m + (i << 3))) & 63);
    u ^= u >> 1; u ^= u >> 2; u ^= u >> 4; u ^= u >> 8; u ^= u >> 16; u ^= u >> 32;
    store<u64>(dst + (i << 3), u);
  }
}

export function parities(dst: usize, words: usize, lengths: usize, rows: i32, first: i32, count: i32, coinKey: usize, gate: i32, sub: i32): void {
  const coins = working + BLOCKS + 4096;
  let word: u64 = 0;
  for (let row = 0; row < rows; row++) {
    let a01 = i64x2.splat(0), a23 = i64x2.splat(0), a45 = i64x2.splat(0), a67 = i64x2.splat(0);
    const end = word + load<u32>(lengths + (<usize>row << 2));
    while (word < end) {
      // Thirty-two words' coins at a time.
      const some = min<u64>(32, end - word);
      prg(coins, coinKey, gate, sub, <f64>(word << 3), 64, <i32>(some << 3));
      for (let i: usize = 0; i < <usize>some; i++) {
        const w = v128.load_splat<u64>(words), c = coins + (i << 6);
        words += 8;
        a01 = v128.xor(a01, v128.and(w, v128.load(c)));
        a23 = v128.xor(a23, v128.and(w, v128.load(c, 16)));
        a45 = v128.xor(a45, v128.and(w, v128.load(c, 32)));
        a67 = v128.xor(a67, v128.and(w, v128.load(c, 48)));
      }
      word += some;
    }
    const p0 = i64x2.extract_lane(a01, 0), p1 = i64x2.extract_lane(a01, 1), p2 = i64x2.extract_lane(a23, 0), p3 = i64x2.extract_lane(a23, 1);
    const p4 = i64x2.extract_lane(a45, 0), p5 = i64x2.extract_lane(a45, 1), p6 = i64x2.extract_lane(a67, 0), p7 = i64x2.extract_lane(a67, 1);
    for (let b = <u64>first; b < <u64>(first + count); b++, dst += 8)
      store<u64>(
        dst,
        ((p0 >> b) & 1) | (((p1 >> b) & 1) << 1) | (((p2 >> b) & 1) << 2) | (((p3 >> b) & 1) << 3) | (((p4 >> b) & 1) << 4) | (((p5 >> b) & 1) << 5) | (((p6 >> b) & 1) << 6) | (((p7 >> b) & 1) << 7),
      );
  }
}

/** Swaps neighbouring groups of `step` bits where `on` is all ones. */
// @ts-ignore: decorator
@inline
function swapBits(x: u64, step: u64, mask: u64, on: u64): u64 {
  const y = ((x >> step) & mask) | ((x & mask) << step);
  return (y & on) | (x & ~on);
}

export function pairDifferences(dst: usize, src: usize, rows: i32, count: i32): void {
  for (let r = 0; r < rows; r++, src += <usize>count << 3)
    for (let a = 0; a < count; a++) {
      const x = load<u64>(src + (<usize>a << 3));
      for (let b = a + 1; b < count; b++, dst += 8) store<u64>(dst, x - load<u64>(src + (<usize>b << 3)));
    }
}

export function pairSums(dst: usize, src: usize, rows: i32, count: i32): void {
  memory.fill(dst, 0, (<usize>rows * <usize>count) << 3);
  for (let r = 0; r < rows; r++, dst += <usize>count << 3)
    for (let a = 0; a < count; a++) {
      const first = dst + (<usize>a << 3);
      let sum = load<u64>(first);
      for (let b = a + 1; b < count; b++, src += 8) {
        const v = load<u64>(src), second = dst + (<usize>b << 3);
        sum += v;
        store<u64>(second, load<u64>(second) - v);
      }
      store<u64>(first, sum);
    }
}

export function tableRotate(dst: usize, table: usize, r: usize, bits: i32, xor: i32, n: i32): void {
  const words = 1 << (bits - 6);
  for (let i = 0; i < n; i++) {
    const R = load<u64>(r + (<usize>i << 3)) & maskOf(bits), q = <i32>(R >> 6), s = R & 63;
    for (let w = 0; w < words; w++, dst += 8) {
      if (xor) {
        let x = load<u64>(table + (<usize>(w ^ q) << 3));
        x = swapBits(x, 1, 0x5555555555555555, -(s & 1));
        x = swapBits(x, 2, 0x3333333333333333, -((s >> 1) & 1));
        x = swapBits(x, 4, 0x0f0f0f0f0f0f0f0f, -((s >> 2) & 1));
        x = swapBits(x, 8, 0x00ff00ff00ff00ff, -((s >> 3) & 1));
        x = swapBits(x, 16, 0x0000ffff0000ffff, -((s >> 4) & 1));
        x = swapBits(x, 32, 0x00000000ffffffff, -((s >> 5) & 1));
        store<u64>(dst, x);
      } else {
        const high = load<u64>(table + (<usize>((w - q) & (words - 1)) << 3)), low = load<u64>(table + (<usize>((w - q - 1) & (words - 1)) << 3));
        // Two shifts, since a shift by 64 is one by 0.
        store<u64>(dst, (high << s) | ((low >> 1) >> (63 - s)));
      }
    }
  }
}

export function tableLookup(dst: usize, tables: usize, m: usize, bits: i32, n: i32): void {
  const bytes = <usize>1 << (bits - 3);
  for (let i: usize = 0; i < <usize>n; i++, tables += bytes) {
    const M = load<u64>(m + (i << 3)) & maskOf(bits);
    store<u64>(dst + (i << 3), (<u64>load<u8>(tables + <usize>(M >> 3)) >> (M & 7)) & 1);
  }
}

export function lookupPermute(dst: usize, table: usize, r: usize, bits: i32, xor: i32, n: i32): void {
  const entries = 1 << bits;
  for (let i = 0; i < n; i++) {
    const R = <i32>load<u64>(r + (<usize>i << 3)) & (entries - 1);
    for (let m = 0; m < entries; m++, dst += 8) store<u64>(dst, <u64>load<u8>(table + <usize>(xor ? m ^ R : (m - R) & (entries - 1))));
  }
}

export function lookupPick(dst: usize, tables: usize, m: usize, bits: i32, n: i32): void {
  for (let i: usize = 0; i < <usize>n; i++) store<u64>(dst + (i << 3), load<u64>(tables + (((i << bits) + <usize>(load<u64>(m + (i << 3)) & maskOf(bits))) << 3)));
}

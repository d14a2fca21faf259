// Products over Z_2^64 of wires: element-wise, row by row, causal attention.
import { put, putOne } from './element';
import { sum2 } from './gemm';
import { working } from './working';

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

export function dotRows(dst: usize, a: usize, b: usize, rows: i32, cols: i32, mode: i32): void {
  for (let r = 0; r < rows; r++) {
    const at = (<usize>r * cols) << 3;
    putOne(dst + (<usize>r << 3), dot(a + at, b + at, cols), mode);
  }
}

/** Keys or values that stay in the first-level cache while all queries that see them use them. */
const TILE_BYTES: usize = 16384;
/** Offset in the working space: a query's low halves, packed. */
const QUERY: usize = 16384, QUERY_DIM = 8192;
/** Offset in the working space: where what was read ahead is written, so that it is read. */
const TOUCHED: usize = 15360;

// @ts-ignore: decorator
@inline
function tileOf(bytes: usize): i32 {
  return max(4, <i32>(TILE_BYTES / bytes) & ~3);
}

/** Packed rows before row i of a head. */
// @ts-ignore: decorator
@inline
function rowOf(i: i32, past: i32): usize {
  return <usize>i * past + ((<usize>i * (i + 1)) >> 1);
}

export function scores(dst: usize, q: usize, k: usize, queries: i32, heads: i32, group: i32, dim: i32, past: i32, capacity: i32, bits: i32, mode: i32, stride: i32): void {
  const bytes = <usize>dim << 3, tile = tileOf(bytes), all = rowOf(queries, past), narrow = bits <= 32 && dim <= QUERY_DIM, line = stride ? <usize>stride << 3 : heads * bytes;
  for (let from = 0; from < heads; from += group, k += <usize>capacity * bytes)
    for (let t0 = 0; t0 < past + queries; t0 += tile)
      for (let h = from; h < from + group; h++)
        for (let i = max(0, t0 - past); i < queries; i++) {
          const query = q + <usize>i * line + h * bytes, out = dst + ((<usize>h * all + rowOf(i, past) + t0) << 3);
          const keys = k + <usize>t0 * bytes, n = min(tile, past + i + 1 - t0);
          if (narrow) scoresLow(out, query, keys, n, dim, mode);
          else for (let t: usize = 0; t < <usize>n; t++) putOne(out + (t << 3), dot(query, keys + t * bytes, dim), mode);
        }
}

/** One query against n keys mod 2^32: four products of low halves an instruction; the keys are one stream, read in order. */
function scoresLow(dst: usize, query: usize, keys: usize, n: i32, dim: i32, mode: i32): void {
  const body = <usize>(dim & ~3), low = working + QUERY;
  for (let d: usize = 0; d < body; d += 4) v128.store(low + (d << 2), lows(query + (d << 3)));
  for (const stop = dst + (<usize>n << 3); dst < stop; dst += 8) {
    let a = i32x4.splat(0);
    for (let p = low, end = low + (body << 2); p < end; p += 16, keys += 32) a = i32x4.add(a, i32x4.mul(v128.load(p), lows(keys)));
    a = i32x4.add(a, v128.shuffle<i32>(a, a, 2, 3, 0, 1));
    let sum = <u32>i32x4.extract_lane(a, 0) + <u32>i32x4.extract_lane(a, 1);
    for (let d = body; d < <usize>dim; d++, keys += 8) sum += load<u32>(query + (d << 3)) * load<u32>(keys);
    putOne(dst, <u64>sum, mode);
  }
}

/** Low halves of four elements. */
// @ts-ignore: decorator
@inline
function lows(at: usize): v128 {
  return v128.shuffle<i32>(v128.load(at), v128.load(at, 16), 0, 2, 4, 6);
}

export function mix(dst: usize, p: usize, v: usize, queries: i32, heads: i32, group: i32, dim: i32, past: i32, capacity: i32, mode: i32, stride: i32): void {
  const bytes = <usize>dim << 3, tile = tileOf(bytes), all = rowOf(queries, past), keys = past + queries, line = stride ? <usize>stride << 3 : heads * bytes;
  if (mode == 0) for (let i = 0; i < queries; i++) memory.fill(dst + <usize>i * line, 0, heads * bytes);
  const sign = mode < 0 ? -1 : 1;
  for (let from = 0; from < heads; from += group, v += <usize>capacity * bytes)
    for (let t0 = 0; t0 < keys; t0 += tile)
      for (let h = from; h < from + group; h++)
        for (let i = max(0, t0 - past); i < queries; i++) {
          const n = min(tile, past + i + 1 - t0), row = p + ((<usize>h * all + rowOf(i, past) + t0) << 3), values = v + <usize>t0 * bytes;
          // While the tile's first query is at work, the next tile comes from memory, a line an iteration.
          const ahead = h == from && i == max(0, t0 - past) && t0 + 2 * tile <= keys;
          mixTile(dst + <usize>i * line + h * bytes, row, values, n, dim, sign, ahead ? values + <usize>tile * bytes : values, ahead ? 64 : 0);
        }
}

/** dst[d] (sign)= sum_t p[t] v[t, d] over n values: eight columns at a time stay in registers. `next` is read ahead, by `step` bytes an iteration. */
function mixTile(dst: usize, p: usize, v: usize, n: i32, dim: i32, sign: i32, next: usize, step: usize): void {
  const bytes = <usize>dim << 3, stop = p + (<usize>n << 3);
  let d = 0;
  for (; d + 8 <= dim; d += 8) {
    let s0 = i64x2.splat(0), s1 = i64x2.splat(0), s2 = i64x2.splat(0), s3 = i64x2.splat(0), at = v + (<usize>d << 3), touched: u32 = 0;
    for (let f = p; f < stop; f += 8, at += bytes, next += step) {
      const x = v128.load_splat<u64>(f);
      touched |= load<u8>(next);
      s0 = i64x2.add(s0, i64x2.mul(x, v128.load(at)));
      s1 = i64x2.add(s1, i64x2.mul(x, v128.load(at, 16)));
      s2 = i64x2.add(s2, i64x2.mul(x, v128.load(at, 32)));
      s3 = i64x2.add(s3, i64x2.mul(x, v128.load(at, 48)));
    }
    store<u32>(working, touched, TOUCHED);
    const o = dst + (<usize>d << 3);
    put(o, s0, sign); put(o + 16, s1, sign); put(o + 32, s2, sign); put(o + 48, s3, sign);
  }
  for (; d < dim; d++) {
    let sum: u64 = 0;
    for (let f = p, at = v + (<usize>d << 3); f < stop; f += 8, at += bytes) sum += load<u64>(f) * load<u64>(at);
    putOne(dst + (<usize>d << 3), sum, sign);
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

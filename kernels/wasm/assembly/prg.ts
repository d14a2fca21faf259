// The pseudorandom stream: ChaCha8 with a 32-byte key, four blocks a pass; every lane is one block.
import { maskOf } from './ring';
import { rotl12, rotl16, rotl7, rotl8 } from './chacha';

/** Where a partial group of four blocks is made: 256 bytes of the low page. */
const SPARE: usize = 1024;

export function prg(dst: usize, key: usize, gate: i32, sub: i32, first: f64, bits: i32, n: i32): void {
  const mask = maskOf(bits);
  let element = <u64>first, left = <u64>n;
  // Up to a multiple of 32 elements, whole groups, the rest.
  while (left > 0) {
    const offset = element & 31;
    if (offset == 0 && left >= 32) {
      const groups = left >> 5;
      for (let g: u64 = 0; g < groups; g++, dst += 256) group(dst, key, gate, sub, (element >> 3) + (g << 2), mask);
      element += groups << 5;
      left -= groups << 5;
    } else {
      const count = min(32 - offset, left);
      group(SPARE, key, gate, sub, (element - offset) >> 3, mask);
      memory.copy(dst, SPARE + <usize>(offset << 3), <usize>(count << 3));
      dst += <usize>(count << 3);
      element += count;
      left -= count;
    }
  }
  // Nothing of a stream stays behind.
  memory.fill(SPARE, 0, 256);
}

/** Blocks block .. block + 3, 256 bytes. */
// @ts-ignore: decorator
@inline
function group(dst: usize, key: usize, gate: i32, sub: i32, block: u64, mask: u64): void {
  const k0 = v128.load_splat<u32>(key), k1 = v128.load_splat<u32>(key + 4), k2 = v128.load_splat<u32>(key + 8), k3 = v128.load_splat<u32>(key + 12);
  const k4 = v128.load_splat<u32>(key + 16), k5 = v128.load_splat<u32>(key + 20), k6 = v128.load_splat<u32>(key + 24), k7 = v128.load_splat<u32>(key + 28);
  const c0 = i32x4(<i32>block, <i32>(block + 1), <i32>(block + 2), <i32>(block + 3));
  const c1 = i32x4(<i32>(block >> 32), <i32>((block + 1) >> 32), <i32>((block + 2) >> 32), <i32>((block + 3) >> 32));
  const n0 = i32x4.splat(gate), n1 = i32x4.splat(sub);
  const s0 = i32x4.splat(0x61707865), s1 = i32x4.splat(0x3320646e), s2 = i32x4.splat(0x79622d32), s3 = i32x4.splat(0x6b206574);
  let v0 = s0, v1 = s1, v2 = s2, v3 = s3, v4 = k0, v5 = k1, v6 = k2, v7 = k3, v8 = k4, v9 = k5, va = k6, vb = k7, vc = c0, vd = c1, ve = n0, vf = n1;
  for (let i = 0; i < 4; i++) {
    v0 = i32x4.add(v0, v4); v1 = i32x4.add(v1, v5); v2 = i32x4.add(v2, v6); v3 = i32x4.add(v3, v7);
    vc = rotl16(v128.xor(vc, v0)); vd = rotl16(v128.xor(vd, v1)); ve = rotl16(v128.xor(ve, v2)); vf = rotl16(v128.xor(vf, v3));
    v8 = i32x4.add(v8, vc); v9 = i32x4.add(v9, vd); va = i32x4.add(va, ve); vb = i32x4.add(vb, vf);
    v4 = rotl12(v128.xor(v4, v8)); v5 = rotl12(v128.xor(v5, v9)); v6 = rotl12(v128.xor(v6, va)); v7 = rotl12(v128.xor(v7, vb));
    v0 = i32x4.add(v0, v4); v1 = i32x4.add(v1, v5); v2 = i32x4.add(v2, v6); v3 = i32x4.add(v3, v7);
    vc = rotl8(v128.xor(vc, v0)); vd = rotl8(v128.xor(vd, v1)); ve = rotl8(v128.xor(ve, v2)); vf = rotl8(v128.xor(vf, v3));
    v8 = i32x4.add(v8, vc); v9 = i32x4.add(v9, vd); va = i32x4.add(va, ve); vb = i32x4.add(vb, vf);
    v4 = rotl7(v128.xor(v4, v8)); v5 = rotl7(v128.xor(v5, v9)); v6 = rotl7(v128.xor(v6, va)); v7 = rotl7(v128.xor(v7, vb));
    v0 = i32x4.add(v0, v5); v1 = i32x4.add(v1, v6); v2 = i32x4.add(v2, v7); v3 = i32x4.add(v3, v4);
    vf = rotl16(v128.xor(vf, v0)); vc = rotl16(v128.xor(vc, v1)); vd = rotl16(v128.xor(vd, v2)); ve = rotl16(v128.xor(ve, v3));
    va = i32x4.add(va, vf); vb = i32x4.add(vb, vc); v8 = i32x4.add(v8, vd); v9 = i32x4.add(v9, ve);
    v5 = rotl12(v128.xor(v5, va)); v6 = rotl12(v128.xor(v6, vb)); v7 = rotl12(v128.xor(v7, v8)); v4 = rotl12(v128.xor(v4, v9));
    v0 = i32x4.add(v0, v5); v1 = i32x4.add(v1, v6); v2 = i32x4.add(v2, v7); v3 = i32x4.add(v3, v4);
    vf = rotl8(v128.xor(vf, v0)); vc = rotl8(v128.xor(vc, v1)); vd = rotl8(v128.xor(vd, v2)); ve = rotl8(v128.xor(ve, v3));
    va = i32x4.add(va, vf); vb = i32x4.add(vb, vc); v8 = i32x4.add(v8, vd); v9 = i32x4.add(v9, ve);
    v5 = rotl7(v128.xor(v5, va)); v6 = rotl7(v128.xor(v6, vb)); v7 = rotl7(v128.xor(v7, v8)); v4 = rotl7(v128.xor(v4, v9));
  }
  const wide = i64x2.splat(mask);
  quarter(dst, i32x4.add(v0, s0), i32x4.add(v1, s1), i32x4.add(v2, s2), i32x4.add(v3, s3), wide);
  quarter(dst + 16, i32x4.add(v4, k0), i32x4.add(v5, k1), i32x4.add(v6, k2), i32x4.add(v7, k3), wide);
  quarter(dst + 32, i32x4.add(v8, k4), i32x4.add(v9, k5), i32x4.add(va, k6), i32x4.add(vb, k7), wide);
  quarter(dst + 48, i32x4.add(vc, c0), i32x4.add(vd, c1), i32x4.add(ve, n0), i32x4.add(vf, n1), wide);
}

/** Transposes four words of four blocks and stores 16 bytes into each block. */
// @ts-ignore: decorator
@inline
function quarter(dst: usize, a: v128, b: v128, c: v128, d: v128, mask: v128): void {
  const ab0 = v128.shuffle<i32>(a, b, 0, 4, 1, 5), ab1 = v128.shuffle<i32>(a, b, 2, 6, 3, 7), cd0 = v128.shuffle<i32>(c, d, 0, 4, 1, 5), cd1 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(dst, v128.and(v128.shuffle<i64>(ab0, cd0, 0, 2), mask));
  v128.store(dst + 64, v128.and(v128.shuffle<i64>(ab0, cd0, 1, 3), mask));
  v128.store(dst + 128, v128.and(v128.shuffle<i64>(ab1, cd1, 0, 2), mask));
  v128.store(dst + 192, v128.and(v128.shuffle<i64>(ab1, cd1, 1, 3), mask));
}

// ChaCha8, four blocks a pass: one 32-bit word of all four blocks in a v128.
import { working } from './working';

/** Offsets in the working space: the input state, then the output, 16 vectors each; then four blocks in order. */
export const STATE: usize = 4096;
export const OUT: usize = 4352;
export const BLOCKS: usize = 4608;

// Rotations by whole bytes: a swizzle by a constant is one instruction with the constant in a register; V8 makes a shuffle's constant anew each time.

// @ts-ignore: decorator
@inline
function rotl16(v: v128): v128 {
  return i8x16.swizzle(v, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
}
// @ts-ignore: decorator
@inline
function rotl8(v: v128): v128 {
  return i8x16.swizzle(v, i8x16(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
}
// @ts-ignore: decorator
@inline
function rotl12(v: v128): v128 {
  return v128.or(i32x4.shl(v, 12), i32x4.shr_u(v, 20));
}
// @ts-ignore: decorator
@inline
function rotl7(v: v128): v128 {
  return v128.or(i32x4.shl(v, 7), i32x4.shr_u(v, 25));
}

// @ts-ignore: decorator
@inline
export function setWord(word: usize, v: v128): void {
  v128.store(working + (word << 4), v, STATE);
}

/** OUT = the four blocks of STATE, word by word. */
export function permute(): void {
  const state = working + STATE, out = working + OUT;
  let v0 = v128.load(state), v1 = v128.load(state, 16), v2 = v128.load(state, 32), v3 = v128.load(state, 48);
  let v4 = v128.load(state, 64), v5 = v128.load(state, 80), v6 = v128.load(state, 96), v7 = v128.load(state, 112);
  let v8 = v128.load(state, 128), v9 = v128.load(state, 144), va = v128.load(state, 160), vb = v128.load(state, 176);
  let vc = v128.load(state, 192), vd = v128.load(state, 208), ve = v128.load(state, 224), vf = v128.load(state, 240);
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
  v128.store(out, i32x4.add(v0, v128.load(state))); v128.store(out, i32x4.add(v1, v128.load(state, 16)), 16);
  v128.store(out, i32x4.add(v2, v128.load(state, 32)), 32); v128.store(out, i32x4.add(v3, v128.load(state, 48)), 48);
  v128.store(out, i32x4.add(v4, v128.load(state, 64)), 64); v128.store(out, i32x4.add(v5, v128.load(state, 80)), 80);
  v128.store(out, i32x4.add(v6, v128.load(state, 96)), 96); v128.store(out, i32x4.add(v7, v128.load(state, 112)), 112);
  v128.store(out, i32x4.add(v8, v128.load(state, 128)), 128); v128.store(out, i32x4.add(v9, v128.load(state, 144)), 144);
  v128.store(out, i32x4.add(va, v128.load(state, 160)), 160); v128.store(out, i32x4.add(vb, v128.load(state, 176)), 176);
  v128.store(out, i32x4.add(vc, v128.load(state, 192)), 192); v128.store(out, i32x4.add(vd, v128.load(state, 208)), 208);
  v128.store(out, i32x4.add(ve, v128.load(state, 224)), 224); v128.store(out, i32x4.add(vf, v128.load(state, 240)), 240);
}

/** Words first .. first + 3 of the four blocks of OUT, block by block with the given stride, each 64-bit half masked. */
// @ts-ignore: decorator
@inline
export function transposeWords(first: usize, dst: usize, stride: usize, mask: v128): void {
  const at = working + OUT + (first << 4), a = v128.load(at), b = v128.load(at, 16), c = v128.load(at, 32), d = v128.load(at, 48);
  const ab0 = v128.shuffle<i32>(a, b, 0, 4, 1, 5), ab1 = v128.shuffle<i32>(a, b, 2, 6, 3, 7), cd0 = v128.shuffle<i32>(c, d, 0, 4, 1, 5), cd1 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(dst, v128.and(v128.shuffle<i64>(ab0, cd0, 0, 2), mask));
  v128.store(dst + stride, v128.and(v128.shuffle<i64>(ab0, cd0, 1, 3), mask));
  v128.store(dst + 2 * stride, v128.and(v128.shuffle<i64>(ab1, cd1, 0, 2), mask));
  v128.store(dst + 3 * stride, v128.and(v128.shuffle<i64>(ab1, cd1, 1, 3), mask));
}

/** All of OUT as four blocks of 64 bytes. */
// @ts-ignore: decorator
@inline
export function transposeBlocks(dst: usize, mask: v128): void {
  transposeWords(0, dst, 64, mask);
  transposeWords(4, dst + 16, 64, mask);
  transposeWords(8, dst + 32, 64, mask);
  transposeWords(12, dst + 48, 64, mask);
}

/** Nothing of a stream stays behind. */
export function wipe(): void {
  memory.fill(working + STATE, 0, 768);
}

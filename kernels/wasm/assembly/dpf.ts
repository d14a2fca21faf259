// Distributed point functions, many keys together: the nodes of a group of keys are expanded level by level, four a pass, whatever key they belong to.
import { BLOCKS, OUT, permute, setWord, transposeBlocks, transposeWords, wipe } from './chacha';
import { working } from './working';

// A node is 32 bytes: seed 0..15, unwrapped index u64 at 16, key u32 at 24, control bit as a mask u32 at 28.
const NODE: usize = 32;
/** Offsets in the working space behind chacha.ts's: four seeds of left and of right children; state of key generation; first points of a group; its keys' first and last node of a level. */
const LEFT: usize = 5376, RIGHT: usize = 5440, GENERATE: usize = 5504, FIRSTS: usize = 8192, BOUNDS: usize = 12288;
/** Nodes of a level that a group of keys may have together. */
const GROUP_NODES = 1024;

// @ts-ignore: decorator
@inline
function parentsOf(span: i32): i32 {
  return (span >> 1) + 2;
}
// @ts-ignore: decorator
@inline
function keysPerGroup(span: i32): i32 {
  return max(1, GROUP_NODES / parentsOf(span));
}
// @ts-ignore: decorator
@inline
function blocksOf(words: i32): i32 {
  return (2 * words + 7) >> 3;
}
// @ts-ignore: decorator
@inline
function nodeBytes(span: i32): usize {
  return (<usize>keysPerGroup(span) * parentsOf(span) + 4) * NODE;
}
// @ts-ignore: decorator
@inline
function keyBytesOf(bits: i32, words: i32): usize {
  return <usize>(bits - 1) * 17 + <usize>words * 16;
}

/** Two node lists, the payload blocks of four nodes, one group's leaves (for splines). */
export function dpfScratchBytes(span: i32, words: i32): i32 {
  return <i32>(2 * nodeBytes(span) + <usize>blocksOf(words) * 256 + <usize>keysPerGroup(span) * span * words * 8 + 64);
}

// @ts-ignore: decorator
@inline
function setConstants(tweak: usize, gate: i32, sub: i32): void {
  setWord(0, i32x4.splat(0x61707865)); setWord(1, i32x4.splat(0x3120646e)); setWord(2, i32x4.splat(0x79622d36)); setWord(3, i32x4.splat(0x6b206574));
  for (let i: usize = 0; i < 4; i++) setWord(8 + i, v128.load_splat<u32>(tweak + (i << 2)));
  setWord(14, i32x4.splat(gate));
  setWord(15, i32x4.splat(sub));
}

/** Seeds of four nodes to words 4-7. */
// @ts-ignore: decorator
@inline
function setSeeds(nodes: usize, stride: usize): void {
  const a = v128.load(nodes), b = v128.load(nodes + stride), c = v128.load(nodes + 2 * stride), d = v128.load(nodes + 3 * stride);
  const ab0 = v128.shuffle<i32>(a, b, 0, 4, 1, 5), ab1 = v128.shuffle<i32>(a, b, 2, 6, 3, 7), cd0 = v128.shuffle<i32>(c, d, 0, 4, 1, 5), cd1 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  setWord(4, v128.shuffle<i64>(ab0, cd0, 0, 2));
  setWord(5, v128.shuffle<i64>(ab0, cd0, 1, 3));
  setWord(6, v128.shuffle<i64>(ab1, cd1, 0, 2));
  setWord(7, v128.shuffle<i64>(ab1, cd1, 1, 3));
}

// @ts-ignore: decorator
@inline
function allOnes(): v128 {
  return i32x4.splat(-1);
}

/** Leaves of `count` <= keysPerGroup keys, from their first points in `from` (u64, any upper bits). `index` is the first key's index for the tweak. */
function evaluateGroup(dst: usize, keys: usize, roots: usize, party: i32, from: usize, span: i32, count: i32, bits: i32, words: i32, tweak: usize, index: i32, gate: i32, sub: i32, scratch: usize): void {
  const keyBytes = keyBytesOf(bits, words), modulus = (<u64>1 << <u64>bits) - 1;
  const left = working + LEFT, right = working + RIGHT, controlWords = working + OUT + 128, levelBounds = working + BOUNDS;
  let nodes = scratch, other = scratch + nodeBytes(span), blocks = scratch + 2 * nodeBytes(span), n = 0;
  setConstants(tweak, gate, sub);
  for (let i = 0; i < count; i++) {
    const first = load<u64>(from + (<usize>i << 3)) & modulus, roundTrips = (first + <u64>span - 1) >> <u64>bits;
    for (let a: u64 = 0; a <= roundTrips; a++, n++) {
      const node = nodes + <usize>n * NODE;
      v128.store(node, v128.load(roots + (<usize>i << 4)));
      store<u64>(node, a, 16);
      store<u32>(node, i, 24);
      store<u32>(node, -party, 28);
    }
  }
  for (let level = 0; level < bits - 1; level++) {
    setWord(12, i32x4.splat(level));
    const shift = <u64>(bits - 1 - level), correction = keys + <usize>level * 17;
    for (let i = 0; i < count; i++) {
      const first = load<u64>(from + (<usize>i << 3)) & modulus, bounds = levelBounds + (<usize>i << 4);
      store<u64>(bounds, first >> shift);
      store<u64>(bounds, (first + <u64>span - 1) >> shift, 8);
    }
    let out = other;
    for (let v = 0; v < n; v += 4) {
      const at = nodes + <usize>v * NODE;
      setSeeds(at, NODE);
      setWord(13, i32x4.add(i32x4.splat(index), i32x4(load<i32>(at, 24), load<i32>(at, 24 + 32), load<i32>(at, 24 + 64), load<i32>(at, 24 + 96))));
      permute();
      transposeWords(0, left, 16, allOnes());
      transposeWords(4, right, 16, allOnes());
      const lanes = min(4, n - v);
      for (let j = 0; j < lanes; j++) {
        const node = at + (<usize>j << 5), key = load<u32>(node, 24), t = load<u32>(node, 28), idx = load<u64>(node, 16) << 1, bounds = levelBounds + (<usize>key << 4);
        const cw = correction + <usize>key * keyBytes, c = v128.and(v128.load(cw), v128.load_splat<u32>(node, 28)), controls = t & load<u8>(cw, 16);
        v128.store(out, v128.xor(v128.load(left + (<usize>j << 4)), c));
        store<u64>(out, idx, 16);
        store<u32>(out, key, 24);
        store<u32>(out, -((load<u32>(controlWords + (<usize>j << 2)) ^ controls) & 1), 28);
        out += usize(idx >= load<u64>(bounds)) << 5;
        v128.store(out, v128.xor(v128.load(right + (<usize>j << 4)), c));
        store<u64>(out, idx + 1, 16);
        store<u32>(out, key, 24);
        store<u32>(out, -((load<u32>(controlWords + (<usize>j << 2), 16) ^ (controls >> 1)) & 1), 28);
        out += usize(idx + 1 <= load<u64>(bounds, 8)) << 5;
      }
    }
    n = <i32>((out - other) / NODE);
    const swap = nodes;
    nodes = other;
    other = swap;
  }
  const blockCount = blocksOf(words), payload = <usize>words << 3, sign = -<u64>party;
  for (let v = 0; v < n; v += 4) {
    const at = nodes + <usize>v * NODE;
    setSeeds(at, NODE);
    setWord(13, i32x4.add(i32x4.splat(index), i32x4(load<i32>(at, 24), load<i32>(at, 24 + 32), load<i32>(at, 24 + 64), load<i32>(at, 24 + 96))));
    for (let b = 0; b < blockCount; b++) {
      setWord(12, i32x4.splat((bits - 1) | (b << 16)));
      permute();
      const to = blocks + (<usize>b << 6), stride = <usize>blockCount << 6;
      transposeWords(0, to, stride, allOnes());
      transposeWords(4, to + 16, stride, allOnes());
      transposeWords(8, to + 32, stride, allOnes());
      if (2 * words - 8 * b > 6) transposeWords(12, to + 48, stride, allOnes());
    }
    const lanes = min(4, n - v);
    for (let j = 0; j < lanes; j++) {
      const node = at + <usize>j * NODE, key = load<u32>(node, 24), t = <u64>load<i32>(node, 28), idx = load<u64>(node, 16) << 1;
      const first = load<u64>(from + (<usize>key << 3)) & modulus, stream = blocks + <usize>j * (<usize>blockCount << 6), cw = keys + <usize>key * keyBytes + <usize>(bits - 1) * 17;
      const row = dst + <usize>key * span * payload;
      for (let c: u64 = 0; c < 2; c++) {
        const place = idx + c - first;
        if (place >= <u64>span) continue;
        // A party's sign is a conditional complement: -v = (v ^ -1) + 1.
        const out = row + <usize>place * payload, side = c == 0 ? 0 : payload;
        for (let e: usize = 0; e < payload; e += 8) store<u64>(out + e, ((load<u64>(stream + side + e) + (load<u64>(cw + side + e) & t)) ^ sign) - sign);
      }
    }
  }
}

export function dpfEvaluate(dst: usize, keys: usize, roots: usize, party: i32, from: usize, span: i32, count: i32, bits: i32, words: i32, tweak: usize, keyIndex0: i32, gate: i32, sub: i32, scratch: usize): void {
  const group = keysPerGroup(span), keyBytes = keyBytesOf(bits, words);
  for (let i = 0; i < count; i += group)
    evaluateGroup(dst + <usize>i * span * words * 8, keys + <usize>i * keyBytes, roots + (<usize>i << 4), party, from + (<usize>i << 3), span, min(group, count - i), bits, words, tweak, keyIndex0 + i, gate, sub, scratch);
  wipe();
}

/** Four keys a pass: lanes are keys; each has its nodes on P0's and on P1's path. */
export function dpfGenerate(keys: usize, roots0: usize, roots1: usize, points: usize, payload: usize, count: i32, bits: i32, words: i32, tweak: usize, keyIndex0: i32, gate: i32, sub: i32): void {
  const keyBytes = keyBytesOf(bits, words), blockCount = blocksOf(words);
  // Seeds of both parties on the path and their control bits, then the children of P0's nodes.
  const left1 = working + LEFT, right1 = working + RIGHT, out = working + OUT, blocks0 = working + BLOCKS;
  const seeds = working + GENERATE, controls: usize = seeds + 128, left0: usize = controls + 32, right0: usize = left0 + 64, bits0: usize = right0 + 64, blocks1: usize = bits0 + 32;
  setConstants(tweak, gate, sub);
  for (let i = 0; i < count; i += 4) {
    const lanes = min(4, count - i);
    memory.fill(seeds, 0, 128);
    memory.copy(seeds, roots0 + (<usize>i << 4), <usize>lanes << 4);
    memory.copy(seeds + 64, roots1 + (<usize>i << 4), <usize>lanes << 4);
    for (let j: usize = 0; j < 4; j++) {
      store<u32>(controls + (j << 2), 0);
      store<u32>(controls + 16 + (j << 2), 1);
    }
    setWord(13, i32x4.add(i32x4.splat(keyIndex0 + i), i32x4(0, 1, 2, 3)));
    for (let level = 0; level < bits - 1; level++) {
      setWord(12, i32x4.splat(level));
      setSeeds(seeds, 16);
      permute();
      transposeWords(0, left0, 16, allOnes());
      transposeWords(4, right0, 16, allOnes());
      v128.store(bits0, v128.load(out, 128));
      v128.store(bits0, v128.load(out, 144), 16);
      setSeeds(seeds + 64, 16);
      permute();
      transposeWords(0, left1, 16, allOnes());
      transposeWords(4, right1, 16, allOnes());
      for (let j: usize = 0; j < <usize>lanes; j++) {
        const a = (load<u64>(points + ((<usize>i + j) << 3)) >> <u64>(bits - 1 - level)) & 1, go = i64x2.splat(-(<i64>a)), lane = j << 4, word = j << 2;
        const l0 = v128.load(left0 + lane), r0 = v128.load(right0 + lane), l1 = v128.load(left1 + lane), r1 = v128.load(right1 + lane);
        // The child off the path must become equal for both: correct by its difference.
        const cw = v128.bitselect(v128.xor(l0, l1), v128.xor(r0, r1), go);
        const tl0 = load<u32>(bits0 + word) & 1, tr0 = load<u32>(bits0 + 16 + word) & 1, tl1 = load<u32>(out + word, 128) & 1, tr1 = load<u32>(out + word, 144) & 1;
        const cl = tl0 ^ tl1 ^ <u32>a ^ 1, cr = tr0 ^ tr1 ^ <u32>a;
        const key = keys + (<usize>i + j) * keyBytes + <usize>level * 17;
        v128.store(key, cw);
        store<u8>(key, <u8>(cl | (cr << 1)), 16);
        const t0 = load<u32>(controls + word), t1 = load<u32>(controls + 16 + word), chosen = -<u32>a;
        v128.store(seeds + lane, v128.xor(v128.bitselect(r0, l0, go), v128.and(cw, i32x4.splat(-<i32>t0))));
        v128.store(seeds + 64 + lane, v128.xor(v128.bitselect(r1, l1, go), v128.and(cw, i32x4.splat(-<i32>t1))));
        const c = (cr & chosen) | (cl & ~chosen);
        store<u32>(controls + word, ((tr0 & chosen) | (tl0 & ~chosen)) ^ (t0 & c));
        store<u32>(controls + 16 + word, ((tr1 & chosen) | (tl1 & ~chosen)) ^ (t1 & c));
      }
    }
    // Payload corrections: with G the last nodes' streams, CW = (-1)^(t1) (payload at the point's side - G0 + G1).
    for (let b = 0; b < blockCount; b++) {
      setWord(12, i32x4.splat((bits - 1) | (b << 16)));
      setSeeds(seeds, 16);
      permute();
      transposeBlocks(blocks0, allOnes());
      setSeeds(seeds + 64, 16);
      permute();
      transposeBlocks(blocks1, allOnes());
      for (let j: usize = 0; j < <usize>lanes; j++) {
        const a = load<u64>(points + ((<usize>i + j) << 3)) & 1, key = keys + (<usize>i + j) * keyBytes + <usize>(bits - 1) * 17, minus = -<u64>load<u32>(controls + 16 + (j << 2));
        const source = payload + (<usize>i + j) * <usize>words * 8;
        for (let e = 0; e < 8 && b * 8 + e < 2 * words; e++) {
          const number = b * 8 + e, side = <u64>i32(number >= words), here = -<u64>(side == a);
          const beta = load<u64>(source + (<usize>(number - <i32>side * words) << 3)) & here;
          const value = beta - load<u64>(blocks0 + (j << 6) + (<usize>e << 3)) + load<u64>(blocks1 + (j << 6) + (<usize>e << 3));
          store<u64>(key + (<usize>number << 3), (value ^ minus) - minus);
        }
      }
    }
  }
  memory.fill(left1, 0, 1024);
  wipe();
}

export function splinePayload(points: usize, payload: usize, r: usize, domainBits: i32, low: i32, words: i32, n: i32): void {
  const mask = (<u64>1 << <u64>domainBits) - 1, lowMask = (<u64>1 << <u64>low) - 1;
  for (let i = 0; i < n; i++) {
    const R = load<u64>(r + (<usize>i << 3)) & mask, L = R & lowMask;
    store<u64>(points + (<usize>i << 3), R >> <u64>low);
    let power: u64 = 1;
    for (let w = 0; w < words; w++, payload += 8, power *= L) store<u64>(payload, power);
  }
}

export function splineEvaluate(dst: usize, m: usize, keys: usize, roots: usize, party: i32, n: i32, domainBits: i32, keyBits: i32, firstCell: i32, cells: i32, coefficients: usize, words: i32, tweak: usize, keyIndex0: i32, gate: i32, sub: i32, scratch: usize): void {
  const low = domainBits - keyBits, mask = (<u64>1 << <u64>domainBits) - 1, lowMask = (<u64>1 << <u64>low) - 1;
  const group = keysPerGroup(cells), keyBytes = keyBytesOf(keyBits, words), lastCell = <u64>(firstCell + cells - 1);
  const leaves = scratch + 2 * nodeBytes(cells) + <usize>blocksOf(words) * 256;
  const payload = <usize>words << 3, firsts = working + FIRSTS;
  for (let i = 0; i < n; i += group) {
    const count = min(group, n - i);
    for (let j = 0; j < count; j++) store<u64>(firsts + (<usize>j << 3), ((load<u64>(m + (<usize>(i + j) << 3)) & mask) >> <u64>low) - lastCell);
    evaluateGroup(leaves, keys + <usize>i * keyBytes, roots + (<usize>i << 4), party, firsts, cells, count, keyBits, words, tweak, keyIndex0 + i, gate, sub, scratch);
    for (let j = 0; j < count; j++) {
      const M = load<u64>(m + (<usize>(i + j) << 3)) & lowMask;
      let leaf = leaves + <usize>j * cells * payload, c = coefficients + <usize>(cells - 1) * payload, sum: u64 = 0;
      // t = M - R with (1, R, R^2, ..) shared: t^2 = M^2 - 2 M R + R^2, t^3 likewise; sums over cells first, powers of M once.
      let s00: u64 = 0, s10: u64 = 0, s11: u64 = 0, s20: u64 = 0, s21: u64 = 0, s22: u64 = 0, s30: u64 = 0, s31: u64 = 0, s32: u64 = 0, s33: u64 = 0;
      for (let k = 0; k < cells; k++, leaf += payload, c -= payload) {
        const p0 = load<u64>(leaf);
        s00 += load<u64>(c) * p0;
        if (words < 2) continue;
        const c1 = load<u64>(c, 8), p1 = load<u64>(leaf, 8);
        s10 += c1 * p0;
        s11 += c1 * p1;
        if (words < 3) continue;
        const c2 = load<u64>(c, 16), p2 = load<u64>(leaf, 16);
        s20 += c2 * p0;
        s21 += c2 * p1;
        s22 += c2 * p2;
        if (words < 4) continue;
        const c3 = load<u64>(c, 24), p3 = load<u64>(leaf, 24);
        s30 += c3 * p0;
        s31 += c3 * p1;
        s32 += c3 * p2;
        s33 += c3 * p3;
      }
      sum = s00 + (M * s10 - s11) + (M * (M * s20 - 2 * s21) + s22) + (M * (M * (M * s30 - 3 * s31) + 3 * s32) - s33);
      const out = dst + (<usize>(i + j) << 3);
      store<u64>(out, load<u64>(out) + sum);
    }
  }
  wipe();
}

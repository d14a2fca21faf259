// The pseudorandom stream: ChaCha8 with a 32-byte key, four blocks a pass.
import { maskOf } from './element';
import { BLOCKS, permute, setWord, transposeBlocks, wipe } from './chacha';
import { working } from './working';

export function prg(dst: usize, key: usize, gate: i32, sub: i32, first: f64, bits: i32, n: i32): void {
  const mask = i64x2.splat(maskOf(bits));
  let element = <u64>first, left = <u64>n;
  setWord(0, i32x4.splat(0x61707865)); setWord(1, i32x4.splat(0x3320646e)); setWord(2, i32x4.splat(0x79622d32)); setWord(3, i32x4.splat(0x6b206574));
  for (let i: usize = 0; i < 8; i++) setWord(4 + i, v128.load_splat<u32>(key + (i << 2)));
  setWord(14, i32x4.splat(gate));
  setWord(15, i32x4.splat(sub));
  while (left > 0) {
    const offset = element & 31, block = (element - offset) >> 3;
    setWord(12, i32x4(<i32>block, <i32>(block + 1), <i32>(block + 2), <i32>(block + 3)));
    setWord(13, i32x4.splat(<i32>(block >> 32)));
    permute();
    if (offset == 0 && left >= 32) {
      transposeBlocks(dst, mask);
      dst += 256;
      element += 32;
      left -= 32;
    } else {
      const count = min(32 - offset, left);
      transposeBlocks(working + BLOCKS, mask);
      memory.copy(dst, working + BLOCKS + <usize>(offset << 3), <usize>(count << 3));
      dst += <usize>(count << 3);
      element += count;
      left -= count;
    }
  }
  wipe();
}

/** ChaCha8 streams and distributed point functions: the plain reference, one block and one node at a time. */
import { dpfKeyBytes, type Kernels } from '../kernels.ts';
import { maskOf, View } from './ring.ts';

const SIGMA = [0x61707865, 0x3320646e, 0x79622d32, 0x6b206574],
  TAU16 = [0x61707865, 0x3120646e, 0x79622d36, 0x6b206574];

/** One ChaCha8 block as 16 words. */
export function chacha8(state: readonly number[]): Uint32Array {
  const x = Uint32Array.from(state),
    rotate = (v: number, n: number): number => (v << n) | (v >>> (32 - n));
  const quarter = (a: number, b: number, c: number, d: number): void => {
    x[a]! += x[b]!;
    x[d] = rotate(x[d]! ^ x[a]!, 16);
    x[c]! += x[d]!;
    x[b] = rotate(x[b]! ^ x[c]!, 12);
    x[a]! += x[b]!;
    x[d] = rotate(x[d]! ^ x[a]!, 8);
    x[c]! += x[d]!;
    x[b] = rotate(x[b]! ^ x[c]!, 7);
  };
  for (let i = 0; i < 4; i++) {
    quarter(0, 4, 8, 12);
    quarter(1, 5, 9, 13);
    quarter(2, 6, 10, 14);
    quarter(3, 7, 11, 15);
    quarter(0, 5, 10, 15);
    quarter(1, 6, 11, 12);
    quarter(2, 7, 8, 13);
    quarter(3, 4, 9, 14);
  }
  return x.map((v, i) => v + state[i]!);
}

const wide = (words: ArrayLike<number>, i: number): bigint => BigInt(words[2 * i]! >>> 0) | (BigInt(words[2 * i + 1]! >>> 0) << 32n);

/** Elements first .. first + n - 1 of the stream of a key in memory and a nonce (gate, sub). */
export function streamElements(memory: WebAssembly.Memory, key: number, gate: number, sub: number, first: number, n: number): bigint[] {
  const words = new View(memory).u32(key, 8);
  return Array.from({ length: n }, (_, i) => {
    const block = Math.floor((first + i) / 8);
    return wide(chacha8([...SIGMA, ...words, block % 2 ** 32, Math.floor(block / 2 ** 32), gate, sub]), (first + i) % 8);
  });
}

interface Node {
  seed: readonly number[];
  t: number;
}

export function keyedKernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, 'prg' | 'dpfGenerate' | 'dpfEvaluate' | 'dpfScratchBytes' | 'splinePayload' | 'splineEvaluate'> {
  const { u64, i64, u32, u8 } = new View(memory);

  const expand = (seed: readonly number[], level: number, block: number, tweak: number, index: number, gate: number, sub: number): Uint32Array =>
    chacha8([...TAU16, ...seed, ...u32(tweak, 4), level | (block << 16), index, gate, sub]);
  const payloadStream = (seed: readonly number[], bits: number, words: number, tweak: number, index: number, gate: number, sub: number): bigint[] => {
    const blocks = Array.from({ length: Math.ceil((2 * words) / 8) }, (_, b) => expand(seed, bits - 1, b, tweak, index, gate, sub));
    return Array.from({ length: 2 * words }, (_, e) => wide(blocks[e >> 3]!, e & 7));
  };
  const child = (block: Uint32Array, side: number): Node => ({ seed: [...block.subarray(4 * side, 4 * side + 4)], t: block[8 + side]! & 1 });
  const words4 = (bytes: Uint8Array): number[] => [...new Uint32Array(bytes.slice().buffer)];

  const evaluateAt = (
    key: Uint8Array,
    root: readonly number[],
    party: number,
    point: number,
    bits: number,
    words: number,
    tweak: number,
    index: number,
    gate: number,
    sub: number,
  ): bigint[] => {
    let node: Node = { seed: root, t: party };
    for (let level = 0; level < bits - 1; level++) {
      const side = Math.floor(point / 2 ** (bits - 1 - level)) & 1,
        next = child(expand(node.seed, level, 0, tweak, index, gate, sub), side);
      const cw = words4(key.subarray(17 * level, 17 * level + 16)),
        control = (key[17 * level + 16]! >> side) & 1;
      node = node.t === 0 ? next : { seed: next.seed.map((v, i) => v ^ cw[i]!), t: next.t ^ control };
    }
    const stream = payloadStream(node.seed, bits, words, tweak, index, gate, sub),
      side = point & 1,
      cw = new BigUint64Array(key.slice((bits - 1) * 17).buffer);
    return Array.from({ length: words }, (_, e) => {
      const v = stream[side * words + e]! + BigInt(node.t) * cw[side * words + e]!;
      return BigInt.asUintN(64, party === 0 ? v : -v);
    });
  };

  const kernels = {
    prg(dst: number, key: number, gate: number, sub: number, first: number, bits: number, n: number): void {
      const out = u64(dst, n);
      streamElements(memory, key, gate, sub, first, n).forEach((v, i) => (out[i] = v & maskOf(bits)));
    },
    dpfGenerate(
      keys: number,
      roots0: number,
      roots1: number,
      points: number,
      payload: number,
      count: number,
      bits: number,
      words: number,
      tweak: number,
      keyIndex0: number,
      gate: number,
      sub: number,
    ): void {
      const keyBytes = dpfKeyBytes(bits, words);
      for (let i = 0; i < count; i++) {
        const key = u8(keys + i * keyBytes, keyBytes),
          point = Number(u64(points, count)[i]!),
          index = keyIndex0 + i;
        let a: Node = { seed: [...u32(roots0 + 16 * i, 4)], t: 0 },
          b: Node = { seed: [...u32(roots1 + 16 * i, 4)], t: 1 };
        for (let level = 0; level < bits - 1; level++) {
          const keep = Math.floor(point / 2 ** (bits - 1 - level)) & 1,
            blockA = expand(a.seed, level, 0, tweak, index, gate, sub),
            blockB = expand(b.seed, level, 0, tweak, index, gate, sub);
          const lost = [child(blockA, 1 - keep), child(blockB, 1 - keep)] as const,
            cw = lost[0].seed.map((v, j) => v ^ lost[1].seed[j]!);
          const control = [0, 1].map((side) => child(blockA, side).t ^ child(blockB, side).t ^ (side === keep ? 1 : 0));
          key.set(new Uint8Array(Uint32Array.from(cw).buffer), 17 * level);
          key[17 * level + 16] = control[0]! | (control[1]! << 1);
          const step = (node: Node, block: Uint32Array): Node => {
            const next = child(block, keep);
            return node.t === 0 ? next : { seed: next.seed.map((v, j) => v ^ cw[j]!), t: next.t ^ control[keep]! };
          };
          [a, b] = [step(a, blockA), step(b, blockB)];
        }
        const ga = payloadStream(a.seed, bits, words, tweak, index, gate, sub),
          gb = payloadStream(b.seed, bits, words, tweak, index, gate, sub),
          beta = u64(payload + 8 * words * i, words);
        const cw = BigUint64Array.from(ga, (v, e) => {
          const difference = (Math.floor(e / words) === (point & 1) ? beta[e % words]! : 0n) - v + gb[e]!;
          return BigInt.asUintN(64, b.t === 1 ? -difference : difference);
        });
        key.set(new Uint8Array(cw.buffer), (bits - 1) * 17);
      }
    },
    dpfEvaluate(
      dst: number,
      keys: number,
      roots: number,
      party: number,
      from: number,
      span: number,
      count: number,
      bits: number,
      words: number,
      tweak: number,
      keyIndex0: number,
      gate: number,
      sub: number,
      _scratch: number,
    ): void {
      const keyBytes = dpfKeyBytes(bits, words),
        out = u64(dst, count * span * words),
        firsts = u64(from, count).slice();
      for (let i = 0; i < count; i++)
        for (let j = 0; j < span; j++)
          out.set(
            evaluateAt(
              u8(keys + i * keyBytes, keyBytes),
              [...u32(roots + 16 * i, 4)],
              party,
              Number((firsts[i]! + BigInt(j)) & maskOf(bits)),
              bits,
              words,
              tweak,
              keyIndex0 + i,
              gate,
              sub,
            ),
            (i * span + j) * words,
          );
    },
    dpfScratchBytes: (): number => 0,
    splinePayload(points: number, payload: number, r: number, domainBits: number, low: number, words: number, n: number): void {
      for (let i = 0; i < n; i++) {
        const R = u64(r, n)[i]! & maskOf(domainBits),
          L = R & maskOf(low);
        u64(points, n)[i] = R >> BigInt(low);
        for (let w = 0; w < words; w++) u64(payload, n * words)[i * words + w] = L ** BigInt(w);
      }
    },
    splineEvaluate(
      dst: number,
      m: number,
      keys: number,
      roots: number,
      party: number,
      n: number,
      domainBits: number,
      keyBits: number,
      firstCell: number,
      cells: number,
      coefficients: number,
      words: number,
      tweak: number,
      keyIndex0: number,
      gate: number,
      sub: number,
      _scratch: number,
    ): void {
      const keyBytes = dpfKeyBytes(keyBits, words),
        low = domainBits - keyBits,
        choose = (d: number, b: number): bigint => [[1n], [1n, 1n], [1n, 2n, 1n], [1n, 3n, 3n, 1n]][d]![b]!;
      for (let i = 0; i < n; i++) {
        const M = u64(m, n)[i]! & maskOf(domainBits),
          mu = M >> BigInt(low),
          ml = M & maskOf(low);
        let sum = 0n;
        for (let cell = firstCell; cell < firstCell + cells; cell++) {
          const leaf = evaluateAt(
            u8(keys + i * keyBytes, keyBytes),
            [...u32(roots + 16 * i, 4)],
            party,
            Number((mu - BigInt(cell)) & maskOf(keyBits)),
            keyBits,
            words,
            tweak,
            keyIndex0 + i,
            gate,
            sub,
          );
          for (let d = 0; d < words; d++)
            for (let b = 0; b <= d; b++)
              sum += i64(coefficients, cells * words)[(cell - firstCell) * words + d]! * choose(d, b) * ml ** BigInt(d - b) * (-1n) ** BigInt(b) * leaf[b]!;
        }
        u64(dst, n)[i] = u64(dst, n)[i]! + BigInt.asUintN(64, sum);
      }
    },
  };
  return kernels;
}

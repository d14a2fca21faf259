/**
 * and: Boolean wires, bit k[r] and words w[r, c] -> share of k[r] w[r, c], local: k w = m_k m_w + m_k r_w + r_k m_w + r_k r_w over Z_2; H deals the last one.
 *
 * Source: Beaver 1991 in masked-wire form, over bits (`mul` has it over other rings). Exact. The bit may be a wire over Z_2 as well. Dealt: a byte a word to P1, in
 * groups of 8. Leakage: none.
 */
import { SET, type Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { booleanShare } from '../tensor.ts';
import type { Gate } from './gate.ts';

export interface And {
  readonly rows: number;
  readonly cols: number;
}

/** Bits of a word, at most: one byte is dealt. */
const MOST_BITS = 8;
const packed = ({ rows, cols }: And): number => Math.ceil((rows * cols) / 8);

export const and: Gate<And> = {
  name: 'and',
  shape({ rows, cols }, [bit, words]) {
    if (bit!.bits !== 1 || bit!.size !== rows || !words!.boolean || words!.bits > MOST_BITS || words!.size !== rows * cols)
      throw new CachetError({
        code: 'shape',
        step: 'and',
        what: 'operands do not match',
        expected: `${rows} bits and ${rows * cols} Boolean words of at most ${MOST_BITS} bits`,
        got: `${bit!.size} of ${bit!.bits} bits and ${words!.size} of ${words!.bits} bits`,
      });
    return [booleanShare(rows * cols, words!.bits)];
  },
  cost: (p) => ({ p0: 0, p1: 8 * packed(p) }),
  domain: () => undefined,
  ideal({ cols }, [bit, words], [y]) {
    words!.forEach((v, i) => (y![i] = bit![Math.floor(i / cols)]! * v));
  },
  fixed({ kernels: k, scratch }, p, [bit, words], [y]) {
    product(k, y!.lane, bit!.lane, words!.lane, scratch(p.rows), p);
  },
  deal({ kernels: k, scratch, dealWords }, p, [bit, words]) {
    const n = packed(p),
      list = scratch(8 * n),
      bytes = scratch(n);
    k.fill(list, 0, 8 * n);
    product(k, list, bit!.mask, words!.mask, scratch(p.rows), p);
    k.reduce(list, list, MOST_BITS, 8 * n);
    k.pack(bytes, list, MOST_BITS, 8 * n);
    dealWords(bytes, n);
  },
  evaluate({ kernels: k, scratch, receiveWords, party }, p, [bit, words], [y]) {
    const n = packed(p),
      size = p.rows * p.cols,
      list = scratch(8 * n),
      bytes = scratch(n),
      bits = scratch(p.rows),
      sum = scratch(size);
    receiveWords(bytes, n);
    k.unpack(list, bytes, MOST_BITS, 8 * n);
    // P0's m_k m_w goes with its half of r_w.
    if (party === 0) k.xor(sum, words!.mask, words!.lane, size);
    else k.copy(sum, words!.mask, size);
    product(k, y!.lane, bit!.lane, sum, bits, p);
    product(k, sum, bit!.mask, words!.lane, bits, p);
    k.xor(y!.lane, y!.lane, sum, size);
    k.xor(y!.lane, y!.lane, list, size);
  },
};

/** The lowest bit of each row's operand times its words. */
function product(k: Kernels, dst: number, bit: number, words: number, temporary: number, { rows, cols }: And): void {
  k.reduce(temporary, bit, 1, rows);
  k.scaleRows(dst, words, temporary, rows, cols, SET);
}

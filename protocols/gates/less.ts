/**
 * less: wires x, y of b <= 12 bits -> [x < y] as a share over Z_2, local: the difference of two wires is a wire with a mask that H knows, so one dealt
 * table of 2^b bits, rotated by the difference of the masks and XOR-shared, is read at m_x - m_y.
 *
 * Source: one-time truth tables, Ishai et al. 2013; Cachet DESIGN 2 (`less`) and the executable specification's less_bits. Exact for |x - y| < 2^(b-1).
 * Dealt: 2^b / 8 bytes an element to P1. Leakage: none: m_x - m_y is a function of public values, a half of the table is uniform.
 */
import { CachetError } from '../errors.ts';
import { booleanShare, type Constant, type Tensor } from '../tensor.ts';
import { chunks, type Gate } from './gate.ts';

export interface Less {
  readonly bits: number;
  /** `negativeTable(bits)`. */
  readonly table: Constant<Uint8Array>;
}

/** Truth table of "negative" over Z_2^bits: the upper half. */
export const negativeTable = (bits: number): Uint8Array => Uint8Array.from({ length: 2 ** bits / 8 }, (_, i) => (i < 2 ** bits / 16 ? 0 : 255));

export const less: Gate<Less> = {
  name: 'less',
  shape({ bits }, [x, y]) {
    const fits = (w: Tensor): boolean => w.form === 'wire' && w.bits === bits && !w.boolean && w.scale === x!.scale && w.size === x!.size;
    if (bits < 6 || bits > 12 || !fits(x!) || !fits(y!))
      throw new CachetError({
        code: 'shape',
        step: 'less',
        what: 'wrong operands',
        expected: `two wires of ${bits} bits (6 .. 12), alike in size and scale`,
        got: `${x!.form} of ${x!.bits} bits and ${y!.form} of ${y!.bits} bits`,
      });
    return [booleanShare(x!.size, 1)];
  },
  cost: ({ bits }, [x]) => ({ p0: 0, p1: (x!.size * 2 ** bits) / 8 }),
  domain: ({ bits }, [x]) => [-(2 ** (bits - 2 - x!.scale)), 2 ** (bits - 2 - x!.scale)],
  ideal(_, [x, y], [z]) {
    x!.forEach((v, i) => (z![i] = v < y![i]! ? 1 : 0));
  },
  fixed({ kernels: k, scratch }, { bits }, [x, y], [z]) {
    const n = x!.size,
      difference = scratch(n);
    k.sub(difference, x!.lane, y!.lane, n);
    k.shiftRight(z!.lane, difference, bits, bits - 1, n);
  },
  deal({ kernels: k, dealWords, later }, { bits, table }, [x, y]) {
    for (const [from, n] of chunks(x!.size, 2 ** bits / 8)) {
      const words = (n * 2 ** bits) / 64;
      later(
        'table',
        n + words,
        (r) => {
          k.sub(r, x!.mask + 8 * from, y!.mask + 8 * from, n);
          return [{ kind: 'table', dst: r + 8 * n, table: table.pointer, r, bits, xor: false, n }];
        },
        (r) => dealWords(r + 8 * n, words),
      );
    }
  },
  evaluate({ kernels: k, scratch, receiveWords, mark, release }, { bits }, [x, y], [z]) {
    for (const [from, n] of chunks(x!.size, 2 ** bits / 8)) {
      const top = mark(),
        words = (n * 2 ** bits) / 64,
        m = scratch(n),
        tables = scratch(words);
      k.sub(m, x!.lane + 8 * from, y!.lane + 8 * from, n);
      receiveWords(tables, words);
      k.tableLookup(z!.lane + 8 * from, tables, m, bits, n);
      release(top);
    }
  },
};

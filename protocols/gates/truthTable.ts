/**
 * truthTable: wire of b <= 16 bits -> any public Boolean function of it, as a share over Z_2, local: H deals the table rotated by the mask
 * (T[m] = f(m - r), or f(m xor r) for a Boolean wire), XOR-shared; each evaluator reads its half at the public m.
 *
 * Source: one-time truth tables, Ishai et al. 2013; Cachet DESIGN 2. Exact. Dealt: 2^b / 8 bytes an element to P1. Leakage: none.
 */
import { CachetError } from '../errors.ts';
import { booleanShare, type Constant } from '../tensor.ts';
import { chunks, type Gate } from './gate.ts';

export interface TruthTable {
  readonly bits: number;
  /** 2^bits bits, lowest first. */
  readonly table: Constant<Uint8Array>;
  /** The table is of a function of signed values that keep one step away from the ring's edges: Fixed refuses others. */
  readonly signed?: boolean;
}

export const truthTable: Gate<TruthTable> = {
  name: 'truthTable',
  shape({ bits }, [x]) {
    if (x!.form !== 'wire' || x!.bits !== bits || bits < 6 || bits > 16)
      throw new CachetError({
        code: 'shape',
        step: 'truthTable',
        what: 'wrong operand',
        expected: `a wire of ${bits} bits (6 .. 16)`,
        got: `${x!.form} of ${x!.bits} bits`,
      });
    return [booleanShare(x!.size, 1)];
  },
  cost: ({ bits }, [x]) => ({ p0: 0, p1: (x!.size * 2 ** bits) / 8 }),
  domain: ({ bits, signed }, [x]) => (signed ? [-(2 ** (bits - 1) - 1) / 2 ** x!.scale, (2 ** (bits - 1) - 1) / 2 ** x!.scale] : undefined),
  ideal({ bits, table }, [x], [y]) {
    x!.forEach((v, i) => (y![i] = bitAt(table.array, ((v % 2 ** bits) + 2 ** bits) % 2 ** bits)));
  },
  fixed({ kernels: k, scratch }, { bits, table }, [x], [y]) {
    const n = x!.size,
      tables = scratch((n * 2 ** bits) / 64),
      zero = scratch(n);
    k.fill(zero, 0, n);
    k.tableRotate(tables, table.pointer, zero, bits, 0, n);
    k.tableLookup(y!.lane, tables, x!.lane, bits, n);
  },
  deal({ dealWords, later }, { bits, table }, [x]) {
    const { boolean: xor, mask } = x!;
    for (const [from, n] of chunks(x!.size, 2 ** bits / 8)) {
      const words = (n * 2 ** bits) / 64;
      later(
        'table',
        words,
        (dst) => [{ kind: 'table', dst, table: table.pointer, r: mask + 8 * from, bits, xor, n }],
        (tables) => dealWords(tables, words),
      );
    }
  },
  evaluate({ kernels: k, scratch, receiveWords, mark, release }, { bits }, [x], [y]) {
    for (const [from, n] of chunks(x!.size, 2 ** bits / 8)) {
      const top = mark(),
        words = (n * 2 ** bits) / 64,
        tables = scratch(words);
      receiveWords(tables, words);
      k.tableLookup(y!.lane + 8 * from, tables, x!.lane + 8 * from, bits, n);
      release(top);
    }
  },
};

const bitAt = (table: Uint8Array, i: number): number => (table[i >> 3]! >> (i & 7)) & 1;

/**
 * lookup: wire of b <= 10 bits -> any public function of it, as a share over Z_2^n, local: H deals the table permuted by the mask (T[m] = f(m - r), or
 * f(m xor r) for a Boolean wire) in additive shares; each evaluator reads its half at the public m. A truth table whose result needs no conversion: one
 * round less than `truthTable`, an opening and `b2a`.
 *
 * Source: one-time truth tables, Ishai et al. 2013, with arithmetic entries. Exact. Dealt: 2^b ceil(n / 8) bytes an element to P1. Leakage: none, every entry
 * is uniform to its receiver.
 */
import { CachetError } from '../errors.ts';
import { share, type Constant } from '../tensor.ts';
import { bytesOf, chunks, type Gate } from './gate.ts';

export interface LookupTable {
  readonly bits: number;
  /** n. */
  readonly outBits: number;
  /** 2^bits values. */
  readonly table: Constant<Uint8Array>;
}

export const lookup: Gate<LookupTable> = {
  name: 'lookup',
  shape({ bits, outBits }, [x]) {
    if (x!.form !== 'wire' || x!.bits !== bits || bits > 10)
      throw new CachetError({
        code: 'shape',
        step: 'lookup',
        what: 'wrong operand',
        expected: `a wire of ${bits} bits (10 at most)`,
        got: `${x!.form} of ${x!.bits} bits`,
      });
    return [share(x!.size, outBits, 0)];
  },
  cost: ({ bits, outBits }, [x]) => ({ p0: 0, p1: x!.size * 2 ** bits * bytesOf(outBits) }),
  domain: () => undefined,
  ideal({ bits, table }, [x], [y]) {
    x!.forEach((v, i) => (y![i] = table.array[((v % 2 ** bits) + 2 ** bits) % 2 ** bits]!));
  },
  fixed({ kernels: k, scratch }, { bits, table }, [x], [y]) {
    const n = x!.size,
      tables = scratch(n << bits),
      zero = scratch(n);
    k.fill(zero, 0, n);
    k.lookupPermute(tables, table.pointer, zero, bits, 0, n);
    k.lookupPick(y!.lane, tables, x!.lane, bits, n);
  },
  deal({ kernels: k, scratch, deal, mark, release }, { bits, outBits, table }, [x]) {
    for (const [from, n] of chunks(x!.size, 2 ** bits * bytesOf(outBits))) {
      const top = mark(),
        tables = scratch(n << bits);
      k.lookupPermute(tables, table.pointer, x!.mask + 8 * from, bits, x!.boolean ? 1 : 0, n);
      deal(tables, outBits, n << bits);
      release(top);
    }
  },
  evaluate({ kernels: k, scratch, receive, mark, release }, { bits, outBits }, [x], [y]) {
    for (const [from, n] of chunks(x!.size, 2 ** bits * bytesOf(outBits))) {
      const top = mark(),
        tables = scratch(n << bits);
      receive(tables, outBits, n << bits);
      k.lookupPick(y!.lane + 8 * from, tables, x!.lane + 8 * from, bits, n);
      release(top);
    }
  },
};

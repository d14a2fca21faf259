/**
 * b2a: opened bit (Boolean wire m = x xor rho) -> [x] over Z_2^n, local: x = m + rho - 2 m rho, with dealt arithmetic halves of rho. Together with the
 * opening of the bit: 1 round, one bit each way.
 *
 * Source: dealt random bits (daBits, Rotaru-Wood 2019) for an honest dealer; Cachet DESIGN 2. Exact. Dealt: ceil(n / 8) bytes an element to P1. Leakage: none.
 */
import { ADD, SET } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

/** cyclic: the consumer uses the ring as it wraps, unsigned (a rank). */
export const b2a: Gate<{ bits: number; cyclic?: boolean }> = {
  name: 'b2a',
  shape({ bits, cyclic = false }, [x]) {
    if (x!.form !== 'wire' || !x!.boolean || x!.bits !== 1)
      throw new CachetError({ code: 'shape', step: 'b2a', what: 'wrong operand', expected: 'a Boolean wire of 1 bit', got: `${x!.form} of ${x!.bits} bits` });
    return [{ ...share(x!.size, bits, 0), cyclic }];
  },
  cost: ({ bits }, [x]) => ({ p0: 0, p1: x!.size * bytesOf(bits) }),
  domain: () => undefined,
  ideal(_, [x], [y]) {
    y!.set(x!);
  },
  fixed({ kernels: k }, _, [x], [y]) {
    k.reduce(y!.lane, x!.lane, 1, x!.size);
  },
  deal({ kernels: k, scratch, deal }, { bits }, [x]) {
    const rho = scratch(x!.size);
    k.reduce(rho, x!.mask, 1, x!.size);
    deal(rho, bits, x!.size);
  },
  evaluate({ kernels: k, scratch, receive, party }, { bits }, [x], [y]) {
    const n = x!.size,
      rho = scratch(n),
      m = scratch(n);
    receive(rho, bits, n);
    k.reduce(m, x!.lane, 1, n);
    k.copy(y!.lane, rho, n);
    k.hadamard(rho, rho, m, n, SET);
    k.mulScalar(y!.lane, rho, -2, n, ADD);
    if (party === 0) k.add(y!.lane, y!.lane, m, n);
  },
};

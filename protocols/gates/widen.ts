/**
 * widen: <x> over Z_2^n -> [x] over Z_2^64, local. H deals r as an integer and its top bit; M = m + 2^(n-2) mod 2^n and, for
 * -2^(n-2) <= x < 2^(n-2), x + 2^(n-2) = M - r + (1 - top(M)) top(r) 2^n exactly: the difference wraps iff M's top bit is 0 and r's is 1.
 *
 * Source: Cachet DESIGN 2 (exact wrap from the mask's top bit). Exact; needs |x| < 2^(n-2). Dealt: 16 bytes an element to P1. Leakage: none.
 */
import { ADD, SET, type Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import type { Gate } from './gate.ts';

export const widen: Gate<null> = {
  name: 'widen',
  shape(_, [x]) {
    if (x!.form !== 'wire' || x!.bits > 62 || x!.bits < 3)
      throw new CachetError({ code: 'shape', step: 'widen', what: 'cannot widen', expected: 'a wire of 3 .. 62 bits', got: `${x!.form} of ${x!.bits} bits` });
    return [share(x!.size, 64, x!.scale)];
  },
  cost: (_, [x]) => ({ p0: 0, p1: 16 * x!.size }),
  domain: (_, [x]) => [-(2 ** (x!.bits - 2 - x!.scale)), 2 ** (x!.bits - 2 - x!.scale)],
  ideal(_, [x], [y]) {
    y!.set(x!);
  },
  fixed({ kernels: k, scratch, masked }, _, [x], [y]) {
    const n = x!.size,
      r = scratch(n),
      top = scratch(n);
    masked(y!.lane, x!);
    k.reduce(r, x!.mask, x!.bits, n);
    k.shiftRight(top, r, x!.bits, x!.bits - 1, n);
    combine(k, y!.lane, y!.lane, r, top, x!.bits, 0, scratch(n), n);
  },
  deal({ kernels: k, scratch, deal }, _, [x]) {
    const n = x!.size,
      r = scratch(n),
      top = scratch(n);
    k.reduce(r, x!.mask, x!.bits, n);
    k.shiftRight(top, r, x!.bits, x!.bits - 1, n);
    deal(r, 64, n);
    deal(top, 64, n);
  },
  evaluate({ kernels: k, scratch, receive, party }, _, [x], [y]) {
    const n = x!.size,
      r = scratch(n),
      top = scratch(n);
    receive(r, 64, n);
    receive(top, 64, n);
    combine(k, y!.lane, x!.lane, r, top, x!.bits, party, scratch(n), n);
  },
};

/** dst = [party 0] (M - 2^(bits-2)) - r + (1 - top(M)) 2^bits top */
function combine(k: Kernels, dst: number, m: number, r: number, top: number, bits: number, party: number, temporary: number, n: number): void {
  k.addScalar(temporary, m, 2 ** (bits - 2), n);
  k.reduce(temporary, temporary, bits, n);
  if (party === 0) k.addScalar(dst, temporary, -(2 ** (bits - 2)), n);
  else k.fill(dst, 0, n);
  k.sub(dst, dst, r, n);
  k.shiftRight(temporary, temporary, bits, bits - 1, n);
  k.hadamard(temporary, temporary, top, n, SET);
  k.sub(temporary, top, temporary, n);
  k.mulScalar(dst, temporary, 2 ** bits, n, ADD);
}

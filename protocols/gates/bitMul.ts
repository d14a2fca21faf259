/**
 * bitMul: opened bit (Boolean wire m_c = c xor rho) times a wire <d> over Z_2^n -> [c d], local: with [rho d] = m_d [rho] - [rho r_d],
 *   c d = rho d + m_c (d - 2 rho d); H deals shares of rho and of rho r_d.
 *
 * Source: mixed multiplication of a bit and a ring element (ABY3, Mohassel-Rindal 2018, section 5.4), in masked-wire form; test/vectors/private.py. Exact.
 * Dealt: 2 ceil(n / 8) bytes an element to P1. Leakage: none: rho and r_d are fresh, the products of masks are dealt in fresh shares.
 */
import { ADD, SET } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

export const bitMul: Gate<null> = {
  name: 'bitMul',
  shape(_, [c, d]) {
    if (c!.form !== 'wire' || !c!.boolean || c!.bits !== 1 || d!.form !== 'wire' || d!.boolean || !d!.halves || c!.size !== d!.size)
      throw new CachetError({
        code: 'shape',
        step: 'bitMul',
        what: 'wrong operands',
        expected: `a Boolean wire of 1 bit and a wire with shared mask, of one size`,
        got: `${c!.form} of ${c!.bits} bits, ${c!.size} elements, and ${d!.form} of ${d!.size}`,
      });
    return [share(d!.size, d!.bits, d!.scale)];
  },
  cost: (_, [, d]) => ({ p0: 0, p1: 2 * d!.size * bytesOf(d!.bits) }),
  domain: () => undefined,
  ideal(_, [c, d], [z]) {
    c!.forEach((bit, i) => (z![i] = bit * d![i]!));
  },
  fixed({ kernels: k, scratch }, _, [c, d], [z]) {
    const bit = scratch(c!.size);
    k.reduce(bit, c!.lane, 1, c!.size);
    k.hadamard(z!.lane, bit, d!.lane, d!.size, SET);
  },
  deal({ kernels: k, scratch, deal }, _, [c, d]) {
    const n = d!.size,
      rho = scratch(n);
    k.reduce(rho, c!.mask, 1, n);
    deal(rho, d!.bits, n);
    k.hadamard(rho, rho, d!.mask, n, SET);
    deal(rho, d!.bits, n);
  },
  evaluate({ kernels: k, scratch, receive, party }, _, [c, d], [z]) {
    const n = d!.size,
      rho = scratch(n),
      product = scratch(n),
      bit = scratch(n),
      rest = scratch(n);
    receive(rho, d!.bits, n);
    receive(product, d!.bits, n);
    k.reduce(bit, c!.lane, 1, n);
    k.hadamard(z!.lane, rho, d!.lane, n, SET);
    k.sub(z!.lane, z!.lane, product, n);
    // Own half of d - 2 rho d, where the bit that was opened is set.
    k.mulScalar(rest, z!.lane, -2, n, SET);
    k.sub(rest, rest, d!.mask, n);
    if (party === 0) k.add(rest, rest, d!.lane, n);
    k.hadamard(z!.lane, rest, bit, n, ADD);
  },
};

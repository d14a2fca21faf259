/**
 * narrow: <x> over Z_2^n -> <x >> d> over Z_2^(n-d), without communication: m' = m >> d, r' = r >> d.
 *
 * Source: Cachet DESIGN 2; m' - r' is floor(x / 2^d) or floor(x / 2^d) + 1 (the low parts' borrow), the latter with probability
 * (x mod 2^d) / 2^d over the mask: stochastic rounding. Leakage: none, m' is a function of m. The ring and the scale shrink alike.
 * `maskShares` deals halves of the narrowed mask once, when a product first needs them: ceil((n - d) / 8) bytes an element to P1.
 */
import { CachetError } from '../errors.ts';
import { wire } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

const NOTHING = { p0: 0, p1: 0 };

export const narrow: Gate<{ shift: number }> = {
  name: 'narrow',
  shape({ shift }, [x]) {
    if (x!.form !== 'wire' || shift < 1 || shift >= x!.bits)
      throw new CachetError({
        code: 'shape',
        step: 'narrow',
        what: 'cannot narrow',
        expected: `a wire of more than ${shift} bits`,
        got: `${x!.form} of ${x!.bits} bits`,
      });
    return [wire(x!.size, x!.bits - shift, x!.scale - shift)];
  },
  cost: () => NOTHING,
  domain: () => undefined,
  ideal(_, [x], [y]) {
    y!.set(x!);
  },
  fixed({ kernels: k, masked, scratch }, { shift }, [x], [y]) {
    const m = scratch(x!.size);
    masked(m, x!);
    k.shiftRight(m, m, x!.bits, shift, x!.size);
    k.shiftRight(y!.mask, x!.mask, x!.bits, shift, x!.size);
    k.sub(y!.lane, m, y!.mask, x!.size);
  },
  deal({ kernels: k }, { shift }, [x], [y]) {
    k.shiftRight(y!.mask, x!.mask, x!.bits, shift, x!.size);
  },
  evaluate({ kernels: k }, { shift }, [x], [y]) {
    k.shiftRight(y!.lane, x!.lane, x!.bits, shift, x!.size);
  },
};

/** Halves of a wire's mask for the evaluators; into the wire itself (its `mask` lane at an evaluator). */
export const maskShares: Gate<null> = {
  name: 'maskShares',
  shape: () => [],
  cost: (_, [x]) => ({ p0: 0, p1: x!.size * bytesOf(x!.bits) }),
  domain: () => undefined,
  ideal: () => undefined,
  fixed: () => undefined,
  deal({ kernels: k, scratch, deal }, _, [x]) {
    const copy = scratch(x!.size);
    k.copy(copy, x!.mask, x!.size);
    deal(copy, x!.bits, x!.size);
  },
  evaluate({ receive }, _, [x]) {
    receive(x!.mask, x!.bits, x!.size);
  },
};

/**
 * mod: <x> over Z_2^n -> the same value over Z_2^n', n' < n: free, and so are its mask's shares (the low bits of those already dealt). The lanes are
 * shared with the operand. Source: Cachet DESIGN 2. Leakage: none. The value must fit the smaller ring, |x| < 2^(n'-1),
 * unless the consumer reads it as cyclic.
 */
import { CachetError } from '../errors.ts';
import { wire } from '../tensor.ts';
import type { Gate } from './gate.ts';

export const mod: Gate<{ bits: number; cyclic?: boolean }> = {
  name: 'mod',
  shape({ bits, cyclic }, [x]) {
    if (x!.form !== 'wire' || bits > x!.bits)
      throw new CachetError({
        code: 'shape',
        step: 'mod',
        what: 'cannot reduce',
        expected: `a wire of at least ${bits} bits`,
        got: `${x!.form} of ${x!.bits} bits`,
      });
    return [{ ...wire(x!.size, bits, x!.scale), cyclic: cyclic ?? x!.cyclic }];
  },
  cost: () => ({ p0: 0, p1: 0 }),
  domain: () => undefined,
  ideal(_, [x], [y]) {
    y!.set(x!);
  },
  fixed({ kernels: k }, _, [x], [y]) {
    k.copy(y!.lane, x!.lane, x!.size);
    k.copy(y!.mask, x!.mask, x!.size);
  },
  deal({ kernels: k }, _, [x], [y]) {
    k.copy(y!.mask, x!.mask, x!.size);
  },
  evaluate({ kernels: k }, _, [x], [y]) {
    k.copy(y!.lane, x!.lane, x!.size);
    if (x!.halves) k.copy(y!.mask, x!.mask, x!.size);
  },
};

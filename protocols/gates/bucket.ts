/**
 * bucket: wire over Z_2^6 (already narrowed to steps of one bucket) -> 64 XOR-shared bits, bit b = [(x - low) mod 64 >= b], local: H deals the one-hot of
 * the mask's position (8 bytes); rotating it by the public m gives the one-hot of x, its suffix XOR the comparisons.
 *
 * Source: Cachet DESIGN 2 (`bucket`, truth table over the masked value); the executable specification's bucket_max. Exact. Dealt: 8 bytes an element to
 * P1. Leakage: none. As a real number (Float) a word is represented by its highest set bit.
 */
import { CachetError } from '../errors.ts';
import { booleanShare } from '../tensor.ts';
import type { Gate } from './gate.ts';

export const BUCKETS = 64;

export const bucket: Gate<{ low: number; inputScale: number }> = {
  name: 'bucket',
  shape(_, [x]) {
    if (x!.form !== 'wire' || x!.bits !== 6 || x!.boolean)
      throw new CachetError({ code: 'shape', step: 'bucket', what: 'wrong operand', expected: 'a wire of 6 bits', got: `${x!.form} of ${x!.bits} bits` });
    return [booleanShare(x!.size, 64)];
  },
  cost: (_, [x]) => ({ p0: 0, p1: 8 * x!.size }),
  domain: ({ low }, [x]) => [low / 2 ** x!.scale, (low + BUCKETS) / 2 ** x!.scale],
  ideal({ low, inputScale }, [x], [y]) {
    x!.forEach((v, i) => (y![i] = Math.floor(v * 2 ** inputScale) - low));
  },
  fixed({ kernels: k, scratch, masked }, { low }, [x], [y]) {
    const n = x!.size,
      m = scratch(n),
      t = scratch(n);
    masked(m, x!);
    k.addScalar(m, m, -low, n);
    k.oneHot64(t, x!.mask, n);
    k.suffix64(y!.lane, m, t, n);
  },
  deal({ kernels: k, scratch, dealWords }, _, [x]) {
    const t = scratch(x!.size);
    k.oneHot64(t, x!.mask, x!.size);
    dealWords(t, x!.size);
  },
  evaluate({ kernels: k, scratch, receiveWords }, { low }, [x], [y]) {
    const n = x!.size,
      m = scratch(n),
      t = scratch(n);
    receiveWords(t, n);
    k.addScalar(m, x!.lane, -low, n);
    k.suffix64(y!.lane, m, t, n);
  },
};

/**
 * onehot: rank wire of b bits -> its one-hot row over the places 0 .. span - 1, as shares over Z_2^n, local: H deals one DPF key for the point -r; the evaluators
 * expand it at j - m, j = 0 .. span - 1, which is the point where x = m - r = j. A row of zeros where x >= span.
 *
 * Source: Boyle-Gilboa-Ishai 2016 (DPF); selection by rank as in MPCache (arXiv 2501.06807, 3.4), here from opened ranks under fresh masks; the executable
 * specification's topk_selector and compact. Exact. Dealt: 17 (b - 1) + 16 bytes an element to each of P0 and P1. Leakage: none (keys hide their point).
 */
import { dpfKeyBytes, SET } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import { chunks, dealKeys, type Gate } from './gate.ts';

export interface OneHot {
  readonly bits: number;
  readonly span: number;
  /** n of the result's ring. */
  readonly outBits: number;
}

export const onehot: Gate<OneHot> = {
  name: 'onehot',
  shape({ bits, span, outBits }, [x]) {
    if (x!.form !== 'wire' || x!.boolean || x!.bits !== bits || span < 1 || span > 2 ** bits)
      throw new CachetError({
        code: 'shape',
        step: 'onehot',
        what: 'wrong operand',
        expected: `a wire of ${bits} bits, and 1 .. ${2 ** bits} places`,
        got: `${x!.form} of ${x!.bits} bits, ${span} places`,
      });
    return [share(x!.size * span, outBits, 0)];
  },
  cost({ bits }, [x]) {
    const bytes = x!.size * dpfKeyBytes(bits, 1);
    return { p0: bytes, p1: bytes };
  },
  domain: () => undefined,
  ideal({ bits, span }, [x], [y]) {
    y!.fill(0);
    x!.forEach((v, i) => {
      const at = ((v % 2 ** bits) + 2 ** bits) % 2 ** bits;
      if (at < span) y![i * span + at] = 1;
    });
  },
  fixed({ kernels: k, scratch }, { bits, span }, [x], [y]) {
    const n = x!.size,
      at = scratch(n);
    k.reduce(at, x!.lane, bits, n);
    k.fill(y!.lane, 0, n * span);
    const out = new BigUint64Array(k.memory.buffer, y!.lane, n * span);
    new BigUint64Array(k.memory.buffer, at, n).forEach((v, i) => {
      if (v < span) out[i * span + Number(v)] = 1n;
    });
  },
  deal(context, { bits }, [x]) {
    const { kernels: k } = context;
    dealKeys(context, x!, bits, 1, (points, payload, mask, n) => {
      k.mulScalar(points, mask, -1, n, SET);
      k.reduce(points, points, bits, n);
      k.fill(payload, 1, n);
    });
  },
  evaluate({ kernels: k, scratch, receiveBoth, roots, gate, tweak, party, mark, release }, { bits, span }, [x], [y]) {
    const keyBytes = dpfKeyBytes(bits, 1),
      work = scratch(Math.ceil(k.dpfScratchBytes(span, 1) / 8));
    for (const [from, n] of chunks(x!.size, keyBytes)) {
      const top = mark(),
        at = scratch(n),
        seeds = scratch(2 * n);
      roots(seeds, n);
      k.mulScalar(at, x!.lane + 8 * from, -1, n, SET);
      k.reduce(at, at, bits, n);
      k.dpfEvaluate(y!.lane + 8 * from * span, receiveBoth(n * keyBytes), seeds, party, at, span, n, bits, 1, tweak, from, gate, 0, work);
      release(top);
    }
  },
};

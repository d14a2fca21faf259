/**
 * spline: <x> -> [f(x)] over Z_2^64, local: a piecewise polynomial selected by one DPF key.
 *
 * X = x - lo = M - R mod 2^D. The carry of the low parts makes index(M) - index(R) the true cell or the next one, so each cell's polynomial is fitted
 * on the double-width interval around its lower edge, in t = low(M) - low(R), exact as integers. The key carries the point index(R) with payload
 * (1, lowR, lowR^2, ..); the evaluators expand it where the rotated public table is not zero: cells firstCell .. firstCell + cells - 1; f is 0 elsewhere.
 *
 * Source: Boyle-Gilboa-Ishai 2016 (DPF); Cachet DESIGN 2, Splines and DPFs. The domain is cyclic: values must stay one cell inside [lo, lo + 2^D). The
 * result is exact for the table's integers. Dealt: 17 (k - 1) + 16 (degree + 1) bytes an element to each of P0 and P1. Leakage: none (keys hide their point).
 */
import { dpfKeyBytes } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { fitPolynomial } from '../fit.ts';
import { share, type Constant } from '../tensor.ts';
import { chunks, dealKeys, type Gate } from './gate.ts';

export interface SplinePlan {
  readonly inputScale: number;
  readonly outputScale: number;
  /** lo at the input scale. */
  readonly low: number;
  readonly domainBits: number;
  readonly keyBits: number;
  readonly firstCell: number;
  readonly cells: number;
  readonly degree: number;
}
export interface SplineParams extends SplinePlan {
  /** [cells, degree + 1], rising powers, integers at the output scale for t as an integer. */
  readonly coefficients: Constant<BigInt64Array>;
}

export const spline: Gate<SplineParams> = {
  name: 'spline',
  shape(p, [x]) {
    if (x!.scale !== p.inputScale || x!.bits < p.domainBits)
      throw new CachetError({
        code: 'shape',
        step: 'spline',
        what: 'wrong operand',
        expected: `a wire of ${p.domainBits} bits or more at scale ${p.inputScale}`,
        got: `${x!.bits} bits at scale ${x!.scale}`,
      });
    return [share(x!.size, 64, p.outputScale)];
  },
  cost(p, [x]) {
    const bytes = x!.size * dpfKeyBytes(p.keyBits, p.degree + 1);
    return { p0: bytes, p1: bytes };
  },
  domain(p) {
    const cell = 2 ** (p.domainBits - p.keyBits);
    return [(p.low + (p.firstCell > 0 || p.cells < 2 ** p.keyBits ? 0 : cell)) / 2 ** p.inputScale, (p.low + 2 ** p.domainBits - cell) / 2 ** p.inputScale];
  },
  ideal(p, [x], [y]) {
    const low = p.domainBits - p.keyBits;
    x!.forEach((v, i) => {
      const at = Math.floor(v * 2 ** p.inputScale) - p.low,
        cell = Math.floor(at / 2 ** low) - p.firstCell,
        t = at - (cell + p.firstCell) * 2 ** low;
      y![i] = cell < 0 || cell >= p.cells ? 0 : polynomial(p, cell, t) / 2 ** p.outputScale;
    });
  },
  fixed({ kernels: k, masked, scratch }, p, [x], [y]) {
    const n = x!.size,
      at = scratch(n),
      low = BigInt(p.domainBits - p.keyBits),
      mask = (1n << BigInt(p.domainBits)) - 1n,
      lowMask = (1n << low) - 1n,
      words = p.degree + 1;
    masked(at, x!);
    k.addScalar(at, at, -p.low, n);
    const m = new BigUint64Array(k.memory.buffer, at, n),
      r = new BigUint64Array(k.memory.buffer, x!.mask, n),
      out = new BigUint64Array(k.memory.buffer, y!.lane, n);
    for (let i = 0; i < n; i++) {
      const M = m[i]! & mask,
        R = r[i]! & mask,
        cell = Number(((M >> low) - (R >> low)) & ((1n << BigInt(p.keyBits)) - 1n)) - p.firstCell,
        t = (M & lowMask) - (R & lowMask);
      let sum = 0n;
      if (cell >= 0 && cell < p.cells) for (let d = words - 1; d >= 0; d--) sum = sum * t + p.coefficients.array[cell * words + d]!;
      out[i] = BigInt.asUintN(64, sum);
    }
  },
  deal(context, p, [x]) {
    const words = p.degree + 1,
      { kernels: k } = context;
    dealKeys(context, x!, p.keyBits, words, (points, payload, mask, n) =>
      k.splinePayload(points, payload, mask, p.domainBits, p.domainBits - p.keyBits, words, n),
    );
  },
  evaluate({ kernels: k, scratch, receiveBoth, roots, gate, tweak, party, mark, release }, p, [x], [y]) {
    const words = p.degree + 1,
      keyBytes = dpfKeyBytes(p.keyBits, words),
      work = scratch(Math.ceil(k.dpfScratchBytes(p.cells, words) / 8));
    k.fill(y!.lane, 0, x!.size);
    for (const [from, n] of chunks(x!.size, keyBytes)) {
      const top = mark(),
        m = scratch(n),
        seeds = scratch(2 * n);
      roots(seeds, n);
      k.addScalar(m, x!.lane + 8 * from, -p.low, n);
      k.splineEvaluate(
        y!.lane + 8 * from,
        m,
        receiveBoth(n * keyBytes),
        seeds,
        party,
        n,
        p.domainBits,
        p.keyBits,
        p.firstCell,
        p.cells,
        p.coefficients.pointer,
        words,
        tweak,
        from,
        gate,
        0,
        work,
      );
      release(top);
    }
  },
};

/** Fits f (on real x) cell by cell; cells with index outside first .. first + cells - 1 are 0. Made once, by `prepare`. */
export function fitSpline(f: (x: number) => number, p: SplinePlan): BigInt64Array {
  const cellBits = p.domainBits - p.keyBits,
    width = 2 ** (cellBits - p.inputScale),
    low = p.low / 2 ** p.inputScale,
    high = low + 2 ** (p.domainBits - p.inputScale),
    words = p.degree + 1;
  const out = new BigInt64Array(p.cells * words);
  for (let c = 0; c < p.cells; c++) {
    const edge = low + (p.firstCell + c) * width;
    fitPolynomial((t) => f(Math.min(Math.max(edge + t * width, low - width), high)), p.degree).forEach(
      (v, d) => (out[c * words + d] = BigInt(Math.round(v * 2 ** (p.outputScale - d * cellBits)))),
    );
  }
  return out;
}

function polynomial(p: SplineParams, cell: number, t: number): number {
  let sum = 0;
  for (let d = p.degree; d >= 0; d--) sum = sum * t + Number(p.coefficients.array[cell * (p.degree + 1) + d]!);
  return sum;
}

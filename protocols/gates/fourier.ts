/**
 * fourier: <x> -> [f(x)], local, for f(x) = odd x + even part, the even part as a cosine series of period 2^periodBits (at the input scale):
 * cos(k (m - r)) = cos km cos kr + sin km sin kr. H deals cos and sin of the mask's multiples; the public factors carry the coefficients. The linear
 * part rides on a widened share of x (second operand). The ring is the period: no domain wrap to fear beyond it, but f is right on |x| <= edge only.
 *
 * Source: Cachet DESIGN 2 (fourier; SiLU(x) = x / 2 + x tanh(x / 2) / 2). Exact integers; error: the fit plus about terms 2^-18. Dealt: 2 terms
 * ceil(n / 8) bytes an element to P1 (and the widening). Leakage: none.
 */
import { CachetError } from '../errors.ts';
import { share, type Constant } from '../tensor.ts';
import { leastSquares } from '../fit.ts';
import { bytesOf, chunks, type Gate } from './gate.ts';

export interface FourierPlan {
  readonly name: 'silu';
  readonly inputScale: number;
  readonly periodBits: number;
  readonly terms: number;
  /** f is fitted on |x| <= edge. */
  readonly edge: number;
  /** Ring of the result. */
  readonly bits: number;
  readonly outputScale: number;
  /** Integers: slope at scale outputScale - inputScale, a_0 at outputScale. */
  readonly slope: number;
  readonly constant: number;
}
export interface FourierParams extends FourierPlan {
  readonly tables: Constant<BigInt64Array>;
}

const MASK_SCALE = 18,
  PUBLIC_SCALE = 14,
  COEFFICIENT_SCALE = 24;
const EVEN = { silu: (x: number): number => (x * Math.tanh(x / 2)) / 2 },
  SLOPE = { silu: 0.5 };
export const FUNCTIONS = { silu: (x: number): number => x / (1 + Math.exp(-x)) };

export const fourier: Gate<FourierParams> = {
  name: 'fourier',
  shape(p, [x, linear]) {
    if (x!.scale !== p.inputScale || x!.bits < p.periodBits || linear!.form !== 'share' || linear!.scale !== p.inputScale)
      throw new CachetError({
        code: 'shape',
        step: 'fourier',
        what: 'wrong operands',
        expected: `a wire of ${p.periodBits} bits or more at scale ${p.inputScale} and its share`,
        got: `${x!.bits} bits at scale ${x!.scale}`,
      });
    return [share(x!.size, p.bits, p.outputScale)];
  },
  cost: (p, [x]) => ({ p0: 0, p1: x!.size * 2 * p.terms * bytesOf(p.bits) }),
  domain: (p, _, index) => (index === 0 ? [-p.edge, p.edge] : undefined),
  ideal(p, [x], [y]) {
    x!.forEach((v, i) => (y![i] = FUNCTIONS[p.name](v)));
  },
  fixed({ kernels: k, scratch, masked }, p, [x, linear], [y]) {
    const n = x!.size,
      m = scratch(n),
      factors = scratch(2 * p.terms * n);
    masked(m, x!);
    k.fourierDeal(factors, x!.mask, p.periodBits, p.terms, p.tables.pointer, n);
    k.mulScalar(y!.lane, linear!.lane, p.slope, n, 0);
    k.addScalar(y!.lane, y!.lane, p.constant, n);
    k.fourierEvaluate(y!.lane, m, factors, p.periodBits, p.terms, p.tables.pointer, n);
  },
  deal({ kernels: k, scratch, deal, mark, release }, p, [x]) {
    for (const [from, n] of chunks(x!.size, 16 * p.terms)) {
      const top = mark(),
        factors = scratch(2 * p.terms * n);
      k.fourierDeal(factors, x!.mask + 8 * from, p.periodBits, p.terms, p.tables.pointer, n);
      deal(factors, p.bits, 2 * p.terms * n);
      release(top);
    }
  },
  evaluate({ kernels: k, scratch, receive, party, mark, release }, p, [x, linear], [y]) {
    k.mulScalar(y!.lane, linear!.lane, p.slope, x!.size, 0);
    if (party === 0) k.addScalar(y!.lane, y!.lane, p.constant, x!.size);
    for (const [from, n] of chunks(x!.size, 16 * p.terms)) {
      const top = mark(),
        factors = scratch(2 * p.terms * n);
      receive(factors, p.bits, 2 * p.terms * n);
      k.fourierEvaluate(y!.lane + 8 * from, x!.lane + 8 * from, factors, p.periodBits, p.terms, p.tables.pointer, n);
      release(top);
    }
  },
};

/** Fits f and lays out the integer tables that kernels.ts describes; `error` is the largest |fit - f| on |x| <= edge. Made once, by `prepare`. */
export function fitFourier(o: { name: 'silu'; inputScale: number; periodBits: number; terms: number; edge: number; bits: number; outputScale: number }): {
  plan: FourierPlan;
  tables: BigInt64Array;
  error: number;
} {
  if (o.periodBits > 17 || o.periodBits < 9 || o.outputScale !== MASK_SCALE + PUBLIC_SCALE)
    throw new CachetError({
      code: 'range',
      step: 'fourier',
      what: 'unsupported series',
      expected: 'a period of 9 .. 17 bits and output scale 32',
      got: `${o.periodBits} bits, scale ${o.outputScale}`,
    });
  const period = 2 ** (o.periodBits - o.inputScale),
    points = 4001,
    w = (2 * Math.PI) / period;
  const xs = Array.from({ length: points }, (_, i) => -o.edge + (2 * o.edge * i) / (points - 1));
  const a = leastSquares(
    xs.map((x) => Array.from({ length: o.terms + 1 }, (_, k) => Math.cos(w * k * x))),
    xs.map(EVEN[o.name]),
    Array.from({ length: o.terms + 1 }, (_, k) => 1e-5 * Math.max(k, 1) ** 2),
  );
  const error = Math.max(...xs.map((x) => Math.abs(SLOPE[o.name] * x + a.reduce((s, ak, k) => s + ak * Math.cos(w * k * x), 0) - FUNCTIONS[o.name](x))));
  const tables = new BigInt64Array(1536 + o.terms),
    turn = (2 * Math.PI) / 2 ** o.periodBits,
    q = (v: number) => BigInt(Math.round(2 ** 30 * v));
  for (let i = 0; i < 512; i++) {
    tables[i] = q(Math.cos(turn * 256 * i));
    tables[512 + i] = q(Math.sin(turn * 256 * i));
  }
  for (let i = 0; i < 256; i++) {
    tables[1024 + i] = q(Math.cos(turn * i));
    tables[1280 + i] = q(Math.sin(turn * i));
  }
  for (let k = 1; k <= o.terms; k++) tables[1535 + k] = BigInt(Math.round(a[k]! * 2 ** COEFFICIENT_SCALE));
  const plan = { ...o, slope: Math.round(SLOPE[o.name] * 2 ** (o.outputScale - o.inputScale)), constant: Math.round(a[0]! * 2 ** o.outputScale) };
  return { plan, tables, error };
}

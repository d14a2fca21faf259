/**
 * fourier: <x> -> [f(x)], local, for f(x) = x / 2 + even part, the even part as a cosine series of period 2^periodBits (at the input scale):
 * cos(k (m - r)) = cos km cos kr + sin km sin kr. H deals cos and sin of the mask's multiples; the public factors carry the coefficients. The linear
 * part rides on a widened share of x (second operand). The ring is the period: no domain wrap to fear beyond it, but f is right on |x| <= edge only.
 *
 * Two forms. drop = 0: over Z_2^bits at scale 32. drop > 0: the cosines' factors are dealt over Z_2^72 and each evaluator shifts its share of the series by
 * `drop` bits, result over Z_2^64 at scale 32 - drop: +-1 ulp, and wrong with probability 2^-(71 - bits of the value at scale 32), 2^-34 for |f| < 32. Then a
 * public linear map can follow without another opening.
 *
 * Source: Cachet DESIGN 2 (fourier; SiLU(x) = x / 2 + x tanh(x / 2) / 2). Error: the fit plus about terms 2^-18. Dealt: 2 terms ceil(n / 8) bytes an element
 * to P1 (9 for each where bits are dropped), and the widening. Leakage: none.
 */
import { CachetError } from '../errors.ts';
import { leastSquares } from '../fit.ts';
import { ACTIVATIONS, type Activation } from '../models/activations.ts';
import { share, type Constant } from '../tensor.ts';
import { bytesOf, chunks, type Gate } from './gate.ts';

export interface FourierPlan {
  readonly name: Activation;
  readonly inputScale: number;
  readonly periodBits: number;
  readonly terms: number;
  /** f is fitted on |x| <= edge. */
  readonly edge: number;
  /** Ring of the result. */
  readonly bits: number;
  readonly drop: number;
  /** a_0 at the output scale. */
  readonly constant: number;
}
export interface FourierParams extends FourierPlan {
  readonly tables: Constant<BigInt64Array>;
}

const MASK_SCALE = 18,
  PUBLIC_SCALE = 14,
  COEFFICIENT_SCALE = 24,
  WIDE_BITS = 72;

export const outputScaleOf = (p: Pick<FourierPlan, 'drop'>): number => MASK_SCALE + PUBLIC_SCALE - p.drop;
const dealtBits = (p: FourierPlan): number => (p.drop > 0 ? WIDE_BITS : p.bits);
/** 1 / 2 at scale outputScale - inputScale. */
const slopeOf = (p: FourierPlan): number => 2 ** (outputScaleOf(p) - p.inputScale - 1);

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
    return [share(x!.size, p.bits, outputScaleOf(p))];
  },
  cost: (p, [x]) => ({ p0: 0, p1: x!.size * 2 * p.terms * bytesOf(dealtBits(p)) }),
  domain: (p, _, index) => (index === 0 ? [-p.edge, p.edge] : undefined),
  ideal(p, [x], [y]) {
    const f = ACTIVATIONS[p.name];
    x!.forEach((v, i) => (y![i] = f(v)));
  },
  fixed(context, p, [x, linear], [y]) {
    const { kernels: k, scratch, masked, halfWide, mark, release } = context,
      m = scratch(x!.size);
    masked(m, x!);
    k.mulScalar(y!.lane, linear!.lane, slopeOf(p), x!.size, 0);
    k.addScalar(y!.lane, y!.lane, p.constant, x!.size);
    for (const [from, n] of chunks(x!.size, 16 * p.terms)) {
      const top = mark(),
        at = 8 * from,
        count = 2 * p.terms * n,
        factors = scratch(count);
      k.fourierDeal(factors, x!.mask + at, p.periodBits, p.terms, p.tables.pointer, n);
      if (p.drop === 0) k.fourierEvaluate(y!.lane + at, m + at, factors, p.periodBits, p.terms, p.tables.pointer, n);
      else {
        const high = scratch(count),
          low0 = scratch(count),
          high0 = scratch(count);
        k.signWords(high, factors, WIDE_BITS - 64, count);
        halfWide(low0, high0, WIDE_BITS, count);
        k.subWide(factors, high, low0, high0, WIDE_BITS - 64, count);
        k.fourierEvaluateWide(y!.lane + at, m + at, low0, high0, 0, p.periodBits, p.terms, p.tables.pointer, p.drop, n);
        k.fourierEvaluateWide(y!.lane + at, m + at, factors, high, 1, p.periodBits, p.terms, p.tables.pointer, p.drop, n);
      }
      release(top);
    }
  },
  deal({ deal, dealWide, later }, p, [x]) {
    const { periodBits, terms } = p,
      tables = p.tables.pointer;
    for (const [from, n] of chunks(x!.size, 16 * terms)) {
      const count = 2 * terms * n,
        r = x!.mask + 8 * from;
      later(
        'fourier',
        count,
        (dst) => [{ kind: 'fourier', dst, r, periodBits, terms, tables, n }],
        (factors) => (p.drop === 0 ? deal(factors, p.bits, count) : dealWide(factors, WIDE_BITS, count)),
      );
    }
  },
  evaluate({ kernels: k, scratch, receive, receiveWide, party, mark, release }, p, [x, linear], [y]) {
    k.mulScalar(y!.lane, linear!.lane, slopeOf(p), x!.size, 0);
    if (party === 0) k.addScalar(y!.lane, y!.lane, p.constant, x!.size);
    for (const [from, n] of chunks(x!.size, 16 * p.terms)) {
      const top = mark(),
        at = 8 * from,
        count = 2 * p.terms * n,
        factors = scratch(count);
      if (p.drop === 0) {
        receive(factors, p.bits, count);
        k.fourierEvaluate(y!.lane + at, x!.lane + at, factors, p.periodBits, p.terms, p.tables.pointer, n);
      } else {
        const high = scratch(count);
        receiveWide(factors, high, WIDE_BITS, count);
        k.fourierEvaluateWide(y!.lane + at, x!.lane + at, factors, high, party, p.periodBits, p.terms, p.tables.pointer, p.drop, n);
      }
      release(top);
    }
  },
};

/** Fits f and lays out the integer tables that kernels.ts describes; `error` is the largest |fit - f| on |x| <= edge. Made once, by `prepare`. */
export function fitFourier(o: Omit<FourierPlan, 'constant'>): { plan: FourierPlan; tables: BigInt64Array; error: number } {
  if (o.periodBits > 19 || o.periodBits < 9 || o.drop < 0 || outputScaleOf(o) <= o.inputScale || (o.drop > 0 && o.bits !== 64))
    throw new CachetError({
      code: 'range',
      step: 'fourier',
      what: 'unsupported series',
      expected: `a period of 9 .. 19 bits and an output scale above ${o.inputScale}`,
      got: `${o.periodBits} bits, scale ${outputScaleOf(o)}`,
    });
  const period = 2 ** (o.periodBits - o.inputScale),
    points = Math.max(801, 8 * o.terms),
    w = (2 * Math.PI) / period,
    f = ACTIVATIONS[o.name];
  // An even function: half of the interval has it all.
  const xs = Array.from({ length: points }, (_, i) => (o.edge * i) / (points - 1));
  const a = leastSquares(
    xs.map((x) => Array.from({ length: o.terms + 1 }, (_, k) => Math.cos(w * k * x))),
    xs.map((x) => f(x) - x / 2),
    Array.from({ length: o.terms + 1 }, (_, k) => 1e-6 * Math.max(k, 1) ** 2),
  );
  const error = Math.max(...xs.map((x) => Math.abs(x / 2 + a.reduce((s, ak, k) => s + ak * Math.cos(w * k * x), 0) - f(x))));
  const highs = 2 ** (o.periodBits - 8),
    tables = new BigInt64Array(2 * highs + 512 + o.terms),
    turn = (2 * Math.PI) / 2 ** o.periodBits,
    q = (v: number) => BigInt(Math.round(2 ** 30 * v));
  for (let i = 0; i < highs; i++) {
    tables[i] = q(Math.cos(turn * 256 * i));
    tables[highs + i] = q(Math.sin(turn * 256 * i));
  }
  for (let i = 0; i < 256; i++) {
    tables[2 * highs + i] = q(Math.cos(turn * i));
    tables[2 * highs + 256 + i] = q(Math.sin(turn * i));
  }
  for (let k = 1; k <= o.terms; k++) tables[2 * highs + 511 + k] = BigInt(Math.round(a[k]! * 2 ** COEFFICIENT_SCALE));
  return { plan: { ...o, constant: Math.round(a[0]! * 2 ** outputScaleOf(o)) }, tables, error };
}

/**
 * expTable: <x> over Z_2^n at scale f -> [e^(x - B)] over Z_2^64, local: e^(M - R) = e^M e^-R.
 *
 * The mask's top j bits c select a cell, its low part rho scales: H deals E_a = [c = a] 2^34 e^-rho over Z_2^88 for all a < 2^j; the evaluators sum
 * g[(mu - a) mod 2^j] E_a with the public g = 2^18 e^(lo + w cell + Ml - B) and shift their halves from scale 52 to the output scale: +-1 ulp, and
 * wrong with probability 2^-(87 - bits of the value). All factors are products of small public integer tables with one fixed rounding, so that both
 * evaluators (and H) compute the same integers.
 *
 * Source: Cachet DESIGN 2 (exponential by factorisation). Domain [lo, lo + 2^j w - w): the top cell is spare. Cells of w = 16 nats: relative error at most
 * 2^(1.44 w - 35) = 2^-11.9 from the rounding of 2^34 e^-rho, absolute error 2^-19 from that of g. Dealt: 11 bytes a cell to P1. Leakage: none.
 */
import { CachetError } from '../errors.ts';
import { share, type Constant } from '../tensor.ts';
import { chunks, type Gate } from './gate.ts';

export interface ExpPlan {
  readonly inputScale: number;
  /** Domain: lo / 2^inputScale .. + 2^domainBits / 2^inputScale nats, of which the top cell is spare. */
  readonly low: number;
  readonly domainBits: number;
  readonly cellsLog2: number;
  readonly outputScale: number;
  /** Public B of each output. */
  readonly shifts: readonly number[];
}
export interface ExpParams extends ExpPlan {
  readonly tables: Constant<BigUint64Array>;
}

const MASK_SCALE = 34,
  PUBLIC_SCALE = 18,
  WIDE_BITS = 88,
  ELEMENT_BYTES = WIDE_BITS / 8;

export const expTable: Gate<ExpParams> = {
  name: 'expTable',
  shape(p, [x]) {
    if (x!.scale !== p.inputScale || x!.bits < p.domainBits)
      throw new CachetError({
        code: 'shape',
        step: 'expTable',
        what: 'wrong operand',
        expected: `a wire of ${p.domainBits} bits or more at scale ${p.inputScale}`,
        got: `${x!.bits} bits at scale ${x!.scale}`,
      });
    return p.shifts.map(() => share(x!.size, 64, p.outputScale));
  },
  cost: (p, [x]) => ({ p0: 0, p1: x!.size * ELEMENT_BYTES * 2 ** p.cellsLog2 }),
  domain: (p) => [p.low / 2 ** p.inputScale, (p.low + 2 ** p.domainBits - 2 ** (p.domainBits - p.cellsLog2)) / 2 ** p.inputScale],
  ideal(p, [x], ys) {
    ys.forEach((y, s) => x!.forEach((v, i) => (y[i] = Math.exp(v - p.shifts[s]!))));
  },
  fixed(context, p, [x], ys) {
    const { kernels: k, scratch, masked, halfWide, mark, release } = context,
      cells = 2 ** p.cellsLog2;
    const m = scratch(x!.size);
    masked(m, x!);
    k.addScalar(m, m, -p.low, x!.size);
    for (const [from, n] of chunks(x!.size, ELEMENT_BYTES * cells)) {
      const top = mark(),
        at = 8 * from,
        lo0 = scratch(n * cells),
        hi0 = scratch(n * cells),
        lo1 = scratch(n * cells),
        hi1 = scratch(n * cells),
        part = scratch(n);
      halfWide(lo0, hi0, WIDE_BITS, n * cells);
      k.fill(hi1, 0, n * cells);
      k.expDeal(lo1, x!.mask + at, p.domainBits, p.cellsLog2, p.tables.pointer, n);
      k.subWide(lo1, hi1, lo0, hi0, WIDE_BITS - 64, n * cells);
      ys.forEach((y, s) => {
        k.expEvaluate(y.lane + at, m + at, lo0, hi0, 0, p.domainBits, p.cellsLog2, p.tables.pointer, s, shiftOf(p), n);
        k.expEvaluate(part, m + at, lo1, hi1, 1, p.domainBits, p.cellsLog2, p.tables.pointer, s, shiftOf(p), n);
        k.add(y.lane + at, y.lane + at, part, n);
      });
      release(top);
    }
  },
  deal({ dealWide, later }, p, [x]) {
    const { domainBits, cellsLog2 } = p,
      tables = p.tables.pointer,
      cells = 2 ** cellsLog2;
    for (const [from, n] of chunks(x!.size, ELEMENT_BYTES * cells)) {
      const r = x!.mask + 8 * from;
      later(
        'exp',
        n * cells,
        (dst) => [{ kind: 'exp', dst, r, domainBits, cellsLog2, tables, n }],
        (factors) => dealWide(factors, WIDE_BITS, n * cells),
      );
    }
  },
  evaluate({ kernels: k, scratch, receiveWide, mark, release, party }, p, [x], ys) {
    const cells = 2 ** p.cellsLog2;
    for (const [from, n] of chunks(x!.size, ELEMENT_BYTES * cells)) {
      const top = mark(),
        m = scratch(n),
        lo = scratch(n * cells),
        hi = scratch(n * cells);
      receiveWide(lo, hi, WIDE_BITS, n * cells);
      k.addScalar(m, x!.lane + 8 * from, -p.low, n);
      ys.forEach((y, s) => k.expEvaluate(y.lane + 8 * from, m, lo, hi, party, p.domainBits, p.cellsLog2, p.tables.pointer, s, shiftOf(p), n));
      release(top);
    }
  },
};

const shiftOf = (p: ExpPlan): number => MASK_SCALE + PUBLIC_SCALE - p.outputScale;

/** The integer tables that kernels.ts describes (expDeal, expEvaluate). Made once, by `prepare`; they belong to the artefact. */
export function expTables(p: ExpPlan): BigUint64Array {
  const cellBits = p.domainBits - p.cellsLog2,
    unit = 2 ** -p.inputScale,
    cells = 2 ** p.cellsLog2;
  if (cellBits > 16 || cellBits < 8 || shiftOf(p) < 1 || shiftOf(p) > 40)
    throw new CachetError({
      code: 'range',
      step: 'expTable',
      what: 'unsupported table',
      expected: 'cells of 8 .. 16 bits and an output scale of 12 .. 51',
      got: `${cellBits} bits, scale ${p.outputScale}`,
    });
  const out = new BigUint64Array(1024 + 2 * cells * p.shifts.length);
  for (let i = 0; i < 256; i++) {
    out[i] = BigInt(Math.round(2 ** 22 * Math.exp(-i * unit)));
    out[256 + i] = BigInt(Math.round(2 ** 41 * Math.exp(-256 * i * unit)));
    out[512 + i] = BigInt(Math.round(2 ** 20 * Math.exp(i * unit)));
    // Only the first 2^(cellBits - 8) entries are ever read.
    out[768 + i] = i < 2 ** (cellBits - 8) ? BigInt(Math.round(2 ** 20 * Math.exp(256 * i * unit))) : 0n;
  }
  p.shifts.forEach((shift, s) => {
    for (let cell = 0; cell < cells; cell++) {
      const log2 = (p.low * unit + cell * 2 ** cellBits * unit - shift) * Math.LOG2E;
      // 20 bits of mantissa: times e^Ml < 2^43.1 it stays below 2^64.
      const right = 21 - Math.floor(log2),
        at = 1024 + 2 * (s * cells + cell);
      if (right < 1)
        throw new CachetError({
          code: 'range',
          step: 'expTable',
          what: 'table overflows',
          expected: 'an upper end of at most 14 nats above each shift, and the spare cell',
          got: `${(p.low * unit + 2 ** p.domainBits * unit - shift).toFixed(1)} nats with it`,
        });
      out[at] = right > 63 ? 0n : BigInt(Math.min(2 ** 20 - 1, Math.round(2 ** (log2 + right - 2))));
      out[at + 1] = BigInt(right);
    }
  });
  return out;
}

/**
 * Importance of prompt tokens for static eviction, and its quantisation. A token's importance is the normalised attention that the last queries of the prompt
 * pay to it (`weighRows`, in attention.ts): all heads' sum, or the largest head's. Here it becomes one of 61 levels, about log2(importance / mean): five to an
 * octave from 2^-8 of the mean (or less) to 2^3 of it (or more), so that a public count of survivors is found by small comparisons.
 *
 * The table is made here and not by `prepare`, for units depend on the lengths alone: of additions, products, quotients and comparisons of float64, which
 * ECMAScript fixes to the bit, so that all parties have the same integers. Source: MPCache (arXiv 2501.06807, section 3.1); quantisation: Cachet DESIGN 2, windows.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { columns, inUnits, whole } from '../../gates/linear.ts';
import { lookup } from '../../gates/lookup.ts';
import type { SplineParams, SplinePlan } from '../../gates/spline.ts';
import type { LevelsFunction, WindowsParams } from '../../gates/windows.ts';
import type { Tensor } from '../../tensor.ts';

/** Ring of a level: differences of two levels lie within 2^6. */
export const LEVEL_BITS = 7;
const LEVELS: LevelsFunction = { name: 'levels', steps: 5, octaves: 12 };
/** Levels begin at so many octaves below the mean, rounded down to a power of two. */
const OCTAVES_BELOW = 8;
/** Scale at which levels are opened, before they are narrowed to integers. */
export const OPEN_SCALE = 16;
/** Windows of a factor of 16; cells of an eighth of a window's lower end; 2^6 steps a cell. */
const FACTOR = 16,
  CELLS = 8,
  STEPS_PER_CELL_LOG2 = 6,
  DEGREE = 2;
/** A row's probabilities sum to 1 but for rounding. */
const SUM_MARGIN = 1.05;

/** The least n with 2^n >= x, for x > 0. */
export function ceilLog2(x: number): number {
  let n = 0;
  while (2 ** n < x) n++;
  while (2 ** (n - 1) >= x) n--;
  return n;
}

/**
 * The level of each importance, as a share at scale 16 over Z_2^64 (open 23 bits, narrow by 16). x: wire of importances over `rows` rows of attention each
 * (queries that vote times heads), of `keys` keys. Rounds 0; dealt: the splines' keys, about 2.5 kB an element.
 */
export function levelsOf(e: Engine, x: Tensor, rows: number, keys: number): Tensor {
  const unit = -ceilLog2(keys / rows) - OCTAVES_BELOW,
    high = 2 ** (ceilLog2(rows * SUM_MARGIN) - unit);
  return e.windows(levelTables(e, high, x.scale + unit), e.linear(inUnits(x.size, unit), x));
}

/** The level as an integer of LEVEL_BITS bits, from the wire over the low OPEN_SCALE + LEVEL_BITS bits. */
export const wholeLevels = (e: Engine, x: Tensor): Tensor => e.linear(whole(x.size), e.narrow(x, OPEN_SCALE));

/** Ring over which levels are opened. */
export const LEVEL_OPEN_BITS = OPEN_SCALE + LEVEL_BITS;

/** The level of a real importance x, as an integer: what `levelsOf` and `wholeLevels` make of it, roundings aside. */
export const wholeLevel = (x: number, rows: number, keys: number): number => Math.floor(level(x * 2 ** (ceilLog2(keys / rows) + OCTAVES_BELOW)));

/**
 * The largest of several levels, element by element: `heads` wires, [heads, keys], in each of `rows`; a tournament, max(a, b) = b + max(a - b, 0) by lookup.
 * ceil(log2 heads) rounds for all rows together; dealt 128 bytes a comparison, opened 2.
 */
export function* largest(e: Engine, rows: readonly Tensor[], heads: number, keys: number): Program<Tensor[]> {
  const table = {
    bits: LEVEL_BITS,
    outBits: LEVEL_BITS,
    table: e.constant(
      'tables',
      Uint8Array.from({ length: 1 << LEVEL_BITS }, (_, d) => (d < 1 << (LEVEL_BITS - 1) ? d : 0)),
    ),
  };
  let left = rows.map((x) => Array.from({ length: heads }, (_, h) => e.linear(columns(1, heads * keys, h * keys, keys), x)));
  for (let n = heads; n > 1; n = Math.ceil(n / 2)) {
    const half = Math.floor(n / 2),
      raised = yield* e.open(left.flatMap((x) => Array.from({ length: half }, (_, h) => e.apply(lookup, table, [e.sub(x[h]!, x[h + half]!)])[0]!)));
    left = left.map((x, r) => [...Array.from({ length: half }, (_, h) => e.add(x[h + half]!, raised[r * half + h]!)), ...x.slice(2 * half)]);
  }
  return left.map((x) => x[0]!);
}

// ---- the table ----------------------------------------------------------------------------------------------------------------------------

function levelTables(e: Engine, high: number, scale: number): WindowsParams {
  const splines: SplineParams[] = [];
  for (let a = 1; a < high; a *= FACTOR) {
    const first = a === 1,
      last = FACTOR * a >= high,
      width = a / CELLS,
      from = first ? 0 : a,
      inputScale = Math.min(scale, STEPS_PER_CELL_LOG2 - ceilLog2(width)),
      plan: SplinePlan = {
        inputScale,
        outputScale: OPEN_SCALE,
        low: 0,
        degree: DEGREE,
        domainBits: ceilLog2(high) + inputScale,
        keyBits: ceilLog2(high / width),
        firstCell: from / width,
        cells: ((last ? high : 2 * FACTOR * a) - from) / width,
      },
      f = (x: number): number => level(x) * (first ? 1 : step(x / a - 1)) * (last ? 1 : 1 - step(x / (FACTOR * a) - 1));
    splines.push({ ...plan, coefficients: e.constant('tables', quadratics(f, plan, width)) });
  }
  return { f: LEVELS, low: 1, high, outputScale: OPEN_SCALE, splines };
}

/** Chebyshev's nodes of [-1, 1] for a parabola: 0 and plus or minus this. */
const NODE = 0.8660254037844386;

/** The parabola through f at the three nodes, on the double-width interval around each cell's lower edge; integers as `fitSpline` has them. */
function quadratics(f: (x: number) => number, p: SplinePlan, width: number): BigInt64Array {
  const out = new BigInt64Array(p.cells * (DEGREE + 1)),
    unit = 2 ** (p.domainBits - p.keyBits);
  for (let c = 0; c < p.cells; c++) {
    const edge = (p.firstCell + c) * width,
      [a, b, d] = [edge - NODE * width, edge, edge + NODE * width].map((x) => f(Math.max(x, 0))),
      slope = (d! - a!) / (2 * NODE),
      curve = (d! + a! - 2 * b!) / (2 * NODE * NODE);
    [b!, slope / unit, curve / (unit * unit)].forEach((v, i) => (out[c * (DEGREE + 1) + i] = BigInt(Math.round(v * 2 ** p.outputScale))));
  }
  return out;
}

/** 1 + steps log2 x for 1 <= x <= 2^octaves, constant outside; the logarithm by squaring, 24 bits of it. */
function level(x: number): number {
  let v = Math.min(Math.max(x, 1), 2 ** LEVELS.octaves),
    log = 0;
  for (; v >= 2; v /= 2) log++;
  for (let bit = 0.5; bit > 2 ** -25; bit /= 2) {
    v *= v;
    if (v < 2) continue;
    v /= 2;
    log += bit;
  }
  return 1 + LEVELS.steps * log;
}

/** Smooth step from 0 to 1 on [0, 1] with two vanishing derivatives at both ends. */
function step(u: number): number {
  const v = Math.min(1, Math.max(0, u));
  return v * v * v * (10 - 15 * v + 6 * v * v);
}

/**
 * windows: <x> -> [f(x)] for 1/x and 1/sqrt at a bounded relative error over many powers of two: one narrow `spline` per factor of 4, each on a view
 * of the wire that is just fine enough, blended by a smooth partition of unity, so that reading one cell late at a seam does no harm. f is constant
 * below lo. A composition of `narrow` and `spline`, hence no gate of its own: rounds 0, dealt and leakage are theirs, summed.
 *
 * Source: Cachet DESIGN 2 and its executable form, whose windows of a factor of 16 with steps of 1 / 512 err by 2e-3: here about 5e-4 at most, typically 1e-4, where
 * the output scale leaves 16 bits or more for f. Domain [0, hi), cyclic beyond.
 */
import type { Constant } from '../tensor.ts';
import { fitSpline, type SplineParams, type SplinePlan } from './spline.ts';

/** f and its constants: 1 / x, or 1 / sqrt(x / width + eps). */
export type WindowFunction = { readonly name: 'reciprocal' } | { readonly name: 'rsqrt'; readonly width: number; readonly eps: number };

/** 1 + steps log2 x, constant from x = 2^octaves on. */
export interface LevelsFunction {
  readonly name: 'levels';
  readonly steps: number;
  readonly octaves: number;
}

export interface WindowsPlan {
  readonly f: WindowFunction;
  /** Powers of two. */
  readonly low: number;
  readonly high: number;
  readonly outputScale: number;
  readonly splines: readonly SplinePlan[];
}
export interface WindowsParams extends Omit<WindowsPlan, 'splines' | 'f'> {
  readonly f: WindowFunction | LevelsFunction;
  readonly splines: readonly SplineParams[];
}

export const windowFunction = (f: WindowFunction | LevelsFunction): ((x: number) => number) =>
  f.name === 'reciprocal'
    ? (x) => 1 / x
    : f.name === 'rsqrt'
      ? (x) => 1 / Math.sqrt(x / f.width + f.eps)
      : (x) => 1 + f.steps * Math.log2(Math.min(x, 2 ** f.octaves));

/** Ideal of the composition: f, constant below low. */
export const windowsIdeal = (p: Pick<WindowsParams, 'f' | 'low'>, x: number): number => windowFunction(p.f)(Math.max(x, p.low));

const FACTOR = 4,
  DEGREE = 2,
  /** Of the window's lower end. */
  CELLS_PER_WINDOW = 32,
  STEPS_PER_CELL_LOG2 = 6;

/** Plans and fits all windows; the coefficient arrays are in the order of plan.splines. */
export function fitWindows(
  f: WindowFunction,
  low: number,
  high: number,
  outputScale: number,
  maxInputScale: number,
): { plan: WindowsPlan; coefficients: BigInt64Array[] } {
  const splines: SplinePlan[] = [],
    coefficients: BigInt64Array[] = [],
    exact = windowFunction(f);
  for (let a = low; a < high; a *= FACTOR) {
    const first = a === low,
      last = FACTOR * a >= high,
      width = a / CELLS_PER_WINDOW,
      inputScale = Math.min(maxInputScale, STEPS_PER_CELL_LOG2 - Math.log2(width));
    const until = last ? high : 2 * FACTOR * a,
      from = first ? 0 : a;
    const plan: SplinePlan = {
      inputScale,
      outputScale,
      low: 0,
      degree: DEGREE,
      domainBits: Math.log2(high) + inputScale,
      keyBits: Math.log2(high / width),
      firstCell: from / width,
      cells: (until - from) / width,
    };
    splines.push(plan);
    coefficients.push(fitSpline((x) => exact(Math.max(x, low)) * (first ? 1 : step(x / a - 1)) * (last ? 1 : 1 - step(x / (FACTOR * a) - 1)), plan));
  }
  return { plan: { f, low, high, outputScale, splines }, coefficients };
}

export const bindWindows = (plan: WindowsPlan, coefficients: readonly Constant<BigInt64Array>[]): WindowsParams => ({
  ...plan,
  splines: plan.splines.map((s, i) => ({ ...s, coefficients: coefficients[i]! })),
});

/** The same function for operands below `high`, a power of two: windows above it are left out, keys are shorter by the bits saved. */
export function windowsBelow(p: WindowsParams, high: number): WindowsParams {
  const saved = Math.log2(p.high / high);
  if (saved <= 0) return p;
  const splines = p.splines
    .map((s) => ({ ...s, domainBits: s.domainBits - saved, keyBits: s.keyBits - saved }))
    .filter((s) => s.keyBits > 0 && s.firstCell < 2 ** s.keyBits)
    .map((s) => ({ ...s, cells: Math.min(s.cells, 2 ** s.keyBits - s.firstCell) }));
  return { ...p, high, splines };
}

/** Smooth step from 0 to 1 on [0, 1] with two vanishing derivatives at both ends. */
function step(u: number): number {
  const v = Math.min(1, Math.max(0, u));
  return v ** 3 * (10 - 15 * v + 6 * v * v);
}

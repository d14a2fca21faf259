/** Activations of an MLP, in float64, from their definitions. */
import type { ModelShape } from './config.ts';

export type Activation = ModelShape['activation'];

/** By the name that ModelShape gives them. */
export const ACTIVATIONS: Readonly<Record<ModelShape['activation'], (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  'gelu-tanh': (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** The error function, within 1e-15: 2 / sqrt(pi) e^(-x^2) times the sum of 2^n x^(2n+1) / (1 3 .. (2n+1)) (Abramowitz and Stegun 7.1.6, all terms positive). */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x,
    sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

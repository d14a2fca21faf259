/** The MLPs' activation functions, on real numbers. All are x / 2 plus an even function. */

export const ACTIVATIONS = {
  silu: (x: number): number => x / (1 + Math.exp(-x)),
  gelu: (x: number): number => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  'gelu-tanh': (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
} as const;
export type Activation = keyof typeof ACTIVATIONS;

/** Error function, to about 1e-15: Taylor series near 0, continued fraction of erfc (Abramowitz and Stegun 7.1.14) beyond. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a,
      sum = a;
    for (let n = 1; n < 80; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

/** Small least-squares fits for public tables: normal equations with optional ridge, solved by Gaussian elimination with pivoting. */

/** Minimises |A c - b|^2 + sum ridge_k rows c_k^2 / rows (`ridge` is added to the diagonal of A^T A as it is). */
export function leastSquares(a: readonly (readonly number[])[], b: readonly number[], ridge: readonly number[] = []): number[] {
  const n = a[0]!.length;
  const m = Array.from({ length: n }, (_, i) => {
    const row = Array.from({ length: n + 1 }, (_, j) => a.reduce((s, r, k) => s + r[i]! * (j === n ? b[k]! : r[j]!), 0));
    row[i]! += ridge[i] ?? 0;
    return row;
  });
  for (let c = 0; c < n; c++) {
    let pivot = c;
    for (let r = c + 1; r < n; r++) if (Math.abs(m[r]![c]!) > Math.abs(m[pivot]![c]!)) pivot = r;
    [m[c], m[pivot]] = [m[pivot]!, m[c]!];
    for (let r = 0; r < n; r++) {
      if (r === c) continue;
      const f = m[r]![c]! / m[c]![c]!;
      for (let j = c; j <= n; j++) m[r]![j]! -= f * m[c]![j]!;
    }
  }
  return m.map((row, i) => row[n]! / row[i]!);
}

/** Polynomial of the given degree through f at 32 Chebyshev nodes of [-1, 1], least squares; coefficients by rising power. */
export function fitPolynomial(f: (t: number) => number, degree: number): number[] {
  const nodes = Array.from({ length: 32 }, (_, i) => Math.cos((Math.PI * (i + 0.5)) / 32));
  return leastSquares(
    nodes.map((t) => Array.from({ length: degree + 1 }, (_, d) => t ** d)),
    nodes.map(f),
  );
}

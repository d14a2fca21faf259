/**
 * mul3: x[r, c] y[r] z[r] of three wires -> share, local. (m - r) products expand to
 *   m_x m_y m_z - m_y m_z r_x - m_x m_z r_y - m_x m_y r_z + m_z r_x r_y + m_y r_x r_z + m_x r_y r_z - r_x r_y r_z;
 * H deals the four products of masks, each at its own broadcast size.
 *
 * Source: Cachet DESIGN 2; Turbospeedz for the multi-input form. Exact over Z_2^n, n the smallest ring. Dealt: ceil(n / 8) (3 rows cols + rows) bytes
 * to P1. Leakage: none.
 */
import { ADD, SET, SUB } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { share } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

export interface Mul3 {
  readonly rows: number;
  readonly cols: number;
}

export const mul3: Gate<Mul3> = {
  name: 'mul3',
  shape({ rows, cols }, [x, y, z]) {
    if (x!.size !== rows * cols || y!.size !== rows || z!.size !== rows)
      throw new CachetError({
        code: 'shape',
        step: 'mul3',
        what: 'operands do not match',
        expected: `${rows * cols}, ${rows}, ${rows} elements`,
        got: `${x!.size}, ${y!.size}, ${z!.size}`,
      });
    return [share(rows * cols, Math.min(x!.bits, y!.bits, z!.bits), x!.scale + y!.scale + z!.scale)];
  },
  cost: ({ rows, cols }, [x, y, z]) => ({ p0: 0, p1: (3 * rows * cols + rows) * bytesOf(Math.min(x!.bits, y!.bits, z!.bits)) }),
  domain: () => undefined,
  ideal({ cols }, [x, y, z], [out]) {
    out!.forEach((_, i) => (out![i] = x![i]! * y![Math.floor(i / cols)]! * z![Math.floor(i / cols)]!));
  },
  fixed({ kernels: k, scratch }, { rows, cols }, [x, y, z], [out]) {
    const yz = scratch(rows);
    k.hadamard(yz, y!.lane, z!.lane, rows, SET);
    k.scaleRows(out!.lane, x!.lane, yz, rows, cols, SET);
  },
  deal({ kernels: k, scratch, deal }, { rows, cols }, [x, y, z], [out]) {
    const n = rows * cols,
      product = scratch(n),
      yz = scratch(rows);
    k.scaleRows(product, x!.mask, y!.mask, rows, cols, SET);
    deal(product, out!.bits, n);
    k.scaleRows(product, x!.mask, z!.mask, rows, cols, SET);
    deal(product, out!.bits, n);
    k.hadamard(yz, y!.mask, z!.mask, rows, SET);
    deal(yz, out!.bits, rows);
    k.scaleRows(product, x!.mask, yz, rows, cols, SET);
    deal(product, out!.bits, n);
  },
  evaluate({ kernels: k, scratch, receive, party }, { rows, cols }, [x, y, z], [out]) {
    const n = rows * cols,
      dst = out!.lane,
      mm = scratch(rows),
      xy = scratch(n),
      xz = scratch(n),
      yz = scratch(rows),
      xyz = scratch(n);
    receive(xy, out!.bits, n);
    receive(xz, out!.bits, n);
    receive(yz, out!.bits, rows);
    receive(xyz, out!.bits, n);
    // Terms with m_x, gathered per row: m_x ((m_y m_z) - m_z r_y - m_y r_z + r_y r_z), then terms with r_x.
    k.hadamard(mm, y!.lane, z!.lane, rows, SET);
    k.scaleRows(dst, x!.mask, mm, rows, cols, SET);
    k.mulScalar(dst, dst, -1, n, SET);
    if (party === 0) k.add(yz, yz, mm, rows);
    k.hadamard(yz, y!.mask, z!.lane, rows, SUB);
    k.hadamard(yz, y!.lane, z!.mask, rows, SUB);
    k.scaleRows(dst, x!.lane, yz, rows, cols, ADD);
    k.scaleRows(dst, xy, z!.lane, rows, cols, ADD);
    k.scaleRows(dst, xz, y!.lane, rows, cols, ADD);
    k.sub(dst, dst, xyz, n);
  },
};

/**
 * mulWeights: a wire <x> [rows, inner] times a private weight matrix <W>, a wire that is split once for many sessions -> share [rows, cols], local:
 *   x W^T = m_x (m_W - r_W) - r_x m_W + r_x r_W; H deals r_x r_W. P0 holds A_0 = m_W - r_W0, P1 A_1 = -r_W1 (additive shares of W), both m_W, and halves of r_x:
 *   z_i = dealt_i + m_x A_i - r_xi m_W.
 *
 * Where the operand's mask was drawn ahead (`maskAhead`), r_xi m_W is computed before x is there (`maskProduct`) and comes as a second input: one pass over one matrix
 * is left online.
 *
 * Source: Beaver 1991 in masked-wire form, with one operand's mask kept (Cachet DESIGN 3). Exact over Z_2^n, n the smaller of the rings of x and W; the
 * value must satisfy |x W| < 2^(n-1) at scale s_x + fraction. Dealt: ceil(n / 8) bytes an output to P1. Leakage: none, since r_x is fresh, the product of
 * masks is dealt in fresh shares and m_W is the same in every session.
 */
import { ADD, SET, SUB, type Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import { realProduct } from '../realProduct.ts';
import { share, type Tensor, type WeightWire } from '../tensor.ts';
import { bytesOf, type Gate } from './gate.ts';

/** Rows up to which backends sum exactly; longer ones (an embedding table's) are computed in place. */
const MOST_INNER = 1 << 15;

export interface WeightProduct {
  readonly w: WeightWire;
  readonly rows: number;
}

export const mulWeights: Gate<WeightProduct> = {
  name: 'mulWeights',
  shape({ w, rows }, [x, ahead]) {
    if (x!.form !== 'wire' || !x!.halves || x!.size !== rows * w.inner || (ahead && ahead.size !== rows * w.cols))
      throw new CachetError({
        code: 'shape',
        step: 'mulWeights',
        what: 'operand does not fit the matrix',
        expected: `a wire of ${rows * w.inner} elements with shared mask`,
        got: `${x!.form} of ${x!.size}`,
      });
    return [share(rows * w.cols, Math.min(x!.bits, w.bits), x!.scale + w.fraction)];
  },
  cost: ({ w, rows }, [x]) => ({ p0: 0, p1: rows * w.cols * bytesOf(Math.min(x!.bits, w.bits)) }),
  domain: () => undefined,
  ideal({ w, rows }, [x], [z]) {
    realProduct(z!, x!, w, rows);
  },
  fixed({ kernels: k }, { w, rows }, [x], [z]) {
    k.gemmRing(z!.lane, x!.lane, w.lane, rows, w.inner, w.cols, w.bits, SET);
  },
  deal({ kernels: k, scratch, deal, later }, { w, rows }, [x], [z]) {
    const { cols, inner, bits, lane: y } = w,
      { mask } = x!,
      compute = (dst: number): void => k.gemmRing(dst, mask, y, rows, inner, cols, bits, SET),
      dealIt = (product: number): void => deal(product, z!.bits, z!.size),
      operands = { x: mask, xBatch: 0, xRow: inner, y, yBatch: 0, yBits: bits, transposed: false, batch: 1, rows, inner, cols, bits: z!.bits };
    if (inner <= MOST_INNER) return later('gemm', z!.size, (dst) => [{ kind: 'gemm', dst, dstBatch: 0, dstRow: cols, ...operands }], dealIt, compute);
    const product = scratch(z!.size);
    compute(product);
    dealIt(product);
  },
  evaluate({ kernels: k, receive }, { w, rows }, [x, ahead], [z]) {
    receive(z!.lane, z!.bits, z!.size);
    k.gemmRing(z!.lane, x!.lane, w.lane, rows, w.inner, w.cols, w.bits, ADD);
    if (ahead) k.sub(z!.lane, z!.lane, ahead.lane, z!.size);
    else k.gemmRing(z!.lane, x!.mask, w.masked, rows, w.inner, w.cols, w.bits, SUB);
  },
};

/** Evaluator: z = r_xi m_W, from its half of the operand's mask. */
export function weighMask(k: Kernels, z: Tensor, w: WeightWire, rows: number, x: Tensor): void {
  k.gemmRing(z.lane, x.mask, w.masked, rows, w.inner, w.cols, w.bits, SET);
}

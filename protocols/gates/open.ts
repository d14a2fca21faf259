/**
 * open: [x] -> <x> over Z_2^n, the only online communication: each evaluator sends its half of x plus its half of a fresh mask r = r0 + r1 mod 2^n
 * (XOR for Boolean tensors) and adds what comes. All tensors of a round travel in one message each way; only the n bits that the consumer needs.
 *
 * Source: masked evaluation, Ben-Efraim et al. 2019 (Turbospeedz); Cachet DESIGN 2. Exact. 1 round; online ceil(n / 8) bytes an element each way (Boolean
 * bits: 8 to a byte); dealt 0: both halves of the mask are streams (H-P0 and H-P1). Leakage: m = x + r, uniform since r is fresh; bits above n are
 * reduced away before packing and the packer refuses them.
 */
import { packedBytes, type Kernels } from '../../kernels/kernels.ts';
import { CachetError } from '../errors.ts';
import type { Tensor, TensorSpec } from '../tensor.ts';

export const open = {
  name: 'open',
  shape(x: Tensor, bits: number): TensorSpec {
    if (x.form !== 'share' || bits > x.bits)
      throw new CachetError({
        code: 'shape',
        step: 'open',
        what: 'cannot open',
        expected: `a share over ${bits} bits or more`,
        got: `${x.form} over ${x.bits} bits`,
      });
    return { form: 'wire', size: x.size, bits, scale: x.scale, boolean: x.boolean, cyclic: x.cyclic };
  },
  /** Bytes that each evaluator sends for this tensor. */
  cost: (wire: TensorSpec): number => packedBytes(wire.bits, wire.size),
  /** The value in the smaller ring. */
  fixed(k: Kernels, x: Tensor, wire: Tensor): void {
    k.reduce(wire.lane, x.lane, wire.bits, wire.size);
  },
  /** Helper: the mask from its halves, which are in wire.mask and `other`. */
  deal(k: Kernels, wire: Tensor, other: number): void {
    if (wire.boolean) k.xor(wire.mask, wire.mask, other, wire.size);
    else k.add(wire.mask, wire.mask, other, wire.size);
    k.reduce(wire.mask, wire.mask, wire.bits, wire.size);
  },
  /** Evaluator, before the exchange: wire.mask holds its half of the mask; packs x + r_i to `out` and keeps it in wire.lane. */
  evaluate(k: Kernels, x: Tensor, wire: Tensor, out: number): void {
    if (wire.boolean) k.xor(wire.lane, x.lane, wire.mask, wire.size);
    else k.add(wire.lane, x.lane, wire.mask, wire.size);
    k.reduce(wire.lane, wire.lane, wire.bits, wire.size);
    if (k.pack(out, wire.lane, wire.bits, wire.size) !== 0)
      throw new CachetError({ code: 'internal', step: 'open', what: 'unmasked bits in a frame', hint: 'report this as a bug' });
  },
  /** Evaluator, after the exchange: m from both messages. `temporary` u64[size]. */
  combine(k: Kernels, wire: Tensor, received: number, temporary: number): void {
    k.unpack(temporary, received, wire.bits, wire.size);
    if (wire.boolean) k.xor(wire.lane, wire.lane, temporary, wire.size);
    else k.add(wire.lane, wire.lane, temporary, wire.size);
    k.reduce(wire.lane, wire.lane, wire.bits, wire.size);
  },
};

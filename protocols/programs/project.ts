/**
 * A linear layer: x[rows, inner] W^T + b -> [rows, cols], 2^fraction finer. Open weights: on shares over x's ring, 0 rounds, nothing dealt. Private ones:
 * x is a wire (`operand`), the result a share over the product's ring; 0 rounds, the result's size dealt.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { matmul } from '../gates/linear.ts';
import type { Tensor } from '../tensor.ts';
import { timesWeights } from './ahead.ts';
import { droppedBits, type ModelPlan, type Projection } from './plan.ts';

/** What `project` multiplies by p and by others of the same operand: the share x itself, or with private weights x opened and narrowed: 1 round. */
export function* operand(e: Engine, plan: ModelPlan, { secret }: Projection, x: Tensor): Program<Tensor> {
  if (!secret) return x;
  const own = plan.secret?.ahead?.operands.get(secret.w),
    [w] = yield* e.open([{ x, bits: secret.operandBits, mask: own?.opened }]),
    y = e.narrow(w!, droppedBits(w!.bits, secret.w.bits));
  return own ? e.withHalvesOf(y, own.narrowed) : e.withHalves(y);
}

export function* project(e: Engine, plan: ModelPlan, p: Projection, x: Tensor, rows: number): Program<Tensor> {
  if (p.secret) {
    const z = timesWeights(e, plan, p.secret.w, x, rows);
    return p.bias ? e.addRow(z, p.bias, true) : z;
  }
  const y = yield* e.linearJob(matmul(p, rows, x.bits), x);
  return p.bias ? e.addRow(y, p.bias) : y;
}

/** A linear layer on shares: x[rows, inner] W^T + b -> [rows, cols], 2^fraction finer, over x's ring. 0 rounds, nothing dealt. */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { matmul } from '../gates/linear.ts';
import type { Tensor } from '../tensor.ts';
import type { Projection } from './plan.ts';

export function* project(e: Engine, p: Projection, x: Tensor, rows: number): Program<Tensor> {
  const y = yield* e.linearJob(matmul(p, rows, x.bits), x);
  return p.bias ? e.addRow(y, p.bias) : y;
}

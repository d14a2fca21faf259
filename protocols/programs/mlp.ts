/** SwiGLU: down(silu(gate(h)) up(h)), h the norm of x. x wire [rows, width] 2^24 -> share [rows, width] 2^24 in Z_2^64. 5 rounds before the residual's opening. */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { columns, matmul } from '../gates/linear.ts';
import { hadamard } from '../gates/mul.ts';
import type { Tensor } from '../tensor.ts';
import { norm } from './norm.ts';
import { RING, SCALE, type LayerPlan, type LlamaPlan } from './plan.ts';

export function* mlp(e: Engine, plan: LlamaPlan, layer: LayerPlan, x: Tensor, rows: number): Program<Tensor> {
  const { width, inner } = plan.shape;
  const h = yield* norm(e, layer.norm2, x, rows, width, 'squares2');
  const [y] = yield* e.open([yield* e.linearJob(matmul(layer.gateUp, rows), h)]);
  const gate = e.narrow(e.linear(columns(rows, 2 * inner, 0, inner), y!), 30);
  const up = e.widen(e.linear(columns(rows, 2 * inner, inner, inner), y!), 30);
  e.note('gate', gate);
  e.note('up', up);
  const [a, u] = yield* e.open([e.fourier(layer.silu, gate), { x: up, bits: RING.mlp }]);
  const [product] = yield* e.open([e.mul(hadamard(rows * inner), a!, u!)]);
  e.note('product', product!);
  return yield* e.linearJob(matmul(layer.down, rows), e.widen(product!, SCALE.silu));
}

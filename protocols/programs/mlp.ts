/**
 * The MLP: gated, down(act(gate(h)) up(h)), or plain, down(act(up(h))); h the norm of x. x wire [rows, width] 2^R -> share [rows, width] 2^R in Z_2^64.
 * Gated: 5 rounds before the residual's opening. Plain: 3, since the activation's shares go through the last linear layer unopened.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { hadamard } from '../gates/mul.ts';
import type { Tensor } from '../tensor.ts';
import { norm } from './norm.ts';
import { RING, SCALE, type LayerPlan, type MlpPlan, type ModelPlan } from './plan.ts';
import { operand, project } from './project.ts';

export function* mlp(e: Engine, plan: ModelPlan, layer: LayerPlan, x: Tensor, rows: number): Program<Tensor> {
  const { width, inner } = plan.shape,
    p = layer.mlp,
    h = yield* operand(e, plan, p.up, yield* norm(e, layer.norm2, x, rows, width, 'squares2'));
  if (p.kind === 'plain') {
    const [y] = yield* e.open([yield* project(e, plan, p.up, h, rows)]);
    return yield* project(e, plan, p.down, yield* operand(e, plan, p.down, activation(e, p, y!)), rows);
  }
  const [y, z] = yield* e.open([yield* project(e, plan, p.gate, h, rows), yield* project(e, plan, p.up, h, rows)]);
  const up = e.widen(z!, z!.scale - SCALE.activation);
  e.note('up', up);
  const [a, u] = yield* e.open([activation(e, p, y!), { x: up, bits: RING.mlp }]);
  const [product] = yield* e.open([e.mul(hadamard(rows * inner), a!, u!)]);
  e.note('product', product!);
  const wide = e.widen(product!, product!.scale - (plan.residualScale - p.down.fraction));
  return yield* project(e, plan, p.down, yield* operand(e, plan, p.down, wide), rows);
}

function activation(e: Engine, p: MlpPlan, y: Tensor): Tensor {
  const x = e.narrow(y, y.scale - SCALE.activation);
  e.note('gate', x);
  return e.fourier(p.activation, x);
}

/**
 * RMSNorm without its gain (folded into the next weights); LayerNorm too, since `prepare` keeps the residual stream centred. x wire [rows, width], 2^R in
 * Z_2^openBits -> share 2^(xs + rs) in Z_2^(openBits - R + xs). 2 rounds. One narrowed wire serves the squares and the product: its mask is dealt once.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { dotRows, scaleRows } from '../gates/mul.ts';
import type { Tensor } from '../tensor.ts';
import type { NormPlan } from './plan.ts';

export function* norm(e: Engine, p: NormPlan, x: Tensor, rows: number, width: number, name: string): Program<Tensor> {
  const fine = e.withHalves(e.narrow(x, x.scale - p.scale)),
    squares = e.mul(dotRows(rows, width), fine, fine);
  e.note(name, squares);
  const [sum] = yield* e.open([{ x: squares, bits: p.sumBits }]);
  const more = p.rsqrt.outputScale - p.rsqrtScale,
    [scale] = yield* e.open([{ x: e.windows(p.rsqrt, sum!), bits: fine.bits + more }]);
  return e.mul(scaleRows(rows, width), fine, e.narrow(scale!, more));
}

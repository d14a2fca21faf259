/** RMSNorm without its gain (folded into the next weights). x wire [rows, width], 2^24 in Z_2^64 -> share 2^30 in Z_2^52. 2 rounds. */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { dotRows, scaleRows } from '../gates/mul.ts';
import type { Tensor } from '../tensor.ts';
import { SCALE, type NormPlan } from './plan.ts';

export function* norm(e: Engine, p: NormPlan, x: Tensor, rows: number, width: number, name: string): Program<Tensor> {
  const coarse = e.narrow(x, SCALE.residual - p.squareScale);
  const squares = e.mul(dotRows(rows, width), coarse, coarse);
  e.note(name, squares);
  const [sum] = yield* e.open([{ x: squares, bits: p.openBits }]);
  const [scale] = yield* e.open([{ x: e.windows(p.rsqrt, sum!), bits: 52 }]);
  return e.mul(scaleRows(rows, width), e.narrow(x, SCALE.residual - SCALE.activation), scale!);
}

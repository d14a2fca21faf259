/**
 * A model's ends: where weights are open the client embeds its tokens and applies the head itself. Where they are private it sends shares of one-hot rows over the
 * vocabulary and gets shares of the logits, or of the most likely token alone: 2 rounds before the first layer, 4 after the last and for the token those of `argmax`.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { times } from '../gates/linear.ts';
import type { Tensor } from '../tensor.ts';
import { timesWeights } from './ahead.ts';
import { argmax } from './argmax.ts';
import { norm } from './norm.ts';
import type { ModelPlan } from './plan.ts';
import { operand, project } from './project.ts';

/** What the client sends for a token: elements, their scale and ring. */
export const entry = ({ secret, shape, residualScale }: ModelPlan): { readonly cols: number; readonly scale: number; readonly bits: number } =>
  secret ? { cols: secret.table.inner, scale: 0, bits: secret.table.bits } : { cols: shape.width, scale: residualScale, bits: 64 };

/**
 * x: what the client sent for tokens at positions `position` .. -> their embeddings, share [rows, width] 2^R in Z_2^64. `pads`: rows before them that pad the
 * prompt, at no position.
 */
export function* enter(e: Engine, plan: ModelPlan, x: Tensor, rows: number, position: number, pads: number): Program<Tensor> {
  const {
    secret,
    shape: { width },
    residualScale,
  } = plan;
  if (!secret) return x;
  const { table, positions, ahead } = secret,
    [hot] = yield* e.open([{ x, bits: x.bits, mask: ahead?.operands.get(table)?.opened }]);
  let y = timesWeights(e, plan, table, hot!, rows);
  if (positions) {
    const at = { pointer: positions.pointer + 8 * position * width, array: positions.array.subarray(position * width, (position + rows - pads) * width) };
    y = e.addRow(y, at, true, pads * width);
  }
  const [w] = yield* e.open([y]);
  return e.linear(times(rows * width, 1, residualScale - table.fraction), e.widen(w!));
}

/** The last position's residual stream -> what the client gets: the same, its logits, or the most likely token. */
export function* leave(e: Engine, plan: ModelPlan, hidden: Tensor): Program<Tensor> {
  const {
    secret,
    shape: { width },
  } = plan;
  if (!secret) return hidden;
  const [x] = yield* e.open([{ x: hidden, bits: secret.norm.openBits }]),
    h = yield* norm(e, secret.norm, x!, 1, width, 'squaresOfHead');
  const logits = yield* project(e, plan, secret.head, yield* operand(e, plan, secret.head, h), 1);
  return secret.argmax ? yield* argmax(e, logits, secret.argmax) : logits;
}

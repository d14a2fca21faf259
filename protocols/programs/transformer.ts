/**
 * A transformer as one program for all engines: for `rows` new tokens (a prefill, or one decoded token) from the client's shares of their embeddings to the
 * hidden state of the last position, which the client alone can rebuild. Rounds a layer: 9 for attention, 11 with references by `rowMax`; 6 for a gated
 * MLP, 4 for a plain one. In the last layer only the last position attends and goes through the MLP.
 */
import type { Program, Turn } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { row } from '../gates/linear.ts';
import { share, type Tensor } from '../tensor.ts';
import { attention, createCache, type LayerCache, type Past } from './attention.ts';
import { enter, entry, leave } from './ends.ts';
import { fill } from './filled.ts';
import { mlp } from './mlp.ts';
import { RING, type ModelPlan } from './plan.ts';

/**
 * x: share [rows, width] 2^R, tokens at positions past.position .. past.position + rows - 1. Returns the residual stream of the last position before the final
 * norm; with `allPositions` (calibration) that of all positions.
 */
export function* forward(
  e: Engine,
  plan: ModelPlan,
  caches: readonly LayerCache[],
  x: Tensor,
  rows: number,
  past: Past,
  allPositions = false,
): Program<Tensor> {
  const { width } = plan.shape,
    stream = e.zeros(share(rows * width, RING.residual, plan.residualScale));
  let current = x,
    result = x;
  for (const [l, layer] of plan.layers.entries()) {
    const mark = e.mark(),
      final = l === plan.layers.length - 1,
      queries = final && !allPositions ? 1 : rows;
    e.layer = l;
    e.note('input', current);
    const [xw] = yield* e.open([{ x: current, bits: layer.norm1.openBits }]);
    const kept = queries === rows ? current : e.linear(row(rows - 1, width), current);
    const middle = e.add(kept, yield* attention(e, plan, layer, caches[l]!, xw!, rows, past, queries));
    e.note('stream', middle);
    const [mw] = yield* e.open([{ x: middle, bits: layer.norm2.openBits }]);
    const next = e.add(middle, yield* mlp(e, plan, layer, mw!, queries));
    e.note('stream', next);
    if (final) result = next;
    else {
      e.store(stream, 0, width, next, 0, width, rows, width);
      current = stream;
      e.release(mark);
    }
  }
  return result;
}

/** Tokens of a turn after the first go in steps of at most so many: bounds the memory that a session of several turns may need. */
export const TURN_ROWS = 64;

/**
 * A session: turns of private tokens and an answer, after the public prefix. The first turn's tokens go in one batch, those of later turns in batches of
 * at most TURN_ROWS; then up to `answer - 1` single tokens (the last one's successor is not asked for; it comes with the next turn). One step each: input
 * from the client, the program, output to the client. What an answer leaves of its allowance is passed over: dealt, but not run. `context` bounds
 * the slots of all turns together: tokens + answer - 1 each. `filled` slots before them get random keys and values, in a step of their own (benchmarks).
 */
export function* session(e: Engine, plan: ModelPlan, first: Turn, context: number, filled = 0): Program<void> {
  const { cols, scale, bits } = entry(plan),
    caches = createCache(e, plan, plan.prefixIds.length + filled + context),
    unused: [number, number][] = [];
  let slots = plan.prefixIds.length + filled,
    position = slots,
    past: Past['unused'];
  function* through(x: Tensor, rows: number): Program<Tensor> {
    const hidden = yield* forward(e, plan, caches, yield* enter(e, plan, x, rows, position), rows, { slots, position, unused: past });
    return yield* leave(e, plan, hidden);
  }
  function* run(x: Tensor, rows: number): Program<void> {
    yield* e.output(yield* through(x, rows));
    e.endStep();
  }
  if (filled > 0) {
    e.beginFilling();
    yield* fill(e, plan, caches, plan.prefixIds.length, filled);
    e.endStep();
  }
  for (let turn: Turn | undefined = first; turn; turn = yield* e.turn()) {
    const most = past ? TURN_ROWS : turn.tokens;
    for (let left = turn.tokens; left > 0;) {
      const mark = e.mark(),
        rows = Math.min(left, most);
      yield* run(yield* e.input(rows * cols, scale, bits), rows);
      e.release(mark);
      left -= rows;
      slots += rows;
      position += rows;
    }
    const end = slots + turn.answer - 1;
    for (let over = false; slots < end; slots++) {
      const mark = e.mark(),
        x = over ? undefined : yield* e.token(cols, scale, bits);
      if (x) {
        yield* run(x, 1);
        position++;
      } else {
        if (!over) unused.push([slots, end]);
        over = true;
        yield* e.skip(cols, scale, bits, function* (nothing) {
          yield* through(nothing, 1);
        });
      }
      e.release(mark);
    }
    past = unused;
  }
}

/**
 * The Llama family as one program for all engines: for `rows` new tokens (a prefill, or one decoded token) from the client's shares of their
 * embeddings to the hidden state of the last position, which the client alone can rebuild. 18 rounds a layer, the first layer's input opened once more,
 * the last layer's output not opened: 18 layers in all. In the last layer only the last position attends and goes through the MLP.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { row } from '../gates/linear.ts';
import { share, type Tensor } from '../tensor.ts';
import { attention, createCache, type LayerCache } from './attention.ts';
import { mlp } from './mlp.ts';
import { SCALE, type LlamaPlan } from './plan.ts';

/**
 * x: share [rows, width] 2^24, tokens at positions past .. past + rows - 1. Returns the residual stream of the last position before the final
 * norm; with `allPositions` (calibration) that of all positions.
 */
export function* forward(
  e: Engine,
  plan: LlamaPlan,
  caches: readonly LayerCache[],
  x: Tensor,
  rows: number,
  past: number,
  allPositions = false,
): Program<Tensor> {
  const { width } = plan.shape,
    stream = e.zeros(share(rows * width, 64, SCALE.residual));
  let current = x,
    result = x;
  for (const [l, layer] of plan.layers.entries()) {
    const mark = e.mark(),
      final = l === plan.layers.length - 1,
      queries = final && !allPositions ? 1 : rows;
    e.layer = l;
    const [xw] = yield* e.open([current]);
    const kept = queries === rows ? current : e.linear(row(rows - 1, width), current);
    const middle = e.add(kept, yield* attention(e, plan, layer, caches[l]!, xw!, rows, past, queries));
    e.note('stream', middle);
    const [mw] = yield* e.open([middle]);
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

/**
 * A session: the prompt's private tokens in one batch after the public prefix, then up to maxTokens - 1 single tokens. One step each: input from the
 * client, the program, output to the client.
 */
export function* session(e: Engine, plan: LlamaPlan, promptTokens: number, maxTokens: number): Program<void> {
  let past = plan.prefixIds.length;
  const caches = createCache(e, plan, past + promptTokens + maxTokens - 1);
  for (let step = 0; step < maxTokens; step++) {
    const mark = e.mark(),
      rows = step === 0 ? promptTokens : 1;
    const x = yield* e.input(rows * plan.shape.width, SCALE.residual);
    yield* e.output(yield* forward(e, plan, caches, x, rows, past));
    e.endStep();
    e.release(mark);
    past += rows;
  }
}

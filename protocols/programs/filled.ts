/**
 * Caches filled with random keys and values, for benchmarks: a token at a long context without its prefill. Per layer and block of tokens one opening, so
 * that the slots hold wires under fresh masks like any token's: every later product, table and opening is done in earnest. Values are public coins of the
 * evaluators, within ranges that every calibrated model covers; nothing of a client is in them.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import type { LayerCache } from './attention.ts';
import type { ModelPlan } from './plan.ts';

/** Keys and values lie in [-2^n, 2^n): small enough for every logit (a few times the query's length) to stay within its table. */
const KEY_RANGE = -1;
const VALUE_RANGE = 1;
/** Tokens of one opening: bounds the memory. */
const BLOCK = 64;

/** Fills the slots from .. from + count - 1 of all layers. 1 round a layer and block of 64 tokens; dealt 0. */
export function* fill(e: Engine, plan: ModelPlan, caches: readonly LayerCache[], from: number, count: number): Program<void> {
  const { kvHeads, headDim } = plan.shape,
    cols = kvHeads * headDim;
  for (const [l, cache] of caches.entries()) {
    e.layer = l;
    for (let at = 0; at < count; at += BLOCK) {
      const mark = e.mark(),
        rows = Math.min(BLOCK, count - at),
        draw = ({ bits, scale }: { bits: number; scale: number }, range: number) => e.uniform({ size: rows * cols, bits, scale }, scale + range);
      const [keys, values] = yield* e.open([draw(cache.keys, KEY_RANGE), draw(cache.values, VALUE_RANGE)]);
      for (let h = 0; h < kvHeads; h++) {
        const slot = (h * cache.capacity + from + at) * headDim;
        e.store(cache.keys, slot, headDim, keys!, h * headDim, cols, rows, headDim);
        e.store(cache.values, slot, headDim, values!, h * headDim, cols, rows, headDim);
      }
      e.release(mark);
    }
  }
}

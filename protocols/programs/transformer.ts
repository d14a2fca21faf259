/**
 * A transformer as one program for all engines: for `rows` new tokens (a prefill, or one decoded token) from the client's shares of their embeddings to the
 * hidden state of the last position, which the client alone can rebuild. Rounds a layer: 9 for attention, 11 with references by `rowMax`; 6 for a gated
 * MLP, 4 for a plain one. In the last layer only the last position attends and goes through the MLP; queries that vote in static eviction attend there as well.
 */
import type { Program, Turn } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { row } from '../gates/linear.ts';
import { FULL, type Policy } from '../policy.ts';
import { share, type Tensor } from '../tensor.ts';
import { aheadOf, AHEAD_TOKENS, type Ahead } from './ahead.ts';
import { attention, createCache, pastOf, representedBy, type LayerCache, type Past } from './attention.ts';
import { enter, entry, leave } from './ends.ts';
import { fill } from './filled.ts';
import { mlp } from './mlp.ts';
import type { Choice } from './mpcache/attending.ts';
import { attendsToAll, grown, layoutOf } from './mpcache/clusters.ts';
import { evict, planEviction } from './mpcache/eviction.ts';
import { fillUnused } from './mpcache/gather.ts';
import { represent } from './mpcache/representatives.ts';
import { keptRows } from './mpcache/selection.ts';
import { RING, type ModelPlan } from './plan.ts';

/**
 * x: share [rows, width] 2^R, tokens at positions past.position .. (behind those that pad a prompt). Returns the residual stream of the last position before
 * the final norm; with `allPositions` (calibration) that of all positions.
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
  const choices = new Map<number, Choice>(),
    voting = caches.some((c) => c.votes);
  let current = x,
    result = x;
  for (const [l, layer] of plan.layers.entries()) {
    const choice = rows === 1 && !voting ? choiceOf(e, plan, caches[l]!, l, pastOf(caches[l]!, past).slots + 1, choices) : undefined,
      mark = e.mark(),
      final = l === plan.layers.length - 1,
      queries = final && !allPositions ? 1 : rows,
      attending = Math.max(queries, caches[l]!.votes?.queries ?? 1);
    e.layer = l;
    e.note('input', current);
    const [xw] = yield* e.open([{ x: current, bits: layer.norm1.openBits }]);
    const kept = queries === rows ? current : e.linear(row(rows - 1, width), current);
    const attended = yield* attention(e, plan, layer, caches[l]!, xw!, rows, past, attending, choice),
      middle = e.add(kept, attending === queries ? attended : e.linear(row(attending - 1, width), attended));
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

/** What a step of one token attends to in a layer, undefined for everything; `choices` holds those that further layers take, by layer. */
function choiceOf(
  e: Engine,
  plan: ModelPlan,
  { selection, reused, representatives }: LayerCache,
  l: number,
  slots: number,
  choices: Map<number, Choice>,
): Choice | undefined {
  if (!selection) return undefined;
  const led = choices.get(selection.leader);
  if (led && (led.rows || attendsToAll(led.layout)) && led.layout.slots === slots)
    return { selection, layout: led.layout, rows: led.rows, taken: true, representatives };
  const again = reused?.layout && reused.left > 0 ? grown(reused.layout, slots) : undefined,
    layout = again ?? layoutOf(selection, slots);
  if (reused) {
    reused.layout = layout;
    reused.left = again ? reused.left - 1 : selection.dynamic.reuse - 1;
  }
  if (!layout) return undefined;
  const rows = reused?.rows ?? (selection.leads && !attendsToAll(layout) ? keptRows(e, plan, selection, layout) : undefined),
    choice = { selection, layout, rows, taken: again !== undefined, representatives };
  if (selection.leads) choices.set(l, choice);
  return choice;
}

/** Tokens of a turn after the first go in steps of at most so many: bounds the memory that a session of several turns may need. */
export const TURN_ROWS = 64;

/**
 * A session: turns of private tokens and an answer, after the public prefix. The first turn's tokens go in one batch, those of later turns in batches of
 * at most TURN_ROWS; then up to `answer - 1` single tokens (the last one's successor is not asked for; it comes with the next turn). One step each: input
 * from the client, the program, output to the client. What an answer leaves of its allowance is passed over: dealt, but not run. `context` bounds
 * the slots of all turns together: tokens + answer - 1 each. `filled` slots before them get random keys and values, in a step of their own (benchmarks).
 * Scores by `minmax` need representatives of the prompt's clusters: made at the end of its last step (part 'representatives'). Where the policy evicts, the
 * last step of the first turn's prompt ends with it, after its output (part 'eviction'); filled slots compete like tokens of the prompt with `evictFilled`, and
 * stay otherwise. `padding`: so many of the first turn's rows, the first ones, only pad its prompt: nothing attends to them, they have no vote, and in eviction
 * they go before any token does; 0 at the dealer, which does not know; undefined where no prompt is padded. What survives is counted with them.
 * With private weights what can be of an answer's tokens is computed before they come, `aheadTokens` at a time: before the first prompt, and when none is left.
 */
export function* session(
  e: Engine,
  plan: ModelPlan,
  first: Turn,
  context: number,
  filled = 0,
  policy: Policy = FULL,
  evictFilled = false,
  padding?: number,
  aheadTokens = AHEAD_TOKENS,
): Program<void> {
  const { cols, scale, bits } = entry(plan),
    before = plan.prefixIds.length + filled,
    eviction = planEviction(e, plan, policy, first.tokens, evictFilled ? plan.prefixIds.length : before, before),
    caches = createCache(e, plan, (l) => before + Math.max(first.tokens, context - (eviction?.dropped[l] ?? 0)), policy),
    unused: [number, number][] = [];
  let slots = before,
    position = slots,
    past: Past['unused'],
    voting = eviction,
    answered = 0,
    most = first.tokens;
  if (voting) for (const { leader, votes } of voting.groups) caches[leader]!.votes = votes;
  if (padding !== undefined) past = unused;
  const padded: Past['padded'] = padding ? [before, before + padding] : undefined;
  const bottom = e.mark(),
    ready: Ahead[] = [];
  // Above `bottom` lies what is ready of tokens to come, above `floor` what a step uses. `coming`: of this turn's answer.
  let floor = bottom,
    coming = first.answer - 1;
  function* prepare(): Program<void> {
    if (!plan.secret || ready.length > 0 || coming === 0 || aheadTokens === 0) return;
    e.release(bottom);
    const { secret } = plan;
    ready.push(...(yield* e.placing(aheadOf(e, plan, secret, Math.min(coming, aheadTokens)))));
    floor = e.mark();
  }
  function* endStep(): Program<void> {
    if (plan.secret) plan.secret.ahead = undefined;
    if (ready.length === 0) floor = bottom;
    yield* prepare();
    e.endStep();
    e.release(floor);
  }
  // Made in steps that are always run: of a prompt, after its output. What an answer's steps add is made again with the next prompt.
  function* settle(rows: number): Program<void> {
    const missing = caches.flatMap((c) => representedBy(c, pastOf(c, { slots, position, unused: past, padded }), rows) ?? []);
    yield* represent(e, plan, missing);
    for (const { of } of missing) of.settled = of.made;
  }
  function* through(x: Tensor, rows: number, pads: number): Program<Tensor> {
    const now: Past = { slots, position, unused: past, padded, padding: pads },
      hidden = yield* forward(e, plan, caches, yield* enter(e, plan, x, rows, position, pads), rows, now);
    return yield* leave(e, plan, hidden);
  }
  // Where keys move, each slot of the last answer has to be a wire, and pads are to weigh nothing: `rows` slots up to `end` may be such.
  function* fillSlots(end: number, rows: number): Program<void> {
    const moving = caches
      .filter((c) => c.selection?.dynamic.gather === 'values')
      .map((c) => {
        const own = pastOf(c, { slots: end, position, unused, padded }),
          from = end - rows === before ? before : own.slots - rows;
        return { ...c, from, count: own.slots - from, unused: own.unused! };
      });
    if (moving.length > 0 && rows > 0) yield* fillUnused(e, plan.shape.kvHeads, plan.shape.headDim, moving);
  }
  function* run(x: Tensor, rows: number, settling: boolean, pads = 0): Program<void> {
    yield* fillSlots(slots, answered);
    answered = 0;
    yield* e.output(yield* through(x, rows, pads));
    if (voting) yield* evict(e, plan, voting, caches, undefined, padding);
    voting = undefined;
    if (padding !== undefined && slots === before) yield* fillSlots(slots + rows, rows);
    if (settling) yield* settle(rows);
    yield* endStep();
  }
  if (filled > 0) {
    e.beginFilling();
    yield* fill(e, plan, caches, plan.prefixIds.length, filled);
    if (!evictFilled) yield* settle(0);
    e.endStep();
    e.release(bottom);
  }
  yield* prepare();
  for (let turn: Turn | undefined = first; turn; turn = yield* e.turn()) {
    let pads = turn === first ? (padding ?? 0) : 0;
    // What was chosen in a step that was passed over is not there.
    for (const { reused, representatives } of caches) {
      if (reused) reused.left = 0;
      if (representatives) representatives.made = representatives.settled;
    }
    coming = turn.answer - 1;
    for (let left = turn.tokens; left > 0;) {
      const rows = Math.min(left, most);
      left -= rows;
      yield* run(yield* e.input(rows * cols, scale, bits), rows, left === 0, pads);
      slots += rows;
      position += rows - pads;
      pads = 0;
    }
    most = TURN_ROWS;
    const end = slots + turn.answer - 1;
    for (let over = false; slots < end; slots++) {
      coming--;
      if (plan.secret) plan.secret.ahead = ready.shift();
      const x = over ? undefined : yield* e.token(cols, scale, bits);
      if (x) {
        yield* run(x, 1, false);
        position++;
      } else {
        if (!over) unused.push([slots, end]);
        over = true;
        yield* e.skip(
          cols,
          scale,
          bits,
          function* (nothing) {
            yield* through(nothing, 1, 0);
          },
          endStep,
        );
      }
    }
    past = unused;
    answered = turn.answer - 1;
  }
}

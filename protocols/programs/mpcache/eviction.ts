/**
 * Static eviction (look once): at the end of the first prompt, each layer keeps a public number of its tokens, those to which the prompt's last queries paid most
 * attention, in their order; the rest of the cache's slots is given up. Which ones survive is secret. Positions go on: keys are rotated already.
 *
 * All layers that choose are ranked together: importance (opened masked), levels (importance.ts), slots of the survivors (slots.ts). Then, layer by layer, the slots
 * become a selector matrix S by point functions, opened masked, and S K and S V are opened as the cache's new keys and values. A token that is the t-th can only
 * land in slots t - (tokens - kept) .. t, so S is a band, and only that is made, in blocks of tokens. Layers of a sharing group take the S of their first.
 *
 * A prompt that is padded to a public length keeps what that length says: padding stands before the tokens, votes for nothing and has a level below all of theirs, so
 * that it goes first, and what is left of it, where there are fewer tokens than survivors, are the first of the survivors' slots.
 *
 * Source: MPCache (arXiv 2501.06807, section 3.1); on masked wires Cachet DESIGN 2, `compact`. Reveals nothing. Rounds: 1 + 1 + (slots) + 2 for each layer that
 * chooses and each tile of S. Online: 2 ceil(a / 8) bytes an element of S (a: the values' ring), and 8 + 2 ceil(a / 8) for a key's and a value's element that is kept.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { clearUnused, columns, pairsOf, transpose } from '../../gates/linear.ts';
import { selectRows, type Block } from '../../gates/mul.ts';
import { onehot } from '../../gates/onehot.ts';
import type { ModelShape } from '../../models/config.ts';
import { chooserOf, keptTokens, votingQueries, type Policy, type StaticPolicy } from '../../policy.ts';
import { share, wire, type Tensor } from '../../tensor.ts';
import { tileHeads, type LayerCache, type Votes } from '../attention.ts';
import { RING, type ModelPlan } from '../plan.ts';
import { equalRuns } from './clusters.ts';
import { ceilLog2, largest, LEVEL_BITS, LEVEL_OPEN_BITS, levelsOf, OPEN_SCALE, wholeLevels } from './importance.ts';
import { rankBits } from './ranking.ts';
import { MOST_BY_PAIRS, slotsByHistogram, slotsByPairs } from './slots.ts';

/** Tokens of a block of S. */
const BLOCK = 64;
/** Elements of S at once, about: 60 bytes each. */
const TILE = 1 << 22;

/** Layers with one choice: the first one's. */
interface Group {
  readonly leader: number;
  readonly layers: readonly number[];
  readonly kept: number;
  readonly votes: Votes;
}

/** What a session drops, and the votes by which it does. */
export interface Eviction {
  readonly policy: StaticPolicy;
  readonly groups: readonly Group[];
  /** Slots given up, by layer. */
  readonly dropped: readonly number[];
  /** The first slot that competes, and how many do. */
  readonly from: number;
  readonly tokens: number;
}

/**
 * What a first turn of `rows` tokens makes a session drop: slots from .. before + rows - 1 compete. Makes room for the votes; undefined where nothing is dropped.
 */
export function planEviction(e: Engine, plan: ModelPlan, policy: Policy, rows: number, from: number, before: number): Eviction | undefined {
  const { layers, heads, kvHeads } = plan.shape,
    { static: rule } = policy,
    tokens = before + rows - from,
    dropped = plan.layers.map((_, l) => tokens - keptTokens(policy, l, tokens, layers));
  if (!rule || dropped.every((n) => n === 0)) return undefined;
  const perHead = rule.heads === 'max',
    voters = Math.min(votingQueries(rule, tokens), rows),
    members = new Map<number, number[]>();
  dropped.forEach((n, l) => {
    const leader = chooserOf(policy, l, layers);
    if (n > 0) members.set(leader, [...(members.get(leader) ?? []), l]);
  });
  const groups = [...members].map(([leader, of]): Group => {
    const { exp, reciprocalScale, bits } = plan.layers[leader]!.attention,
      queries = leader === layers - 1 ? voters : rows,
      pieces = perHead ? heads : kvHeads / tileHeads(plan.shape, queries, before + rows - queries),
      coarser = Math.max(0, ceilLog2(2 * voters * (perHead ? 1 : heads)) + 1 + exp.outputScale + reciprocalScale - bits);
    return {
      leader,
      layers: of,
      kept: tokens - dropped[leader]!,
      votes: { queries: voters, from, perHead, coarser, into: e.zeros(share(pieces * tokens, bits, exp.outputScale + reciprocalScale - coarser)) },
    };
  });
  return { policy: rule, groups, dropped, from, tokens };
}

/**
 * Memory in bytes, about: an upper estimate for `tokens` of which some are dropped, all layers choosing. Per importance: votes and levels; per token and layer: slots;
 * a selector or a tile of it; products.
 */
export function evictionBytes(shape: ModelShape, rule: StaticPolicy, tokens: number): number {
  const importances = shape.layers * tokens * (rule.heads === 'max' ? shape.heads : 1),
    pairs = rule.ranking === 'pairs' ? pairsOf(Math.min(tokens, MOST_BY_PAIRS)) : 0,
    moved = 2 * shape.kvHeads * shape.headDim * tokens;
  return 8 * (16 * importances + 40 * shape.layers * tokens + 16 * pairs + 10 * Math.min(TILE, tokens * (tokens + BLOCK)) + 8 * moved) + (8 << 20);
}

/**
 * Drops what the votes say; the caches' slots move down. `tile`: elements of a selector at once; bounds the memory. `padding`: of the slots that compete the first
 * ones that no token fills, 0 at the dealer; undefined where no prompt is padded.
 */
export function* evict(e: Engine, plan: ModelPlan, eviction: Eviction, caches: readonly LayerCache[], tile = TILE, padding?: number): Program<void> {
  const top = e.mark();
  e.part = 'eviction';
  for (const { leader } of eviction.groups) caches[leader]!.votes = undefined;
  const levels = yield* levelsOfAll(e, plan, eviction, padding);
  for (const kept of new Set(eviction.groups.map((g) => g.kept))) {
    const groups = eviction.groups.filter((g) => g.kept === kept),
      mark = e.mark(),
      slots = yield* slotsOf(e, eviction, groups, levels);
    for (const [i, group] of groups.entries()) yield* compact(e, plan, eviction, group, slots, i, caches, tile);
    e.release(mark);
  }
  eviction.dropped.forEach((n, l) => (caches[l]!.dropped = n));
  e.part = '';
  e.release(top);
}

/** Levels of importance of all layers that choose, wires of LEVEL_BITS bits, by layer. */
function* levelsOfAll(e: Engine, plan: ModelPlan, { groups, tokens }: Eviction, padding: number | undefined): Program<Map<number, Tensor>> {
  const { heads } = plan.shape,
    importances = yield* e.open(groups.map((g) => (g.votes.perHead ? g.votes.into : sumOf(e, g.votes.into, tokens)))),
    rows = groups[0]!.votes.queries * (groups[0]!.votes.perHead ? 1 : heads);
  const shares = importances.map((x, i) => {
    e.layer = groups[i]!.leader;
    e.note('importance', x);
    const kept = e.zeros(share(x.size, 64, OPEN_SCALE)),
      mark = e.mark();
    const own = levelsOf(e, x, rows, tokens);
    e.store(kept, 0, x.size, padding === undefined ? own : belowAll(e, own, tokens, padding), 0, x.size, 1, x.size);
    e.release(mark);
    return { x: kept, bits: LEVEL_OPEN_BITS };
  });
  const levels = (yield* e.open(shares)).map((x) => wholeLevels(e, x)),
    chosen = groups[0]!.votes.perHead ? yield* largest(e, levels, heads, tokens) : levels;
  return new Map(groups.map((g, i) => [g.leader, chosen[i]!]));
}

/** Levels, share [.., tokens]: 0 for the first `padding` tokens, and for the others, whose least is 1, one more: however they are rounded they stay above it. */
const belowAll = (e: Engine, levels: Tensor, tokens: number, padding: number): Tensor =>
  e.linear(clearUnused(e.constant('tables', equalRuns(levels.size / tokens, tokens)), levels.size, [[0, padding]]), e.addConstant(levels, 1));

/** Sum of the tiles' votes. */
function sumOf(e: Engine, x: Tensor, tokens: number): Tensor {
  const part = (i: number): Tensor => e.linear(columns(1, x.size, i * tokens, tokens), x);
  let sum = part(0);
  for (let i = 1; i < x.size / tokens; i++) sum = e.add(sum, part(i));
  return sum;
}

/** The slot of each token: below `kept` in order for the survivors, from there on for the others; wire [groups, tokens]. */
function* slotsOf(e: Engine, { policy, tokens }: Eviction, groups: readonly Group[], levels: ReadonlyMap<number, Tensor>): Program<Tensor> {
  const scores = e.zeros(wire(groups.length * tokens, LEVEL_BITS, 0));
  groups.forEach((g, i) => e.store(scores, i * tokens, tokens, e.withHalves(levels.get(g.leader)!), 0, tokens, 1, tokens));
  const choose = policy.ranking === 'pairs' ? slotsByPairs : slotsByHistogram,
    bits = rankBits(tokens),
    [slots] = yield* e.open([{ x: yield* choose(e, scores, groups.length, tokens, groups[0]!.kept), bits: bits + 1 }]);
  return e.mod(slots!, bits, true);
}

/** Brings the survivors of a group's layers to the front. slots: wire [rows, tokens], of which `row` is the group's. */
function* compact(
  e: Engine,
  plan: ModelPlan,
  { from, tokens }: Eviction,
  group: Group,
  slots: Tensor,
  row: number,
  caches: readonly LayerCache[],
  tile: number,
): Program<void> {
  const { kvHeads, headDim } = plan.shape,
    bits = Math.max(RING.logits, ...group.layers.map((l) => caches[l]!.values.bits)),
    { kept } = group,
    most = Math.max(1, Math.floor(tile / (tokens - kept + BLOCK)));
  e.layer = group.leader;
  for (let first = 0; first < kept; first += most) {
    const mark = e.mark(),
      count = Math.min(most, kept - first),
      blocks = bandBlocks(tokens, kept, first, count),
      size = blocks.reduce((n, b) => n + b.rows * b.columns, 0),
      selector = e.zeros(share(size, bits, 0));
    let at = 0;
    for (const b of blocks) {
      const inner = e.mark(),
        own = e.linear(columns(1, slots.size, row * tokens + b.column, b.columns), slots),
        [hot] = e.apply(onehot, { bits: rankBits(tokens), span: b.rows, outBits: bits }, [e.addConstant(own, -(first + b.row))]);
      e.store(selector, at, hot!.size, e.linear(transpose(b.columns, b.rows), hot!), 0, hot!.size, 1, hot!.size);
      at += hot!.size;
      e.release(inner);
    }
    const [s] = yield* e.open([selector]),
      moved = yield* e.open(
        group.layers.flatMap((l) => {
          const { keys, values, capacity } = caches[l]!,
            op = selectRows(blocks, count, kvHeads, capacity, from, headDim);
          return [e.mul(op, s!, keys), e.mul(op, s!, values)];
        }),
      );
    for (const [i, l] of group.layers.entries())
      for (const [into, x] of [
        [caches[l]!.keys, moved[2 * i]!],
        [caches[l]!.values, moved[2 * i + 1]!],
      ] as const)
        for (let g = 0; g < kvHeads; g++)
          e.store(into, (g * caches[l]!.capacity + from + first) * headDim, headDim, x, g * count * headDim, headDim, count, headDim);
    e.release(mark);
  }
}

/** The band of a selector of `kept` among `tokens`, rows first .. first + count - 1 (counted from `first`): what can be 1, by blocks of tokens. */
function bandBlocks(tokens: number, kept: number, first: number, count: number): Block[] {
  const blocks: Block[] = [],
    end = tokens - kept + first + count;
  for (let column = first; column < end; column += BLOCK) {
    const columns = Math.min(BLOCK, end - column),
      low = Math.max(first, column - (tokens - kept)),
      high = Math.min(first + count, column + columns);
    blocks.push({ row: low - first, rows: high - low, column, columns });
  }
  return blocks;
}

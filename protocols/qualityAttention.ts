/**
 * What each query of a batch attends to under a policy: the choices of `programs/mpcache/` for many queries and policies at once, made of their logits. What is not
 * attended to has no part in the softmax. Scores are quantised as the protocol does, other roundings are not made:
 * the measure of a policy's quality takes a batch where a session takes a token after the other. `test/quality.test.ts` compares both.
 */
import { chooserOf, keptTokens, votingQueries, type Policy } from './policy.ts';
import { attended, attendsToAll, grown, layoutOf, selections, type Layout, type LayerSelection } from './programs/mpcache/clusters.ts';
import { wholeLevel } from './programs/mpcache/importance.ts';
import { ALPHA_BITS } from './programs/mpcache/representatives.ts';
import { scoreStep, unitOf } from './programs/mpcache/scores.ts';
import type { ModelPlan } from './programs/plan.ts';
import type { Logits, RealCache } from './qualityForward.ts';

/** Sums of what queries attended to. */
export interface AttentionTally {
  /** Rows of all heads and layers, of those that choose, and of those that can be compared with the layer before. */
  rows: number;
  choosing: number;
  compared: number;
  /** Sum of the shares of choices that the layer before made too. */
  overlap: number;
  /** Share of full attention's mass: sum by layer, and the least of a row by layer and key/value head. */
  readonly recall: number[];
  readonly leastRecall: number[];
  /** Largest difference of a row's scores, nats, by layer; how many rows left what the quantiser takes. */
  readonly spans: number[];
  outside: number;
}

export const newAttentionTally = ({ layers, kvHeads }: { readonly layers: number; readonly kvHeads: number }): AttentionTally => ({
  rows: 0,
  choosing: 0,
  compared: 0,
  overlap: 0,
  recall: Array.from({ length: layers }, () => 0),
  leastRecall: Array.from({ length: layers * kvHeads }, () => 1),
  spans: Array.from({ length: layers }, () => 0),
  outside: 0,
});

// ---- static eviction --------------------------------------------------------------------------------------------------------------------

/** Attention that the last queries of a prompt pay to its private tokens, for one rule of voting. */
export class Importance {
  /** By layer [tokens]. */
  private readonly paid: Float64Array[];
  private readonly voters: number;
  readonly rule: NonNullable<Policy['static']>;
  private readonly plan: ModelPlan;
  /** Private tokens of the prompt. */
  private readonly tokens: number;
  constructor(rule: NonNullable<Policy['static']>, plan: ModelPlan, tokens: number) {
    [this.rule, this.plan, this.tokens] = [rule, plan, tokens];
    this.voters = votingQueries(rule, tokens);
    this.paid = plan.layers.map(() => new Float64Array(tokens));
  }

  /** The same rule of voting: budgets do not matter. */
  serves(rule: NonNullable<Policy['static']>): boolean {
    return rule.heads === this.rule.heads && votingQueries(rule, this.tokens) === this.voters;
  }

  /** Adds the probabilities of some heads, whose last queries are the prompt's last tokens. */
  add(layer: number, { z, stride, past, queries }: Logits): void {
    const prefix = this.plan.prefixIds.length,
      paid = this.paid[layer]!,
      own = new Float64Array(this.tokens);
    for (let first = 0; first < z.length; first += queries * stride) {
      own.fill(0);
      for (let i = queries - this.voters; i < queries; i++) for (let t = prefix; t <= past + i; t++) own[t - prefix]! += z[first + i * stride + t]!;
      for (let t = 0; t < this.tokens; t++) paid[t] = this.rule.heads === 'max' ? Math.max(paid[t]!, own[t]!) : paid[t]! + own[t]!;
    }
  }

  /** Slots of a layer's survivors, rising, the public prefix before them. */
  survivors(layer: number, kept: number): Int32Array {
    const prefix = this.plan.prefixIds.length,
      rows = this.voters * (this.rule.heads === 'max' ? 1 : this.plan.shape.heads),
      levels = Array.from(this.paid[layer]!, (x) => wholeLevel(x, rows, this.tokens)),
      order = levels.map((_, t) => t).sort((a, b) => levels[b]! - levels[a]! || a - b),
      all = [...Array.from({ length: prefix }, (_, t) => t), ...order.slice(0, kept).map((t) => t + prefix)];
    return Int32Array.from(all).sort();
  }
}

// ---- branches ---------------------------------------------------------------------------------------------------------------------------

/** What a row of a branch attends to in a layer: clusters in `layout`, chosen by row `from` of the branch in layer `leader`. */
interface Step {
  readonly layout: Layout;
  readonly from: number;
  readonly leader: number;
}

/** `exact`: scores are not quantised, as on the Float engine. `shadow`: rows attend to everything; what the policy would leave them is measured. */
export interface Measured {
  readonly exact?: boolean | undefined;
  readonly shadow?: boolean | undefined;
}

/** One policy's tokens after a prompt, rows of a batch. */
export class Branch {
  /** By layer and row; undefined where everything that survives is attended to. */
  private readonly steps: (Step | undefined)[][];
  private readonly selections: readonly (LayerSelection | undefined)[];
  /** By layer: slots of the prompt that survive, rising. */
  private readonly kept: Int32Array[];
  /** Chosen clusters by layer, row and selector. */
  private readonly chosen = new Map<number, Int32Array[][]>();
  /** Of clusters by layer, key/value head, size and number. */
  private readonly representatives = new Map<string, Float64Array>();
  /** Slots of the choices in this layer and in the one before, by row and head. */
  private chose = new Map<number, ReadonlySet<number>>();
  private before = new Map<number, ReadonlySet<number>>();
  private readonly plan: ModelPlan;
  private readonly prompt: number;
  readonly rows: number;
  private readonly start: number;
  private readonly tally: AttentionTally;
  private readonly how: Measured;

  /** Rows `start` .. of a batch that begins after `prompt` slots. */
  constructor(
    policy: Policy,
    plan: ModelPlan,
    prompt: number,
    rows: number,
    start: number,
    importance: Importance | undefined,
    tally: AttentionTally,
    how: Measured,
  ) {
    [this.plan, this.prompt, this.rows, this.start, this.tally, this.how] = [plan, prompt, rows, start, tally, how];
    const { layers } = plan.shape,
      tokens = prompt - plan.prefixIds.length,
      everything = Int32Array.from({ length: prompt }, (_, t) => t);
    this.kept = plan.layers.map((_, l) => {
      const kept = keptTokens(policy, l, tokens, layers);
      return kept < tokens && importance ? importance.survivors(chooserOf(policy, l, layers), kept) : everything;
    });
    this.selections = selections(policy, layers);
    this.steps = this.selections.map(() => []);
    this.selections.forEach((s, l) => {
      if (!s) return;
      let last: Step | undefined,
        left = 0;
      for (let r = 0; r < rows; r++) {
        const slots = this.kept[l]!.length + r + 1,
          led = s.leader === l ? undefined : this.steps[s.leader]![r];
        if (led?.layout.slots === slots) {
          this.steps[l]![r] = led;
          continue;
        }
        if (last && left > 0) {
          left--;
          last = { ...last, layout: grown(last.layout, slots) };
        } else {
          const layout = layoutOf(s, slots);
          last = layout && { layout, from: r, leader: l };
          left = s.leader === l ? s.dynamic.reuse - 1 : 0;
        }
        this.steps[l]![r] = last;
      }
    });
  }

  /** Softmax of this branch's rows over what they attend to. */
  attend(layer: number, tile: Logits, { keys }: RealCache): void {
    const { heads, kvHeads } = this.plan.shape,
      group = heads / kvHeads,
      selection = this.selections[layer],
      streams = selection?.streaming.includes(tile.kv) ?? false,
      kept = this.kept[layer]!,
      own = this.prompt + this.start,
      all = new Int32Array(kept.length + this.rows),
      on = new Uint8Array(all.length),
      marks = new Uint8Array(own + this.rows);
    all.set(kept);
    for (let i = 0; i < this.rows; i++) all[kept.length + i] = own + i;
    if (tile.kv === 0) {
      [this.before, this.chose] = [this.chose, this.before];
      this.chose.clear();
    }
    for (let r = 0; r < this.rows; r++) {
      const step = this.steps[layer]![r],
        slots = all.subarray(0, kept.length + r + 1),
        // Heads that do not stream may have nothing to choose.
        part = step && (streams || !attendsToAll(step.layout)) ? step : undefined,
        chooses = step !== undefined && step.leader === layer && step.from === r;
      if (chooses && part && !streams) this.choose(layer, r, step.layout, selection!, tile, slots, keys);
      for (let g = 0; g < group; g++) {
        const head = tile.kv * group + g;
        let clusters: Int32Array | undefined;
        if (part) {
          const { layout: l } = part;
          on.fill(0, 0, slots.length);
          on.fill(1, 0, l.head);
          on.fill(1, l.slots - l.tail, l.slots);
          if (!streams) {
            clusters = this.chosen.get(part.leader)![part.from]![selection!.dynamic.perHead === 'kv' ? tile.kv : head]!;
            for (const c of clusters) on.fill(1, l.head + c * l.size, l.head + (c + 1) * l.size);
          }
        } else on.fill(1, 0, slots.length);
        this.weigh(layer, tile.kv, tile.z, (g * tile.queries + this.start + r) * tile.stride, r, slots, on, marks);
        if (chooses && clusters) this.compare(r, head, clusters, step.layout, slots);
      }
    }
  }

  /** One head's row, which begins at `at`. `on`: which slots are attended to; `marks`: room for a row. */
  private weigh(layer: number, kv: number, z: Float32Array, at: number, r: number, slots: Int32Array, on: Uint8Array, marks: Uint8Array): void {
    const prompt = this.prompt,
      own = prompt + this.start,
      t = this.tally;
    let top = -Infinity,
      all = 0,
      part = 0;
    marks.fill(0);
    for (let j = 0; j < slots.length; j++) marks[slots[j]!] = on[j]!;
    const each = (visit: (s: number) => void): void => {
      for (let s = 0; s < prompt; s++) visit(s);
      for (let s = own; s <= own + r; s++) visit(s);
    };
    each((s) => {
      if (z[at + s]! > top) top = z[at + s]!;
    });
    each((s) => {
      const w = Math.exp(z[at + s]! - top);
      all += w;
      z[at + s] = marks[s] || this.how.shadow ? w : 0;
      if (marks[s]) part += w;
    });
    z.fill(0, at + prompt, at + own);
    const sum = this.how.shadow ? all : part;
    each((s) => (z[at + s]! /= sum));
    t.rows++;
    t.recall[layer]! += part / all;
    const place = layer * this.plan.shape.kvHeads + kv;
    t.leastRecall[place] = Math.min(t.leastRecall[place]!, part / all);
  }

  /** How much of a choice the same head made in the layer before. */
  private compare(r: number, head: number, clusters: Int32Array, l: Layout, slots: Int32Array): void {
    const mine = new Set<number>();
    for (const c of clusters) for (let j = l.head + c * l.size; j < l.head + (c + 1) * l.size; j++) mine.add(slots[j]!);
    const key = r * this.plan.shape.heads + head,
      other = this.before.get(key);
    this.chose.set(key, mine);
    if (!other) return;
    let both = 0;
    for (const s of mine) if (other.has(s)) both++;
    this.tally.compared++;
    this.tally.overlap += both / mine.size;
  }

  private choose(layer: number, r: number, l: Layout, { dynamic: d }: LayerSelection, tile: Logits, slots: Int32Array, keys: Float32Array): void {
    const { heads, kvHeads, headDim } = this.plan.shape,
      group = heads / kvHeads,
      perKv = d.perHead === 'kv',
      together = perKv ? group : 1,
      rows = this.chosen.get(layer) ?? [];
    this.chosen.set(layer, rows);
    rows[r] ??= [];
    for (let first = 0; first < group; first += together) {
      const head = tile.kv * group + first;
      let places = Array.from({ length: l.levels[0]?.count ?? l.candidates }, (_, c) => c),
        above = l.levels[0]?.width ?? 1;
      for (const [i, level] of l.levels.entries()) {
        if (i > 0) places = places.flatMap((c) => Array.from({ length: above / level.width }, (_, u) => (c * above) / level.width + u));
        above = level.width;
        const n = level.width * l.size,
          step = scoreStep(this.plan, this.plan.layers[layer]!, d, n),
          raw = places.map((c) => {
            const at = l.head + c * n;
            let score = 0;
            for (let h = 0; h < together; h++)
              score +=
                d.score === 'minmax'
                  ? dot(
                      tile.query,
                      ((this.start + r) * heads + head + h) * headDim,
                      this.representative(layer, tile.kv, n, at / n, d.alpha, slots.subarray(at, at + n), keys),
                    )
                  : ofLogits(tile.z, ((first + h) * tile.queries + this.start + r) * tile.stride, slots, at, n, d.score === 'meanvar');
            return score;
          });
        let [low, high] = [Infinity, -Infinity];
        for (const s of raw) [low, high] = [Math.min(low, s), Math.max(high, s)];
        this.tally.spans[layer] = Math.max(this.tally.spans[layer]!, (high - low) / unitOf(this.plan.shape, d, n));
        if (!this.how.exact && high - low > step.most) this.tally.outside++;
        const score = this.how.exact ? raw : raw.map((s) => Math.floor(s / step.size)),
          order = places.map((_, p) => p).sort((a, b) => score[b]! - score[a]! || a - b),
          best = order.slice(0, level.keep);
        if (d.ranking === 'histogram') best.sort((a, b) => a - b);
        places = best.map((p) => places[p]!);
      }
      this.tally.choosing++;
      rows[r]![perKv ? tile.kv : head] = Int32Array.from(places);
    }
  }

  private representative(layer: number, kv: number, size: number, cluster: number, alpha: number, slots: Int32Array, keys: Float32Array): Float64Array {
    const key = `${layer} ${kv} ${size} ${cluster}`,
      known = this.representatives.get(key);
    if (known) return known;
    const { headDim, kvHeads } = this.plan.shape,
      base = (kv * keys.length) / kvHeads,
      made = new Float64Array(headDim),
      weight = Math.round(alpha * 2 ** ALPHA_BITS) / 2 ** ALPHA_BITS;
    for (let i = 0; i < headDim; i++) {
      let [low, high] = [Infinity, -Infinity];
      for (const s of slots) {
        const v = keys[base + s * headDim + i]!;
        if (v < low) low = v;
        if (v > high) high = v;
      }
      made[i] = weight * high + (1 - weight) * low;
    }
    this.representatives.set(key, made);
    return made;
  }
}

/** Sum of a cluster's logits, or with squares 2 n sum(z) + n sum(z^2) - sum(z)^2. */
function ofLogits(z: Float32Array, row: number, slots: Int32Array, at: number, n: number, squares: boolean): number {
  let sum = 0,
    square = 0;
  for (let j = at; j < at + n; j++) {
    const v = z[row + slots[j]!]!;
    sum += v;
    square += v * v;
  }
  return squares ? 2 * n * sum + n * square - sum * sum : sum;
}

function dot(x: Float64Array, at: number, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < y.length; i++) sum += x[at + i]! * y[i]!;
  return sum;
}

/**
 * The share of a context that a token attends to under a policy: of all tokens, those before eviction and the token itself, mean over layers and heads. Public.
 */
export function attendedShare(
  policy: Policy,
  { shape, prefixIds }: Pick<ModelPlan, 'prefixIds'> & { readonly shape: ModelPlan['shape'] },
  tokens: number,
): number {
  const all = prefixIds.length + tokens + 1;
  let sum = 0;
  selections(policy, shape.layers).forEach((s, l) => {
    const slots = prefixIds.length + keptTokens(policy, l, tokens, shape.layers) + 1,
      layout = s && layoutOf(s, slots);
    if (!layout) return void (sum += slots);
    const streams = s.streaming.length / shape.kvHeads;
    sum += (1 - streams) * attended(layout) + streams * (layout.head + layout.tail);
  });
  return sum / shape.layers / all;
}

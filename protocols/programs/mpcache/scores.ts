/**
 * Scores of clusters: the range that they may span, hence the forms of cached keys and representatives; from logits; and their quantisation for a ranking. All of a
 * row's scores lie within a window of their quantised form, which the policy or the layer's exponential bounds.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { CachetError } from '../../errors.ts';
import { columns, rowSums, segmentSpread, segmentSum, times, whole } from '../../gates/linear.ts';
import { dotRows, hadamard } from '../../gates/mul.ts';
import type { DynamicPolicy } from '../../policy.ts';
import type { Tensor } from '../../tensor.ts';
import { RING, SCALE, type AttentionPlan, type LayerPlan, type ModelPlan } from '../plan.ts';
import { ofChoosing, type Attending } from './attending.ts';
import { equalRuns, inSteps, type LayerSelection } from './clusters.ts';

/** Who chooses: so many selectors, each for a group of heads. */
export const selectorsOf = (shape: { readonly heads: number; readonly kvHeads: number }, d: DynamicPolicy): { selectors: number; group: number } => {
  const selectors = d.perHead === 'kv' ? shape.kvHeads : shape.heads;
  return { selectors, group: shape.heads / selectors };
};

/** Nats between the scores of a row, at most: given, or what the layer's exponential covers. */
export function spreadOf(d: DynamicPolicy, { reference, exp }: AttentionPlan): number {
  const logits = (reference.kind === 'buckets' ? -exp.low : 2 ** exp.domainBits - 2 ** (exp.domainBits - exp.cellsLog2)) / 2 ** exp.inputScale;
  // A cluster's variance is at most a quarter of its logits' spread, squared. A representative is no key: its product is not bounded by logits, but near them.
  return d.spread ?? (d.score === 'meanvar' ? logits + logits ** 2 / 8 : d.score === 'minmax' ? 2 * logits : logits);
}

/** What a cluster's score in nats is multiplied by in its integer form: sums over n logits of each head of a group, or 2 n^2 (mean + variance / 2), or 1 (minmax). */
export const unitOf = (shape: { readonly heads: number; readonly kvHeads: number }, d: DynamicPolicy, size: number): number =>
  selectorsOf(shape, d).group * (d.score === 'meanvar' ? 2 * size ** 2 : d.score === 'minmax' ? 1 : size);

/** Of the 2^b steps of a score, so many may lie between two of them: half, less what narrowing may add. */
const steps = (bits: number): number => 2 ** (bits - 1) - 2;

/** The histogram's 64 levels, in a ring for their differences: a row's first cluster is in the middle, the others at most so many steps away. */
const LEVEL_BITS = 7;
const MIDDLE = 32;
const LEVEL_STEPS = MIDDLE - 2;

/** How far a row's scores of clusters of `size` tokens may lie apart, in their integer form's unit. `shape`: the heads that choose. */
export const apartOf = (shape: { readonly heads: number; readonly kvHeads: number }, layer: LayerPlan, d: DynamicPolicy, size: number): number =>
  spreadOf(d, layer.attention) * unitOf(shape, d, size);

/**
 * Scores of clusters of `size` tokens in their integer form's unit, summed over the heads that choose together: the step to which they are quantised, and how far a
 * row's may lie apart.
 */
export function scoreStep(plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy, size: number): { readonly size: number; readonly most: number } {
  const most = apartOf(plan.shape, layer, d, size);
  return { size: 2 ** Math.ceil(Math.log2(most / (d.ranking === 'pairs' ? steps(d.bits) : LEVEL_STEPS))), most };
}

/** Bits that the coarsest clusters' scores leave below one unit, in Z_2^32. */
const roomOf = (plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number =>
  RING.logits +
  Math.log2(d.ranking === 'pairs' ? steps(d.bits) / 2 ** d.bits : LEVEL_STEPS / 2 ** LEVEL_BITS) -
  Math.log2(apartOf(plan.shape, layer, d, d.sizes[0]!));

/** Scale of the logits whose squares make scores; scores are at twice that scale. */
const squareScale = (plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number => Math.min(8, Math.floor(roomOf(plan, layer, d) / 2));

/** Ring of cached keys, and of logits, where scores are made of squares. */
const SQUARES_RING = 48;

/** Ring and scale of a layer's cached keys: their logits' sums, or squares, must lie within half of Z_2^32. @throws CachetError 'range' where they cannot. */
export function keyForm(plan: ModelPlan, layer: LayerPlan, selection: LayerSelection | undefined): { bits: number; scale: number } {
  if (!selection || selection.dynamic.score === 'minmax') return { bits: RING.logits, scale: SCALE.activation };
  const d = selection.dynamic,
    squares = d.score === 'meanvar',
    most = squares ? SQUARES_RING - RING.logits + squareScale(plan, layer, d) : Math.floor(roomOf(plan, layer, d)),
    scale = Math.min(SCALE.activation, most - SCALE.activation);
  if (scale < 4 || (squares && squareScale(plan, layer, d) < 3))
    throw new CachetError({
      code: 'range',
      what: 'scores of clusters would overflow',
      expected: `clusters, groups of heads and a spread of scores whose product leaves keys 4 fraction bits`,
      got: `clusters of ${d.sizes[0]}, a spread of ${spreadOf(d, layer.attention).toFixed(0)} nats: ${scale} bits`,
      hint: 'smaller clusters, or a smaller spread',
    });
  return { bits: squares ? SQUARES_RING : RING.logits, scale };
}

/** Finest scale of representatives. */
const REPRESENTATIVE_SCALE = 10;
/** Nats that a representative's product with a query may reach, as logits may. */
const MOST_NATS = 128;

/** Scale of a layer's representatives: their products with queries, summed over a group, and differences of them lie within Z_2^32. @throws CachetError 'range' where they cannot. */
export function representativeScale(plan: ModelPlan, layer: LayerPlan, d: DynamicPolicy): number {
  const sums = RING.logits - 1 - Math.log2(MOST_NATS * selectorsOf(plan.shape, d).group),
    scale = Math.min(REPRESENTATIVE_SCALE, Math.floor(Math.min(roomOf(plan, layer, d), sums)) - SCALE.activation);
  if (scale < 4)
    throw new CachetError({
      code: 'range',
      what: 'scores of clusters would overflow',
      expected: 'a spread of scores that leaves representatives 4 fraction bits',
      got: `a spread of ${spreadOf(d, layer.attention).toFixed(0)} nats: ${scale} bits`,
      hint: 'a smaller spread, or choices per query head',
    });
  return scale;
}

/**
 * Scores of all candidates by level, wires [selectors, clusters] over Z_2^32 in the units of `unitOf`. opened: packed logits over the keys' ring, blocks: the candidates'
 * of them. Means are local; mean + variance / 2 takes a round: 2 n sum(z) + n sum(z^2) - sum(z)^2, whose products are opened, added up over a group.
 */
export function* scoresOf(a: Attending, opened: Tensor, blocks: Tensor): Program<readonly Tensor[]> {
  const { e, plan, layer, choice, choosing, selectors, group } = a,
    { layout: l, selection } = choice,
    { dynamic } = selection,
    z = ofChoosing(a, opened),
    count = choosing.heads,
    runs = (rows: number, length: number) => segmentSum(e.constant('tables', equalRuns(rows, length)));
  if (dynamic.score === 'mean') return l.levels.map(({ width }) => e.linear(runs((selectors * l.candidates) / width, width * l.size * group), blocks));
  const scale = squareScale(plan, layer, dynamic),
    own = e.linear(columns(count, l.slots, l.head, l.candidates * l.size), z),
    fine = e.withHalves(e.narrow(e.mod(own, RING.logits + own.scale - scale), own.scale - scale)),
    squares = e.mul(dotRows(count * l.candidates, l.size), fine, fine),
    together = (rows: number, x: Tensor): Tensor => (group === 1 ? x : e.linear(rowSums(selectors, group, rows), x)),
    levels = l.levels.map(({ width }) => {
      const clusters = l.candidates / width,
        n = width * l.size,
        sums = e.linear(runs(count * clusters, n), fine),
        spread = e.sub(
          e.linear(times(count * clusters, n, 0), e.linear(runs(count * clusters, width), squares)),
          e.mul(hadamard(count * clusters), sums, sums),
        );
      return { sums: e.linear(times(selectors * clusters, 2 * n, scale), together(clusters, sums)), spread: together(clusters, spread) };
    }),
    spreads = yield* e.open(levels.map((x) => x.spread));
  return levels.map((x, i) => e.add(x.sums, spreads[i]!));
}

/** Sums whose differences stay within `spread`, as whole levels 0 .. 63, wire over Z_2^7: a row's first cluster is in the middle. */
export function levelled(e: Engine, sums: Tensor, rows: number, count: number, spread: number): Tensor {
  const lengths = e.constant('tables', equalRuns(rows, count)),
    first = e.linear(columns(rows, count, 0, 1), sums),
    apart = e.sub(sums, e.linear(segmentSpread(lengths, sums.size, 0, sums.bits), first)),
    shift = Math.max(0, Math.ceil(Math.log2((spread * 2 ** sums.scale) / LEVEL_STEPS))),
    coarse = e.mod(e.narrow(apart, shift), LEVEL_BITS),
    levels = e.linear(whole(coarse.size), e.linear(inSteps(coarse.size, coarse.scale), coarse));
  return e.addConstant(levels, MIDDLE);
}

/** Sums whose differences stay within `spread`, as a wire over Z_2^bits at scale 0, in steps as fine as that allows. */
export function quantised(e: Engine, sums: Tensor, bits: number, spread: number): Tensor {
  const shift = Math.max(0, Math.ceil(Math.log2((spread * 2 ** sums.scale) / steps(bits)))),
    coarse = e.mod(e.narrow(sums, shift), bits, true);
  return e.linear(inSteps(coarse.size, coarse.scale), coarse);
}

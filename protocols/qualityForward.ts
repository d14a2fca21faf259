/**
 * A model on real numbers for many tokens at once, each at a position and with a view of its own: the programs of the protocol on the Float engine for all but
 * the attention between projections, which is made here in float32 panels, so that what is attended to may be decided row by row.
 */
import type { Program } from './engines/effects.ts';
import { Float } from './engines/float.ts';
import { rope } from './gates/linear.ts';
import { mlp } from './programs/mlp.ts';
import { norm } from './programs/norm.ts';
import { SCALE, type ModelPlan } from './programs/plan.ts';
import { operand, project } from './programs/project.ts';
import { realGemm } from './realProduct.ts';
import { share, type Tensor } from './tensor.ts';

/** Keys (rotated) and values of one layer on real numbers: [kvHeads, capacity, headDim]. */
export interface RealCache {
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly capacity: number;
}

/** Logits of one key/value head's group, changed in place to probabilities: [group, queries, stride], of which query i has `past + i + 1`. */
export interface Logits {
  readonly z: Float32Array;
  readonly stride: number;
  readonly past: number;
  readonly queries: number;
  readonly kv: number;
  /** Rotated queries of all heads, [queries, heads, dim]. */
  readonly query: Float64Array;
}

/** Turns logits into probabilities. */
export type Attend = (layer: number, tile: Logits, cache: RealCache) => void;

/** Empty caches with room for `capacity` tokens, the public prefix in them. */
export function realCaches(plan: ModelPlan, capacity: number): RealCache[] {
  const { kvHeads, headDim } = plan.shape,
    prefix = plan.prefixIds.length;
  return plan.layers.map((_, l) => {
    const made = (integers: { subarray(from: number, to: number): ArrayLike<number | bigint> }, scale: number): Float32Array => {
      const out = new Float32Array(kvHeads * capacity * headDim);
      for (let t = 0; t < prefix; t++)
        for (let h = 0; h < kvHeads; h++) {
          const from = (t * kvHeads + h) * headDim,
            part = integers.subarray(from, from + headDim);
          for (let d = 0; d < headDim; d++) out[(h * capacity + t) * headDim + d] = Number(part[d]) / 2 ** scale;
        }
      return out;
    };
    return { keys: made(plan.prefixKeys[l]!, SCALE.activation), values: made(plan.prefixValues[l]!, SCALE.value), capacity };
  });
}

/** Softmax over all that a causal row sees. */
export function softmaxRow(z: Float32Array, at: number, n: number): void {
  let top = -Infinity,
    sum = 0;
  for (let t = at; t < at + n; t++) if (z[t]! > top) top = z[t]!;
  for (let t = at; t < at + n; t++) sum += z[t] = Math.exp(z[t]! - top);
  for (let t = at; t < at + n; t++) z[t]! /= sum;
}

/**
 * x: embeddings [rows, width] of tokens at these positions, which take the slots from `slots` on. Returns the residual stream of all of them after the last layer.
 */
export function* realForward(
  e: Float,
  plan: ModelPlan,
  caches: readonly RealCache[],
  x: Tensor,
  positions: readonly number[],
  slots: number,
  attend: Attend,
): Program<Tensor> {
  const { width, heads, kvHeads, headDim: dim } = plan.shape,
    rows = positions.length,
    tables = plan.rope && turned(plan.rope, positions, dim / 2);
  let current = x;
  for (const [l, layer] of plan.layers.entries()) {
    e.layer = l;
    const [xw] = yield* e.open([{ x: current, bits: layer.norm1.openBits }]),
      h = yield* operand(e, plan, layer.q, yield* norm(e, layer.norm1, xw!, rows, width, 'squares')),
      [q, k, v] = yield* e.open([
        yield* project(e, plan, layer.q, h, rows),
        yield* project(e, plan, layer.k, h, rows),
        yield* project(e, plan, layer.v, h, rows),
      ]),
      rotated = (y: Tensor, n: number): Float64Array => (tables ? e.linear(rope(tables, rows, n * dim, 0, n, dim, 0), y) : y).real!,
      own = rotated(k!, kvHeads),
      { keys, values, capacity } = caches[l]!;
    for (let g = 0; g < kvHeads; g++)
      for (let r = 0; r < rows; r++) {
        const from = (r * kvHeads + g) * dim,
          to = (g * capacity + slots + r) * dim;
        keys.set(own.subarray(from, from + dim), to);
        values.set(v!.real!.subarray(from, from + dim), to);
      }
    const mixed = e.zeros(share(rows * heads * dim, 64, plan.residualScale - layer.o.fraction));
    mix(mixed.real!, plan, caches[l]!, rotated(q!, heads), rows, slots, (tile) => attend(l, tile, caches[l]!));
    const middle = e.add(current, yield* project(e, plan, layer.o, yield* operand(e, plan, layer.o, mixed), rows)),
      [mw] = yield* e.open([{ x: middle, bits: layer.norm2.openBits }]);
    current = e.add(middle, yield* mlp(e, plan, layer, mw!, rows));
  }
  return current;
}

/** Rows of the rotation's tables for these positions, one after another. */
function turned(t: NonNullable<ModelPlan['rope']>, positions: readonly number[], half: number): NonNullable<ModelPlan['rope']> {
  const of = (table: Int32Array): { pointer: number; array: Int32Array<ArrayBuffer> } => {
    const array = new Int32Array(positions.length * half);
    positions.forEach((p, i) => array.set(table.subarray(p * half, (p + 1) * half), i * half));
    return { pointer: 0, array };
  };
  return { ...t, cos: of(t.cos.array), sin: of(t.sin.array) };
}

function mix(
  dst: Float64Array,
  { shape }: ModelPlan,
  cache: RealCache,
  query: Float64Array,
  rows: number,
  slots: number,
  attend: (tile: Logits) => void,
): void {
  const { heads, kvHeads, headDim: dim } = shape,
    group = heads / kvHeads,
    wide = 8 * Math.ceil(dim / 8),
    n = slots + rows,
    // The kernel takes eight at a time: zeros at the end.
    stride = 8 * Math.ceil(n / 8),
    z = new Float32Array(group * rows * stride),
    q = new Float32Array(group * rows * wide),
    k = new Float32Array(n * wide),
    turnedValues = new Float32Array(dim * stride);
  for (let kv = 0; kv < kvHeads; kv++) {
    const first = kv * cache.capacity * dim;
    for (let g = 0; g < group; g++)
      for (let r = 0; r < rows; r++) {
        const from = (r * heads + kv * group + g) * dim;
        q.set(query.subarray(from, from + dim), (g * rows + r) * wide);
      }
    for (let t = 0; t < n; t++) k.set(cache.keys.subarray(first + t * dim, first + (t + 1) * dim), t * wide);
    realGemm(q, k, group * rows, wide, n, (out, row, col) => z.set(out, row * stride + col));
    for (let row = 0; row < group * rows; row++) z.fill(0, row * stride + slots + (row % rows) + 1, (row + 1) * stride);
    attend({ z, stride, past: slots, queries: rows, kv, query });
    for (let t = 0; t < n; t++) for (let d = 0; d < dim; d++) turnedValues[d * stride + t] = cache.values[first + t * dim + d]!;
    realGemm(z, turnedValues, group * rows, stride, dim, (out, row, col) => {
      const to = ((row % rows) * heads + kv * group + Math.floor(row / rows)) * dim + col;
      for (let c = 0; c < out.length; c++) dst[to + c] = out[c]!;
    });
  }
}

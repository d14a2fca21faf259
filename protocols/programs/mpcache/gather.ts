/**
 * Gathering of keys and values by one-hot rows, as the paper has it: S K and S V of the chosen clusters, beside the always attended slots; logits, softmax and output
 * are then those of a small cache. For comparison: what moves is headDim times what a gather of logits and a scatter of probabilities move. Scores by `mean` come
 * from sums of keys and scores by `minmax` from representatives, so no other logits are computed; `meanvar` needs all of them.
 *
 * Source: MPCache (arXiv 2501.06807, section 4.4: token gathering). Exact over the rings: of equal rows the same logits and values as without gathering. Nothing is
 * revealed: keys, values and logits are opened under fresh masks.
 *
 * A slot that no token fills may lie in a chosen cluster. It holds its row's first key and the value 0 (`fillUnused`), and a public number of nats is taken
 * from its logit by the same rows.
 */
import type { Program } from '../../engines/effects.ts';
import type { Engine } from '../../engines/engine.ts';
import { columns, rearrange, rowSums, segmentSum, type Linear, type Move, type Slots } from '../../gates/linear.ts';
import { mix, scores, type AttentionShape } from '../../gates/mul.ts';
import { share, wire, type Tensor } from '../../tensor.ts';
import { attended, attendsToAll, equalRuns, pick, rowsOfChoosing, unusedCandidates, unusedRow, type HeadRun, type Layout } from './clusters.ts';

/** A step's layout, heads in runs, and shape over the whole cache; `group` of the choosing heads choose together. */
export interface Moved {
  readonly layout: Layout;
  readonly runs: readonly HeadRun[];
  readonly shape: AttentionShape;
  readonly choosing: { readonly heads: number; readonly kvHeads: number };
  readonly selectors: number;
  readonly group: number;
}

/** Slots that no token fills, and how far below its row's first logit theirs lie. */
interface Empty {
  readonly slots: Slots;
  readonly nats: number;
}

/** The clusters that compete, of the key/value heads that choose: [kvHeads, capacity, dim] -> [choosing kvHeads, candidates, size, dim]. */
function candidateSlots({ layout: { head, candidates, size }, runs, shape, choosing }: Moved): Linear {
  const { dim, capacity, group } = shape,
    cols = candidates * size * dim,
    moves = runs
      .filter((r) => !r.streams)
      .map((r): Move => ({
        dst: (r.choosing / group) * cols,
        dstStride: cols,
        src: ((r.first / group) * capacity + head) * dim,
        srcStride: capacity * dim,
        rows: r.count / group,
        cols,
      }));
  return rearrange('candidateSlots', choosing.kvHeads * cols, moves);
}

/** Scores by `mean` of all candidates by level, wires [selectors, clusters]: queries times sums of keys, added up over the heads that choose together. 1 round. */
export function* scoresOfKeys(e: Engine, moved: Moved, keys: Tensor, query: Tensor, empty: Empty | undefined): Program<readonly Tensor[]> {
  const { layout: l, runs, shape, choosing, selectors, group } = moved,
    { dim } = shape,
    sums = e.linear(rowSums(choosing.kvHeads * l.candidates, l.size, dim), e.linear(candidateSlots(moved), keys)),
    own = choosing.heads < shape.heads ? e.linear(rowsOfChoosing(runs, choosing.heads, dim), query) : query,
    product = e.mul(
      scores({
        queries: 1,
        heads: choosing.heads,
        group: choosing.heads / choosing.kvHeads,
        dim,
        past: l.candidates - 1,
        capacity: l.candidates,
        firstKv: 0,
        prefix: 0,
      }),
      own,
      sums,
    );
  let all = group > 1 ? e.linear(rowSums(selectors, group, l.candidates), product) : product;
  if (empty) {
    const slots = unusedRow(l.candidates * l.size, unusedCandidates(l, empty.slots), -empty.nats * group, all.scale),
      row = BigInt64Array.from({ length: l.candidates }, (_, c) => slots.subarray(c * l.size, (c + 1) * l.size).reduce((a, b) => a + b, 0n));
    all = e.addRow(all, e.constant('tables', row));
  }
  const [opened] = yield* e.open([all]);
  return l.levels.map(({ width }) => e.linear(segmentSum(e.constant('tables', equalRuns((selectors * l.candidates) / width, width))), opened!));
}

/** Heads of a run over caches of their own, one for each `group` of them. */
function shapeOf({ layout: l, shape, group }: Moved, r: HeadRun): AttentionShape {
  const slots = r.streams ? l.head + l.tail : attended(l);
  return {
    ...shape,
    heads: r.count,
    group: r.streams || attendsToAll(l) ? shape.group : group,
    past: slots - 1,
    capacity: slots,
    firstKv: 0,
    prefix: Math.min(shape.prefix, l.head),
  };
}

/**
 * Of each cache the attended slots, head, chosen clusters by rank and tail, by runs of heads: wires [run's heads / group, slots, dim] over Z_2^bits.
 * rows: wire [selectors, chosen, candidates]; undefined where no head chooses. 1 round for all caches.
 */
export function* attendedSlots(e: Engine, moved: Moved, rows: Tensor | undefined, caches: readonly Tensor[], bits: number): Program<Tensor[][]> {
  const { layout: l, runs, shape, choosing, selectors } = moved,
    { dim, capacity } = shape,
    kvHeads = shape.heads / shape.group,
    op = mix(pick(selectors * l.chosen, (l.chosen * selectors) / Math.max(1, choosing.kvHeads), l.candidates, l.size * dim)),
    chosen = rows ? yield* e.open(caches.map((x) => e.mul(op, rows, e.mod(e.linear(candidateSlots(moved), x), bits)))) : [],
    always = (x: Tensor, from: number, count: number): Tensor => e.mod(e.linear(columns(kvHeads, capacity * dim, from * dim, count * dim), x), bits);
  return caches.map((x, which) => {
    const head = l.head > 0 ? always(x, 0, l.head) : undefined,
      between = attendsToAll(l) ? always(x, l.head, l.candidates * l.size) : undefined,
      tail = l.tail > 0 ? always(x, l.slots - l.tail, l.tail) : undefined;
    return runs.map((r) => {
      const { capacity: slots, group } = shapeOf(moved, r),
        into = e.zeros(wire((r.count / group) * slots * dim, bits, x.scale)),
        put = (cache: number, slot: number, from: Tensor, row: number, count: number): void =>
          e.store(into, (cache * slots + slot) * dim, count * dim, from, row * count * dim, count * dim, 1, count * dim);
      for (let i = 0; i < r.count / group; i++) {
        const kv = Math.floor((r.first + i * group) / shape.group);
        if (head) put(i, 0, head, kv, l.head);
        if (!r.streams) put(i, l.head, between ?? chosen[which]!, between ? kv : r.choosing / group + i, l.chosen * l.size);
        if (tail) put(i, slots - l.tail, tail, kv, l.tail);
      }
      return into;
    });
  });
}

/** Logits of the attended slots, a share of packed rows. keys: by runs, as `attendedSlots` gives them; rows: by which they were gathered. */
export function logitsOfAttended(e: Engine, moved: Moved, rows: Tensor | undefined, keys: readonly Tensor[], query: Tensor, empty: Empty | undefined): Tensor {
  const { runs, shape } = moved,
    own = (r: HeadRun): Tensor => (runs.length > 1 ? e.linear(columns(1, query.size, r.first * shape.dim, r.count * shape.dim), query) : query),
    all = inOnePiece(
      e,
      runs.map((r, i) => e.mul(scores(shapeOf(moved, r)), own(r), keys[i]!)),
    );
  if (!empty) return all;
  const lower = e.addRow(all, e.constant('tables', belowAlways(moved, empty, all)));
  return rows ? e.add(lower, belowChosen(e, moved, rows, empty, all)) : lower;
}

/** What probabilities, packed rows, make of the values of the attended slots, by runs: a share [heads, dim]. */
export function outputOfAttended(e: Engine, moved: Moved, probability: Tensor, values: readonly Tensor[]): Tensor {
  const { runs } = moved;
  return inOnePiece(
    e,
    runs.map((r, i) => {
      const shape = shapeOf(moved, r),
        size = r.count * shape.capacity;
      return e.mul(mix(shape), runs.length > 1 ? e.linear(columns(1, probability.size, r.attended, size), probability) : probability, values[i]!);
    }),
  );
}

/** Shares of one ring and scale, one after another. */
function inOnePiece(e: Engine, parts: readonly Tensor[]): Tensor {
  const [first] = parts;
  if (parts.length === 1) return first!;
  const all = e.zeros(
    share(
      parts.reduce((n, x) => n + x.size, 0),
      first!.bits,
      first!.scale,
    ),
  );
  let at = 0;
  for (const x of parts) {
    e.store(all, at, x.size, x, 0, x.size, 1, x.size);
    at += x.size;
  }
  return all;
}

/** What is added to the logits of always attended slots that no token fills, packed rows. */
function belowAlways(moved: Moved, { slots, nats }: Empty, z: Tensor): BigInt64Array<ArrayBuffer> {
  const { layout: l, runs } = moved,
    row = unusedRow(l.slots, slots, -nats, z.scale),
    out = new BigInt64Array(z.size);
  for (const r of runs) {
    const { capacity } = shapeOf(moved, r);
    for (let h = 0; h < r.count; h++) {
      out.set(row.subarray(0, r.streams || !attendsToAll(l) ? l.head : l.slots), r.attended + h * capacity);
      out.set(row.subarray(l.slots - l.tail), r.attended + (h + 1) * capacity - l.tail);
    }
  }
  return out;
}

/** The same for slots of chosen clusters: gathered by the rows from public numbers, which are a wire under no mask, since the dealer does not know them. */
function belowChosen(e: Engine, { layout: l, runs, selectors, group }: Moved, rows: Tensor, { slots, nats }: Empty, z: Tensor): Tensor {
  const count = selectors * l.chosen,
    below = e.zeros(wire(l.candidates * l.size, z.bits, z.scale)),
    cols = l.chosen * l.size;
  e.storePublic(below, 0, unusedRow(below.size, unusedCandidates(l, slots), -nats, z.scale));
  return e.linear(
    {
      name: 'intoRows',
      size: z.size,
      integer(k, dst, src) {
        k.fill(dst, 0, z.size);
        eachHead((to, from) => k.copyRows(dst + 8 * to, cols, src + 8 * from, cols, 1, cols));
      },
      real(dst, src) {
        dst.fill(0);
        eachHead((to, from) => dst.set(src.subarray(from, from + cols), to));
      },
    },
    e.mul(mix(pick(count, count, l.candidates, l.size)), rows, below),
  );
  function eachHead(visit: (to: number, from: number) => void): void {
    for (const r of runs)
      if (!r.streams) for (let h = 0; h < r.count; h++) visit(r.attended + h * attended(l) + l.head, Math.floor((r.choosing + h) / group) * cols);
  }
}

/** A cache whose slots from .. from + count - 1 may be filled by no token: `unused` of them are not. Keys and values: wires [kvHeads, capacity, dim]. */
export interface Filling {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly capacity: number;
  readonly from: number;
  readonly count: number;
  readonly unused: Slots;
}

/**
 * Makes wires of slots that no token fills: their row's first key, and the value 0. H does not know which they are: all `count` slots are opened again, of all caches
 * in 1 round. An evaluator's half of such a key's mask was passed over, so that a product over many slots would be wrong.
 */
export function* fillUnused(e: Engine, kvHeads: number, dim: number, caches: readonly Filling[]): Program<void> {
  const top = e.mark(),
    shares = caches.flatMap(({ keys, values, capacity, from, count, unused }) => {
      const slots = unused.map(([a, b]) => [Math.max(0, a - from), Math.min(count, b - from)] as const).filter(([a, b]) => b > a),
        part = (x: Tensor): Tensor => e.linear(columns(kvHeads, capacity * dim, from * dim, count * dim), x),
        both = e.zeros(wire(kvHeads * (count + 1) * dim, keys.bits, keys.scale));
      e.store(both, 0, (count + 1) * dim, keys, 0, capacity * dim, kvHeads, dim);
      e.store(both, dim, (count + 1) * dim, part(keys), 0, count * dim, kvHeads, count * dim);
      return [
        { x: e.linear(replaced(kvHeads, count, dim, slots, true), e.widen(both)), bits: keys.bits },
        { x: e.linear(replaced(kvHeads, count, dim, slots, false), e.widen(part(values))), bits: values.bits },
      ];
    }),
    opened = yield* e.open(shares);
  for (const [i, { keys, values, capacity, from, count }] of caches.entries())
    for (const [into, x] of [
      [keys, opened[2 * i]!],
      [values, opened[2 * i + 1]!],
    ] as const)
      e.store(into, from * dim, capacity * dim, x, 0, count * dim, kvHeads, count * dim);
  e.release(top);
}

/** [kvHeads, slots, dim] with the unused slots replaced by 0, or where the first of `count + 1` slots goes before them by that one, which is dropped. */
function replaced(kvHeads: number, count: number, dim: number, unused: Slots, first: boolean): Linear {
  const before = first ? 1 : 0,
    stride = (count + before) * dim,
    size = kvHeads * count * dim;
  return {
    name: 'replaced',
    size,
    integer(k, dst, src) {
      k.copyRows(dst, count * dim, src + 8 * before * dim, stride, kvHeads, count * dim);
      for (let g = 0; g < kvHeads; g++)
        for (const [from, to] of unused) {
          const at = dst + 8 * (g * count + from) * dim;
          if (first) k.copyRows(at, dim, src + 8 * g * stride, 0, to - from, dim);
          else k.fill(at, 0, (to - from) * dim);
        }
    },
    real(dst, src) {
      for (let g = 0; g < kvHeads; g++) {
        dst.set(src.subarray(g * stride + before * dim, (g + 1) * stride), g * count * dim);
        for (const [from, to] of unused)
          for (let t = from; t < to; t++)
            if (first) dst.set(src.subarray(g * stride, g * stride + dim), (g * count + t) * dim);
            else dst.fill(0, (g * count + t) * dim, (g * count + t + 1) * dim);
      }
    },
  };
}

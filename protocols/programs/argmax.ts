/**
 * The place of a row's greatest value, as a share that the client alone rebuilds: neighbours are compared and the greater goes on, with the place where it
 * was, until one is left; the lower place first among equals. Nothing is revealed: comparisons are dealt truth tables over differences of wires, every opened bit
 * and value has a fresh mask. Source: knockout maximum (CrypTFlow, Kumar et al. 2020; Cheetah, Huang et al. 2022), on masked wires; test/vectors/private.py.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { b2a } from '../gates/b2a.ts';
import { bitMul } from '../gates/bitMul.ts';
import { columns } from '../gates/linear.ts';
import { truthTable } from '../gates/truthTable.ts';
import { share, wire, type Constant, type Tensor } from '../tensor.ts';

/** Bits of a compared value: 2^12 / 8 bytes a comparison. */
export const COMPARE_BITS = 12;

/** Scale of compared values of which all lie within (-2^range, 2^range), so that differences fit. Values that are nearer than two steps may be taken for another. */
export const compareScale = (range: number): number => COMPARE_BITS - 2 - range;

/** Bits of a place among `count`, with what `widen` needs. */
const placeBits = (count: number): number => Math.ceil(Math.log2(count)) + 2;

export interface ArgmaxPlan {
  /** `compareScale` of the values' range. */
  readonly scale: number;
  /** `negativeTable(COMPARE_BITS)`. */
  readonly negative: Constant<Uint8Array>;
  /** 0, 2, 4 .. : the first place of every pair. */
  readonly firsts: Constant<BigInt64Array>;
}

/** Of a row of `count` values. */
export const firstPlaces = (count: number): BigInt64Array => BigInt64Array.from({ length: Math.ceil(count / 2) }, (_, i) => BigInt(2 * i));

/**
 * z: share [count], count >= 2 -> the place, share of one element over Z_2^64. Rounds: 1 + 2 ceil(log2 count). Dealt: about 2^COMPARE_BITS / 8 + 18 bytes a value.
 */
export function* argmax(e: Engine, z: Tensor, { scale, negative, firsts }: ArgmaxPlan): Program<Tensor> {
  const [opened] = yield* e.open([z]),
    places = placeBits(z.size),
    at = (x: Tensor, second: 0 | 1): Tensor => e.linear(columns(x.size >> 1, 2, second, 1), x);
  /** The last of an odd number goes on as it is. */
  function join(last: Tensor, won: Tensor): Tensor {
    if (last.size % 2 === 0) return won;
    const all = e.zeros(wire(won.size + 1, won.bits, won.scale));
    e.store(all, 0, won.size, won, 0, won.size, 1, won.size);
    e.store(all, won.size, 1, last, last.size - 1, 1, 1, 1);
    return all;
  }
  let values = e.withHalves(e.mod(e.narrow(opened!, z.scale - scale), COMPARE_BITS, true)),
    place: Tensor | undefined;
  while (values.size > 1) {
    const [a, b] = [at(values, 0), at(values, 1)],
      [less] = yield* e.open([e.apply(truthTable, { bits: COMPARE_BITS, table: negative, signed: true }, [e.sub(a, b)])[0]!]),
      more = e.apply(bitMul, null, [less!, e.sub(b, a)])[0]!;
    if (!place) {
      const second = e.apply(b2a, { bits: places }, [less!])[0]!,
        all = e.zeros(share(firsts.array.length, places, 0));
      e.store(all, 0, second.size, second, 0, second.size, 1, second.size);
      const [moreWire, placeWire] = yield* e.open([more, e.addRow(all, firsts)]);
      values = join(values, e.add(a, moreWire!));
      place = placeWire!;
      continue;
    }
    const [p, q] = [at(place, 0), at(place, 1)],
      [moreWire, further] = yield* e.open([more, e.apply(bitMul, null, [less!, e.sub(q, p)])[0]!]);
    values = join(values, e.add(a, moreWire!));
    place = join(place, e.add(p, further!));
  }
  return e.widen(place!);
}

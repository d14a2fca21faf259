/**
 * Exact ranks of secret scores by comparing all pairs: row by row, highest first, the lower index first among equals. Nothing is revealed, neither order nor
 * ties: comparisons are dealt truth tables over differences of wires, their bits and the ranks are opened under fresh masks. Staged, so that a caller's other
 * openings travel in the same rounds: compareAll, open, ranksOf, open, oneHotRows.
 *
 * Source: MPCache (arXiv 2501.06807, 3.3: top-k) on masked wires; the executable specification's topk_selector.
 */
import type { Engine } from '../../engines/engine.ts';
import { b2a } from '../../gates/b2a.ts';
import { pairDifferences, pairSums } from '../../gates/linear.ts';
import { onehot } from '../../gates/onehot.ts';
import { truthTable } from '../../gates/truthTable.ts';
import type { Constant, Tensor } from '../../tensor.ts';

/** Bits of a rank among `count`. */
export const rankBits = (count: number): number => Math.max(1, Math.ceil(Math.log2(count)));

/**
 * scores: wire [rows, count] of b bits, 6 .. 16; those of a row lie within 2^(b-1) - 1 steps of one another. [x_a < x_b] for all pairs a < b, as a Boolean
 * share of 1 bit [rows, pairs]. `negative`: truth table of the upper half (`negativeTable(b)`). Dealt: 2^b / 8 bytes a pair.
 */
export function compareAll(e: Engine, scores: Tensor, rows: number, count: number, negative: Constant<Uint8Array>): Tensor {
  return e.apply(truthTable, { bits: scores.bits, table: negative, signed: true }, [e.linear(pairDifferences(rows, count), scores)])[0]!;
}

/** flags: the opened comparisons. Ranks, a share [rows, count] over Z_2^rankBits(count). Dealt: 1 or 2 bytes a pair. */
export function ranksOf(e: Engine, flags: Tensor, rows: number, count: number): Tensor {
  const [less] = e.apply(b2a, { bits: rankBits(count), cyclic: true }, [flags]);
  return e.addRow(
    e.linear(pairSums(rows, count), less!),
    e.constant(
      'tables',
      BigInt64Array.from({ length: count }, (_, i) => BigInt(i)),
    ),
  );
}

/** ranks: the opened ranks. Place j < k of element c, as a share [rows, count, k] over Z_2^bits: 1 where c has rank j. Dealt: a DPF key an element. */
export function oneHotRows(e: Engine, ranks: Tensor, count: number, k: number, bits: number): Tensor {
  return e.apply(onehot, { bits: rankBits(count), span: k, outBits: bits }, [ranks])[0]!;
}

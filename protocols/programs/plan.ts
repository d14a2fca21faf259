/**
 * The public plan of a Llama: shapes, the scale budget and per-layer tables, as programs use them. `bindPlan` of artefact.ts places an artefact's
 * constants into an engine and gives this.
 *
 * Scale budget (scales + integer bits of the result + sign <= ring; narrowing lowers ring and scale alike):
 *   residual stream       2^24 in Z_2^64
 *   norm                  x at 2^12 in Z_2^52 times rsqrt 2^18 -> 2^30, weights 2^12 -> 2^42 in Z_2^52, widened to 2^12 (|y| < 2^8)
 *   q, k                  RoPE tables 2^12 -> 2^24, opened over Z_2^44, narrowed to 2^12 in Z_2^32; logits 2^24 in Z_2^32 (|z| < 128)
 *   probabilities         2^22 in Z_2^64; values 2^8; 1 / sum 2^27: attention output 2^57 in Z_2^64 (|o| < 2^5 for the widening)
 *   MLP                   gate 2^12 in Z_2^22, SiLU 2^32 in Z_2^56 times up 2^12 -> 2^44 in Z_2^56 (|silu up| < 2^10 for the widening)
 */
import type { ExpParams } from '../gates/expTable.ts';
import type { FourierParams } from '../gates/fourier.ts';
import type { RopeTables } from '../gates/linear.ts';
import type { TruthTable } from '../gates/truthTable.ts';
import type { WindowsParams } from '../gates/windows.ts';
import type { ModelShape } from '../models/config.ts';
import type { Matrix } from '../tensor.ts';

export const SCALE = { residual: 24, activation: 12, value: 8, rsqrt: 18, probability: 22, reciprocal: 27, silu: 32 } as const;
export const RING = { residual: 64, logits: 32, silu: 56, mlp: 56 } as const;

/** Logits are referred to buckets of 2 nats (2^25 at scale 24); 64 of them cover the cyclic range of 128 nats. */
export const BUCKET_SHIFT = 25;

export interface NormPlan {
  /** Scale at which the squares' operand is taken. */
  readonly squareScale: number;
  /** Ring over which the sum of squares is opened. */
  readonly openBits: number;
  readonly rsqrt: WindowsParams;
}

export interface LayerPlan {
  readonly norm1: NormPlan;
  readonly norm2: NormPlan;
  /** Lowest logit bucket, in buckets of 2 nats. */
  readonly lowBucket: number;
  readonly exp: ExpParams;
  readonly reciprocal: WindowsParams;
  readonly silu: FourierParams;
  readonly qkv: Matrix;
  readonly o: Matrix;
  readonly gateUp: Matrix;
  readonly down: Matrix;
}

export interface LlamaPlan {
  readonly shape: ModelShape;
  /** Public tokens before every prompt; their keys and values are constants: per layer [prefix, kvHeads, headDim] integers. */
  readonly prefixIds: readonly number[];
  readonly prefixKeys: readonly BigInt64Array[];
  readonly prefixValues: readonly BigInt64Array[];
  readonly rope: RopeTables;
  readonly nonzero: TruthTable;
  readonly layers: readonly LayerPlan[];
}

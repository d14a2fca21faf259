/**
 * The public plan of a model: shapes, the scale budget and per-layer tables, as programs use them. `bindPlan` of artefact.ts places an artefact's
 * constants into an engine and gives this; `prepare` chooses every number from calibrated ranges.
 *
 * Scale budget (scales + integer bits of the result + sign <= ring; narrowing lowers ring and scale alike). R: scale of the residual stream.
 * 1 / rms and 1 / sum are computed and opened with as many bits more as a ring of 64 leaves, and narrowed: few elements, and the splines' coefficients are better.
 *   norm                  x opened over n bits at 2^R, narrowed to 2^xs in Z_2^(n - R + xs), times rsqrt 2^rs -> 2^(xs + rs); weights 2^f
 *                         -> 2^(xs + rs + f), widened: R + rs + f + integer bits + 2 <= n
 *   q, k                  widened to 2^12; RoPE tables 2^12 -> 2^24, opened, narrowed to 2^12 in Z_2^32; logits 2^24 in Z_2^32 (|z| < 128)
 *   probabilities         2^sp in Z_2^a; values 2^10 in Z_2^a; 1 / sum 2^sr: attention output 2^(sp + 10 + sr) in Z_2^a, two bits spare for the widening
 *   gated MLP             gate 2^12, SiLU 2^32 in Z_2^56 times up 2^12 -> 2^44 in Z_2^56 (|silu up| < 2^10 for the widening)
 *   plain MLP             activation 2^(R - f) in Z_2^64 without an opening, weights 2^f: it joins the residual stream as it is
 */
import type { ExpParams } from '../gates/expTable.ts';
import type { FourierParams } from '../gates/fourier.ts';
import type { RopeTables } from '../gates/linear.ts';
import type { LookupTable } from '../gates/lookup.ts';
import type { WindowsParams } from '../gates/windows.ts';
import type { ModelShape } from '../models/config.ts';
import type { Ahead } from './ahead.ts';
import type { ArgmaxPlan } from './argmax.ts';
import type { Constant, Matrix, Tensor, WeightWire } from '../tensor.ts';

export const SCALE = { activation: 12, value: 10, rope: 12, silu: 32 } as const;
export const RING = { residual: 64, logits: 32, mlp: 56 } as const;

/** Bits by which an operand that is opened over `bits` is narrowed to the ring of its private matrices, Z_2^ring. */
export const droppedBits = (bits: number, ring: 32 | 64): number => Math.max(0, bits - ring);

export interface NormPlan {
  /** Ring over which the residual stream is opened. */
  readonly openBits: number;
  /** Scale xs to which it is narrowed, for the squares and for the product. */
  readonly scale: number;
  /** Ring over which the sum of squares is opened. */
  readonly sumBits: number;
  readonly rsqrt: WindowsParams;
  /** rs. */
  readonly rsqrtScale: number;
}

/**
 * A linear layer: weights, and a bias at the result's scale. Where weights are private: `secret` instead of them, the ring over which its operand is opened
 * (it is then narrowed to the matrix's), and the bias as shares.
 */
export interface Projection extends Matrix {
  readonly bias: Constant<BigInt64Array> | undefined;
  readonly secret?: { readonly w: WeightWire; readonly operandBits: number };
}

/** A private model's ends, which are the client's where weights are open, and the public prefix's keys and values as wires. */
export interface SecretPlan {
  /** Embeddings [width, vocabulary padded to a multiple of 8] over Z_2^32. */
  readonly table: WeightWire;
  /** Shares [maxPositions, width] at the table's scale, where positions are learned. */
  readonly positions: Constant<BigInt64Array> | undefined;
  readonly norm: NormPlan;
  /** Gain of the final norm folded in. */
  readonly head: Projection;
  /** Where the client gets the most likely token alone. */
  readonly argmax: ArgmaxPlan | undefined;
  /** Keys over Z_2^64, whatever ring a cache needs. */
  readonly prefix: readonly { readonly keys: Tensor; readonly values: Tensor }[];
  /** What was computed of the present step before it: of a token of an answer. */
  ahead?: Ahead | undefined;
}

/**
 * What a row's softmax is taken relative to. public: a constant near all rows' maxima, where those are close together. buckets: a share near each row's own
 * maximum, in buckets of 2 nats: `count` of them from `first` on are looked at, `low` is the lowest bucket of any logit.
 */
export type Reference = { readonly kind: 'public' } | { readonly kind: 'buckets'; readonly low: number; readonly first: number; readonly count: number };

export interface AttentionPlan {
  readonly reference: Reference;
  readonly exp: ExpParams;
  readonly reciprocal: WindowsParams;
  /** sr. */
  readonly reciprocalScale: number;
  /** Ring a of probabilities, values and output. */
  readonly bits: number;
}

export type MlpPlan =
  | { readonly kind: 'gated'; readonly gate: Projection; readonly up: Projection; readonly activation: FourierParams; readonly down: Projection }
  | { readonly kind: 'plain'; readonly up: Projection; readonly activation: FourierParams; readonly down: Projection };

export interface LayerPlan {
  readonly norm1: NormPlan;
  readonly norm2: NormPlan;
  readonly attention: AttentionPlan;
  readonly q: Projection;
  readonly k: Projection;
  readonly v: Projection;
  readonly o: Projection;
  readonly mlp: MlpPlan;
}

export interface ModelPlan {
  readonly shape: ModelShape;
  /** Scale R of the residual stream. */
  readonly residualScale: number;
  /** Public tokens before every prompt; their keys and values are constants: per layer [prefix, kvHeads, headDim] integers. */
  readonly prefixIds: readonly number[];
  readonly prefixKeys: readonly BigInt64Array[];
  readonly prefixValues: readonly BigInt64Array[];
  /** Undefined where positions are learned: they are in the embedding. */
  readonly rope: RopeTables | undefined;
  /** [word of TAU parities is not 0], for `rowMax`. */
  readonly nonzero: LookupTable;
  readonly layers: readonly LayerPlan[];
  /** Undefined where weights are open. */
  readonly secret?: SecretPlan;
}

/**
 * The cache policy of a session: public, agreed in the handshake, printed. What is dropped once after the prompt (static eviction), what each token attends to
 * (dynamic selection over clusters of survivors), and which layers share these choices. Source: MPCache (arXiv 2501.06807, sections 3 and 4).
 */
import { z } from 'zod';

const share = z.number().gt(0).max(1);
const layerList = z.array(z.number().int().min(0));

/** How an exact top k is found: all pairs of scores compared, or a threshold from the scores' histogram. */
const ranking = z.enum(['pairs', 'histogram']);

export const staticSchema = z.strictObject({
  /** Private prompt tokens that survive: a share of them, or a count. */
  keep: z.union([share, z.strictObject({ tokens: z.number().int().min(1) })]),
  /** The queries that vote: the last ones of the prompt, as a share of it or as a count. */
  window: z.union([share, z.strictObject({ queries: z.number().int().min(1) })]),
  /** Importance over the heads. */
  heads: z.enum(['sum', 'max']),
  ranking,
});

export const dynamicSchema = z.strictObject({
  /** Tokens of a cluster, one number a level, each a multiple of the next. */
  sizes: z.array(z.number().int().min(1)).min(1),
  /** Of the candidates at each level (of all clusters of that level's size), the share that is kept. */
  ratio: z.array(share).min(1),
  score: z.enum(['mean', 'meanvar', 'minmax']),
  /** Weight of the maximum in `minmax`. */
  alpha: share.default(0.6),
  /** Largest difference of a row's scores, in nats, that quantised scores must hold. Without it, what the layer's logits may span, which is coarser. */
  spread: z.number().positive().optional(),
  /** Bits of a quantised score. */
  bits: z.number().int().min(6).max(8),
  /** Whether the query heads of a group choose together or each for itself. */
  perHead: z.enum(['kv', 'query']),
  ranking,
  /** What moves: the chosen logits, or the chosen keys and values (the paper's, for comparison). */
  gather: z.enum(['logits', 'values']),
  /** Clusters (of the finest size) that are always attended to and never compete. */
  always: z.strictObject({ first: z.number().int().min(0), recent: z.number().int().min(0) }),
  /** A selection serves so many tokens. */
  reuse: z.number().int().min(1).default(1),
});

export const policySchema = z.strictObject({
  name: z.string().min(1).max(40),
  static: staticSchema.nullable(),
  dynamic: dynamicSchema.nullable(),
  /** Groups of layers, rising; the first of a group chooses for the others. Layers in no group choose for themselves. */
  sharing: z.union([z.enum(['none', 'pairs']), z.array(layerList.min(2))]),
  /** Layers that keep and attend to everything. */
  skipLayers: layerList,
  /** Layers with budgets of their own. */
  layers: z.record(z.string().regex(/^\d+$/), z.strictObject({ keep: staticSchema.shape.keep.optional(), ratio: dynamicSchema.shape.ratio.optional() })),
  /** Key/value heads, by layer, that attend to the always attended clusters alone. */
  streaming: z.record(z.string().regex(/^\d+$/), z.array(z.number().int().min(0)).min(1)),
});
export type Policy = z.infer<typeof policySchema>;
export type StaticPolicy = z.infer<typeof staticSchema>;
export type DynamicPolicy = z.infer<typeof dynamicSchema>;

/**
 * The cache policy of a session: public, agreed in the handshake, printed. What is dropped once after the prompt (static eviction), what each token attends to
 * (dynamic selection over clusters of survivors), and which layers share these choices. Source: MPCache (arXiv 2501.06807, sections 3 and 4).
 */
import { z } from 'zod';
import { areFieldNames, CachetError } from './errors.ts';
import type { ModelShape } from './models/config.ts';

const share = z.number().gt(0).max(1);
/** Layers of a model, and clusters of a context, at most: bounds what a peer can send. */
const MOST = 4096;
const layerList = z.array(z.number().int().min(0)).max(MOST);

/** How an exact top k is found: all pairs of scores compared, or a threshold from the scores' histogram. */
const ranking = z.enum(['pairs', 'histogram']);

const staticSchema = z.strictObject({
  /** Private prompt tokens that survive: a share of them, or a count. */
  keep: z.union([share, z.strictObject({ tokens: z.number().int().min(1) })]),
  /** The queries that vote: the last ones of the prompt, as a share of it or as a count. */
  window: z.union([share, z.strictObject({ queries: z.number().int().min(1) })]),
  /** Importance over the heads. */
  heads: z.enum(['sum', 'max']),
  ranking,
});

const dynamicSchema = z.strictObject({
  /** Tokens of a cluster, one number a level, each a multiple of the next. */
  sizes: z.array(z.number().int().min(1)).min(1).max(8),
  /** Of the candidates at each level (of all clusters of that level's size), the share that is kept. */
  ratio: z.array(share).min(1).max(8),
  score: z.enum(['mean', 'meanvar', 'minmax']),
  /** Weight of the maximum in `minmax`. */
  alpha: share.default(0.6),
  /** Largest difference of two keys of a channel that `minmax` compares exactly (in steps of a quarter, without it: 31). */
  keySpread: z.number().positive().max(127).optional(),
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
  always: z.strictObject({ first: z.number().int().min(0).max(MOST), recent: z.number().int().min(0).max(MOST) }),
  /** A selection serves so many tokens. */
  reuse: z.number().int().min(1).max(MOST).default(1),
});

const perLayer = z.string().regex(/^(0|[1-9]\d*)$/, 'a layer number');

export const policySchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$/, 'a name of at most 40 letters, digits, dots and dashes'),
  static: staticSchema.nullable(),
  dynamic: dynamicSchema.nullable(),
  /** Groups of layers, rising; the first of a group chooses for the others. Layers in no group choose for themselves. `pairs`: (2, 3), (4, 5), .. */
  sharing: z.union([z.enum(['none', 'pairs']), z.array(layerList.min(2)).max(MOST)]).default('none'),
  /** Layers that keep and attend to everything. */
  skipLayers: layerList.default([]),
  /** Layers with budgets of their own. */
  layers: z
    .record(
      perLayer,
      z.strictObject({ keep: staticSchema.shape.keep.optional(), ratio: dynamicSchema.shape.ratio.optional(), spread: dynamicSchema.shape.spread }),
    )
    .default({}),
  /** Key/value heads, by layer, that attend to the always attended clusters alone. */
  streaming: z.record(perLayer, z.array(z.number().int().min(0)).min(1).max(MOST)).default({}),
});
export type Policy = z.infer<typeof policySchema>;
export type StaticPolicy = z.infer<typeof staticSchema>;
export type DynamicPolicy = z.infer<typeof dynamicSchema>;

const EVERYWHERE = { skipLayers: [], layers: {}, streaming: {} } satisfies Partial<Policy>;

/** Every token attends to every one. */
export const FULL: Policy = { name: 'full', static: null, dynamic: null, sharing: 'none', ...EVERYWHERE };

/**
 * Policies by name. `mpcache` is for models without a quality report: with one, it is what that recommends. `mpcache-paper` has the paper's budgets, levels,
 * scores and sharing.
 */
export const PRESETS: Readonly<Record<'full' | 'mpcache' | 'mpcache-paper' | 'aggressive', Policy>> = {
  full: FULL,
  mpcache: {
    ...EVERYWHERE,
    name: 'mpcache',
    static: null,
    dynamic: {
      sizes: [16],
      ratio: [0.5],
      score: 'meanvar',
      alpha: 0.6,
      bits: 8,
      perHead: 'query',
      ranking: 'pairs',
      gather: 'logits',
      always: { first: 1, recent: 2 },
      reuse: 1,
    },
    sharing: 'none',
    skipLayers: [0, 1],
  },
  'mpcache-paper': {
    ...EVERYWHERE,
    name: 'mpcache-paper',
    static: { keep: 0.4, window: 0.2, heads: 'sum', ranking: 'histogram' },
    dynamic: {
      sizes: [32, 16],
      ratio: [0.5, 0.2],
      score: 'minmax',
      alpha: 0.6,
      bits: 8,
      perHead: 'kv',
      ranking: 'pairs',
      gather: 'logits',
      always: { first: 1, recent: 1 },
      reuse: 1,
    },
    sharing: 'pairs',
  },
  aggressive: {
    ...EVERYWHERE,
    name: 'aggressive',
    static: { keep: 0.4, window: { queries: 32 }, heads: 'max', ranking: 'histogram' },
    dynamic: {
      sizes: [16],
      ratio: [0.1],
      score: 'mean',
      alpha: 0.6,
      bits: 6,
      perHead: 'kv',
      ranking: 'pairs',
      gather: 'logits',
      always: { first: 1, recent: 1 },
      reuse: 1,
    },
    sharing: 'pairs',
  },
};

const eviction = (name: string, keep: number, queries: number): Policy => ({
  ...FULL,
  name,
  static: { keep, window: { queries }, heads: 'max', ranking: 'histogram' },
});

/** What `cachet prepare --quality` tries: the presets, evictions by which the question's own queries vote, a choice a query head among clusters of 8. */
export const CANDIDATES: readonly Policy[] = [
  ...Object.values(PRESETS),
  eviction('keep-80', 0.8, 12),
  eviction('keep-66', 0.66, 12),
  eviction('keep-50', 0.5, 12),
  { ...PRESETS.mpcache, name: 'clusters-8', dynamic: { ...PRESETS.mpcache.dynamic!, sizes: [8] } },
];

export const POLICY_NAMES: readonly string[] = Object.keys(PRESETS);

/** A policy from JSON, defaults filled in; `from` is a file or a preset. @throws CachetError 'policy' naming the field. */
export function parsePolicy(json: unknown, from: string): Policy {
  const parsed = policySchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new CachetError({
    code: 'policy',
    step: `${from}, ${issue.path.join('.') || 'top level'}`,
    what: 'bad cache policy',
    expected: '{ "name", "static", "dynamic", "sharing", "skipLayers", "layers", "streaming" }',
    got: issue.code === 'unrecognized_keys' && !areFieldNames(issue.keys) ? 'fields of other names' : issue.message,
    hint: 'cachet policy --json prints the presets as examples',
  });
}

/** Whether a policy can be followed by a model of this shape. @throws CachetError 'policy' naming the field. */
export function checkPolicy(p: Policy, shape: Pick<ModelShape, 'layers' | 'kvHeads'>): void {
  const refuse = (field: string, expected: string, got: unknown): never => {
    throw new CachetError({
      code: 'policy',
      step: `policy ${p.name}, ${field}`,
      what: 'cache policy that the model cannot follow',
      expected,
      got: JSON.stringify(got),
      hint: 'another policy, or a file with this field changed',
    });
  };
  const isLayer = (l: number): boolean => l < shape.layers,
    layers = `layers from 0 to ${shape.layers - 1}`;
  if (!p.skipLayers.every(isLayer) || new Set(p.skipLayers).size < p.skipLayers.length) refuse('skipLayers', `${layers}, each once`, p.skipLayers);
  if (p.dynamic) {
    const { sizes, ratio } = p.dynamic;
    if (!sizes.every((s, i) => i === 0 || (s < sizes[i - 1]! && sizes[i - 1]! % s === 0)))
      refuse('dynamic.sizes', 'cluster sizes, each a multiple of the next', sizes);
    checkRatio('dynamic.ratio', ratio);
  }
  if (typeof p.sharing !== 'string') {
    const all = p.sharing.flat();
    for (const group of p.sharing)
      if (!group.every((l, i) => isLayer(l) && (i === 0 || l > group[i - 1]!))) refuse('sharing', `groups of rising ${layers}`, group);
    if (new Set(all).size < all.length) refuse('sharing', 'no layer in two groups', p.sharing);
    const skipped = all.find((l) => p.skipLayers.includes(l));
    if (skipped !== undefined) refuse('sharing', 'no layer of skipLayers in a group', skipped);
  }
  for (const [key, own] of Object.entries(p.layers)) {
    const l = Number(key);
    if (!isLayer(l) || p.skipLayers.includes(l)) refuse('layers', `${layers}, none of skipLayers`, l);
    if (chooserOf(p, l, shape.layers) !== l) refuse('layers', 'layers that choose for themselves', l);
    if (own.keep !== undefined && !p.static) refuse(`layers.${l}.keep`, 'a static policy', 'none');
    if (own.ratio !== undefined && !p.dynamic) refuse(`layers.${l}.ratio`, 'a dynamic policy', 'none');
    if (own.spread !== undefined && !p.dynamic) refuse(`layers.${l}.spread`, 'a dynamic policy', 'none');
    if (own.ratio !== undefined) checkRatio(`layers.${l}.ratio`, own.ratio);
  }
  for (const [key, heads] of Object.entries(p.streaming)) {
    const l = Number(key);
    if (!p.dynamic) refuse('streaming', 'a dynamic policy', 'none');
    if (!isLayer(l) || p.skipLayers.includes(l)) refuse('streaming', `${layers}, none of skipLayers`, l);
    if (!heads.every((h) => h < shape.kvHeads) || new Set(heads).size < heads.length)
      refuse(`streaming.${l}`, `key/value heads from 0 to ${shape.kvHeads - 1}, each once`, heads);
  }
  function checkRatio(field: string, ratio: readonly number[]): void {
    const levels = p.dynamic!.sizes.length;
    if (ratio.length !== levels || !ratio.every((r, i) => i === 0 || r <= ratio[i - 1]!)) refuse(field, `${levels} shares, none above the one before`, ratio);
  }
}

/** JSON that is the same text for the same policy, for hashing and comparing: keys in order, no blanks. */
export const canonicalPolicy = (p: Policy): string => canonical(p);

function canonical(value: unknown): string {
  const sorted = (v: unknown): unknown =>
    Array.isArray(v)
      ? v.map(sorted)
      : typeof v === 'object' && v !== null
        ? Object.fromEntries(
            Object.entries(v)
              .filter(([, x]) => x !== undefined)
              .sort(([a], [b]) => (a < b ? -1 : 1))
              .map(([k, x]) => [k, sorted(x)]),
          )
        : v;
  return JSON.stringify(sorted(value));
}

/** The first field in which two policies differ, and its values as text of bounded length; undefined where they are the same. */
export function policyDifference(expected: Policy, got: Policy): { readonly field: string; readonly expected: string; readonly got: string } | undefined {
  const field = (Object.keys(policySchema.shape) as (keyof Policy)[]).find((k) => canonical(expected[k]) !== canonical(got[k])),
    text = (v: unknown): string => canonical(v).slice(0, 300);
  return field && { field, expected: text(expected[field]), got: text(got[field]) };
}

/** A policy in one line, for people. */
export function describePolicy(p: Policy): string {
  const part = (v: number): string => `${Math.round(1000 * v) / 10} %`;
  const pieces: string[] = [];
  if (p.static) {
    const { keep, window, heads, ranking: by } = p.static,
      kept = typeof keep === 'number' ? `${part(keep)} of the prompt` : `${keep.tokens} tokens of the prompt`,
      voters = typeof window === 'number' ? `last ${part(window)} of the queries` : `last ${window.queries} queries`;
    pieces.push(`keeps ${kept} (${voters}, ${heads} over heads, by ${by})`);
  }
  const streaming = Object.keys(p.streaming),
    streamsAlone = !p.static && p.dynamic?.ratio.at(-1) === 1 && streaming.length > 0 && Object.keys(p.layers).length === 0;
  if (p.dynamic && streamsAlone) {
    const { sizes, always } = p.dynamic,
      heads = streaming.map((l) => `${l}: ${p.streaming[l]!.join(' ')}`).join('; '),
      [first, recent] = [always.first, always.recent].map((n) => n * sizes.at(-1)!);
    pieces.push(
      `${Object.values(p.streaming).flat().length} key/value heads attend to the first ${first} and the newest ${recent} tokens alone, the others to all (${heads})`,
    );
  } else if (p.dynamic) {
    const d = p.dynamic,
      score = d.score === 'minmax' ? `minmax ${d.alpha}` : d.score;
    pieces.push(
      `attends to ${d.ratio.map(part).join(' > ')} of clusters of ${d.sizes.join(' > ')} (${score}, ${d.bits} bits, per ${d.perHead === 'kv' ? 'key/value' : 'query'} head, by ${d.ranking}), the first ${d.always.first} and newest ${d.always.recent} always`,
    );
    if (d.gather === 'values') pieces.push('gathers keys and values');
    if (d.reuse > 1) pieces.push(`a choice serves ${d.reuse} tokens`);
  }
  if (pieces.length === 0) return `${p.name}: every token attends to all`;
  if (p.sharing === 'pairs') pieces.push('layers in pairs');
  else if (p.sharing !== 'none') pieces.push(`layers ${p.sharing.map((g) => g.join('+')).join(' ')} together`);
  if (streamsAlone) return `${p.name}: ${pieces.join('; ')}`;
  if (p.skipLayers.length > 0) pieces.push(`layers ${p.skipLayers.join(' ')} full`);
  if (Object.keys(p.layers).length > 0) pieces.push(`own budgets in layers ${Object.keys(p.layers).join(' ')}`);
  if (streaming.length > 0) pieces.push(`streaming heads in layers ${streaming.join(' ')}`);
  return `${p.name}: ${pieces.join('; ')}`;
}

/** The layer whose choices a layer follows: its own number where it chooses for itself. Of `layers` layers. */
export function chooserOf(p: Policy, layer: number, layers: number): number {
  if (p.sharing === 'none') return layer;
  if (p.sharing === 'pairs') {
    const first = layer - (layer % 2),
      alone = first < 2 || first + 1 >= layers || p.skipLayers.includes(first) || p.skipLayers.includes(first + 1);
    return alone ? layer : first;
  }
  return p.sharing.find((g) => g.includes(layer))?.find((l) => !p.skipLayers.includes(l)) ?? layer;
}

/** Private prompt tokens that survive in a layer, of `tokens`: public and exact. Of `layers` layers. */
export function keptTokens(p: Policy, layer: number, tokens: number, layers: number): number {
  if (!p.static || p.skipLayers.includes(layer)) return tokens;
  const keep = p.layers[chooserOf(p, layer, layers)]?.keep ?? p.static.keep;
  return typeof keep === 'number' ? Math.max(1, Math.min(tokens, Math.round(keep * tokens))) : Math.min(tokens, keep.tokens);
}

/** Queries that vote in static eviction, of `tokens` prompt tokens. */
export function votingQueries(p: StaticPolicy, tokens: number): number {
  return typeof p.window === 'number' ? Math.max(1, Math.round(p.window * tokens)) : Math.min(tokens, p.window.queries);
}

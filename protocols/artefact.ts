/**
 * The integer artefact: whatever two parties must agree on bit for bit, made once by `prepare` and hashed into every session: int16 weights, RoPE tables,
 * spline, exponential and Fourier tables, calibrated plans, the public prefix's keys and values; for the client the embedding, final norm and head.
 *
 * A file in the safetensors format whose metadata entry `cachet` is the JSON below; equal tables are stored once. The client's tensors come last: parties keep
 * the part before them. The digest is SHA-256 over the file.
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js';
import { z } from 'zod';
import type { Engine } from './engines/engine.ts';
import { CachetError } from './errors.ts';
import { bindSecret } from './secret.ts';
import type { ExpPlan } from './gates/expTable.ts';
import type { FourierPlan } from './gates/fourier.ts';
import { WORD_BITS } from './gates/linear.ts';
import type { LookupTable } from './gates/lookup.ts';
import { bindWindows, type WindowsPlan } from './gates/windows.ts';
import { ARCHITECTURES, type ModelShape } from './models/config.ts';
import { PROJECTIONS, type ProjectionName } from './models/fold.ts';
import { readSafetensors, type Safetensors } from './models/safetensors.ts';
import { bytesSource, type ByteSource } from './models/source.ts';
import { SCALE, type AttentionPlan, type LayerPlan, type MlpPlan, type ModelPlan, type NormPlan, type Projection } from './programs/plan.ts';
import type { Constant } from './tensor.ts';

export const ARTEFACT_VERSION = 3;

const integer = z.number().int();
const splineSchema = z.strictObject({
  inputScale: integer,
  outputScale: integer,
  low: integer,
  domainBits: integer.min(1).max(64),
  keyBits: integer.min(1).max(32),
  firstCell: integer.min(0),
  cells: integer.min(1),
  degree: integer.min(0).max(3),
  coefficients: z.string(),
});
const windowsSchema = z.strictObject({
  f: z.discriminatedUnion('name', [
    z.strictObject({ name: z.literal('reciprocal') }),
    z.strictObject({ name: z.literal('rsqrt'), width: integer, eps: z.number() }),
  ]),
  low: z.number().positive(),
  high: z.number().positive(),
  outputScale: integer,
  splines: z.array(splineSchema).min(1),
});
const normSchema = z.strictObject({ openBits: integer, scale: integer, sumBits: integer, rsqrt: windowsSchema, rsqrtScale: integer });
const projectionSchema = z.strictObject({ fraction: integer, bias: z.boolean() });
const layerSchema = z.strictObject({
  norm1: normSchema,
  norm2: normSchema,
  attention: z.strictObject({
    reference: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('public') }),
      z.strictObject({ kind: z.literal('buckets'), low: integer, first: integer, count: integer.min(1).max(64) }),
    ]),
    exp: z.strictObject({
      inputScale: integer,
      low: integer,
      domainBits: integer,
      cellsLog2: integer,
      outputScale: integer,
      shifts: z.array(z.number()).min(1),
      tables: z.string(),
    }),
    reciprocal: windowsSchema,
    reciprocalScale: integer,
    bits: integer,
  }),
  mlp: z.strictObject({
    kind: z.enum(['gated', 'plain']),
    activation: z.strictObject({
      name: z.enum(['silu', 'gelu', 'gelu-tanh']),
      inputScale: integer,
      periodBits: integer,
      terms: integer,
      edge: z.number(),
      bits: integer,
      drop: integer,
      constant: integer,
      tables: z.string(),
    }),
  }),
  projections: z.partialRecord(z.enum(PROJECTIONS), projectionSchema),
});
/** Who has a file of a private model. The owner's, with everything, is never written. */
export const SECRET_ROLES = ['p0', 'p1', 'helper', 'client', 'owner'] as const;
export type SecretRole = (typeof SECRET_ROLES)[number];

const secretSchema = z.strictObject({
  role: z.enum(SECRET_ROLES),
  /** Names the split: 32 random bytes, hex. */
  split: z.string().regex(/^[0-9a-f]{64}$/),
  /** Scale of the embeddings. */
  entryScale: integer,
  positions: z.boolean(),
  /** Per layer, of the matrices after the first and after the second norm: bits over which their operand is opened; whether they are over Z_2^64. */
  layers: z.array(z.strictObject({ operands: z.tuple([integer, integer]), wide: z.tuple([z.boolean(), z.boolean()]) })),
  head: z.strictObject({ norm: normSchema, operandBits: integer, wide: z.boolean(), fraction: integer, bias: z.boolean() }),
  /** Where the client gets the most likely token alone: logits lie within (-2^range, 2^range). */
  hideLogits: z.strictObject({ range: integer }).optional(),
});
const shapeSchema = z.strictObject({
  layers: integer.positive(),
  width: integer.positive(),
  heads: integer.positive(),
  kvHeads: integer.positive(),
  headDim: integer.positive(),
  inner: integer.positive(),
  vocab: integer.positive(),
  maxPositions: integer.positive(),
  architecture: z.enum(ARCHITECTURES),
  rope: z
    .strictObject({
      theta: z.number(),
      scaling: z.strictObject({ factor: z.number(), lowFreqFactor: z.number(), highFreqFactor: z.number(), originalMaxPositions: z.number() }).nullable(),
    })
    .nullable(),
  norm: z.enum(['rms', 'layer']),
  eps: z.number(),
  activation: z.enum(['silu', 'gelu', 'gelu-tanh']),
  tied: z.boolean(),
  bosId: integer.nullable(),
  eosIds: z.array(integer),
});
export const headerSchema = z.strictObject({
  version: z.literal(ARTEFACT_VERSION),
  name: z.string(),
  shape: shapeSchema,
  residualScale: integer,
  prefixIds: z.array(integer),
  layers: z.array(layerSchema).min(1),
  /** Only where weights are private. */
  secret: secretSchema.optional(),
});
export type ArtefactHeader = z.infer<typeof headerSchema>;
export type LayerHeader = ArtefactHeader['layers'][number];

export interface Artefact {
  /** SHA-256 of the file, hex. */
  readonly digest: string;
  /** The file. */
  readonly source: ByteSource;
  readonly name: string;
  readonly shape: ModelShape;
  readonly residualScale: number;
  readonly prefixIds: readonly number[];
  readonly header: ArtefactHeader;
  readonly tensors: Safetensors;
}

const CHUNK = 1 << 22;

function digestOf(source: ByteSource): string {
  const hash = sha256.create();
  for (let at = 0; at < source.size; at += CHUNK) hash.update(source.read(at, Math.min(source.size, at + CHUNK)));
  return bytesToHex(hash.digest());
}

/** Bytes at the beginning of the file that parties need: all but the client's tensors. */
export const partyBytes = (a: Artefact): number => (a.header.secret ? a.source.size : a.tensors.offset(FIRST_OF_CLIENT));

/** The client's tensor that comes first in the file. */
const FIRST_OF_CLIENT = 'embed';

/** What only the client needs: embeddings, positions, final norm and head. */
export interface ClientTensors {
  /** [vocab, width] */
  readonly embed: Float32Array;
  readonly positions: Float32Array | undefined;
  readonly finalNorm: Float32Array;
  readonly finalNormBias: Float32Array | undefined;
  /** [vocab, width]; the embedding itself where tied. */
  readonly head: Float32Array;
}

const clientTensorsOf = new WeakMap<Artefact, ClientTensors>();

/** Read once for an artefact. @throws CachetError 'model' if the artefact was read without them, 'policy' if its weights are private. */
export function clientTensors(a: Artefact): ClientTensors {
  if (a.header.secret)
    throw new CachetError({
      code: 'policy',
      what: 'no embedding and head: the weights are private',
      expected: 'an artefact with open weights',
      got: `the part of ${a.header.secret.role}`,
      hint: "the owner's own folder",
    });
  let found = clientTensorsOf.get(a);
  if (!found) {
    const { tensors, shape } = a,
      embed = tensors.float32('embed');
    found = {
      embed,
      positions: tensors.names.includes('positions') ? tensors.float32('positions') : undefined,
      finalNorm: tensors.float32('finalNorm'),
      finalNormBias: tensors.names.includes('finalNormBias') ? tensors.float32('finalNormBias') : undefined,
      head: shape.tied ? embed : tensors.float32('head'),
    };
    clientTensorsOf.set(a, found);
  }
  return found;
}

/** [word of parities is not 0] as a share over Z_2^7: references are counts of buckets. */
export const NONZERO = { bits: WORD_BITS, outBits: 7, table: Uint8Array.from({ length: 2 ** WORD_BITS }, (_, i) => (i === 0 ? 0 : 1)) };

/** Of what all files of a split have in common. */
const digestOfSplit = (header: ArtefactHeader): string =>
  bytesToHex(sha256(utf8ToBytes(JSON.stringify({ ...header, secret: { ...header.secret, role: undefined } }))));

/** `digest`: of the file, where it is already known; a private model's is that of its split. @throws CachetError 'artefact' if the bytes are no artefact of this version. */
export function readArtefact(file: Uint8Array | ByteSource, digest?: string): Artefact {
  const source = file instanceof Uint8Array ? bytesSource(file) : file;
  const tensors = readSafetensors(source),
    text = tensors.metadata['cachet'];
  if (text === undefined)
    throw new CachetError({
      code: 'artefact',
      what: 'not a Cachet artefact',
      expected: 'a model.cachet file',
      got: 'a safetensors file without Cachet metadata',
      hint: 'cachet prepare --model DIR',
    });
  const parsed = headerSchema.safeParse(JSON.parse(text));
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new CachetError({
      code: 'artefact',
      what: `bad artefact header at ${issue.path.join('.') || 'top level'}`,
      expected: `version ${ARTEFACT_VERSION}`,
      got: issue.message,
      hint: 'prepare the model again with this version',
    });
  }
  const header = parsed.data;
  return {
    digest: header.secret ? digestOfSplit(header) : (digest ?? digestOf(source)),
    source,
    name: header.name,
    shape: header.shape,
    residualScale: header.residualScale,
    prefixIds: header.prefixIds,
    header,
    tensors,
  };
}

/** Sizes of a layer's matrices. */
export function projectionSizes({ heads, kvHeads, headDim, width, inner }: ModelShape): Record<ProjectionName, readonly [inner: number, cols: number]> {
  const qSize = heads * headDim,
    kSize = kvHeads * headDim;
  return { q: [width, qSize], k: [width, kSize], v: [width, kSize], o: [qSize, width], gate: [width, inner], up: [width, inner], down: [inner, width] };
}

/** Places the artefact's constants into an engine. */
export function bindPlan(e: Engine, a: Artefact): ModelPlan {
  const { shape, header, tensors } = a,
    cache = new Map<string, Constant>();
  const table = <T extends ArrayBufferView>(name: string, read: () => T): Constant<T> => {
    const known = cache.get(name) ?? e.constant('tables', read());
    cache.set(name, known);
    return known as Constant<T>;
  };
  const int64 = (name: string): Constant<BigInt64Array> => table(name, () => tensors.int64(name));
  const windows = (w: LayerHeader['attention']['reciprocal']) =>
    bindWindows(
      w as WindowsPlan,
      w.splines.map((s) => int64(s.coefficients)),
    );
  const norm = (n: LayerHeader['norm1']): NormPlan => ({ ...n, rsqrt: windows(n.rsqrt) });
  const sizes = projectionSizes(shape),
    secret = header.secret && bindSecret(e, header, tensors);
  const projection = (l: number, name: ProjectionName): Projection => {
    const file = `layers.${l}.${name}`,
      plan = header.layers[l]!.projections[name];
    if (!plan) throw new CachetError({ code: 'artefact', step: file, what: 'matrix missing', expected: 'its scale in the header', got: 'none' });
    const [rows, cols] = sizes[name];
    if (secret) return secret.projection(file, plan.fraction, plan.bias);
    const got = tensors.shape(file).join(' x ');
    if (got !== `${cols} x ${rows}`) throw new CachetError({ code: 'artefact', step: file, what: 'wrong size', expected: `${cols} x ${rows}`, got });
    return {
      ...e.weights({ elements: rows * cols, copy: (target) => tensors.copy(file, target), read: () => tensors.int16(file) }),
      inner: rows,
      cols,
      fraction: plan.fraction,
      bias: plan.bias ? e.constant('tables', tensors.int64(`${file}.bias`)) : undefined,
    };
  };
  const layers = header.layers.map(({ norm1, norm2, attention, mlp }, l): LayerPlan => {
    const activation = { ...(mlp.activation as FourierPlan), tables: int64(mlp.activation.tables) },
      up = projection(l, 'up'),
      down = projection(l, 'down');
    return {
      norm1: norm(norm1),
      norm2: norm(norm2),
      attention: {
        reference: attention.reference as AttentionPlan['reference'],
        exp: { ...(attention.exp as ExpPlan), tables: table(attention.exp.tables, () => new BigUint64Array(tensors.int64(attention.exp.tables).buffer)) },
        reciprocal: windows(attention.reciprocal),
        reciprocalScale: attention.reciprocalScale,
        bits: attention.bits,
      },
      q: projection(l, 'q'),
      k: projection(l, 'k'),
      v: projection(l, 'v'),
      o: projection(l, 'o'),
      mlp: (mlp.kind === 'gated'
        ? { kind: 'gated', gate: projection(l, 'gate'), up, activation, down }
        : { kind: 'plain', up, activation, down }) satisfies MlpPlan,
    };
  });
  return {
    shape,
    residualScale: a.residualScale,
    prefixIds: a.prefixIds,
    prefixKeys: secret ? [] : layers.map((_, i) => tensors.int64(`layers.${i}.prefixKeys`)),
    prefixValues: secret ? [] : layers.map((_, i) => tensors.int64(`layers.${i}.prefixValues`)),
    rope: shape.rope
      ? { cos: table('rope.cos', () => tensors.int32('rope.cos')), sin: table('rope.sin', () => tensors.int32('rope.sin')), fraction: SCALE.rope }
      : undefined,
    nonzero: { ...NONZERO, table: e.constant('tables', NONZERO.table) } satisfies LookupTable,
    layers,
    ...(secret && { secret: secret.ends(norm) }),
  };
}

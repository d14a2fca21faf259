/**
 * The integer artefact: whatever two parties must agree on bit for bit, made once by `prepare` and hashed into every session: int16 weights, RoPE tables,
 * spline, exponential and Fourier tables, calibrated plans, the public prefix's keys and values; for the client the embedding, final norm and head.
 *
 * A file in the safetensors format whose metadata entry `cachet` is the JSON below; equal tables are stored once. The digest is SHA-256 over the file.
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import { z } from 'zod';
import type { Engine } from './engines/engine.ts';
import { CachetError } from './errors.ts';
import type { ExpPlan } from './gates/expTable.ts';
import type { FourierPlan } from './gates/fourier.ts';
import { bindWindows, type WindowsPlan } from './gates/windows.ts';
import { ARCHITECTURES, type ModelShape } from './models/config.ts';
import { readSafetensors, type Safetensors } from './models/safetensors.ts';
import type { LayerPlan, LlamaPlan, NormPlan } from './programs/plan.ts';
import type { Constant, Matrix } from './tensor.ts';

export const ARTEFACT_VERSION = 1;

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
const normSchema = z.strictObject({ squareScale: integer, openBits: integer, rsqrt: windowsSchema });
const layerSchema = z.strictObject({
  norm1: normSchema,
  norm2: normSchema,
  lowBucket: integer,
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
  silu: z.strictObject({
    name: z.literal('silu'),
    inputScale: integer,
    periodBits: integer,
    terms: integer,
    edge: z.number(),
    bits: integer,
    outputScale: integer,
    slope: integer,
    constant: integer,
    tables: z.string(),
  }),
  fractions: z.strictObject({ qkv: integer, o: integer, gateUp: integer, down: integer }),
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
  prefixIds: z.array(integer),
  layers: z.array(layerSchema).min(1),
});
export type ArtefactHeader = z.infer<typeof headerSchema>;
export type LayerHeader = ArtefactHeader['layers'][number];

export interface Artefact {
  /** SHA-256 of the file, hex. */
  readonly digest: string;
  readonly bytes: Uint8Array;
  readonly name: string;
  readonly shape: ModelShape;
  readonly prefixIds: readonly number[];
  /** For the client: [vocab, width], [width], [vocab, width]. */
  readonly embed: Float32Array;
  readonly finalNorm: Float32Array;
  readonly head: Float32Array;
  readonly header: ArtefactHeader;
  readonly tensors: Safetensors;
}

/** `digest`, where it is already known, is not computed again. @throws CachetError 'artefact' if the bytes are no artefact of this version. */
export function readArtefact(bytes: Uint8Array, digest = bytesToHex(sha256(bytes))): Artefact {
  const tensors = readSafetensors(bytes),
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
  const header = parsed.data,
    embed = tensors.float32('embed');
  return {
    digest,
    bytes,
    name: header.name,
    shape: header.shape,
    prefixIds: header.prefixIds,
    embed,
    finalNorm: tensors.float32('finalNorm'),
    head: header.shape.tied ? embed : tensors.float32('head'),
    header,
    tensors,
  };
}

/** Places the artefact's constants into an engine. */
export function bindPlan(e: Engine, a: Artefact): LlamaPlan {
  const { shape, header, tensors } = a,
    cache = new Map<string, Constant>();
  const table = <T extends ArrayBufferView>(name: string, read: () => T): Constant<T> => {
    const known = cache.get(name) ?? e.constant('tables', read());
    cache.set(name, known);
    return known as Constant<T>;
  };
  const int64 = (name: string): Constant<BigInt64Array> => table(name, () => tensors.int64(name));
  const windows = (w: LayerHeader['reciprocal']) =>
    bindWindows(
      w as WindowsPlan,
      w.splines.map((s) => int64(s.coefficients)),
    );
  const norm = (n: LayerHeader['norm1']): NormPlan => ({ squareScale: n.squareScale, openBits: n.openBits, rsqrt: windows(n.rsqrt) });
  const matrix = (name: string, inner: number, cols: number, fraction: number): Matrix => {
    const array = tensors.int16(name);
    if (array.length !== inner * cols)
      throw new CachetError({ code: 'artefact', step: name, what: 'wrong size', expected: `${cols} x ${inner}`, got: `${array.length} elements` });
    return { ...e.constant('weights', array), cols, inner, fraction };
  };
  const qSize = shape.heads * shape.headDim,
    kSize = shape.kvHeads * shape.headDim;
  const nonzero = new Uint8Array(32).fill(255);
  nonzero[0] = 254;
  const layers = header.layers.map((l, i): LayerPlan => ({
    norm1: norm(l.norm1),
    norm2: norm(l.norm2),
    lowBucket: l.lowBucket,
    exp: { ...(l.exp as ExpPlan), tables: table(l.exp.tables, () => new BigUint64Array(tensors.int64(l.exp.tables).buffer)) },
    reciprocal: windows(l.reciprocal),
    silu: { ...(l.silu as FourierPlan), tables: int64(l.silu.tables) },
    qkv: matrix(`layers.${i}.qkv`, shape.width, qSize + 2 * kSize, l.fractions.qkv),
    o: matrix(`layers.${i}.o`, qSize, shape.width, l.fractions.o),
    gateUp: matrix(`layers.${i}.gateUp`, shape.width, 2 * shape.inner, l.fractions.gateUp),
    down: matrix(`layers.${i}.down`, shape.inner, shape.width, l.fractions.down),
  }));
  return {
    shape,
    prefixIds: a.prefixIds,
    prefixKeys: layers.map((_, i) => tensors.int64(`layers.${i}.prefixKeys`)),
    prefixValues: layers.map((_, i) => tensors.int64(`layers.${i}.prefixValues`)),
    rope: { cos: table('rope.cos', () => tensors.int32('rope.cos')), sin: table('rope.sin', () => tensors.int32('rope.sin')), fraction: 12 },
    nonzero: { bits: 8, table: e.constant('tables', nonzero) },
    layers,
  };
}

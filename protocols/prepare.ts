/**
 * `prepare`: from a Llama's weights and sample text to the integer artefact: quantise, compute the public prefix's keys and values, calibrate every range
 * with the Float engine, fit the tables, refuse what would overflow (with the layer's name).
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import { ARTEFACT_VERSION, headerSchema, type ArtefactHeader, type LayerHeader } from './artefact.ts';
import { Float } from './engines/float.ts';
import { CachetError } from './errors.ts';
import { expTables, type ExpPlan } from './gates/expTable.ts';
import { fitFourier } from './gates/fourier.ts';
import { WEIGHT_SCALE } from './gates/linear.ts';
import { fitWindows, type WindowFunction, type WindowsPlan } from './gates/windows.ts';
import type { ModelWeights } from './models/weights.ts';
import { writeSafetensors, type TensorData } from './models/safetensors.ts';
import { createCache } from './programs/attention.ts';
import { forward } from './programs/llama.ts';
import { SCALE, type LayerPlan, type LlamaPlan } from './programs/plan.ts';
import type { Matrix } from './tensor.ts';

export interface PrepareOptions {
  readonly name: string;
  readonly weights: ModelWeights;
  /** Token ids of the public prefix. */
  readonly prefixIds: readonly number[];
  /** Token ids of the calibration documents, each beginning with the prefix. */
  readonly documents: readonly (readonly number[])[];
  readonly onProgress?: (done: number, total: number) => void;
}

/** Largest and smallest value of a named quantity, per layer. */
export type Ranges = ReadonlyMap<string, { readonly min: number; readonly max: number }>;

export interface Prepared {
  readonly bytes: Uint8Array;
  readonly ranges: Ranges;
  /** What the tables lose, per layer. */
  readonly report: readonly {
    readonly layer: number;
    readonly logitNats: number;
    readonly siluTerms: number;
    readonly siluError: number;
    readonly normRange: readonly [number, number];
  }[];
}

/** Factor by which calibrated ranges are widened on both sides. */
const MARGIN = { squares: 4, gate: 1.15, logits: 8, relative: 12, values: 1.5 };
const SILU_ERROR = 6e-4;
/** Upper end of the exponential's domain, nats above the reference; the top cell of 16 nats is spare. */
const EXP_TOP = 28;

export function prepare(o: PrepareOptions): Prepared {
  const { shape } = o.weights,
    matrices = quantise(o.weights);
  const reference = referencePlan(o.weights, matrices);
  const prefix = prefixCache(reference, o.weights, o.prefixIds);
  const plan = { ...reference, prefixIds: o.prefixIds, prefixKeys: prefix.keys, prefixValues: prefix.values };
  const ranges = calibrate(plan, o);
  const tensors = new Map<string, TensorData>();
  const layers = plan.layers.map((_, l) => planLayer(o.weights, l, ranges, matrices[l]!, tensors));
  matrices.forEach((m, l) => {
    for (const key of ['qkv', 'o', 'gateUp', 'down'] as const)
      tensors.set(`layers.${l}.${key}`, { dtype: 'I16', shape: [m[key].cols, m[key].inner], data: m[key].array });
    tensors.set(`layers.${l}.prefixKeys`, { dtype: 'I64', shape: [prefix.keys[l]!.length], data: prefix.keys[l]! });
    tensors.set(`layers.${l}.prefixValues`, { dtype: 'I64', shape: [prefix.values[l]!.length], data: prefix.values[l]! });
  });
  tensors.set('rope.cos', { dtype: 'I32', shape: [shape.maxPositions, shape.headDim / 2], data: plan.rope.cos.array });
  tensors.set('rope.sin', { dtype: 'I32', shape: [shape.maxPositions, shape.headDim / 2], data: plan.rope.sin.array });
  tensors.set('embed', { dtype: 'F32', shape: [shape.vocab, shape.width], data: o.weights.embed });
  tensors.set('finalNorm', { dtype: 'F32', shape: [shape.width], data: o.weights.finalNorm });
  if (!shape.tied) tensors.set('head', { dtype: 'F32', shape: [shape.vocab, shape.width], data: o.weights.head });
  const header: ArtefactHeader = headerSchema.parse({
    version: ARTEFACT_VERSION,
    name: o.name,
    shape,
    prefixIds: [...o.prefixIds],
    layers: layers.map((x) => x.header),
  });
  return { bytes: writeSafetensors(tensors, { cachet: JSON.stringify(header) }), ranges, report: layers.map((x) => x.report) };
}

type Matrices = Record<'qkv' | 'o' | 'gateUp' | 'down', Matrix>;

/** Norm gains and 1 / sqrt(headDim) folded in, rounded to int16 at 12 fraction bits, or fewer where a weight would not fit. */
function quantise(w: ModelWeights): Matrices[] {
  const { shape } = w,
    unit = shape.headDim ** -0.5;
  return w.layers.map((l, i) => {
    const gained = (m: Float32Array, gain: Float32Array | undefined, factor = 1): Float32Array =>
      m.map((v, at) => v * factor * (gain ? gain[at % gain.length]! : 1));
    const join = (...parts: Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((p) => [...p]));
    const matrix = (name: string, real: Float32Array, inner: number): Matrix => {
      const largest = real.reduce((a, v) => Math.max(a, Math.abs(v)), 0),
        fraction = Math.min(WEIGHT_SCALE, Math.floor(Math.log2(32767 / Math.max(largest, 1e-9))));
      if (!(fraction >= 4))
        throw new CachetError({
          code: 'range',
          step: `layer ${i}, ${name}`,
          what: 'weights too large for int16',
          expected: 'absolute values below 2048',
          got: String(largest),
        });
      return { pointer: 0, array: Int16Array.from(real, (v) => Math.round(v * 2 ** fraction)), real, inner, cols: real.length / inner, fraction };
    };
    return {
      qkv: matrix('q, k, v', join(gained(l.q, l.inputNorm, unit), gained(l.k, l.inputNorm), gained(l.v, l.inputNorm)), shape.width),
      o: matrix('o', l.o, shape.heads * shape.headDim),
      gateUp: matrix('gate, up', join(gained(l.gate!, l.postNorm), gained(l.up, l.postNorm)), shape.width),
      down: matrix('down', l.down, shape.inner),
    };
  });
}

/** A plan for the Float engine: exact functions, wide domains, unquantised weights; no prefix yet. */
function referencePlan(w: ModelWeights, matrices: readonly Matrices[]): LlamaPlan {
  const { shape } = w,
    half = shape.headDim / 2,
    size = shape.maxPositions * half;
  const angle = (i: number): number => Math.floor(i / half) * shape.rope!.theta ** (-(i % half) / half);
  const table = (f: (x: number) => number) => ({ pointer: 0, array: Int32Array.from({ length: size }, (_, i) => Math.round(f(angle(i)) * 4096)) });
  const windows = (f: WindowFunction, outputScale: number) => ({ f, low: 0, high: 2 ** 40, outputScale, splines: [{ ...IDLE_SPLINE, outputScale }] });
  const norm = { squareScale: 12, openBits: 52, rsqrt: windows({ name: 'rsqrt', width: shape.width, eps: shape.eps }, SCALE.rsqrt) };
  const layers = matrices.map((m): LayerPlan => ({
    ...m,
    norm1: norm,
    norm2: norm,
    lowBucket: -32,
    exp: {
      inputScale: 12,
      low: 0,
      domainBits: 19,
      cellsLog2: 4,
      outputScale: SCALE.probability,
      shifts: [0],
      tables: { pointer: 0, array: new BigUint64Array(0) },
    },
    reciprocal: windows({ name: 'reciprocal' }, SCALE.reciprocal),
    silu: {
      name: 'silu',
      inputScale: 12,
      periodBits: 17,
      terms: 16,
      edge: 12,
      bits: 56,
      outputScale: SCALE.silu,
      slope: 0,
      constant: 0,
      tables: { pointer: 0, array: new BigInt64Array(0) },
    },
  }));
  return {
    shape,
    prefixIds: [],
    prefixKeys: layers.map(() => new BigInt64Array(0)),
    prefixValues: layers.map(() => new BigInt64Array(0)),
    rope: { cos: table(Math.cos), sin: table(Math.sin), fraction: 12 },
    nonzero: { bits: 8, table: { pointer: 0, array: nonzeroTable() } },
    layers,
  };
}

/** A spline of no cells: the Float engine takes f itself (Engine.windows), this only carries the shapes. */
const IDLE_SPLINE = {
  inputScale: 0,
  low: 0,
  domainBits: 1,
  keyBits: 1,
  firstCell: 0,
  cells: 0,
  degree: 0,
  coefficients: { pointer: 0, array: new BigInt64Array(0) },
};

function nonzeroTable(): Uint8Array {
  const table = new Uint8Array(32).fill(255);
  table[0] = 254;
  return table;
}

/** Runs the Float engine on a batch of tokens at all positions; returns its caches. */
function run(plan: LlamaPlan, w: ModelWeights, ids: readonly number[], watch?: (name: string, values: Float64Array) => void) {
  const width = plan.shape.width,
    past = plan.prefixIds.length;
  const float = new Float({ next: () => Float64Array.from(ids.flatMap((id) => [...w.embed.subarray(id * width, (id + 1) * width)])), emit: () => undefined });
  if (watch) float.watch = (name, x) => watch(name, x.real!);
  const caches = createCache(float, plan, past + ids.length);
  const program = (function* () {
    yield* forward(
      float,
      plan,
      caches,
      yield* float.input(ids.length * width, SCALE.residual),
      ids.length,
      { slots: past, position: past, unused: undefined },
      true,
    );
  })();
  for (const _ of program) void _;
  return caches;
}

function prefixCache(plan: LlamaPlan, w: ModelWeights, ids: readonly number[]): { keys: BigInt64Array[]; values: BigInt64Array[] } {
  const { kvHeads, headDim } = plan.shape;
  if (ids.length === 0) return { keys: plan.layers.map(() => new BigInt64Array(0)), values: plan.layers.map(() => new BigInt64Array(0)) };
  const caches = run(plan, w, ids);
  const pick = (real: Float64Array, scale: number): BigInt64Array =>
    BigInt64Array.from({ length: ids.length * kvHeads * headDim }, (_, i) => {
      const d = i % headDim,
        h = Math.floor(i / headDim) % kvHeads,
        t = Math.floor(i / (headDim * kvHeads));
      return BigInt(Math.round(real[(h * ids.length + t) * headDim + d]! * 2 ** scale));
    });
  return { keys: caches.map((c) => pick(c.keys.real!, SCALE.activation)), values: caches.map((c) => pick(c.values.real!, SCALE.value)) };
}

function calibrate(plan: LlamaPlan, o: PrepareOptions): Ranges {
  const ranges = new Map<string, { min: number; max: number }>();
  o.documents.forEach((document, i) => {
    const ids = document.slice(o.prefixIds.length);
    if (!o.prefixIds.every((id, at) => document[at] === id) || ids.length === 0 || document.length > plan.shape.maxPositions)
      throw new CachetError({
        code: 'usage',
        step: `calibration document ${i + 1}`,
        what: 'unusable',
        expected: `the public prefix, then text; at most ${plan.shape.maxPositions} tokens`,
        got: `${document.length} tokens`,
      });
    run(plan, o.weights, ids, (name, values) => {
      const r = ranges.get(name) ?? { min: Infinity, max: -Infinity };
      for (const v of values) {
        if (v < r.min) r.min = v;
        if (v > r.max) r.max = v;
      }
      ranges.set(name, r);
    });
    o.onProgress?.(i + 1, o.documents.length);
  });
  return ranges;
}

function planLayer(w: ModelWeights, l: number, ranges: Ranges, matrices: Matrices, tensors: Map<string, TensorData>) {
  const { shape } = w,
    at = (name: string) => ranges.get(`${l}.${name}`)!;
  const largest = (name: string): number => Math.max(-at(name).min, at(name).max);
  const refuse = (what: string, limit: number, got: number): void => {
    if (!(got < limit))
      throw new CachetError({
        code: 'range',
        step: `layer ${l}, ${what}`,
        what: 'the model would overflow',
        expected: `absolute values below ${limit}`,
        got: got.toPrecision(4),
        hint: 'a model with smaller activations, or a longer public prefix',
      });
  };
  // The budget of programs/plan.ts.
  refuse('queries and keys', 256, largest('qk') * MARGIN.values);
  refuse('values', 256, largest('v') * MARGIN.values);
  refuse('gate', 256, largest('gate'));
  refuse('up', 256, largest('up') * MARGIN.values);
  refuse('logits', 128 - MARGIN.logits, largest('logits'));
  refuse('spread of the logits', 128 - MARGIN.logits, at('logits').max - at('logits').min);
  refuse('attention output', 32, largest('attention') * MARGIN.values);
  refuse('SiLU(gate) up', 1024, largest('product') * MARGIN.values);
  refuse('residual stream', 2 ** 20, largest('stream'));

  const store = (array: BigInt64Array): string => {
    const name = `table.${bytesToHex(sha256(new Uint8Array(array.buffer))).slice(0, 16)}`;
    tensors.set(name, { dtype: 'I64', shape: [array.length], data: array });
    return name;
  };
  const windows = (f: WindowFunction, low: number, high: number, outputScale: number, maxInputScale: number): LayerHeader['reciprocal'] => {
    const { plan, coefficients } = fitWindows(f, low, high, outputScale, maxInputScale);
    return {
      ...(plan as { -readonly [K in keyof WindowsPlan]: WindowsPlan[K] }),
      splines: plan.splines.map((s, i) => ({ ...s, coefficients: store(coefficients[i]!) })),
    };
  };
  const norm = (squares: { min: number; max: number }): LayerHeader['norm1'] => {
    const low = 2 ** Math.floor(Math.log2(Math.max(squares.min, shape.eps * shape.width) / MARGIN.squares)),
      high = 2 ** Math.ceil(Math.log2(squares.max * MARGIN.squares));
    const squareScale = Math.max(6, Math.min(16, Math.ceil(9 - Math.log2((squares.min / shape.width) ** 0.5)), 39 - Math.log2(high)));
    return {
      squareScale,
      openBits: 2 * squareScale + Math.log2(high) + 1,
      rsqrt: windows({ name: 'rsqrt', width: shape.width, eps: shape.eps }, low, high, SCALE.rsqrt, 2 * squareScale),
    };
  };
  // Relative logits reach from a few missed buckets above the reference, for which there are 12 nats and the spare top cell, down to the row's lowest.
  const lowest = at('relative').min - MARGIN.relative,
    nats = lowest > EXP_TOP - 64 ? 64 : 128;
  refuse("logits below their row's maximum", 128 - EXP_TOP, -lowest);
  const exp: ExpPlan = {
    inputScale: 12,
    low: (EXP_TOP - nats) * 4096,
    domainBits: 12 + Math.log2(nats),
    cellsLog2: Math.log2(nats) - 4,
    outputScale: SCALE.probability,
    shifts: [0],
  };
  const silu = fitSilu(l, Math.max(largest('gate') * MARGIN.gate, 4));
  const contexts = 2 ** Math.ceil(Math.log2(shape.maxPositions));
  const first = ranges.get(`${l}.squares`)!,
    second = ranges.get(`${l}.squares2`)!;
  const header: LayerHeader = {
    norm1: norm(first),
    norm2: norm(second),
    lowBucket: Math.floor((at('logits').min + at('logits').max) / 4) - 32,
    exp: { ...exp, shifts: [...exp.shifts], tables: store(new BigInt64Array(expTables(exp).buffer)) },
    reciprocal: windows({ name: 'reciprocal' }, 2 ** -4, contexts * 2 ** 10, SCALE.reciprocal, SCALE.probability),
    silu: { ...silu.plan, tables: store(silu.tables) },
    fractions: { qkv: matrices.qkv.fraction, o: matrices.o.fraction, gateUp: matrices.gateUp.fraction, down: matrices.down.fraction },
  };
  return { header, report: { layer: l, logitNats: nats, siluTerms: silu.plan.terms, siluError: silu.error, normRange: [first.min, first.max] as const } };
}

/** The shortest cosine series that meets the error, of period 16 or 32. */
function fitSilu(layer: number, edge: number): ReturnType<typeof fitFourier> {
  for (const terms of [6, 8, 10, 12, 14, 16, 20, 24, 28, 32])
    for (const periodBits of [16, 17]) {
      if (edge >= 2 ** (periodBits - 13) - 0.5) continue;
      const fit = fitFourier({ name: 'silu', inputScale: 12, periodBits, terms, edge, bits: 56, outputScale: SCALE.silu });
      if (fit.error <= SILU_ERROR) return fit;
    }
  throw new CachetError({
    code: 'range',
    step: `layer ${layer}, SiLU`,
    what: 'input range too wide for a cosine series',
    expected: `about +-14 at most, error ${SILU_ERROR}`,
    got: `+-${edge.toFixed(1)}`,
    hint: 'a model with smaller gate activations',
  });
}

/**
 * `prepare`: from a model's weights and sample text to the integer artefact: fold norms into matrices, compute the public prefix's keys and values, calibrate
 * every range with the Float engine, choose scales, rings and domains by measured range, fit the tables, quantise; refuse what would overflow, with the
 * layer's name.
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import { ARTEFACT_VERSION, headerSchema, NONZERO, type ArtefactHeader, type LayerHeader } from './artefact.ts';
import { Float } from './engines/float.ts';
import { CachetError } from './errors.ts';
import { expTables, type ExpPlan } from './gates/expTable.ts';
import { fitFourier } from './gates/fourier.ts';
import { fitWindows, type WindowFunction, type WindowsPlan } from './gates/windows.ts';
import type { ModelShape } from './models/config.ts';
import { embedTokens } from './models/embedding.ts';
import { foldLayer, PROJECTIONS, type FoldedLayer, type FoldedMatrix, type ProjectionName } from './models/fold.ts';
import { ropeFrequencies } from './models/rope.ts';
import type { ModelWeights } from './models/weights.ts';
import { writeSafetensors, type TensorData } from './models/safetensors.ts';
import { createCache } from './programs/attention.ts';
import { SCALE, type LayerPlan, type ModelPlan, type Projection } from './programs/plan.ts';
import { forward } from './programs/transformer.ts';

/** What ranges are measured on. */
export interface CalibrationOptions {
  readonly weights: Pick<ModelWeights, 'shape' | 'embed' | 'positions'>;
  /** Token ids of the public prefix. */
  readonly prefixIds: readonly number[];
  /** Token ids of the calibration documents, each beginning with the prefix. */
  readonly documents: readonly (readonly number[])[];
  readonly onProgress?: (done: number, total: number) => void;
}

export interface PrepareOptions extends CalibrationOptions {
  readonly name: string;
  readonly weights: ModelWeights;
}

/** Largest and smallest value of a named quantity, per layer: `<layer>.<name>`. */
export type Ranges = ReadonlyMap<string, { readonly min: number; readonly max: number }>;

/** What `prepare` chose for a layer, and what its tables lose. */
export interface LayerReport {
  readonly layer: number;
  readonly reference: 'public' | 'buckets';
  readonly logitNats: number;
  readonly activationTerms: number;
  readonly activationError: number;
  readonly normRange: readonly [number, number];
  readonly weightBits: Readonly<Partial<Record<ProjectionName, number>>>;
}

export interface Prepared {
  readonly bytes: Uint8Array;
  readonly ranges: Ranges;
  readonly residualScale: number;
  readonly report: readonly LayerReport[];
}

/** Factors by which calibrated ranges are widened on both sides; `logits` and `relative` in nats. */
export const MARGIN = { squares: 4, gate: 1.4, logits: 8, relative: 10, values: 1.5, sums: 8 };
const ACTIVATION_ERROR = 6e-4;
/** Rows whose maxima are at most so many nats apart share a public reference. */
const PUBLIC_SPREAD = 8;
/** Usable nats above a reference by buckets: six buckets missed. */
const BUCKET_HEADROOM = 12;
const CELL_NATS = 16;

export function prepare(o: PrepareOptions): Prepared {
  const { shape } = o.weights,
    folded = o.weights.layers.map((l) => foldLayer(o.weights, l));
  const reference = referencePlan(shape, folded);
  const prefix = prefixCache(reference, o.weights, o.prefixIds);
  const ranges = calibrate({ ...reference, prefixIds: o.prefixIds, prefixKeys: prefix.keys, prefixValues: prefix.values }, o);
  const tensors = new Map<string, TensorData>(),
    residualScale = chooseResidualScale(shape, folded, ranges);
  const longest = Math.max(...o.documents.map((d) => d.length));
  const layers = folded.map((f, l) => planLayer(shape, l, f, ranges, residualScale, shape.maxPositions / longest, tensors));
  folded.forEach((_, l) => {
    tensors.set(`layers.${l}.prefixKeys`, { dtype: 'I64', shape: [prefix.keys[l]!.length], data: prefix.keys[l]! });
    tensors.set(`layers.${l}.prefixValues`, { dtype: 'I64', shape: [prefix.values[l]!.length], data: prefix.values[l]! });
  });
  if (reference.rope) {
    tensors.set('rope.cos', { dtype: 'I32', shape: [shape.maxPositions, shape.headDim / 2], data: reference.rope.cos.array });
    tensors.set('rope.sin', { dtype: 'I32', shape: [shape.maxPositions, shape.headDim / 2], data: reference.rope.sin.array });
  }
  const client = new Map<string, TensorData>([
    ['embed', { dtype: 'F32', shape: [shape.vocab, shape.width], data: o.weights.embed }],
    ['finalNorm', { dtype: 'F32', shape: [shape.width], data: o.weights.finalNorm }],
  ]);
  if (o.weights.positions) client.set('positions', { dtype: 'F32', shape: [shape.maxPositions, shape.width], data: o.weights.positions });
  if (o.weights.finalNormBias) client.set('finalNormBias', { dtype: 'F32', shape: [shape.width], data: o.weights.finalNormBias });
  if (!shape.tied) client.set('head', { dtype: 'F32', shape: [shape.vocab, shape.width], data: o.weights.head });
  const header: ArtefactHeader = headerSchema.parse({
    version: ARTEFACT_VERSION,
    name: o.name,
    shape,
    residualScale,
    prefixIds: [...o.prefixIds],
    layers: layers.map((x) => x.header),
  });
  return { bytes: writeSafetensors([tensors, client], { cachet: JSON.stringify(header) }), ranges, residualScale, report: layers.map((x) => x.report) };
}

// ---- calibration ------------------------------------------------------------------------------------------------------------------------

/** A plan for the Float engine from unquantised weights, without a public prefix: the reference of `evaluate`. */
export const floatPlan = (w: ModelWeights): ModelPlan =>
  referencePlan(
    w.shape,
    w.layers.map((l) => foldLayer(w, l)),
  );

/** A plan for the Float engine: exact functions, wide domains, unquantised weights; no prefix yet. */
function referencePlan(shape: ModelShape, folded: readonly FoldedLayer[]): ModelPlan {
  const R = 24,
    SUM_SCALE = 16 + 18 + 12,
    windows = (f: WindowFunction, outputScale: number) => ({ f, low: 0, high: 2 ** 40, outputScale, splines: [{ ...IDLE_SPLINE, outputScale }] });
  const norm = { openBits: 64, scale: 16, sumBits: 56, rsqrtScale: 18, rsqrt: windows({ name: 'rsqrt', width: shape.width, eps: shape.eps }, 18) };
  const projection = (m: FoldedMatrix, scale: number): Projection => ({
    pointer: 0,
    array: new Int16Array(0),
    real: m.weights,
    inner: m.inner,
    cols: m.cols,
    fraction: 12,
    bias: m.bias && { pointer: 0, array: integers(m.bias, scale) },
  });
  const activation = {
    name: shape.activation,
    inputScale: SCALE.activation,
    periodBits: 17,
    terms: 0,
    edge: Infinity,
    bits: shape.activation === 'silu' ? 56 : 64,
    drop: shape.activation === 'silu' ? 0 : 32 - R + 12,
    constant: 0,
    tables: { pointer: 0, array: new BigInt64Array(0) },
  };
  const layers = folded.map((f): LayerPlan => ({
    norm1: norm,
    norm2: norm,
    attention: {
      reference: { kind: 'public' },
      exp: {
        inputScale: 12,
        low: 0,
        domainBits: 20,
        cellsLog2: 4,
        outputScale: 16,
        shifts: [0],
        tables: { pointer: 0, array: new BigUint64Array(0) },
      },
      reciprocal: windows({ name: 'reciprocal' }, 23),
      reciprocalScale: 23,
      bits: 56,
    },
    q: projection(f.q, SUM_SCALE),
    k: projection(f.k, SUM_SCALE),
    v: projection(f.v, SUM_SCALE),
    o: projection(f.o, R),
    mlp: f.gate
      ? { kind: 'gated', gate: projection(f.gate, SUM_SCALE), up: projection(f.up, SUM_SCALE), activation, down: projection(f.down, R) }
      : { kind: 'plain', up: projection(f.up, SUM_SCALE), activation, down: projection(f.down, R) },
  }));
  return {
    shape,
    residualScale: R,
    prefixIds: [],
    prefixKeys: layers.map(() => new BigInt64Array(0)),
    prefixValues: layers.map(() => new BigInt64Array(0)),
    rope: shape.rope ? ropeTables(shape) : undefined,
    nonzero: { ...NONZERO, table: { pointer: 0, array: NONZERO.table } },
    layers,
  };
}

function ropeTables(shape: ModelShape): NonNullable<ModelPlan['rope']> {
  const half = shape.headDim / 2,
    frequencies = ropeFrequencies(shape.rope!, shape.headDim),
    table = (f: (x: number) => number) => ({
      pointer: 0,
      array: Int32Array.from({ length: shape.maxPositions * half }, (_, i) => Math.round(f(Math.floor(i / half) * frequencies[i % half]!) * 2 ** SCALE.rope)),
    });
  return { cos: table(Math.cos), sin: table(Math.sin), fraction: SCALE.rope };
}

const integers = (values: ArrayLike<number>, scale: number): BigInt64Array<ArrayBuffer> =>
  BigInt64Array.from({ length: values.length }, (_, i) => BigInt(Math.round(values[i]! * 2 ** scale)));

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

/** Runs the Float engine on a batch of tokens at all positions; returns its caches. */
function run(plan: ModelPlan, w: CalibrationOptions['weights'], ids: readonly number[], watch?: (name: string, values: Float64Array) => void) {
  const past = plan.prefixIds.length;
  const float = new Float({ next: () => embedTokens(w, ids, past), emit: () => undefined });
  if (watch) float.watch = (name, x) => watch(name, x.real!);
  const caches = createCache(float, plan, past + ids.length);
  const program = (function* () {
    const x = yield* float.input(ids.length * plan.shape.width, plan.residualScale);
    const hidden = yield* forward(float, plan, caches, x, ids.length, { slots: past, position: past, unused: undefined }, true);
    watch?.('hidden', hidden.real!);
  })();
  for (const _ of program) void _;
  return caches;
}

function prefixCache(plan: ModelPlan, w: ModelWeights, ids: readonly number[]): { keys: BigInt64Array[]; values: BigInt64Array[] } {
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

/** Ranges of all named values over the documents; `onHidden` gets each one's last residual stream at all positions. */
export function calibrate(plan: ModelPlan, o: CalibrationOptions, onHidden?: (hidden: Float64Array) => void): Ranges {
  const ranges = new Map<string, { min: number; max: number }>(),
    past = plan.prefixIds.length;
  const widen = (name: string, values: Iterable<number>): void => {
    const r = ranges.get(name) ?? { min: Infinity, max: -Infinity };
    for (const v of values) {
      if (v < r.min) r.min = v;
      if (v > r.max) r.max = v;
    }
    ranges.set(name, r);
  };
  o.documents.forEach((document, i) => {
    const ids = document.slice(past);
    if (!o.prefixIds.every((id, at) => document[at] === id) || ids.length === 0 || document.length > plan.shape.maxPositions)
      throw new CachetError({
        code: 'usage',
        step: `calibration document ${i + 1}`,
        what: 'unusable',
        expected: `the public prefix, then text; at most ${plan.shape.maxPositions} tokens`,
        got: `${document.length} tokens`,
      });
    run(plan, o.weights, ids, (name, values) => {
      if (name === 'hidden') return onHidden?.(values);
      widen(name, values);
      if (name.endsWith('.logits')) {
        const rows = rowsOf(values, ids.length, past);
        widen(`${name}.top`, rows.top);
        widen(`${name}.depth`, rows.depth);
        widen(`${name}.sum`, rows.sum);
      }
    });
    o.onProgress?.(i + 1, o.documents.length);
  });
  return ranges;
}

/** Of packed causal rows: maxima, how far the lowest logit lies below it, and the sum of exponentials relative to it. */
function rowsOf(values: Float64Array, queries: number, past: number): { top: number[]; depth: number[]; sum: number[] } {
  const top: number[] = [],
    depth: number[] = [],
    sum: number[] = [];
  for (let at = 0, row = 0; at < values.length; row++) {
    const end = at + past + (row % queries) + 1;
    let high = -Infinity,
      low = Infinity,
      total = 0;
    for (let t = at; t < end; t++) {
      if (values[t]! > high) high = values[t]!;
      if (values[t]! < low) low = values[t]!;
    }
    for (; at < end; at++) total += Math.exp(values[at]! - high);
    top.push(high);
    depth.push(high - low);
    sum.push(total);
  }
  return { top, depth, sum };
}

// ---- choosing scales and tables -----------------------------------------------------------------------------------------------------------

export const largestOf = (ranges: Ranges, name: string): number => Math.max(-ranges.get(name)!.min, ranges.get(name)!.max);
export const bitsFor = (value: number): number => Math.ceil(Math.log2(Math.max(value, 2 ** -8)));
const MAX_FRACTION = 14;

/** Fraction bits at which a matrix fits int16. */
export function fitting(weights: Float32Array): number {
  let largest = 1e-9;
  for (const v of weights) if (Math.abs(v) > largest) largest = Math.abs(v);
  return Math.min(MAX_FRACTION, Math.floor(Math.log2(32767 / largest)));
}

/** rs of a norm: 1 / rms to about 12 bits where it is smallest. */
const rsqrtScale = (squares: { readonly max: number }, width: number): number =>
  Math.min(20, Math.max(8, 12 + Math.ceil(0.5 * Math.log2((squares.max * MARGIN.squares) / width))));

/** What a norm's results go into: matrices and the bits of their results. */
function readers(l: number, f: FoldedLayer, ranges: Ranges): readonly (readonly [ProjectionName, number])[][] {
  const bits = (name: string, margin = MARGIN.values): number => bitsFor(largestOf(ranges, `${l}.${name}`) * margin);
  return [
    [
      ['q', bits('q')],
      ['k', bits('k')],
      ['v', bits('v')],
    ],
    f.gate
      ? [
          ['gate', bits('gate', MARGIN.gate)],
          ['up', bits('up')],
        ]
      : [['up', bits('gate', MARGIN.gate)]],
  ];
}

/** The largest R <= 32 that leaves all norms' readers their weight bits: R + rs + f + bits + 2 <= 64. */
function chooseResidualScale(shape: ModelShape, folded: readonly FoldedLayer[], ranges: Ranges): number {
  let R = 32;
  folded.forEach((f, l) =>
    readers(l, f, ranges).forEach((list, n) => {
      const rs = rsqrtScale(ranges.get(`${l}.${['squares', 'squares2'][n]}`)!, shape.width);
      for (const [name, bits] of list) R = Math.min(R, 62 - rs - bits - Math.min(12, fitting(f[name]!.weights)));
    }),
  );
  const stream = Math.max(...folded.map((_, l) => Math.max(largestOf(ranges, `${l}.stream`), largestOf(ranges, `${l}.input`))));
  R = Math.min(R, 62 - bitsFor(stream * MARGIN.values));
  if (R >= 22) return R;
  throw new CachetError({
    code: 'range',
    step: 'residual stream',
    what: 'the model would overflow',
    expected: 'a residual stream of 22 fraction bits or more',
    got: `${R} bits left by activations as large as ${stream.toPrecision(4)}`,
    hint: 'a model with smaller activations, or a longer public prefix',
  });
}

type FitWindows = (fn: WindowFunction, low: number, high: number, outputScale: number, maxInputScale: number) => LayerHeader['attention']['reciprocal'];

/**
 * A norm of the residual stream at scale R: `squares` the range of its sum of squares, `stream` the largest absolute value, `readers` the matrices that its
 * results go into, with the integer bits of their results. Returns the matrices' fraction bits in their order. `refuse` is told what must stay below a limit.
 */
export function planNorm(o: {
  readonly shape: ModelShape;
  readonly R: number;
  readonly squares: { readonly min: number; readonly max: number };
  readonly stream: number;
  readonly readers: readonly { readonly name: string; readonly bits: number; readonly fitting: number }[];
  readonly windows: FitWindows;
  readonly refuse: (what: string, limit: number, got: number) => void;
}): { readonly norm: LayerHeader['norm1']; readonly fractions: readonly number[] } {
  const { shape, R, squares, stream, readers, windows, refuse } = o,
    low = 2 ** Math.floor(Math.log2(Math.max(squares.min, shape.eps * shape.width) / MARGIN.squares)),
    high = 2 ** Math.ceil(Math.log2(squares.max * MARGIN.squares)),
    rs = rsqrtScale(squares, shape.width),
    fractions = readers.map(({ name, bits, fitting: fits }) => {
      const fraction = Math.min(fits, 62 - R - rs - bits);
      if (fraction < 8) refuse(`weights of ${name}`, 2 ** 7, 2 ** (15 - fraction));
      return fraction;
    });
  const need = Math.max(...readers.map(({ bits }, i) => R + rs + fractions[i]! + bits + 2), R + bitsFor(stream) + 1),
    openBits = Math.min(64, Math.ceil(need / 8) * 8),
    // Relative precision of 11 bits for the smallest norm; the sum of squares fits; whole bytes.
    wanted = Math.max(12, Math.ceil(11 - 0.5 * Math.log2(squares.min / shape.width))),
    most = openBits - R - 1 - Math.log2(high),
    rounded = Math.ceil((openBits - R + wanted) / 8) * 8 - (openBits - R),
    scale = Math.min(rounded, most, R);
  refuse('norm', 2 ** most, 2 ** 6);
  const rsqrt = windows({ name: 'rsqrt', width: shape.width, eps: shape.eps }, low, high, rs + 64 - (openBits - R + scale), 2 * scale);
  return { norm: { openBits, scale, sumBits: 2 * scale + Math.log2(high) + 1, rsqrt, rsqrtScale: rs }, fractions };
}

/** Puts the coefficients of fitted windows into `tensors`. */
export const windowsInto =
  (tensors: Map<string, TensorData>): FitWindows =>
  (fn, low, high, outputScale, maxInputScale) => {
    const { plan, coefficients } = fitWindows(fn, low, high, outputScale, maxInputScale);
    return {
      ...(plan as { -readonly [K in keyof WindowsPlan]: WindowsPlan[K] }),
      splines: plan.splines.map((s, i) => ({ ...s, coefficients: storeTable(tensors, coefficients[i]!) })),
    };
  };

/** Equal tables are stored once; returns the tensor's name. */
function storeTable(tensors: Map<string, TensorData>, array: BigInt64Array): string {
  const name = `table.${bytesToHex(sha256(new Uint8Array(array.buffer))).slice(0, 16)}`;
  tensors.set(name, { dtype: 'I64', shape: [array.length], data: array });
  return name;
}

function planLayer(
  shape: ModelShape,
  l: number,
  f: FoldedLayer,
  ranges: Ranges,
  R: number,
  growth: number,
  tensors: Map<string, TensorData>,
): { header: LayerHeader; report: LayerReport } {
  const at = (name: string) => ranges.get(`${l}.${name}`)!;
  const largest = (name: string): number => largestOf(ranges, `${l}.${name}`);
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
  const store = (array: BigInt64Array): string => storeTable(tensors, array),
    windows = windowsInto(tensors);
  const fractions: Partial<Record<ProjectionName, number>> = {},
    scales: Partial<Record<ProjectionName, number>> = {};
  const norm = (n: 0 | 1): LayerHeader['norm1'] => {
    const stream = Math.max(largest('stream'), largest('input')) * MARGIN.values,
      list = readers(l, f, ranges)[n]!.map(([name, bits]) => ({ name, bits, fitting: fitting(f[name]!.weights) })),
      chosen = planNorm({ shape, R, squares: at(n === 0 ? 'squares' : 'squares2'), stream, readers: list, windows, refuse });
    list.forEach(({ name }, i) => {
      fractions[name] = chosen.fractions[i]!;
      scales[name] = chosen.norm.scale + chosen.norm.rsqrtScale + chosen.fractions[i]!;
    });
    return chosen.norm;
  };
  const norm1 = norm(0),
    norm2 = norm(1);
  fractions.o = Math.min(fitting(f.o.weights), R - SCALE.activation);
  fractions.down = Math.min(fitting(f.down.weights), R - SCALE.activation);
  scales.o = scales.down = R;
  for (const name of PROJECTIONS) if (f[name]) storeMatrix(`layers.${l}.${name}`, f[name], fractions[name]!, scales[name]!, tensors);

  // Attention.
  refuse('queries and keys', 2 ** 18, Math.max(largest('q'), largest('k')) * MARGIN.values);
  refuse('logits', 128 - MARGIN.logits, largest('logits'));
  const tops = at('logits.top'),
    spread = tops.max - tops.min,
    isPublic = spread <= PUBLIC_SPREAD,
    reference: LayerHeader['attention']['reference'] = isPublic
      ? { kind: 'public' }
      : {
          kind: 'buckets',
          low: Math.floor((at('logits').min + at('logits').max) / 4) - 32,
          first: Math.floor(tops.min / 2) - 2,
          count: Math.floor(tops.max / 2) - Math.floor(tops.min / 2) + 6,
        };
  if (!isPublic) refuse('spread of the logits', 128 - MARGIN.logits, at('logits').max - at('logits').min);
  // The domain, in nats: usable up to `top`, down to `bottom`, relative to what the softmax refers to.
  const shift = isPublic ? tops.max : 0,
    top = isPublic ? tops.max + MARGIN.logits : BUCKET_HEADROOM,
    bottom = isPublic ? at('logits').min - MARGIN.relative : -at('logits.depth').max - MARGIN.relative,
    cellsLog2 = Math.max(1, Math.ceil(Math.log2((top - bottom) / CELL_NATS + 1)));
  refuse("logits below their row's maximum", 128 - CELL_NATS - BUCKET_HEADROOM, cellsLog2 > 3 ? -bottom : 0);
  const probabilityScale = isPublic ? 16 + Math.ceil((spread + 2) * Math.LOG2E) : 16,
    growing = at('logits.sum').max * MARGIN.sums * growth,
    sums = isPublic
      ? ([Math.exp(-spread - 2), growing] as const)
      : // The reference may be one bucket above the maximum, or some below it.
        ([Math.exp(-2.5), growing * Math.exp(2)] as const),
    valueBits = bitsFor(largest('v') * MARGIN.values),
    enough = Math.ceil(Math.log2(sums[1])) + 8,
    bits = 54 - probabilityScale - SCALE.value - valueBits >= enough ? 56 : 64,
    reciprocalScale = Math.min(30, bits - 2 - probabilityScale - SCALE.value - valueBits);
  refuse('values', 2 ** (bits - 2 - probabilityScale - SCALE.value - 12), largest('v') * MARGIN.values);
  const exp: ExpPlan = {
    inputScale: 12,
    low: Math.round((top - CELL_NATS * (2 ** cellsLog2 - 1)) * 4096),
    domainBits: 16 + cellsLog2,
    cellsLog2,
    outputScale: probabilityScale,
    shifts: [shift],
  };

  // MLP.
  refuse('SiLU(gate) up', 1024, f.gate ? largest('product') * MARGIN.values : 0);
  const activation = fitActivation(shape, l, Math.max(largest('gate') * MARGIN.gate, 4), R, fractions.down);
  const first = at('squares');
  return {
    header: {
      norm1,
      norm2,
      attention: {
        reference,
        exp: { ...exp, shifts: [...exp.shifts], tables: store(new BigInt64Array(expTables(exp).buffer)) },
        reciprocal: windows(
          { name: 'reciprocal' },
          2 ** Math.floor(Math.log2(sums[0])),
          2 ** Math.ceil(Math.log2(sums[1])),
          reciprocalScale + 64 - bits,
          probabilityScale,
        ),
        reciprocalScale,
        bits,
      },
      mlp: { kind: f.gate ? 'gated' : 'plain', activation: { ...activation.plan, tables: store(activation.tables) } },
      projections: Object.fromEntries(
        PROJECTIONS.flatMap((name) => (f[name] ? [[name, { fraction: fractions[name]!, bias: f[name].bias !== undefined }]] : [])),
      ) as LayerHeader['projections'],
    },
    report: {
      layer: l,
      reference: reference.kind,
      logitNats: CELL_NATS * 2 ** cellsLog2,
      activationTerms: activation.plan.terms,
      activationError: activation.error,
      normRange: [first.min, first.max],
      weightBits: fractions,
    },
  };
}

function storeMatrix(name: string, m: FoldedMatrix, fraction: number, scale: number, tensors: Map<string, TensorData>): void {
  const data = new Int16Array(m.weights.length);
  for (let i = 0; i < data.length; i++) data[i] = Math.max(-32768, Math.min(32767, Math.round(m.weights[i]! * 2 ** fraction)));
  tensors.set(name, { dtype: 'I16', shape: [m.cols, m.inner], data });
  if (m.bias) tensors.set(`${name}.bias`, { dtype: 'I64', shape: [m.cols], data: integers(m.bias, scale) });
}

/** The shortest cosine series that meets the error. */
function fitActivation(shape: ModelShape, layer: number, edge: number, R: number, downFraction: number): ReturnType<typeof fitFourier> {
  const gated = shape.activation === 'silu';
  for (const terms of [4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72])
    for (const periodBits of [15, 16, 17, 18, 19]) {
      if (edge >= 2 ** (periodBits - 13) - 0.5 || edge < 2 ** (periodBits - 15)) continue;
      const fit = fitFourier({
        name: shape.activation,
        inputScale: SCALE.activation,
        periodBits,
        terms,
        edge,
        bits: gated ? 56 : 64,
        drop: gated ? 0 : 32 - R + downFraction,
      });
      if (fit.error <= ACTIVATION_ERROR) return fit;
    }
  throw new CachetError({
    code: 'range',
    step: `layer ${layer}, ${shape.activation}`,
    what: 'input range too wide for a cosine series',
    expected: `about +-60 at most, error ${ACTIVATION_ERROR}`,
    got: `+-${edge.toFixed(1)}`,
    hint: 'a model with smaller activations before its activation function',
  });
}

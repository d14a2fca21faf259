/**
 * The owner's side of private weights: from an artefact with open weights to one file a role. First the ends that the client has in an open model (embedding,
 * final norm, head) become part of the plan and rings are chosen by ranges measured on sample text; then every private tensor is masked under fresh
 * seeds. What a file has: evaluators m, their seed and their additive shares; the helper both seeds; the client none of it. All have the public plan.
 */
import { bytesToHex } from '@noble/hashes/utils.js';
import { Arena, reserveMemory, WORKING_BYTES } from '../kernels/memory.ts';
import { createKernels } from '../kernels/registry.ts';
import {
  bindPlan,
  clientTensors,
  headerSchema,
  projectionSizes,
  readArtefact,
  type Artefact,
  type ArtefactHeader,
  type LayerHeader,
  type SecretRole,
} from './artefact.ts';
import { Float } from './engines/float.ts';
import { CachetError } from './errors.ts';
import { centre } from './models/embedding.ts';
import { PROJECTIONS, type ProjectionName } from './models/fold.ts';
import { digestOfTensors, writeSafetensors, type TensorData } from './models/safetensors.ts';
import { bitsFor, calibrate, fitting, largestOf, MARGIN, planNorm, windowsInto, type CalibrationOptions, type Ranges } from './prepare.ts';
import { randomWords } from './randomWords.ts';
import { realProduct } from './realProduct.ts';
import { droppedBits } from './programs/plan.ts';
import { entryColumns, isSecret, secretTensors } from './secret.ts';

export interface SplitOptions extends Pick<CalibrationOptions, 'documents' | 'onProgress'> {
  /** With open weights, the client's tensors among them. */
  readonly artefact: Artefact;
  /** The client gets the most likely token, no logits. @default false */
  readonly hideLogits?: boolean | undefined;
}

/** Positions whose logits are measured at a time. */
const HEAD_ROWS = 64;

/** Fraction bits that an operand must keep over Z_2^32; where fewer would be left, its matrices are over Z_2^64. */
const LEAST_SCALE = 9;

/** The owner's artefact: the whole model as private tensors, in the clear. @throws CachetError 'range' for a model whose final norm or head would overflow. */
export function secretModel({ artefact, documents, hideLogits = false, onProgress }: SplitOptions): Artefact {
  if (isSecret(artefact.header))
    throw new CachetError({
      code: 'artefact',
      what: 'weights are split already',
      expected: 'an artefact with open weights',
      got: 'a part of a private model',
      hint: 'give the folder in which cachet prepare has written',
    });
  const { header, shape, tensors, residualScale: R } = artefact,
    client = clientTensors(artefact),
    plan = bindPlan(new Float({ next: () => undefined, emit: () => undefined }), artefact),
    out = publicTensors(artefact);
  const head = headMatrix(artefact),
    squares = { min: Infinity, max: 0 };
  let largestLogit = 0,
    largestStream = 0;
  const ranges = calibrate(plan, { weights: { shape, ...client }, prefixIds: artefact.prefixIds, documents, ...(onProgress && { onProgress }) }, (hidden) => {
    const { width, vocab } = shape,
      normed = hidden.slice();
    for (let at = 0; at < hidden.length; at += width) {
      let sum = 0;
      for (const v of hidden.subarray(at, at + width)) {
        sum += v * v;
        largestStream = Math.max(largestStream, Math.abs(v));
      }
      const scale = 1 / Math.sqrt(sum / width + shape.eps);
      for (let i = at; i < at + width; i++) normed[i]! *= scale;
      squares.min = Math.min(squares.min, sum);
      squares.max = Math.max(squares.max, sum);
    }
    for (let at = 0; at < hidden.length; at += HEAD_ROWS * width) {
      const rows = normed.subarray(at, at + HEAD_ROWS * width),
        logits = new Float64Array((rows.length / width) * vocab);
      realProduct(logits, rows, { ...head, pointer: 0, array: new Int16Array(0), fraction: 0, real: head.weights }, rows.length / width);
      for (let i = 0; i < logits.length; i++) largestLogit = Math.max(largestLogit, Math.abs(logits[i]! + (head.bias?.[i % vocab] ?? 0)));
    }
  });

  const planned = planNorm({
    shape,
    R,
    squares,
    stream: largestStream * MARGIN.values,
    readers: [{ name: 'head', bits: bitsFor(largestLogit * MARGIN.values), fitting: fitting(head.weights) }],
    windows: windowsInto(out),
    refuse(what, limit, got) {
      if (!(got < limit))
        throw new CachetError({ code: 'range', step: what, what: 'the model would overflow', expected: `below ${limit}`, got: got.toPrecision(4) });
    },
  });
  const headGroup = operandOf(planned.norm, R, [{ fraction: planned.fractions[0]!, bits: bitsFor(largestLogit * MARGIN.values) }]),
    groups = header.layers.map((layer, l) =>
      [readersOf(layer, l, 0, ranges), readersOf(layer, l, 1, ranges)].map((list, n) => operandOf(n === 0 ? layer.norm1 : layer.norm2, R, list)),
    );
  const entry = embeddings(artefact);
  const result: ArtefactHeader = headerSchema.parse({
    ...header,
    secret: {
      role: 'owner',
      split: bytesToHex(crypto.getRandomValues(new Uint8Array(32))),
      entryScale: entry.scale,
      positions: entry.positions !== undefined,
      layers: groups.map((pair) => ({ operands: pair.map((g) => g.bits), wide: pair.map((g) => g.wide) })),
      head: { norm: planned.norm, operandBits: headGroup.bits, wide: headGroup.wide, fraction: planned.fractions[0]!, bias: head.bias !== undefined },
      ...(hideLogits && { hideLogits: { range: bitsFor(largestLogit * MARGIN.values) } }),
    },
  });
  const int32 = (name: string, dimensions: readonly number[], data: Int32Array): void => void out.set(name, { dtype: 'I32', shape: dimensions, data });
  const int64 = (name: string, data: BigInt64Array): void => void out.set(name, { dtype: 'I64', shape: [data.length], data });
  int32('entry', [shape.width, entryColumns(shape)], entry.table);
  if (entry.positions) int64('positions', entry.positions);
  const dropped = (g: Group): number => droppedBits(g.bits, g.wide ? 64 : 32),
    headScale = planned.norm.scale + planned.norm.rsqrtScale + planned.fractions[0]! - dropped(headGroup);
  int32('head', [shape.vocab, shape.width], quantised(head.weights, planned.fractions[0]!));
  if (head.bias)
    int64(
      'head.bias',
      BigInt64Array.from(head.bias, (v) => BigInt(Math.round(v * 2 ** headScale))),
    );
  const sizes = projectionSizes(shape);
  header.layers.forEach((layer, l) => {
    for (const p of PROJECTIONS) {
      const found = layer.projections[p],
        name = `layers.${l}.${p}`;
      if (!found) continue;
      const [inner, cols] = sizes[p],
        n = groupOf(p),
        shift = BigInt(n === undefined ? 0 : dropped(groups[l]![n]!));
      int32(name, [cols, inner], Int32Array.from(tensors.int16(name)));
      if (found.bias)
        int64(
          `${name}.bias`,
          tensors.int64(`${name}.bias`).map((v) => (shift === 0n ? v : (v + (1n << (shift - 1n))) >> shift)),
        );
    }
    for (const part of ['prefixKeys', 'prefixValues']) int64(`layers.${l}.${part}`, tensors.int64(`layers.${l}.${part}`));
  });
  return readArtefact(writeSafetensors([out], { cachet: JSON.stringify(result) }));
}

/** Each role's file, one after another, under fresh seeds. */
export function* splitModel(owner: Artefact): Generator<{ readonly role: SecretRole; readonly bytes: Uint8Array<ArrayBuffer> }, void, void> {
  const { header, tensors } = owner;
  if (!isSecret(header)) throw new CachetError({ code: 'artefact', what: 'no private model', expected: "an owner's artefact", got: 'open weights' });
  const seeds = [randomWords(4), randomWords(4)] as const,
    open = publicTensors(owner),
    common = new Map<string, TensorData>(),
    shares = [new Map<string, TensorData>(), new Map<string, TensorData>()] as const,
    mask = masker(seeds);
  secretTensors(header).forEach((t, index) => {
    if (t.kind === 'share') {
      const half = randomWords(t.elements),
        other = tensors.int64(t.name).map((v, i) => v - half[i]!);
      [half, other].forEach((data, party) => shares[party]!.set(t.name, { dtype: 'I64', shape: [t.elements], data }));
    } else if (t.kind === 'wire')
      common.set(t.name, { dtype: 'I64', shape: [t.elements], data: mask(tensors.int64(t.name), index, t.bits, 64) as BigInt64Array });
    else common.set(t.name, { dtype: t.bits === 32 ? 'I32' : 'I64', shape: [t.cols, t.inner], data: mask(tensors.int32(t.name), index, t.bits, t.bits) });
  });
  const seed = (party: 0 | 1): [string, TensorData] => [`seed.p${party}`, { dtype: 'I64', shape: [4], data: seeds[party] }];
  const files: readonly (readonly [SecretRole, readonly ReadonlyMap<string, TensorData>[]])[] = [
    ['p0', [open, new Map([...common, ...shares[0], seed(0)])]],
    ['p1', [open, new Map([...common, ...shares[1], seed(1)])]],
    ['helper', [open, new Map([seed(0), seed(1)])]],
    ['client', [open]],
  ];
  for (const [role, groups] of files) {
    const cachet = JSON.stringify({ ...header, secret: { ...header.secret, role } });
    yield { role, bytes: writeSafetensors(groups, { cachet, tensors: digestOfTensors(groups) }) };
  }
}

/** Tables that are public to all roles: of gates and of rotations. */
const publicTensors = ({ tensors }: Artefact): Map<string, TensorData> =>
  new Map(
    tensors.names.flatMap((name): [string, TensorData][] =>
      name.startsWith('table.')
        ? [[name, { dtype: 'I64', shape: tensors.shape(name), data: tensors.int64(name) }]]
        : name.startsWith('rope.')
          ? [[name, { dtype: 'I32', shape: tensors.shape(name), data: tensors.int32(name) }]]
          : [],
    ),
  );

/** Ring of an operand that is opened, and whether its matrices must be over Z_2^64. */
interface Group {
  readonly bits: number;
  readonly wide: boolean;
}

/** The fewest bits that hold the products of a norm's results: their scale, the weights', integer bits, two for widening. */
function operandOf(norm: LayerHeader['norm1'], R: number, readers: readonly { readonly fraction: number; readonly bits: number }[]): Group {
  const ring = norm.openBits - R + norm.scale,
    scale = norm.scale + norm.rsqrtScale,
    bits = Math.min(ring, Math.max(...readers.map((r) => scale + r.fraction + r.bits + 2)));
  return { bits, wide: scale - droppedBits(bits, 32) < LEAST_SCALE };
}

const groupOf = (p: ProjectionName): 0 | 1 | undefined => (p === 'q' || p === 'k' || p === 'v' ? 0 : p === 'gate' || p === 'up' ? 1 : undefined);

/** The matrices after a norm, with the integer bits of their results. */
function readersOf(layer: LayerHeader, l: number, group: 0 | 1, ranges: Ranges): { fraction: number; bits: number }[] {
  return PROJECTIONS.filter((p) => groupOf(p) === group && layer.projections[p]).map((p) => {
    const activated = p === (layer.mlp.kind === 'gated' ? 'gate' : 'up'),
      margin = activated ? MARGIN.gate : MARGIN.values;
    return { fraction: layer.projections[p]!.fraction, bits: bitsFor(largestOf(ranges, `${l}.${activated ? 'gate' : p}`) * margin) };
  });
}

const quantised = (weights: Float32Array, fraction: number): Int32Array => Int32Array.from(weights, (v) => Math.round(v * 2 ** fraction));

/** The head with the final norm's gain and bias folded in: [vocab, width]. */
function headMatrix(a: Artefact): { readonly weights: Float32Array; readonly bias: Float64Array | undefined; readonly inner: number; readonly cols: number } {
  const { head, finalNorm, finalNormBias } = clientTensors(a),
    { width, vocab } = a.shape,
    bias = finalNormBias && new Float64Array(vocab);
  if (bias) for (let v = 0; v < vocab; v++) for (let c = 0; c < width; c++) bias[v]! += head[v * width + c]! * finalNormBias[c]!;
  return { weights: head.map((v, i) => v * finalNorm[i % width]!), bias, inner: width, cols: vocab };
}

/** The table of embeddings [width, padded vocabulary] and learned positions, at the largest scale that leaves both together two bits of Z_2^32. */
function embeddings(a: Artefact): { readonly scale: number; readonly table: Int32Array; readonly positions: BigInt64Array | undefined } {
  const { embed, positions } = clientTensors(a),
    { width, vocab, norm } = a.shape,
    cols = entryColumns(a.shape),
    table = new Int32Array(width * cols),
    rows = (x: Float32Array | undefined): Float32Array => {
      const copy = x?.slice() ?? new Float32Array(0);
      if (norm === 'layer') for (let at = 0; at < copy.length; at += width) centre(copy.subarray(at, at + width));
      return copy;
    },
    largest = (x: Float32Array): number => x.reduce((m, v) => Math.max(m, Math.abs(v)), 0),
    tokens = rows(embed),
    places = rows(positions),
    scale = Math.min(a.residualScale, 29 - bitsFor(largest(tokens) + largest(places)));
  for (let v = 0; v < vocab; v++) for (let c = 0; c < width; c++) table[c * cols + v] = Math.round(tokens[v * width + c]! * 2 ** scale);
  return { scale, table, positions: positions && BigInt64Array.from(places, (v) => BigInt(Math.round(v * 2 ** scale))) };
}

const CHUNK = 1 << 14;

/** m = x + r0 + r1 mod 2^bits for all elements, stored in `stored` bits each. */
function masker(seeds: readonly [BigInt64Array, BigInt64Array]) {
  const memory = reserveMemory(WORKING_BYTES + 64 * CHUNK),
    k = createKernels('wasm', memory),
    arena = new Arena(memory, WORKING_BYTES, 64 * CHUNK),
    keys = seeds.map((seed) => {
      const at = arena.alloc(32);
      new BigInt64Array(memory.buffer, at, 4).set(seed);
      return at;
    }),
    [m, half, packed] = [arena.alloc(8 * CHUNK), arena.alloc(8 * CHUNK), arena.alloc(8 * CHUNK)];
  return (values: Int32Array | BigInt64Array, index: number, bits: number, stored: 32 | 64): Int32Array | BigInt64Array => {
    const out = stored === 32 ? new Int32Array(values.length) : new BigInt64Array(values.length),
      bytes = new Uint8Array(out.buffer);
    for (let first = 0; first < values.length; first += CHUNK) {
      const n = Math.min(CHUNK, values.length - first),
        lane = new BigInt64Array(memory.buffer, m, n);
      for (let i = 0; i < n; i++) lane[i] = BigInt(values[first + i]!);
      for (const key of keys) {
        k.prg(half, key, index, 0, first, bits, n);
        k.add(m, m, half, n);
      }
      k.reduce(m, m, bits, n);
      k.pack(packed, m, stored, n);
      bytes.set(new Uint8Array(memory.buffer, packed, (n * stored) / 8), (first * stored) / 8);
    }
    return out;
  };
}

/**
 * A private model's tensors: which there are, what each role's file has of them, how an engine gets at them. Matrices and the public prefix's keys and
 * values are wires whose masks are expanded from seeds: a file has m (evaluators), one seed (evaluators) or both (helper); biases and learned positions
 * are additive shares at the evaluators, since linear maps on shares need nothing of the helper. Tables, ranges and shapes are public to all roles.
 */
import type { ArtefactHeader, LayerHeader, SecretRole } from './artefact.ts';
import { projectionSizes } from './artefact.ts';
import type { Engine, SecretSource } from './engines/engine.ts';
import { CachetError } from './errors.ts';
import { PROJECTIONS } from './models/fold.ts';
import type { ModelShape } from './models/config.ts';
import type { Safetensors } from './models/safetensors.ts';
import { COMPARE_BITS, compareScale, firstPlaces } from './programs/argmax.ts';
import { negativeTable } from './gates/less.ts';
import { droppedBits, RING, SCALE, type NormPlan, type Projection, type SecretPlan } from './programs/plan.ts';
import type { Constant } from './tensor.ts';

type SecretHeader = ArtefactHeader & { readonly secret: NonNullable<ArtefactHeader['secret']> };

/** One private tensor. matrix: [cols, inner]; wire: a constant wire; share: a constant share over Z_2^64. */
export type SecretTensor = { readonly name: string; readonly elements: number } & (
  | { readonly kind: 'matrix'; readonly cols: number; readonly inner: number; readonly bits: 32 | 64; readonly operandBits: number }
  | { readonly kind: 'wire'; readonly bits: number; readonly scale: number }
  | { readonly kind: 'share' }
);

/** Elements of a one-hot row: the vocabulary, padded for the kernels. */
export const entryColumns = ({ vocab }: Pick<ModelShape, 'vocab'>): number => Math.ceil(vocab / 8) * 8;

/** Ring and scale of the logits that the client gets shares of. */
export function logitRing({ secret: { head } }: SecretHeader): { readonly bits: number; readonly scale: number } {
  const dropped = droppedBits(head.operandBits, head.wide ? 64 : 32);
  return { bits: head.operandBits - dropped, scale: head.norm.scale + head.norm.rsqrtScale + head.fraction - dropped };
}

/** All private tensors of a model in a fixed order: a wire's place in it is the nonce of its mask. */
export function secretTensors({ shape, layers, prefixIds, secret }: SecretHeader): readonly SecretTensor[] {
  const sizes = projectionSizes(shape),
    inner = entryColumns(shape),
    { width, vocab, maxPositions, kvHeads, headDim } = shape,
    prefix = prefixIds.length * kvHeads * headDim,
    matrix = (name: string, rows: number, cols: number, wide: boolean, operandBits: number): SecretTensor => ({
      kind: 'matrix',
      name,
      elements: rows * cols,
      inner: rows,
      cols,
      bits: wide ? 64 : 32,
      operandBits,
    }),
    bias = (name: string, cols: number): SecretTensor => ({ kind: 'share', name: `${name}.bias`, elements: cols });
  return [
    matrix('entry', inner, width, false, 32),
    ...(secret.positions ? [{ kind: 'share', name: 'positions', elements: maxPositions * width } as const] : []),
    matrix('head', width, vocab, secret.head.wide, secret.head.operandBits),
    ...(secret.head.bias ? [bias('head', vocab)] : []),
    ...layers.flatMap((layer: LayerHeader, l): SecretTensor[] => [
      ...PROJECTIONS.flatMap((p): SecretTensor[] => {
        const plan = layer.projections[p],
          name = `layers.${l}.${p}`,
          group = p === 'q' || p === 'k' || p === 'v' ? 0 : p === 'gate' || p === 'up' ? 1 : undefined,
          { operands, wide } = secret.layers[l]!;
        if (!plan) return [];
        const [rows, cols] = sizes[p];
        return [
          group === undefined ? matrix(name, rows, cols, true, RING.residual) : matrix(name, rows, cols, wide[group], operands[group]),
          ...(plan.bias ? [bias(name, cols)] : []),
        ];
      }),
      { kind: 'wire', name: `layers.${l}.prefixKeys`, elements: prefix, bits: 64, scale: SCALE.activation },
      { kind: 'wire', name: `layers.${l}.prefixValues`, elements: prefix, bits: layer.attention.bits, scale: SCALE.value },
    ]),
  ];
}

/** Bytes that a private model's tensors take in an engine's memory. */
export function secretBytes(role: 'evaluator' | 'helper', header: ArtefactHeader): number {
  if (!isSecret(header)) return 0;
  return secretTensors(header).reduce(
    (n, t) => n + (t.kind === 'matrix' ? ((role === 'evaluator' ? 2 : 1) * t.elements * t.bits) / 8 : (t.kind === 'wire' ? 16 : 8) * t.elements),
    0,
  );
}

export const isSecret = (header: ArtefactHeader): header is SecretHeader => header.secret !== undefined;

/** @throws CachetError 'artefact' if the file is another role's, or the model's weights are open where a role is asked for. */
export function requireRole({ secret }: ArtefactHeader, role: SecretRole): void {
  if (!secret || secret.role === role) return;
  throw new CachetError({
    code: 'artefact',
    party: role,
    what: "another role's part of a private model",
    expected: `the part of ${role}`,
    got: `that of ${secret.role}`,
    hint: `give ${role} the folder ${role} that cachet weights split wrote`,
  });
}

/** Places a private model's tensors into an engine, each when it is asked for. */
export function bindSecret(e: Engine, header: ArtefactHeader, tensors: Safetensors) {
  if (!isSecret(header)) throw new CachetError({ code: 'artefact', what: 'no private model', expected: 'a part of one', got: 'open weights' });
  const { secret } = header,
    all = secretTensors(header),
    byName = new Map(all.map((t, index) => [t.name, { ...t, index }])),
    find = (name: string) => byName.get(name)!;
  const source = (name: string): SecretSource => ({
    elements: find(name).elements,
    index: find(name).index,
    seeded: tensors.names.includes('seed.p0') && tensors.names.includes('seed.p1'),
    masked: (target) => tensors.copy(name, target),
    seed: (party) => new Uint8Array(tensors.int64(`seed.p${party}`).buffer),
    matrix: () => tensors.int32(name),
    wire: () => tensors.int64(name),
  });
  const matrix = (name: string, fraction: number) => {
    const t = find(name) as Extract<SecretTensor, { kind: 'matrix' }>;
    return { w: e.secretMatrix({ cols: t.cols, inner: t.inner, bits: t.bits, fraction }, source(name)), operandBits: t.operandBits };
  };
  const share = (name: string): Constant<BigInt64Array> =>
    tensors.names.includes(name) ? e.constant('tables', tensors.int64(name)) : { pointer: 0, array: new BigInt64Array(find(name).elements) };
  const wire = (name: string) => {
    const { bits, scale, elements } = find(name) as Extract<SecretTensor, { kind: 'wire' }>;
    return e.secretWire({ size: elements, bits, scale }, source(name));
  };
  const projection = (name: string, fraction: number, bias: boolean): Projection => {
    const found = matrix(name, fraction),
      { cols, inner } = found.w;
    return { pointer: 0, array: new Int16Array(0), cols, inner, fraction, secret: found, bias: bias ? share(`${name}.bias`) : undefined };
  };
  return {
    projection,
    ends: (norm: (n: LayerHeader['norm1']) => NormPlan): SecretPlan => ({
      table: matrix('entry', secret.entryScale).w,
      positions: secret.positions ? share('positions') : undefined,
      norm: norm(secret.head.norm),
      head: projection('head', secret.head.fraction, secret.head.bias),
      argmax: secret.hideLogits && {
        scale: compareScale(secret.hideLogits.range),
        negative: e.constant('tables', negativeTable(COMPARE_BITS)),
        firsts: e.constant('tables', firstPlaces(header.shape.vocab)),
      },
      prefix: header.layers.map((_, l) => ({ keys: wire(`layers.${l}.prefixKeys`), values: wire(`layers.${l}.prefixValues`) })),
    }),
  };
}

/**
 * Products with private matrices, and what of them is computed before a token of an answer comes. The mask under which an operand will be opened is drawn ahead, its
 * halves as they will be narrowed are dealt ahead, and each evaluator computes [r_x] m_W of all products of the next tokens, a matrix read once for all of them. What
 * is left online is m_x times one matrix. Prompts take the other way: of many rows a matrix is read once as well.
 *
 * Source: Cachet DESIGN 3. Nothing is revealed: a mask drawn ahead serves one opening, as one that is drawn there does; where an answer ends early it serves none.
 */
import type { Program } from '../engines/effects.ts';
import type { Engine } from '../engines/engine.ts';
import { mulWeights } from '../gates/mulWeights.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import { droppedBits, type ModelPlan, type Projection, type SecretPlan } from './plan.ts';

/** Tokens whose masks are drawn at once, at most. */
export const AHEAD_TOKENS = 4;

/** What is there of a token before it comes. */
export interface Ahead {
  /** By the first matrix of an operand: the mask under which it is opened, and the halves of what is left of that when the operand is narrowed. */
  readonly operands: ReadonlyMap<WeightWire, { readonly opened: Tensor; readonly narrowed: Tensor }>;
  /** [r_x] m_W: share [cols]. */
  readonly products: ReadonlyMap<WeightWire, Tensor>;
}

/** x W^T of a wire with halves: share [rows, cols]. */
export function timesWeights(e: Engine, { secret }: ModelPlan, w: WeightWire, x: Tensor, rows: number): Tensor {
  const ahead = secret?.ahead?.products.get(w);
  return e.apply(mulWeights, { w, rows }, ahead ? [x, ahead] : [x])[0]!;
}

/** The operands of a token's step: the ring over which each is opened, and the matrices that it meets. */
function operandsOf(
  { layers }: ModelPlan,
  { table, head }: SecretPlan,
): { readonly layer: number; readonly bits: number; readonly of: readonly WeightWire[] }[] {
  const together = (layer: number, ...projections: Projection[]): { layer: number; bits: number; of: WeightWire[] } => ({
    layer,
    bits: projections[0]!.secret!.operandBits,
    of: projections.map((p) => p.secret!.w),
  });
  return [
    { layer: 0, bits: table.bits, of: [table] },
    ...layers.flatMap(({ q, k, v, o, mlp }, l) => [
      together(l, q, k, v),
      together(l, o),
      mlp.kind === 'gated' ? together(l, mlp.up, mlp.gate) : together(l, mlp.up),
      together(l, mlp.down),
    ]),
    together(layers.length - 1, head),
  ];
}

/** For each of so many tokens what can be there before it: dealt as many bytes as its operands' halves would take later, 0 rounds. */
export function* aheadOf(e: Engine, plan: ModelPlan, secret: SecretPlan, tokens: number): Program<Ahead[]> {
  const each = Array.from({ length: tokens }, () => ({
    operands: new Map<WeightWire, { opened: Tensor; narrowed: Tensor }>(),
    products: new Map<WeightWire, Tensor>(),
  }));
  for (const { layer, bits, of } of operandsOf(plan, secret)) {
    const [first] = of as [WeightWire, ...WeightWire[]],
      { inner } = first;
    e.layer = layer;
    const opened = e.maskAhead(tokens * inner, bits),
      narrowed = e.withHalves(e.narrow(opened, droppedBits(bits, first.bits)));
    for (const w of of) {
      const products = yield* e.maskProduct(w, tokens, narrowed);
      each.forEach((token, j) => token.products.set(w, products.part(j * w.cols, w.cols)));
    }
    each.forEach((token, j) => token.operands.set(first, { opened: opened.part(j * inner, inner), narrowed: narrowed.part(j * inner, inner) }));
  }
  return each;
}

/** Bytes of an engine's memory that this takes, an upper estimate: masks, narrowed ones, their public parts' places, products. */
export const aheadBytes = (matrices: readonly { readonly inner: number; readonly cols: number }[], tokens: number): number =>
  Math.min(tokens, AHEAD_TOKENS) * 8 * matrices.reduce((n, { inner, cols }) => n + 4 * inner + cols, 0);

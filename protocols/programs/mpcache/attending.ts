/** A step of one query to chosen clusters, as its parts hand it on. */
import type { Engine } from '../../engines/engine.ts';
import type { Slots } from '../../gates/linear.ts';
import type { AttentionShape } from '../../gates/mul.ts';
import type { Constant, Tensor } from '../../tensor.ts';
import type { LayerPlan, ModelPlan } from '../plan.ts';
import { choosingRows, type HeadRun, type Layout, type LayerSelection } from './clusters.ts';
import type { Representatives } from './representatives.ts';

/** What a layer's step attends to, and where its choice is kept for the layers that share it. */
export interface Choice {
  readonly selection: LayerSelection;
  readonly layout: Layout;
  /** Rows of the choice, wire [selectors, chosen, candidates] over Z_2^32: found here where another layer has chosen, to be written where this one leads. */
  readonly rows: Tensor | undefined;
  readonly taken: boolean;
  /** For scores by `minmax`, of the layer that chooses. */
  readonly representatives: Representatives | undefined;
}

/** A step of one query, as the parts of it need it. */
export interface Attending {
  readonly e: Engine;
  readonly plan: ModelPlan;
  readonly layer: LayerPlan;
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly query: Tensor;
  readonly shape: AttentionShape;
  readonly unused: Slots | undefined;
  readonly choice: Choice;
  readonly choosing: { readonly heads: number; readonly kvHeads: number };
  readonly selectors: number;
  /** Heads that choose together. */
  readonly group: number;
  readonly streams: boolean;
  readonly parts: readonly HeadRun[];
  /** Attended slots of each head. */
  readonly lengths: Uint32Array<ArrayBuffer>;
  readonly runs: Constant<Uint32Array>;
}

/** Packed rows of attended logits, each relative to its reference, and what weights make of the values: a share [heads, dim]. */
export interface Attended {
  readonly row: Tensor;
  /** Whether weights are normalised last. */
  readonly late: boolean;
  /** Of packed rows of weights those of the candidates, [choosing heads, candidates, size]: a share; undefined where nothing is to be scattered. */
  scatter(weights: Tensor): Tensor | undefined;
  output(weights: Tensor, back: Tensor | undefined): Tensor;
}

/** Of packed rows of all logits those of heads that choose: [choosing heads, slots]. */
export const ofChoosing = ({ e, choice, choosing, streams, parts }: Attending, x: Tensor): Tensor =>
  streams ? e.linear(choosingRows(choice.layout, parts, choosing.heads), x) : x;

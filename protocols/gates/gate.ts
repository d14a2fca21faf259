/**
 * What a gate is: a local function from secret tensors (and dealt material) to secret tensors. Every gate is one file with these members in this
 * order, and one line in registry.ts. Gates are synchronous and do no I/O: `deal` runs at the helper, `evaluate` at P0 and P1.
 */
import type { BulkJob, BulkKind } from '../../kernels/bulk.ts';
import { dpfKeyBytes, type Kernels } from '../../kernels/kernels.ts';
import type { Tensor, TensorSpec } from '../tensor.ts';

/** What a gate call costs beyond local work: bytes dealt to P0 and to P1, without framing. Rounds and online bytes arise in `open` alone. */
export interface DealtCost {
  readonly p0: number;
  readonly p1: number;
}

export interface Gate<P> {
  readonly name: string;
  /** Ring, scale and size of the results. @throws CachetError 'shape' or 'range' for operands that the gate cannot take. */
  shape(params: P, inputs: readonly Tensor[]): readonly TensorSpec[];
  /** Bytes dealt for this call; a public function of shapes alone. */
  cost(params: P, inputs: readonly TensorSpec[]): DealtCost;
  /** Input values for which the result is right; Fixed refuses others. */
  domain(params: P, inputs: readonly TensorSpec[], index: number): readonly [low: number, high: number] | undefined;
  /** The function, on real numbers: results into outputs. */
  ideal(params: P, inputs: readonly Float64Array[], outputs: readonly Float64Array[]): void;
  /** The function on integers, given value and mask lanes: equals the sum of both evaluators' results bit for bit. */
  fixed(context: FixedContext, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void;
  /** Helper: from masks to dealt material. */
  deal(context: DealContext, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void;
  /** Evaluator: from public values, halves and dealt material to its half of the results. */
  evaluate(context: EvaluateContext, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void;
}

export interface GateContext {
  readonly kernels: Kernels;
  /** Temporary u64[n], freed when the gate returns. */
  scratch(n: number): number;
  /** Frees what was allocated by `scratch` since the gate began, or since `keepScratch`; for loops over chunks. */
  mark(): number;
  release(mark: number): void;
  /** Number of this gate call in the program: the nonce of all its streams. */
  readonly gate: number;
  /** Public 16-byte tweak of the session's node PRG. */
  readonly tweak: number;
}

export interface DealContext extends GateContext {
  /** Shares u64[n] over Z_2^bits: P0's half is the next n elements of its stream, P1's half is sent. */
  deal(src: number, bits: number, n: number): void;
  /** The same over Z_2^bits, 64 < bits <= 96 (whole bytes), of i64[n]. */
  dealWide(src: number, bits: number, n: number): void;
  /** XOR-shares n 64-bit words. */
  dealWords(src: number, n: number): void;
  /**
   * Bulk work of a gate: jobs of a kind, which read masks and constants alone, into `elements` fresh elements at `at`; then what is dealt of their results, by
   * `deal`, `dealWide`, `dealWords` or `dealBoth`. A backend may answer later, together with other gates' jobs; what is dealt, and in which order, does not depend on it. A
   * gate deals either all by this or nothing. `inPlace`: a faster way to the same results on this thread.
   */
  later(kind: BulkKind, elements: number, jobs: (at: number) => readonly BulkJob[], then: (at: number) => void, inPlace?: (at: number) => void): void;
  /** Sends the same bytes to both evaluators. */
  dealBoth(pointer: number, bytes: number): void;
  /** The next n key roots u64[n, 2] of a party, from its stream. */
  roots(dst: number, party: 0 | 1, n: number): void;
}

export interface EvaluateContext extends GateContext {
  readonly party: 0 | 1;
  /** This party's halves of the next n values that `deal` shared. */
  receive(dst: number, bits: number, n: number): void;
  receiveWide(lo: number, hi: number, bits: number, n: number): void;
  receiveWords(dst: number, n: number): void;
  /** The next bytes that `dealBoth` sent; valid until the next receive. */
  receiveBoth(bytes: number): number;
  roots(dst: number, n: number): void;
}

export interface FixedContext extends GateContext {
  /** P0's stream halves, in the order in which `deal` draws them: what the split of a dealt value depends on. */
  half(dst: number, bits: number, n: number): void;
  halfWide(lo: number, hi: number, bits: number, n: number): void;
  /** dst = m of a wire whose lane is its value. */
  masked(dst: number, wire: Tensor): void;
}

/** Splits n elements into chunks whose dealt bytes stay below `budget`, so that neither side buffers more. */
export function* chunks(n: number, bytesPerElement: number, budget = 1 << 18): Generator<readonly [from: number, count: number], void, void> {
  const step = Math.max(1, Math.floor(budget / bytesPerElement));
  for (let from = 0; from < n; from += step) yield [from, Math.min(step, n - from)];
}

/**
 * Deals a DPF key over Z_2^bits an element of x to both evaluators, in chunks. `fill` writes points u64[n] and payload u64[n, words] from the masks of n elements.
 */
export function dealKeys(
  c: DealContext,
  x: Tensor,
  bits: number,
  words: number,
  fill: (points: number, payload: number, mask: number, n: number) => void,
): void {
  const { kernels: k, gate, tweak } = c,
    keyBytes = dpfKeyBytes(bits, words);
  for (const [from, n] of chunks(x.size, keyBytes)) {
    const top = c.mark(),
      seeds = c.scratch(4 * n),
      keyElements = Math.ceil((n * keyBytes) / 8);
    c.roots(seeds, 0, n);
    c.roots(seeds + 16 * n, 1, n);
    c.later(
      'keys',
      keyElements + (5 + words) * n,
      (dst) => {
        const roots0 = dst + 8 * keyElements,
          points = roots0 + 32 * n,
          payload = points + 8 * n;
        k.copy(roots0, seeds, 4 * n);
        fill(points, payload, x.mask + 8 * from, n);
        return [{ kind: 'keys', dst, roots0, roots1: roots0 + 16 * n, points, payload, bits, words, tweak, index: from, gate, n }];
      },
      (keys) => c.dealBoth(keys, n * keyBytes),
    );
    c.release(top);
  }
}

export const bytesOf = (bits: number): number => Math.ceil(bits / 8);

/**
 * A simulator of an evaluator's view, gate by gate: made without the input, from uniform frames and the material of a dealer that knows shapes alone. What it
 * makes passes the same tests of distribution as the real view of a fixed input: opened values, dealt halves and keys, results, and these jointly. A gate
 * that does not blind its table fails them (the positive control).
 */
import { describe, expect, it } from 'vitest';
import { u64, u8 } from '../kernels/memory.ts';
import { Dealer } from '../protocols/engines/dealer.ts';
import { MAX_TAKE_BYTES, type DealtSource, type Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { Evaluator } from '../protocols/engines/evaluator.ts';
import { and } from '../protocols/gates/and.ts';
import { b2a } from '../protocols/gates/b2a.ts';
import { bitMul } from '../protocols/gates/bitMul.ts';
import { bucket } from '../protocols/gates/bucket.ts';
import { expTables, type ExpPlan } from '../protocols/gates/expTable.ts';
import { fitFourier } from '../protocols/gates/fourier.ts';
import type { Gate } from '../protocols/gates/gate.ts';
import { columns, parities } from '../protocols/gates/linear.ts';
import { less, negativeTable } from '../protocols/gates/less.ts';
import { lookup, type LookupTable } from '../protocols/gates/lookup.ts';
import { hadamard, mix, scores } from '../protocols/gates/mul.ts';
import { mulWeights } from '../protocols/gates/mulWeights.ts';
import { onehot } from '../protocols/gates/onehot.ts';
import { gates } from '../protocols/gates/registry.ts';
import { fitSpline, type SplinePlan } from '../protocols/gates/spline.ts';
import { truthTable } from '../protocols/gates/truthTable.ts';
import { transposed } from '../protocols/programs/mpcache/clusters.ts';
import { compareAll, oneHotRows, ranksOf } from '../protocols/programs/mpcache/ranking.ts';
import { slotsByHistogram, slotsByPairs } from '../protocols/programs/mpcache/slots.ts';
import { share, type Tensor } from '../protocols/tensor.ts';
import { place, runLocal, split, testKeys } from './support/local.ts';
import { secretMatrix } from './support/secretMatrix.ts';

const N = 3000,
  /** Of these, rows that are ranked, and how many of each row are kept. */
  ROWS = 30,
  COUNT = N / ROWS,
  KEPT = 12,
  /** Words of parities that are gated. */
  WORDS = 1500,
  /** Dealt values of a call that are looked at. */
  MOST = 20_000,
  /** Places of a one-hot row that are looked at together with what it was made from, at most. */
  PLACES = 16;

interface Row {
  /** Gates of the registry that it covers. */
  readonly covers: readonly (keyof typeof gates)[];
  readonly name: string;
  readonly scale: number;
  readonly bits: number;
  /** The secret, the same in all places. */
  readonly value: number;
  /** `simulated`: what depends on another secret than x has to be made without it as well. */
  program(e: Engine, x: Tensor, simulated: boolean): Program<unknown>;
}

const table = Uint8Array.from({ length: 64 }, (_, i) => (i * 37 + 11) & 255);
const bits64 = table.subarray(0, 8);
const exp: ExpPlan = { inputScale: 12, low: -44 * 4096, domainBits: 18, cellsLog2: 3, outputScale: 25, shifts: [4] };
const silu = fitFourier({ name: 'silu', inputScale: 12, periodBits: 16, terms: 3, edge: 5, bits: 56, drop: 0 });
const splinePlan: SplinePlan = { inputScale: 8, outputScale: 20, low: 0, domainBits: 10, keyBits: 4, firstCell: 0, cells: 16, degree: 1 };
const splineTable = fitSpline((v) => v, splinePlan);
/** Of each row `to` sums over `from`. */
const blocks = (to: number, from: number) => ({ queries: 1, heads: ROWS * to, group: to, dim: 1, past: from - 1, capacity: from, firstKv: 0, prefix: 0 });
const sixBits = (e: Engine, x: Tensor): Tensor => e.mod(x, 6, true);

const rows: readonly Row[] = [
  {
    covers: ['narrow', 'maskShares', 'mul', 'mul3'],
    name: 'products of a narrowed wire',
    scale: 12,
    bits: 40,
    value: 1.5,
    *program(e, x) {
      const y = e.narrow(x, 6);
      e.mul(hadamard(N), y, y);
      e.mul3({ rows: N, cols: 1 }, y, y, y);
    },
  },
  {
    covers: ['mulWeights'],
    name: 'products with a private matrix',
    scale: 10,
    bits: 32,
    value: 5,
    *program(e, x, simulated) {
      const party = e instanceof Evaluator ? e.party : undefined,
        // Of another matrix, under another seed than the one that the evaluator has not: m is uniform to it.
        other = simulated ? { values: () => 0, seeds: [party === 0 ? 1 : 3, party === 1 ? 2 : 3] as const } : { values: (i: number) => 100 - (i % 7) };
      e.apply(mulWeights, { w: secretMatrix(e, 32, { cols: 8, inner: 8, ...other }), rows: N / 8 }, [x]);
    },
  },
  {
    covers: ['widen'],
    name: 'widen',
    scale: 6,
    bits: 20,
    value: -100,
    *program(e, x) {
      e.widen(x);
    },
  },
  {
    covers: ['expTable'],
    name: 'expTable',
    scale: 12,
    bits: 20,
    value: 3,
    *program(e, x) {
      e.expTable({ ...exp, tables: e.constant('tables', expTables(exp)) }, x);
    },
  },
  {
    covers: ['fourier'],
    name: 'fourier',
    scale: 12,
    bits: 20,
    value: 2.25,
    *program(e, x) {
      e.fourier({ ...silu.plan, tables: e.constant('tables', silu.tables) }, x);
    },
  },
  {
    covers: ['spline'],
    name: 'spline',
    scale: 8,
    bits: 14,
    value: 2,
    *program(e, x) {
      e.apply(gates.spline, { ...splinePlan, coefficients: e.constant('tables', splineTable) }, [x]);
    },
  },
  {
    covers: ['mod', 'truthTable', 'b2a', 'bitMul'],
    name: 'truthTable, opened, b2a and bitMul',
    scale: 0,
    bits: 16,
    value: 21,
    *program(e, x) {
      const [bit] = yield* e.open(e.apply(truthTable, { bits: 6, table: e.constant('tables', bits64) }, [sixBits(e, x)]));
      e.apply(b2a, { bits: 12 }, [bit!]);
      e.apply(bitMul, null, [bit!, x]);
    },
  },
  {
    covers: ['lookup'],
    name: 'lookup',
    scale: 0,
    bits: 16,
    value: 13,
    *program(e, x) {
      e.apply(lookup, { bits: 6, outBits: 12, table: e.constant('tables', table) }, [sixBits(e, x)]);
    },
  },
  {
    covers: ['less'],
    name: 'less',
    scale: 0,
    bits: 7,
    value: -9,
    *program(e, x) {
      const [y] = yield* e.open([{ x: e.addConstant(e.zeros(share(N, 64, 0)), 4), bits: 7 }]);
      e.apply(less, { bits: 7, table: e.constant('tables', negativeTable(7)) }, [x, y!]);
    },
  },
  {
    covers: ['bucket'],
    name: 'bucket',
    scale: 0,
    bits: 12,
    value: 5,
    *program(e, x) {
      e.apply(bucket, { low: -16, inputScale: 0 }, [sixBits(e, x)]);
    },
  },
  {
    covers: ['and'],
    name: 'bits and words',
    scale: 0,
    bits: 12,
    value: 5,
    *program(e, x) {
      const some = e.linear(columns(1, N, 0, WORDS), x),
        [suffix] = e.apply(bucket, { low: -16, inputScale: 0 }, [sixBits(e, some)]),
        [words] = yield* e.open([e.linear(parities(e.constant('tables', new Uint32Array(WORDS).fill(1)), 20, 2), suffix!)]),
        [bit] = yield* e.open([{ x: e.addConstant(e.zeros(share(WORDS, 64, 0)), 1), bits: 2 }]);
      yield* e.open(e.apply(and, { rows: WORDS, cols: 2 }, [e.mod(bit!, 1, true), words!]));
    },
  },
  {
    covers: ['onehot'],
    name: 'onehot',
    scale: 0,
    bits: 4,
    value: 2,
    *program(e, x) {
      e.apply(onehot, { bits: 4, span: 4, outBits: 16 }, [x]);
    },
  },
  {
    covers: ['onehot'],
    name: 'onehot of a block of slots',
    scale: 0,
    bits: 9,
    value: 47,
    *program(e, x) {
      e.apply(onehot, { bits: 9, span: 16, outBits: 40 }, [e.addConstant(x, -40)]);
    },
  },
  {
    covers: [],
    name: 'ranks, one-hot rows, what they gather and scatter',
    scale: 0,
    bits: 7,
    value: 3,
    *program(e, x) {
      const [flags] = yield* e.open([compareAll(e, x, ROWS, COUNT, e.constant('tables', negativeTable(7)))]),
        [ranks] = yield* e.open([ranksOf(e, flags!, ROWS, COUNT)]),
        // [ROWS, COUNT, KEPT]
        [rows] = yield* e.open([oneHotRows(e, ranks!, COUNT, KEPT, 32)]),
        [payload] = yield* e.open([{ x: e.addConstant(e.zeros(share(N, 64, 0)), 9), bits: 32 }]);
      const [gathered] = yield* e.open([e.mul(mix(blocks(KEPT, COUNT)), e.linear(transposed(ROWS, COUNT, KEPT), rows!), payload!)]);
      yield* e.open([e.mul(mix(blocks(COUNT, KEPT)), rows!, gathered!)]);
    },
  },
  {
    covers: [],
    name: 'keys that rows gather, and their logits',
    scale: 0,
    bits: 7,
    value: 3,
    *program(e, x) {
      const ranks = e.mod(x, 6, true),
        // [ROWS, COUNT, 4]
        [rows] = yield* e.open([oneHotRows(e, ranks, 64, 4, 32)]),
        [keys] = yield* e.open([{ x: e.addConstant(e.zeros(share(2 * N, 64, 0)), 9), bits: 32 }]),
        [gathered] = yield* e.open([e.mul(mix({ ...blocks(4, COUNT), dim: 2 }), e.linear(transposed(ROWS, COUNT, 4), rows!), keys!)]);
      yield* e.open([e.mul(scores({ queries: 1, heads: ROWS, group: 1, dim: 2, past: 3, capacity: 4, firstKv: 0, prefix: 0 }), keys!, gathered!)]);
    },
  },
  {
    covers: [],
    name: 'slots by histogram',
    scale: 0,
    bits: 7,
    value: 3,
    *program(e, x) {
      yield* e.open([{ x: yield* slotsByHistogram(e, x, ROWS, COUNT, KEPT), bits: 8 }]);
    },
  },
  {
    covers: [],
    name: 'slots by pairs',
    scale: 0,
    bits: 7,
    value: 3,
    *program(e, x) {
      yield* e.open([{ x: yield* slotsByPairs(e, x, ROWS, COUNT, KEPT), bits: 8 }]);
    },
  },
];

/** Counts of what a view shows, by feature. */
class View {
  readonly counts = new Map<string, Float64Array>();
  private opened: BigUint64Array | undefined;

  private count(feature: string, cell: number): void {
    let cells = this.counts.get(feature);
    if (!cells) this.counts.set(feature, (cells = new Float64Array(256)));
    cells[cell]!++;
  }
  private values(feature: string, list: BigUint64Array, bits: number): void {
    const top = BigInt(Math.max(0, bits - 8));
    for (const v of list) {
      this.count(`${feature}, low bits`, Number(v & 255n));
      if (top > 0n) this.count(`${feature}, high bits`, Number((v >> top) & 255n));
    }
  }

  /** A wire's public part, or an evaluator's half of a result, also jointly with what was opened last. */
  output(name: string, list: BigUint64Array, bits: number): void {
    const of = list.map((v) => BigInt.asUintN(bits, v));
    this.values(name, of, bits);
    const each = this.opened && of.length / this.opened.length;
    // Place by place, so that an opened value counts once.
    if (each && Number.isInteger(each) && each <= PLACES)
      of.forEach((v, i) =>
        this.count(`${name}, place ${i % each}, with the opened value`, Number(((this.opened![Math.floor(i / each)]! & 15n) << 4n) | (v & 15n))),
      );
    if (name.startsWith('open')) this.opened = of;
  }
  dealt(list: BigUint64Array, bits: number): void {
    this.values(
      'dealt',
      list.map((v) => BigInt.asUintN(bits, v)),
      bits,
    );
  }
  key(bytes: Uint8Array): void {
    for (const v of bytes) this.count('keys', v);
  }

  /** Greatest two-sample chi-square of a feature, in standard deviations. */
  distance(other: View): number {
    expect([...this.counts.keys()]).toEqual([...other.counts.keys()]);
    let worst = -Infinity;
    for (const [feature, a] of this.counts) {
      const b = other.counts.get(feature)!,
        totals = [a, b].map((c) => c.reduce((x, y) => x + y, 0));
      expect(totals[0], feature).toBe(totals[1]);
      let sum = 0,
        cells = 0;
      a.forEach((v, i) => {
        const both = v + b[i]!;
        if (both === 0) return;
        cells++;
        sum += (v - b[i]!) ** 2 / both;
      });
      if (cells > 1) worst = Math.max(worst, deviation(sum, cells - 1));
    }
    return worst;
  }
}

/** A chi-square as a normal deviate (Wilson and Hilferty 1931). */
const deviation = (chiSquare: number, freedom: number): number => (Math.cbrt(chiSquare / freedom) - 1 + 2 / (9 * freedom)) / Math.sqrt(2 / (9 * freedom));

/** Linear maps of what was seen before are not looked at: their results are no independent samples. */
const LOOKED_AT = new Set(['open', ...Object.keys(gates), 'unblinded']);

/** Lets a view see what an evaluator opens, takes in and computes. */
function look(e: Evaluator, view: View): void {
  const memory = e.kernels.memory,
    { receive, receiveWide, receiveBoth } = e;
  Object.assign(e, {
    receive(dst: number, bits: number, n: number) {
      receive(dst, bits, n);
      view.dealt(u64(memory, dst, Math.min(n, MOST)), bits);
    },
    receiveWide(lo: number, hi: number, bits: number, n: number) {
      receiveWide(lo, hi, bits, n);
      view.dealt(u64(memory, lo, n), 64);
      view.dealt(u64(memory, hi, n), bits - 64);
    },
    receiveBoth(bytes: number) {
      const at = receiveBoth(bytes);
      view.key(u8(memory, at, bytes));
      return at;
    },
  });
  e.observe = (_, name, outputs) => LOOKED_AT.has(name) && outputs.forEach((y, i) => view.output(`${name} ${i}`, u64(memory, y.lane, y.size), y.bits));
}

const program = (row: Row, simulated: boolean) =>
  function* (e: Engine): Program<void> {
    const [x] = yield* e.open([{ x: yield* e.input(N, row.scale), bits: row.bits }]);
    yield* row.program(e, x!, simulated);
    e.endStep();
  };

/** Both evaluators' views of a run on the row's secret. */
function real(row: Row, seed: number): View[] {
  const views = [new View(), new View()],
    [a, b] = split(new Float64Array(N).fill(row.value), row.scale, seed);
  runLocal(
    (e) => {
      if (e instanceof Evaluator) look(e, views[e.party]!);
      return program(row, false)(e);
    },
    [[a], [b]],
    { seed },
  );
  return views;
}

/** A party's view without the input: its share of it and the other's frames are uniform, the dealer's masks have nothing to do with them. */
function simulated(row: Row, party: 0 | 1, seed: number): View {
  const keys = testKeys(seed),
    view = new View(),
    parts: Uint8Array[] = [],
    [helper, evaluator] = [place(), place()],
    bytes = (pointer: number, n: number) => u8(helper.kernels.memory, pointer, n);
  const take = (list: Uint8Array): void => void parts.push(list.slice());
  const dealer = new Dealer({
    ...helper,
    keys: keys.dealer,
    sink: {
      emit: (pointer, n) => party === 1 && take(bytes(pointer, n)),
      emitBoth: (pointer, n) => take(bytes(pointer, n)),
      flush: () => undefined,
      endStep: () => undefined,
    },
  });
  for (const effect of program(row, true)(dealer)) if (effect.kind === 'job') void effect.run();
  const all = Buffer.concat(parts),
    [region, noise, key] = [evaluator.arena.alloc(MAX_TAKE_BYTES), evaluator.arena.alloc(MAX_TAKE_BYTES), evaluator.arena.alloc(32)];
  u8(evaluator.kernels.memory, key, 32).set(testKeys(seed + 50).coins);
  let at = 0;
  const next = (n: number): number => {
    u8(evaluator.kernels.memory, region, n).set(all.subarray(at, (at += n)));
    return region;
  };
  const source: DealtSource = { take: next, takeBoth: next, discard: () => undefined, endStep: () => undefined };
  const e = new Evaluator({ party, ...evaluator, keys: party === 0 ? keys.p0 : keys.p1, dealt: source });
  look(e, view);
  let received = 0;
  for (const effect of program(row, true)(e))
    if (effect.kind === 'input' || effect.kind === 'round') {
      evaluator.kernels.prg(noise, key, received++, 0, 0, 64, Math.ceil(effect.bytes / 8));
      u8(evaluator.kernels.memory, effect.into, effect.bytes).set(u8(evaluator.kernels.memory, noise, effect.bytes));
    } else if (effect.kind === 'job') void effect.run();
  expect(at).toBe(all.length);
  return view;
}

describe('an evaluator’s view can be made without the input', () => {
  it('of every gate', () => {
    const covered = new Set(rows.flatMap((r) => r.covers));
    expect(Object.keys(gates).filter((g) => !covered.has(g as keyof typeof gates))).toEqual([]);
  });
  it.each(rows)('$name', (row) => {
    const views = real(row, 7);
    for (const party of [0, 1] as const) expect(views[party]!.distance(simulated(row, party, 11 + party)), `P${party}`).toBeLessThan(6);
  });

  /** The table permuted by the mask, as it is, to both: what stands at m is f(x). */
  const unblinded: Gate<LookupTable> = {
    ...lookup,
    name: 'unblinded',
    cost: ({ bits }, [x]) => ({ p0: x!.size * 2 ** bits * 8, p1: x!.size * 2 ** bits * 8 }),
    deal({ kernels: k, scratch, dealBoth }, { bits, table: f }, [x]) {
      for (let i = 0; i < x!.size; i++) {
        const one = scratch(1 << bits);
        k.lookupPermute(one, f.pointer, x!.mask + 8 * i, bits, 0, 1);
        dealBoth(one, 8 << bits);
      }
    },
    evaluate({ kernels: k, receiveBoth }, { bits }, [x], [y]) {
      for (let i = 0; i < x!.size; i++) k.lookupPick(y!.lane + 8 * i, receiveBoth(8 << bits), x!.lane + 8 * i, bits, 1);
    },
  };
  it('but not of one that does not blind its table (positive control)', () => {
    const row: Row = {
      covers: [],
      name: 'unblinded',
      scale: 0,
      bits: 16,
      value: 13,
      *program(e, x) {
        e.apply(unblinded, { bits: 6, outBits: 12, table: e.constant('tables', table) }, [sixBits(e, x)]);
      },
    };
    const views = real(row, 7);
    for (const party of [0, 1] as const) expect(views[party]!.distance(simulated(row, party, 11 + party)), `P${party}`).toBeGreaterThan(20);
  });
});

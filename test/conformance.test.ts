/**
 * Conformance of all gates: for random and edge values, the sum of both evaluators' results equals Fixed bit for bit and the ideal within the declared
 * bound; bytes and rounds really used equal the Meter's. Each row of the table is one gate in one setting; a new gate adds a row.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NONZERO } from '../protocols/artefact.ts';
import type { Program } from '../protocols/engines/effects.ts';
import type { Engine } from '../protocols/engines/engine.ts';
import { and } from '../protocols/gates/and.ts';
import { b2a } from '../protocols/gates/b2a.ts';
import { bitMul } from '../protocols/gates/bitMul.ts';
import { bucket } from '../protocols/gates/bucket.ts';
import { expTable, expTables, type ExpPlan } from '../protocols/gates/expTable.ts';
import { fitFourier } from '../protocols/gates/fourier.ts';
import { anyOf, columns, matmul, parities, rope, segmentSpread, segmentSum, transpose } from '../protocols/gates/linear.ts';
import { onehot } from '../protocols/gates/onehot.ts';
import { pick, transposed } from '../protocols/programs/mpcache/clusters.ts';
import { compareAll, oneHotRows, ranksOf } from '../protocols/programs/mpcache/ranking.ts';
import { slotsByHistogram, slotsByPairs } from '../protocols/programs/mpcache/slots.ts';
import { lookup } from '../protocols/gates/lookup.ts';
import { dotRows, hadamard, mix, packedSize, scaleRows, scaleRuns, scores, selectRows, weighRows, type Block } from '../protocols/gates/mul.ts';
import { mulWeights } from '../protocols/gates/mulWeights.ts';
import { gates } from '../protocols/gates/registry.ts';
import { fitSpline, type SplinePlan } from '../protocols/gates/spline.ts';
import { less, negativeTable } from '../protocols/gates/less.ts';
import { truthTable } from '../protocols/gates/truthTable.ts';
import { bindWindows, fitWindows } from '../protocols/gates/windows.ts';
import type { Tensor } from '../protocols/tensor.ts';
import { runFixed, runFloat, runLocal, runMeter, split } from './support/local.ts';
import { secretMatrix } from './support/secretMatrix.ts';

interface Row {
  readonly gate: string;
  readonly name: string;
  /** Inputs: sizes, scale, range of values, ring of the opening. */
  readonly inputs: readonly {
    readonly size: number;
    readonly scale: number;
    readonly low: number;
    readonly high: number;
    readonly bits: number;
    readonly integer?: boolean;
  }[];
  program(e: Engine, wires: Tensor[]): Program<Tensor[]>;
  /** Largest absolute error against the ideal for these inputs; a number or a function of the ideal value. */
  readonly error: number | ((ideal: number) => number);
  /** Rounds besides the inputs' opening. */
  readonly rounds?: number;
}

const attention = { queries: 3, heads: 4, group: 2, dim: 6, past: 5, capacity: 9, firstKv: 0, prefix: 2 };
const exp: ExpPlan = { inputScale: 12, low: -100 * 4096, domainBits: 19, cellsLog2: 3, outputScale: 22, shifts: [0, 5] };
const expSmall: ExpPlan = { inputScale: 12, low: -44 * 4096, domainBits: 18, cellsLog2: 3, outputScale: 25, shifts: [4] };
const silu = fitFourier({ name: 'silu', inputScale: 12, periodBits: 17, terms: 16, edge: 12, bits: 56, drop: 0 });
const siluNarrow = fitFourier({ name: 'silu', inputScale: 12, periodBits: 16, terms: 8, edge: 5, bits: 56, drop: 0 });
const gelu = fitFourier({ name: 'gelu-tanh', inputScale: 12, periodBits: 15, terms: 7, edge: 3.3, bits: 64, drop: 13 });
const splinePlan: SplinePlan = { inputScale: 12, outputScale: 30, low: -16 * 4096, domainBits: 17, keyBits: 7, firstCell: 0, cells: 128, degree: 2 };
const splineTable = fitSpline((x) => x / (1 + Math.exp(-x)), splinePlan);
const narrowPlan: SplinePlan = { inputScale: 8, outputScale: 20, low: 0, domainBits: 12, keyBits: 6, firstCell: 5, cells: 17, degree: 1 };
const reciprocal = fitWindows({ name: 'reciprocal' }, 2 ** -4, 2 ** 20, 27, 22);
const rsqrt = fitWindows({ name: 'rsqrt', width: 160, eps: 1e-5 }, 0.5, 2 ** 14, 18, 20);
const table = Uint8Array.from({ length: 32 }, (_, i) => (i * 37 + 11) & 255);
const lengths = Uint32Array.of(5, 1, 9);

/** A private matrix [6, 16] of the given storage, split under fixed seeds. */
function* one(x: Tensor): Program<Tensor[]> {
  return [x];
}
/** Slots of three rows of eleven scores, the first four of which are kept: a share of whole numbers, as one-hot rows [33, 11]. */
function* ranked(e: Engine, slots: Tensor): Program<Tensor[]> {
  const [at] = yield* e.open([{ x: slots, bits: 5 }]);
  return [e.apply(onehot, { bits: 4, span: 11, outBits: 32 }, [e.mod(at!, 4, true)])[0]!];
}
/** A selector's parts that may be 1: of three rows and five columns. */
const blocks: Block[] = [
  { row: 0, rows: 2, column: 0, columns: 3 },
  { row: 1, rows: 2, column: 3, columns: 2 },
];
const int64 = (e: Engine, a: BigInt64Array) => e.constant('tables', a);

const rows: Row[] = [
  { gate: 'open', name: '64 bits', inputs: [{ size: 9, scale: 24, low: -(2 ** 30), high: 2 ** 30, bits: 64 }], program: (_, [x]) => one(x!), error: 2 ** -24 },
  { gate: 'open', name: '13 bits', inputs: [{ size: 33, scale: 4, low: -255, high: 255, bits: 13 }], program: (_, [x]) => one(x!), error: 2 ** -4 },
  {
    gate: 'narrow',
    name: 'by 12',
    inputs: [{ size: 101, scale: 24, low: -500, high: 500, bits: 64 }],
    program: (e, [x]) => one(e.narrow(x!, 12)),
    error: 1.01 * 2 ** -12,
  },
  {
    gate: 'narrow',
    name: 'to 3 bits',
    inputs: [{ size: 17, scale: 10, low: -1.9, high: 1.9, bits: 13 }],
    program: (e, [x]) => one(e.narrow(x!, 10)),
    error: 1,
  },
  {
    gate: 'mod',
    name: '40 to 20',
    inputs: [{ size: 31, scale: 12, low: -120, high: 120, bits: 40 }],
    program: (e, [x]) => one(e.mod(x!, 20)),
    error: 2 ** -12,
  },
  {
    gate: 'maskShares',
    name: 'square of a narrowed wire',
    inputs: [{ size: 21, scale: 24, low: -30, high: 30, bits: 64 }],
    program: (e, [x]) => one(e.mul(hadamard(21), e.narrow(x!, 14), e.narrow(x!, 14))),
    error: 0.07,
  },
  {
    gate: 'widen',
    name: '22 bits',
    inputs: [{ size: 63, scale: 12, low: -255.9, high: 255.9, bits: 22 }],
    program: (e, [x]) => one(e.widen(x!)),
    error: 2 ** -12,
  },
  {
    gate: 'widen',
    name: '52 bits by 30',
    inputs: [{ size: 15, scale: 42, low: -250, high: 250, bits: 52 }],
    program: (e, [x]) => one(e.widen(x!, 30)),
    error: 1.01 * 2 ** -12,
  },
  {
    gate: 'mul',
    name: 'hadamard',
    inputs: [
      { size: 37, scale: 12, low: -100, high: 100, bits: 64 },
      { size: 37, scale: 12, low: -100, high: 100, bits: 48 },
    ],
    program: (e, [x, y]) => one(e.mul(hadamard(37), x!, y!)),
    error: 0.05,
  },
  {
    gate: 'mul',
    name: 'scaleRows',
    inputs: [
      { size: 35, scale: 12, low: -9, high: 9, bits: 52 },
      { size: 5, scale: 18, low: -9, high: 9, bits: 52 },
    ],
    program: (e, [x, y]) => one(e.mul(scaleRows(5, 7), x!, y!)),
    error: 0.005,
  },
  {
    gate: 'mul',
    name: 'scaleRuns',
    inputs: [
      { size: 35, scale: 12, low: -9, high: 9, bits: 52 },
      { size: 4, scale: 18, low: -9, high: 9, bits: 52 },
    ],
    program: (e, [x, y]) => one(e.mul(scaleRuns(Uint32Array.of(3, 20, 1, 11)), x!, y!)),
    error: 0.005,
  },
  {
    gate: 'mul',
    name: 'dotRows',
    inputs: [{ size: 44, scale: 12, low: -9, high: 9, bits: 64 }],
    program: (e, [x]) => one(e.mul(dotRows(4, 11), x!, x!)),
    error: 0.06,
  },
  {
    gate: 'mul',
    name: 'scores',
    error: 0.06,
    inputs: [
      { size: attention.queries * attention.heads * attention.dim, scale: 12, low: -4, high: 4, bits: 32 },
      { size: 2 * attention.capacity * attention.dim, scale: 12, low: -4, high: 4, bits: 32 },
    ],
    program: (e, [q, k]) => one(e.mul(scores({ ...attention, prefix: 0 }), q!, k!)),
  },
  {
    gate: 'mul',
    name: 'mix',
    error: 0.1,
    inputs: [
      { size: packedSize(attention), scale: 16, low: 0, high: 1, bits: 64 },
      { size: 2 * attention.capacity * attention.dim, scale: 8, low: -8, high: 8, bits: 64 },
    ],
    program: (e, [p, v]) => one(e.mul(mix(attention), p!, v!)),
  },
  ...[false, true].map((perHead): Row => ({
    gate: 'mul',
    name: `weighRows, ${perHead ? 'of each head' : 'all heads together'}`,
    error: 0.002,
    inputs: [
      { size: packedSize(attention), scale: 16, low: 0, high: 1, bits: 56 },
      { size: attention.queries * attention.heads, scale: 20, low: 0, high: 2, bits: 56 },
    ],
    program: (e, [p, r]) => one(e.mul(weighRows(attention, 2, 3, perHead), p!, r!)),
  })),
  {
    gate: 'mul',
    name: 'selectRows, by blocks of a selector',
    error: 0.01,
    inputs: [
      { size: 10, scale: 0, low: 0, high: 1, bits: 32, integer: true },
      { size: 2 * 9 * 4, scale: 10, low: -8, high: 8, bits: 40 },
    ],
    program: (e, [s, x]) => one(e.mul(selectRows(blocks, 3, 2, 9, 1, 4), s!, x!)),
  },
  {
    gate: 'mul',
    name: 'a gather of clusters by ranked one-hot rows, and the scatter back',
    rounds: 4,
    error: 0.02,
    inputs: [
      { size: 33, scale: 0, low: -63, high: 63, bits: 8, integer: true },
      { size: 3 * 11 * 5, scale: 12, low: -8, high: 8, bits: 32 },
    ],
    *program(e, [x, payload]) {
      const [flags] = yield* e.open([compareAll(e, x!, 3, 11, e.constant('tables', negativeTable(8)))]),
        [ranks] = yield* e.open([ranksOf(e, flags!, 3, 11)]),
        [places] = yield* e.open([oneHotRows(e, ranks!, 11, 4, 32)]),
        [gathered] = yield* e.open([e.mul(mix(pick(12, 4, 11, 5)), e.linear(transposed(3, 11, 4), places!), payload!)]);
      return [e.mul(mix(pick(33, 11, 4, 5)), places!, gathered!)];
    },
  },
  {
    gate: 'mul3',
    name: 'rows of 6',
    error: 0.01,
    inputs: [
      { size: 18, scale: 12, low: -3, high: 3, bits: 64 },
      { size: 3, scale: 12, low: -3, high: 3, bits: 64 },
      { size: 3, scale: 12, low: -3, high: 3, bits: 64 },
    ],
    program: (e, [x, y, z]) => one(e.mul3({ rows: 3, cols: 6 }, x!, y!, z!)),
  },
  ...([32, 64] as const).map((bits): Row => ({
    gate: 'mulWeights',
    name: `matrix over ${bits} bits`,
    inputs: [{ size: 48, scale: 10, low: -9, high: 9, bits }],
    program: (e, [x]) =>
      one(e.apply(mulWeights, { w: secretMatrix(e, bits, { cols: 6, inner: 16, values: (i) => ((i * 7919) % 4001) - 2000 }), rows: 3 }, [x!])[0]!),
    error: 2 ** -12,
  })),
  {
    gate: 'expTable',
    name: '128 nats, two shifts',
    inputs: [{ size: 71, scale: 12, low: -98, high: 10, bits: 20 }],
    *program(e, [x]) {
      return e.apply(expTable, { ...exp, tables: e.constant('tables', expTables(exp)) }, [x!]);
    },
    error: (v) => 2 ** -18 + v * 5e-4,
  },
  {
    gate: 'expTable',
    name: '64 nats',
    inputs: [{ size: 19, scale: 12, low: -42, high: 10, bits: 20 }],
    *program(e, [x]) {
      return e.apply(expTable, { ...expSmall, tables: e.constant('tables', expTables(expSmall)) }, [x!]);
    },
    error: (v) => 2 ** -18 + v * 5e-4,
  },
  {
    gate: 'fourier',
    name: 'GELU, short',
    inputs: [{ size: 40, scale: 12, low: -3.2, high: 3.2, bits: 22 }],
    program: (e, [x]) => one(e.fourier({ ...gelu.plan, tables: int64(e, gelu.tables) }, x!)),
    error: 2e-3,
  },
  {
    gate: 'fourier',
    name: 'SiLU, period 32',
    inputs: [{ size: 45, scale: 12, low: -12, high: 11.99, bits: 22 }],
    program: (e, [x]) => one(e.fourier({ ...silu.plan, tables: int64(e, silu.tables) }, x!)),
    error: 2e-3,
  },
  {
    gate: 'fourier',
    name: 'SiLU, period 16',
    inputs: [{ size: 7, scale: 12, low: -5, high: 4.99, bits: 20 }],
    program: (e, [x]) => one(e.fourier({ ...siluNarrow.plan, tables: int64(e, siluNarrow.tables) }, x!)),
    error: 1e-2,
  },
  {
    gate: 'spline',
    name: 'all cells',
    inputs: [{ size: 25, scale: 12, low: -15.7, high: 15.7, bits: 20 }],
    program: (e, [x]) => one(e.apply(gates.spline, { ...splinePlan, coefficients: int64(e, splineTable) }, [x!])[0]!),
    error: 3e-3,
  },
  {
    gate: 'spline',
    name: 'some cells, zero elsewhere',
    inputs: [{ size: 40, scale: 8, low: 1.1, high: 15.6, bits: 14 }],
    program: (e, [x]) => one(e.apply(gates.spline, { ...narrowPlan, coefficients: int64(e, new BigInt64Array(34)) }, [x!])[0]!),
    error: 0,
  },
  {
    gate: 'windows',
    name: '1 / x',
    inputs: [{ size: 13, scale: 22, low: 0.08, high: 2 ** 12, bits: 64 }],
    program: (e, [x]) =>
      one(
        e.windows(
          bindWindows(
            reciprocal.plan,
            reciprocal.coefficients.map((c) => int64(e, c)),
          ),
          x!,
        ),
      ),
    error: (v) => 8e-3 * v + 2 ** -26,
  },
  {
    gate: 'windows',
    name: 'rsqrt',
    inputs: [{ size: 5, scale: 20, low: 1, high: 12000, bits: 36 }],
    program: (e, [x]) =>
      one(
        e.windows(
          bindWindows(
            rsqrt.plan,
            rsqrt.coefficients.map((c) => int64(e, c)),
          ),
          x!,
        ),
      ),
    error: (v) => 8e-3 * v + 2 ** -17,
  },
  {
    gate: 'truthTable',
    name: '8 bits',
    inputs: [{ size: 50, scale: 0, low: 0, high: 255, bits: 16, integer: true }],
    program: (e, [x]) => one(e.apply(truthTable, { bits: 8, table: e.constant('tables', table) }, [e.mod(x!, 8, true)])[0]!),
    error: 0,
  },
  {
    gate: 'truthTable',
    name: 'sign of 6 bits',
    inputs: [{ size: 50, scale: 0, low: -31, high: 30, bits: 6, integer: true }],
    program: (e, [x]) => one(e.apply(truthTable, { bits: 6, table: e.constant('tables', negativeTable(6)), signed: true }, [x!])[0]!),
    error: 0,
  },
  {
    gate: 'less',
    name: '6 bits, up to the window’s ends',
    inputs: [
      { size: 33, scale: 0, low: 0, high: 15, bits: 6, integer: true },
      { size: 33, scale: 0, low: -15, high: 15, bits: 6, integer: true },
    ],
    program: (e, [x, y]) => one(e.apply(less, { bits: 6, table: e.constant('tables', negativeTable(6)) }, [x!, y!])[0]!),
    error: 0,
  },
  {
    gate: 'less',
    name: '8 bits',
    inputs: [
      { size: 33, scale: 2, low: -15.75, high: 15.75, bits: 8 },
      { size: 33, scale: 2, low: -15.75, high: 15.75, bits: 8 },
    ],
    program: (e, [x, y]) => one(e.apply(less, { bits: 8, table: e.constant('tables', negativeTable(8)) }, [x!, y!])[0]!),
    error: 0,
  },
  {
    gate: 'onehot',
    name: '6 bits, 9 places',
    inputs: [{ size: 40, scale: 0, low: 0, high: 63, bits: 8, integer: true }],
    program: (e, [x]) => one(e.apply(onehot, { bits: 6, span: 9, outBits: 32 }, [e.mod(x!, 6, true)])[0]!),
    error: 0,
  },
  {
    gate: 'onehot',
    name: 'all places of 1 bit',
    inputs: [{ size: 9, scale: 0, low: 0, high: 1, bits: 4, integer: true }],
    program: (e, [x]) => one(e.apply(onehot, { bits: 1, span: 2, outBits: 64 }, [e.mod(x!, 1, true)])[0]!),
    error: 0,
  },
  {
    gate: 'onehot',
    name: 'ranked by all pairs',
    rounds: 2,
    inputs: [{ size: 33, scale: 0, low: -63, high: 63, bits: 8, integer: true }],
    *program(e, [x]) {
      const [flags] = yield* e.open([compareAll(e, x!, 3, 11, e.constant('tables', negativeTable(8)))]);
      const [ranks] = yield* e.open([ranksOf(e, flags!, 3, 11)]);
      return [oneHotRows(e, ranks!, 11, 4, 40)];
    },
    error: 0,
  },
  {
    gate: 'onehot',
    name: 'slots by histogram',
    rounds: 8,
    inputs: [{ size: 33, scale: 0, low: 0, high: 62, bits: 7, integer: true }],
    *program(e, [x]) {
      return yield* ranked(e, yield* slotsByHistogram(e, x!, 3, 11, 4));
    },
    error: 0,
  },
  {
    gate: 'onehot',
    name: 'slots by pairs',
    rounds: 8,
    inputs: [{ size: 33, scale: 0, low: 0, high: 62, bits: 7, integer: true }],
    *program(e, [x]) {
      return yield* ranked(e, yield* slotsByPairs(e, x!, 3, 11, 4));
    },
    error: 0,
  },
  {
    gate: 'mul',
    name: 'compaction: what is kept, in order',
    rounds: 9,
    inputs: [
      { size: 11, scale: 0, low: 0, high: 62, bits: 7, integer: true },
      { size: 2 * 11 * 3, scale: 10, low: -8, high: 8, bits: 32 },
    ],
    *program(e, [x, cache]) {
      const [slots] = yield* e.open([{ x: yield* slotsByHistogram(e, x!, 1, 11, 4), bits: 5 }]),
        [rows] = e.apply(onehot, { bits: 4, span: 4, outBits: 32 }, [e.mod(slots!, 4, true)]),
        [selector] = yield* e.open([e.linear(transpose(11, 4), rows!)]);
      return [e.mul(selectRows([{ row: 0, rows: 4, column: 0, columns: 11 }], 4, 2, 11, 0, 3), selector!, cache!)];
    },
    error: 0.001,
  },
  {
    gate: 'bucket',
    name: 'with parities and lookup: a maximum',
    rounds: 1,
    error: 6,
    inputs: [{ size: 15, scale: 0, low: -9, high: 40, bits: 12, integer: true }],
    *program(e, [x]) {
      const [suffix] = e.apply(bucket, { low: -16, inputScale: 0 }, [e.mod(x!, 6, true)]);
      const [words] = yield* e.open([e.linear(parities(e.constant('tables', lengths), 4, 57), suffix!)]);
      const [flags] = e.apply(lookup, { ...NONZERO, table: e.constant('tables', NONZERO.table) }, [words!]);
      return [e.linear(segmentSum(e.constant('tables', new Uint32Array(3).fill(57))), flags!)];
    },
  },
  {
    gate: 'and',
    name: 'bits and words of parities: a maximum of those rows whose bit is set',
    rounds: 2,
    error: 6,
    inputs: [
      { size: 15, scale: 0, low: -9, high: 40, bits: 12, integer: true },
      { size: 5, scale: 0, low: 0, high: 1, bits: 2, integer: true },
    ],
    *program(e, [x, bit]) {
      const [suffix] = e.apply(bucket, { low: -16, inputScale: 0 }, [e.mod(x!, 6, true)]),
        [words] = yield* e.open([e.linear(parities(e.constant('tables', new Uint32Array(5).fill(3)), 4, 57), suffix!)]),
        [some] = yield* e.open([e.linear(anyOf(1, 5, 57), e.apply(and, { rows: 5, cols: 57 }, [e.mod(bit!, 1, true), words!])[0]!)]),
        [flags] = e.apply(lookup, { ...NONZERO, table: e.constant('tables', NONZERO.table) }, [some!]);
      return [e.linear(segmentSum(e.constant('tables', Uint32Array.of(57))), flags!)];
    },
  },
  {
    gate: 'lookup',
    name: '7 bits to 12',
    inputs: [{ size: 21, scale: 0, low: 0, high: 127, bits: 16, integer: true }],
    program: (e, [x]) =>
      one(
        e.apply(
          lookup,
          {
            bits: 7,
            outBits: 12,
            table: e.constant(
              'tables',
              new Uint8Array(128).map((_, i) => (i * 37) & 255),
            ),
          },
          [e.mod(x!, 7, true)],
        )[0]!,
      ),
    error: 0,
  },
  {
    gate: 'b2a',
    name: 'ranks in a small ring, all equal included',
    rounds: 2,
    inputs: [{ size: 12, scale: 0, low: 0, high: 30, bits: 6, integer: true }],
    *program(e, [x]) {
      const [flags] = yield* e.open([compareAll(e, x!, 2, 6, e.constant('tables', negativeTable(6)))]),
        [ranks] = yield* e.open([ranksOf(e, flags!, 2, 6)]);
      return [oneHotRows(e, ranks!, 6, 6, 16)];
    },
    error: 0,
  },
  {
    gate: 'b2a',
    name: 'of an opened truth table',
    rounds: 1,
    inputs: [{ size: 50, scale: 0, low: 0, high: 255, bits: 16, integer: true }],
    *program(e, [x]) {
      const [bits] = yield* e.open(e.apply(truthTable, { bits: 8, table: e.constant('tables', table) }, [e.mod(x!, 8, true)]));
      return e.apply(b2a, { bits: 7 }, [bits!]);
    },
    error: 0,
  },
  {
    gate: 'bitMul',
    name: 'of an opened truth table',
    rounds: 1,
    inputs: [
      { size: 50, scale: 0, low: 0, high: 255, bits: 16, integer: true },
      { size: 50, scale: 6, low: -900, high: 900, bits: 18 },
    ],
    *program(e, [x, d]) {
      const [bits] = yield* e.open(e.apply(truthTable, { bits: 8, table: e.constant('tables', table) }, [e.mod(x!, 8, true)]));
      return e.apply(bitMul, null, [bits!, d!]);
    },
    error: 2 ** -7,
  },
  {
    gate: 'linear',
    name: 'columns, transpose, segments',
    inputs: [{ size: 35, scale: 6, low: -9, high: 9, bits: 40 }],
    *program(e, [x]) {
      const part = e.linear(transpose(5, 3), e.linear(columns(5, 7, 2, 3), x!)),
        sums = e.linear(segmentSum(e.constant('tables', lengths)), part);
      return [part, sums, e.linear(segmentSpread(e.constant('tables', lengths), 15, 3, 40), sums)];
    },
    error: 0.2,
  },
  {
    gate: 'linear',
    name: 'matmul, rope, constants',
    inputs: [{ size: 16, scale: 12, low: -9, high: 9, bits: 64 }],
    *program(e, [x]) {
      const weights = Int16Array.from({ length: 16 * 8 }, (_, i) => ((i * 7919) % 60000) - 30000),
        angles = Int32Array.from({ length: 8 }, (_, i) => i * 500 - 2000);
      const y = yield* e.linearJob(matmul({ ...e.constant('weights', weights), cols: 16, inner: 8, fraction: 11 }, 2, 64), e.widen(e.mod(x!, 40)));
      const t = { cos: e.constant('tables', angles), sin: e.constant('tables', angles), fraction: 12 };
      return [y, e.linear(rope(t, 2, 16, 4, 3, 4, 2), y), e.addConstant(e.sub(y, e.add(y, y)), -2.5)];
    },
    error: 2,
  },
];

const value = (input: Row['inputs'][number], at: number): number => {
  const v = input.low + (input.high - input.low) * at;
  return input.integer ? Math.round(v) : Math.round(v * 2 ** input.scale) / 2 ** input.scale;
};

function check(row: Row, points: readonly (readonly number[])[], seed: number): void {
  const values = row.inputs.map((input, i) => Float64Array.from({ length: input.size }, (_, j) => value(input, points[i]![j % points[i]!.length]!)));
  const program = function* (e: Engine): Program<void> {
    const shares: Tensor[] = [];
    for (const input of row.inputs) shares.push(yield* e.input(input.size, input.scale));
    const wires = yield* e.open(shares.map((x, i) => ({ x, bits: row.inputs[i]!.bits })));
    outputs = yield* row.program(e, wires);
    e.endStep();
  };
  let outputs: Tensor[] = [];
  const results = new Map<string, BigUint64Array[]>();
  const parts = values.map((v, i) => split(v, row.inputs[i]!.scale, seed + i));
  const record = (key: string, e: { kernels: { memory: WebAssembly.Memory } }, list: readonly Tensor[]) =>
    results.set(
      key,
      list.map((t) => new BigUint64Array(e.kernels.memory.buffer, t.lane, t.size).slice()),
    );
  const specs: Tensor[][] = [];
  const wrapped = (key: string) =>
    function* (e: Engine): Program<void> {
      yield* program(e);
      specs.push(outputs);
      record(key, e as never, outputs);
    };
  let party = 0;
  const local = runLocal((e) => (e.name === 'dealer' ? program(e) : wrapped(`p${party++}`)(e)), [parts.map((p) => p[0]), parts.map((p) => p[1])], { seed });
  runFixed((e) => wrapped('fixed')(e), values, { seed });
  const fixedOutputs = outputs;
  let ideal: Float64Array[] = [];
  runFloat(function* (e) {
    yield* program(e);
    ideal = outputs.map((t) => t.real!);
  }, values);
  const meter = runMeter(program);
  expect({ rounds: local.rounds, online: local.onlineBytes, dealt: local.dealtBytes }).toEqual({
    rounds: meter.steps[0]!.rounds,
    online: meter.steps[0]!.onlineBytes,
    dealt: meter.steps[0]!.dealtBytes,
  });
  expect(local.rounds).toBe(1 + (row.rounds ?? 0));
  fixedOutputs.forEach((tensor, o) => {
    const a = results.get('p0')![o]!,
      b = results.get('p1')![o]!,
      f = results.get('fixed')![o]!;
    for (let i = 0; i < tensor.size; i++) {
      const got = tensor.form === 'wire' ? undefined : BigInt.asUintN(tensor.bits, tensor.boolean ? a[i]! ^ b[i]! : a[i]! + b[i]!);
      if (got === undefined) expect(BigInt.asUintN(tensor.bits, a[i]!)).toBe(BigInt.asUintN(tensor.bits, b[i]!));
      else expect(got, `${row.gate} ${row.name}: element ${i} against Fixed`).toBe(BigInt.asUintN(tensor.bits, f[i]!));
      const real = Number(tensor.boolean ? BigInt.asUintN(tensor.bits, f[i]!) : BigInt.asIntN(tensor.bits, f[i]!)) / 2 ** tensor.scale;
      const bound = typeof row.error === 'number' ? row.error : row.error(Math.abs(ideal[o]![i]!));
      expect(Math.abs(real - ideal[o]![i]!), `${row.gate} ${row.name}: element ${i}, ${real} against ideal ${ideal[o]![i]}`).toBeLessThanOrEqual(bound);
    }
  });
}

describe('conformance', () => {
  it('covers every gate of the registry', () => {
    for (const name of [...Object.keys(gates), 'open', 'linear', 'windows'])
      expect(
        rows.some((r) => r.gate === name),
        name,
      ).toBe(true);
  });
  for (const row of rows) {
    it(`${row.gate}: ${row.name}: edges of the domain`, () =>
      check(
        row,
        row.inputs.map(() => [0, 1, 0.5, 0.25, 0.999, 0.001]),
        3,
      ));
    it(`${row.gate}: ${row.name}: random values`, () =>
      fc.assert(
        fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 5, maxLength: 40 }), fc.integer({ min: 1, max: 200 }), (points, seed) =>
          check(
            row,
            row.inputs.map((_, i) => points.slice(i % 3)),
            seed,
          ),
        ),
        { numRuns: 4 },
      ));
  }
});

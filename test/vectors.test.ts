/** Gates against vectors that the executable specification made (vectors/make.py): the same values under the same masks. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Fixed } from '../protocols/engines/fixed.ts';
import { bucket } from '../protocols/gates/bucket.ts';
import { expTable, expTables, type ExpPlan } from '../protocols/gates/expTable.ts';
import { fitFourier, fourier } from '../protocols/gates/fourier.ts';
import type { Gate } from '../protocols/gates/gate.ts';
import { less, negativeTable } from '../protocols/gates/less.ts';
import { hadamard, mul } from '../protocols/gates/mul.ts';
import { mod } from '../protocols/gates/mod.ts';
import { narrow } from '../protocols/gates/narrow.ts';
import { spline, type SplinePlan } from '../protocols/gates/spline.ts';
import { widen } from '../protocols/gates/widen.ts';
import { share, Tensor, wire } from '../protocols/tensor.ts';
import { place, testKeys } from './support/local.ts';

interface Vector {
  readonly gate: string;
  readonly inputs: readonly { readonly m: string[]; readonly r: string[]; readonly bits: number; readonly scale: number }[];
  readonly params: Record<string, unknown>;
  readonly bits: number;
  readonly result?: string[];
  readonly real?: number[];
}
const vectors = JSON.parse(readFileSync(new URL('./vectors/gates.json', import.meta.url), 'utf8')) as Vector[];

/** The gate of a vector with its parameters, placed in an engine. */
function bind(v: Vector, e: Fixed): { gate: Gate<never>; params: unknown } {
  const table = (list: unknown) => e.constant('tables', BigInt64Array.from(list as string[], BigInt));
  const as = <P>(gate: Gate<P>, params: P) => ({ gate: gate as Gate<never>, params });
  switch (v.gate) {
    case 'narrow':
      return as(narrow, v.params as { shift: number });
    case 'mod':
      return as(mod, v.params as { bits: number });
    case 'widen':
      return as(widen, null);
    case 'mul':
      return as(mul, hadamard(v.inputs[0]!.m.length));
    case 'spline':
      return as(spline, { ...(v.params as unknown as SplinePlan), coefficients: table(v.params['coefficients']) });
    case 'less':
      return as(less, { bits: 8, table: e.constant('tables', negativeTable(8)) });
    case 'bucket':
      return as(bucket, v.params as { low: number; inputScale: number });
    case 'expTable': {
      const plan = v.params as unknown as ExpPlan;
      return as(expTable, { ...plan, tables: e.constant('tables', expTables(plan)) });
    }
    case 'fourier': {
      const { plan, tables } = fitFourier({
        name: 'silu',
        inputScale: 12,
        bits: 56,
        drop: 0,
        ...(v.params as { periodBits: number; terms: number; edge: number }),
      });
      return as(fourier, { ...plan, tables: e.constant('tables', tables) });
    }
    default:
      throw new Error(`no gate ${v.gate}`);
  }
}

describe("the executable specification's vectors", () => {
  it.each(vectors.map((v, i) => [`${v.gate} (${i})`, v] as const))('%s', (_, v) => {
    const keys = testKeys(1),
      at = place(),
      n = v.inputs[0]!.m.length;
    const engine = new Fixed({ ...at, keys: { ...keys.dealer, coins: keys.coins }, next: () => new Float64Array(), emit: () => undefined });
    const put = (values: bigint[]): number => {
      const pointer = at.arena.alloc(8 * values.length);
      new BigUint64Array(at.kernels.memory.buffer, pointer, values.length).set(values.map((x) => BigInt.asUintN(64, x)));
      return pointer;
    };
    const inputs = v.inputs.map((input) => {
      const x = new Tensor(wire(n, input.bits, input.scale)),
        value = input.m.map((m, i) => BigInt.asIntN(input.bits, BigInt(m) - BigInt(input.r[i]!)));
      x.lane = put(value);
      x.mask = put(input.r.map(BigInt));
      return x;
    });
    // The linear part of fourier rides on a share of its operand.
    if (v.gate === 'fourier') {
      const linear = new Tensor(share(n, 64, 12));
      linear.lane = inputs[0]!.lane;
      inputs.push(linear);
    }
    const { gate, params } = bind(v, engine),
      outputs = gate.shape(params as never, inputs).map((spec) => {
        const y = new Tensor(spec);
        y.lane = put(Array.from({ length: spec.size }, () => 0n));
        y.mask = put(Array.from({ length: spec.size }, () => 0n));
        return y;
      });
    gate.fixed(engine, params as never, inputs, outputs);
    const out = outputs[0]!,
      got = [...new BigUint64Array(at.kernels.memory.buffer, out.lane, n)].map((x) => BigInt.asUintN(v.bits, x));
    expect(out.bits).toBe(v.bits);
    if (v.result) expect(got.map(String)).toEqual(v.result);
    else v.real!.forEach((x, i) => expect(Math.abs(Number(BigInt.asIntN(v.bits, got[i]!)) / 2 ** out.scale - x)).toBeLessThan(1e-3 * Math.max(1, Math.abs(x))));
  });
});

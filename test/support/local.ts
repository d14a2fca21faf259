/** Engines in one process for tests, with fixed keys: see protocols/engines/together.ts. */
import { Fixed } from '../../protocols/engines/fixed.ts';
import { Float } from '../../protocols/engines/float.ts';
import { Meter } from '../../protocols/engines/meter.ts';
import type { DealerKeys } from '../../protocols/engines/dealer.ts';
import type { Program, Turn } from '../../protocols/engines/effects.ts';
import type { Engine } from '../../protocols/engines/engine.ts';
import type { Evaluator } from '../../protocols/engines/evaluator.ts';
import { place as placeIn, runTogether, turnsOf, type SessionKeys, type TogetherRun } from '../../protocols/engines/together.ts';
import type { Tensor } from '../../protocols/tensor.ts';

const MEMORY = 512 << 20;

export function testKeys(seed: number): SessionKeys {
  const key = (i: number, n = 32) => Uint8Array.from({ length: n }, (_, j) => (seed * 31 + i * 97 + j * 13 + ((i * j) >> 1)) & 255);
  const tweak = key(9, 16),
    coins = key(8);
  const dealer: DealerKeys = { mask0: key(1), mask1: key(2), dealt0: key(3), root0: key(4), root1: key(5), tweak };
  return {
    dealer,
    coins,
    p0: { mask: dealer.mask0, dealt: dealer.dealt0, root: dealer.root0, zero: key(7), coins, tweak },
    p1: { mask: dealer.mask1, dealt: key(6), root: dealer.root1, zero: key(7), coins, tweak },
  };
}

export const place = (backend = 'wasm', bytes = MEMORY) => placeIn(backend, bytes);

export function runLocal(
  program: (e: Engine) => Program<unknown>,
  inputs: Parameters<typeof runTogether>[2] = [[], []],
  o: {
    seed?: number;
    backend?: string;
    turns?: readonly Turn[];
    observe?: (party: 0 | 1, gate: number, name: string, outputs: readonly Tensor[], engine: Evaluator) => void;
  } = {},
): TogetherRun {
  const { seed, ...rest } = o;
  return runTogether(program, testKeys(seed ?? 1), inputs, { memoryBytes: MEMORY, ...rest });
}

/** The same program on the Fixed engine with the same keys. */
export function runFixed(
  program: (e: Engine) => Program<unknown>,
  values: readonly (Float64Array | undefined)[],
  o: {
    seed?: number;
    backend?: string;
    turns?: readonly Turn[];
    observe?: (gate: number, name: string, outputs: readonly Tensor[], engine: Fixed) => void;
  } = {},
): { engine: Fixed; outputs: Float64Array[] } {
  const keys = testKeys(o.seed ?? 1),
    outputs: Float64Array[] = [],
    waiting = [...values];
  const engine = new Fixed({ ...place(o.backend), keys: { ...keys.dealer, coins: keys.coins }, next: () => waiting.shift(), emit: (v) => outputs.push(v) });
  engine.observe = o.observe && ((gate, name, tensors) => o.observe!(gate, name, tensors, engine));
  const turns = turnsOf(o.turns);
  for (const effect of program(engine))
    if (effect.kind === 'job') void effect.run();
    else turns(effect);
  return { engine, outputs };
}

export function runFloat(program: (e: Engine) => Program<unknown>, values: readonly (Float64Array | undefined)[], turns?: readonly Turn[]): Float64Array[] {
  const outputs: Float64Array[] = [],
    waiting = [...values];
  const engine = new Float({ next: () => waiting.shift(), emit: (v) => outputs.push(v.slice()) }),
    answer = turnsOf(turns);
  for (const effect of program(engine)) answer(effect);
  return outputs;
}

export function runMeter(program: (e: Engine) => Program<unknown>): Meter {
  const engine = new Meter();
  for (const _ of program(engine)) void _;
  return engine;
}

/** Splits real values at a scale into two shares over Z_2^64 (little-endian bytes), from a small seeded generator. */
export function split(values: Float64Array, scale: number, seed = 1): [Uint8Array, Uint8Array] {
  const a = new BigUint64Array(values.length),
    b = new BigUint64Array(values.length);
  let state = BigInt(seed) * 0x9e3779b97f4a7c15n + 1n;
  values.forEach((v, i) => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    a[i] = state ^ (state >> 29n);
    b[i] = BigInt(Math.round(v * 2 ** scale)) - a[i]!;
  });
  return [new Uint8Array(a.buffer), new Uint8Array(b.buffer)];
}

/**
 * Runs dealer and both evaluators in one process for tests, each engine with a memory of its own: dealt bytes go through queues, rounds are exchanged
 * by copying what was packed. Counts what really passes.
 */
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import { createKernels } from '../../kernels/registry.ts';
import { Dealer, type DealerKeys } from '../../protocols/engines/dealer.ts';
import { MAX_TAKE_BYTES, type DealtSink, type DealtSource, type Effect, type Program, type RoundEffect, type Turn } from '../../protocols/engines/effects.ts';
import type { Engine } from '../../protocols/engines/engine.ts';
import { Evaluator } from '../../protocols/engines/evaluator.ts';
import { Fixed } from '../../protocols/engines/fixed.ts';
import { Float } from '../../protocols/engines/float.ts';
import { Meter } from '../../protocols/engines/meter.ts';
import { framedBytes } from '../../protocols/frames.ts';
import type { Tensor } from '../../protocols/tensor.ts';

const MEMORY = 512 << 20;

export function testKeys(seed: number) {
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

/** A fresh engine memory; `backend` is a name of kernels/registry.ts. */
export function place(backend = 'wasm', bytes = MEMORY) {
  const memory = reserveMemory(bytes);
  return { kernels: createKernels(backend, memory), arena: new Arena(memory, 1 << 16, bytes - (1 << 16)) };
}

/** Queue of dealt bytes for one evaluator: `take` copies into a fixed region of its memory. */
class Queue implements DealtSource {
  /** Bytes on the wire of the segments flushed so far, and the bytes of the present one. */
  framed = 0;
  private segment = 0;
  private parts: Uint8Array[] = [];
  private readonly memory: WebAssembly.Memory;
  private readonly region: number;
  constructor(memory: WebAssembly.Memory, arena: Arena) {
    this.memory = memory;
    this.region = arena.alloc(MAX_TAKE_BYTES);
  }
  push(part: Uint8Array): void {
    this.parts.push(part);
    this.segment += part.length;
  }
  flush(last: boolean): void {
    if (this.segment > 0 || last) this.framed += framedBytes(this.segment);
    this.segment = 0;
  }
  take(bytes: number): number {
    if (bytes > MAX_TAKE_BYTES) throw new Error(`take of ${bytes} bytes`);
    const target = new Uint8Array(this.memory.buffer, this.region, bytes);
    for (let at = 0; at < bytes;) {
      const part = this.parts[0];
      if (!part) throw new Error('dealt material exhausted');
      const n = Math.min(part.length, bytes - at);
      target.set(part.subarray(0, n), at);
      at += n;
      if (n === part.length) this.parts.shift();
      else this.parts[0] = part.subarray(n);
    }
    return this.region;
  }
  takeBoth(bytes: number): number {
    return this.take(bytes);
  }
  discard(own: number, both: number): void {
    for (let left = own + both; left > 0;) {
      const n = Math.min(left, MAX_TAKE_BYTES);
      this.take(n);
      left -= n;
    }
  }
  endStep(): void {}
  drained(): void {
    if (this.parts.length > 0) throw new Error('dealt material left over');
  }
}

export interface LocalRun {
  readonly evaluators: readonly [Evaluator, Evaluator];
  readonly dealer: Dealer;
  /** Packed round messages as sent, per party. */
  readonly messages: readonly [Uint8Array[], Uint8Array[]];
  readonly rounds: number;
  /** Bytes really exchanged and dealt, with the framing rule of protocols/frames.ts applied to each message and step. */
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  readonly outputs: readonly [Uint8Array[], Uint8Array[]];
}

/**
 * `program` is run by all three; `inputs[party]` gives the client's shares (bytes) one after another. All material of the program is dealt before the
 * evaluators start. `inputs` may have undefined where the client ends a turn; `turns` are those after a session's first.
 */
export function runLocal(
  program: (e: Engine) => Program<unknown>,
  inputs: readonly [(Uint8Array | undefined)[], (Uint8Array | undefined)[]] = [[], []],
  o: {
    seed?: number;
    backend?: string;
    turns?: readonly Turn[];
    observe?: (party: 0 | 1, gate: number, name: string, outputs: readonly Tensor[], engine: Evaluator) => void;
  } = {},
): LocalRun {
  const keys = testKeys(o.seed ?? 1),
    places = [place(o.backend), place(o.backend), place(o.backend)] as const;
  const queues = [0, 1].map((i) => new Queue(places[i]!.kernels.memory, places[i]!.arena)) as [Queue, Queue];
  const sink: DealtSink = {
    emit: (pointer, bytes) => queues[1].push(new Uint8Array(places[2].kernels.memory.buffer).slice(pointer, pointer + bytes)),
    emitBoth: (pointer, bytes) => queues.forEach((q) => q.push(new Uint8Array(places[2].kernels.memory.buffer).slice(pointer, pointer + bytes))),
    flush: () => queues.forEach((q) => q.flush(false)),
    endStep: () => queues.forEach((q) => q.flush(true)),
  };
  const dealer = new Dealer({ ...places[2], keys: keys.dealer, sink });
  const evaluators = [
    new Evaluator({ party: 0, ...places[0], keys: keys.p0, dealt: queues[0] }),
    new Evaluator({ party: 1, ...places[1], keys: keys.p1, dealt: queues[1] }),
  ] as const;
  evaluators.forEach((e, i) => (e.observe = o.observe && ((gate, name, outputs) => o.observe!(i as 0 | 1, gate, name, outputs, e))));
  const turns = turnsOf(o.turns);
  for (const effect of program(dealer))
    if (effect.kind === 'job') void effect.run();
    else turns(effect);
  const messages: [Uint8Array[], Uint8Array[]] = [[], []],
    outputs: [Uint8Array[], Uint8Array[]] = [[], []],
    waiting = inputs.map((x) => [...x]);
  const programs = evaluators.map((e) => program(e)),
    turn = evaluators.map(() => turnsOf(o.turns));
  const bytesAt = (i: number, pointer: number, n: number) => new Uint8Array(places[i]!.kernels.memory.buffer, pointer, n);
  let rounds = 0,
    onlineBytes = 0;
  const advance = (i: 0 | 1): Effect | undefined => {
    for (;;) {
      const next = programs[i]!.next();
      if (next.done) return undefined;
      const effect = next.value;
      if (effect.kind === 'job') void effect.run();
      else if (effect.kind === 'output') outputs[i].push(bytesAt(i, effect.out, effect.bytes).slice());
      else if (effect.kind === 'input') {
        const bytes = waiting[i]!.shift();
        if (bytes) bytesAt(i, effect.into, effect.bytes).set(bytes);
        else effect.over = true;
      } else if (effect.kind === 'turn') turn[i]!(effect);
      else return effect;
    }
  };
  for (;;) {
    const [a, b] = [advance(0), advance(1)] as [RoundEffect | undefined, RoundEffect | undefined];
    if (!a !== !b) throw new Error('evaluators disagree about the end');
    if (!a || !b) break;
    if (a.bytes !== b.bytes || a.hash.low !== b.hash.low || a.hash.high !== b.hash.high) throw new Error('desync');
    const sent = [bytesAt(0, a.out, a.bytes).slice(), bytesAt(1, b.out, b.bytes).slice()] as const;
    bytesAt(0, a.into, a.bytes).set(sent[1]);
    bytesAt(1, b.into, b.bytes).set(sent[0]);
    messages[0].push(sent[0]);
    messages[1].push(sent[1]);
    rounds++;
    onlineBytes += 2 * framedBytes(a.bytes);
  }
  queues.forEach((q) => q.drained());
  return { evaluators, dealer, messages, outputs, rounds, onlineBytes, dealtBytes: queues[0].framed + queues[1].framed };
}

/** Answers a session's requests for further turns. */
function turnsOf(turns: readonly Turn[] = []): (effect: Effect) => void {
  const waiting = [...turns];
  return (effect) => {
    if (effect.kind === 'turn') effect.turn = waiting.shift();
  };
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

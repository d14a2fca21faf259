/**
 * Dealer and both evaluators in one process, each engine with a memory of its own: dealt bytes go through queues, rounds are exchanged by copying what was
 * packed. Counts what really passes. For tests and for samples of `cachet eval`; no party learns from it more than from the real thing, but one process has all.
 */
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import { createKernels } from '../../kernels/registry.ts';
import { framedBytes } from '../frames.ts';
import type { Tensor } from '../tensor.ts';
import { Dealer, type DealerKeys } from './dealer.ts';
import { MAX_TAKE_BYTES, type DealtSink, type DealtSource, type Effect, type Program, type RoundEffect, type Turn } from './effects.ts';
import type { Engine } from './engine.ts';
import { Evaluator, type EvaluatorKeys } from './evaluator.ts';

/** Of all three parties, and the evaluators' public coins. */
export interface SessionKeys {
  readonly dealer: DealerKeys;
  readonly p0: EvaluatorKeys;
  readonly p1: EvaluatorKeys;
  readonly coins: Uint8Array;
}

/** Keys from the cryptographic generator, for a session that lives in this process alone. */
export function freshKeys(): SessionKeys {
  const key = (n = 32): Uint8Array => crypto.getRandomValues(new Uint8Array(n)),
    dealer: DealerKeys = { mask0: key(), mask1: key(), dealt0: key(), root0: key(), root1: key(), tweak: key(16) },
    coins = key(),
    zero = key(),
    { tweak } = dealer;
  return {
    dealer,
    coins,
    p0: { mask: dealer.mask0, dealt: dealer.dealt0, root: dealer.root0, zero, coins, tweak },
    p1: { mask: dealer.mask1, dealt: key(), root: dealer.root1, zero, coins, tweak },
  };
}

/** A fresh engine memory; `backend` is a name of kernels/registry.ts. */
export function place(backend: string, bytes: number): { kernels: Kernels; arena: Arena } {
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

export interface TogetherRun {
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
 * evaluators start. `inputs` may have undefined where the client ends a turn; `turns` are those after a session's first. @throws Error if they disagree.
 */
export function runTogether(
  program: (e: Engine) => Program<unknown>,
  keys: SessionKeys,
  inputs: readonly [(Uint8Array | undefined)[], (Uint8Array | undefined)[]],
  o: {
    /** Of each engine. */
    readonly memoryBytes: number;
    readonly backend?: string | undefined;
    readonly turns?: readonly Turn[] | undefined;
    readonly observe?: ((party: 0 | 1, gate: number, name: string, outputs: readonly Tensor[], engine: Evaluator) => void) | undefined;
  },
): TogetherRun {
  const [a, b, c] = [0, 1, 2].map(() => place(o.backend ?? 'wasm', o.memoryBytes)),
    places = [a!, b!, c!] as const;
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
export function turnsOf(turns: readonly Turn[] = []): (effect: Effect) => void {
  const waiting = [...turns];
  return (effect) => {
    if (effect.kind === 'turn') effect.turn = waiting.shift();
  };
}

/**
 * One decoded token in one process, over a cache filled with random wires: the dealer, then both evaluators in turns, each engine alone with its kernels and no
 * sockets. Times of every gate are taken; a gate's is the best of several tokens.
 */
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import type { Kernels } from '../../kernels/kernels.ts';
import { createKernels } from '../../kernels/registry.ts';
import { bindPlan, type Artefact } from '../../protocols/artefact.ts';
import { meterSession } from '../../protocols/cost.ts';
import { Dealer, BULK_BYTES } from '../../protocols/engines/dealer.ts';
import { MAX_TAKE_BYTES, type BulkRunner, type DealtSink, type DealtSource, type Program, type RoundEffect } from '../../protocols/engines/effects.ts';
import type { Engine, StepCost } from '../../protocols/engines/engine.ts';
import { Evaluator } from '../../protocols/engines/evaluator.ts';
import { session } from '../../protocols/programs/transformer.ts';
import { FULL } from '../../protocols/policy.ts';
import { arenaBytes, PROTOCOL_VERSION, type SessionSpec } from '../../protocols/session.ts';
import { rate } from './kernels.ts';

/** Tokens that are timed, after the first. */
const TIMED = 4;

/** What a token's gates took, by name. */
export interface AloneRun {
  readonly dealer: ReadonlyMap<string, Timed>;
  readonly evaluators: readonly [ReadonlyMap<string, Timed>, ReadonlyMap<string, Timed>];
  /** Of the last token. */
  readonly cost: StepCost;
  /** Pseudorandom bytes of a token that the dealer draws, and what drawing them alone takes. */
  readonly drawn: { readonly bytes: number; readonly ms: number };
}

interface Setting {
  readonly artefact: Artefact;
  readonly backend: string;
  /** Cached tokens, the public prefix among them. */
  readonly context: number;
}

const keyOf = (n = 32): Uint8Array => crypto.getRandomValues(new Uint8Array(n));

/** Lengths of a session of so many tokens, and where its engines are. */
function settingOf({ artefact, backend, context }: Setting, tokens: number) {
  const filled = Math.max(0, context - artefact.prefixIds.length),
    spec: SessionSpec = {
      version: PROTOCOL_VERSION,
      artefact: artefact.digest,
      weights: 'open',
      dealer: 'helper',
      promptTokens: 1,
      maxTokens: tokens,
      context: tokens,
      filled,
      policy: FULL,
    };
  return {
    spec,
    program: (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: 1, answer: tokens }, tokens, filled),
    place: (role: 'evaluator' | 'helper') => {
      const bytes = arenaBytes(role, artefact, spec) + MAX_TAKE_BYTES + BULK_BYTES,
        memory = reserveMemory((1 << 16) + bytes);
      return { kernels: createKernels(backend, memory), arena: new Arena(memory, 1 << 16, bytes) };
    },
  };
}

/** The dealer's keys, in a session of this process alone. */
const freshKeys = () => ({ mask0: keyOf(), mask1: keyOf(), dealt0: keyOf(), root0: keyOf(), root1: keyOf(), tweak: keyOf(16) });

/** Deals a few tokens; `bulk` makes the backend's runner. Nothing is kept of what is dealt. */
export function dealAlone(setting: Setting, bulk: (memory: WebAssembly.Memory) => BulkRunner, onStep: () => void): void {
  const { program, place } = settingOf(setting, 1 + TIMED),
    at = place('helper'),
    ring = new Uint8Array(8 << 20),
    emit = (pointer: number, bytes: number): void => {
      for (let done = 0; done < bytes; done += ring.length)
        ring.set(new Uint8Array(at.kernels.memory.buffer, pointer + done, Math.min(ring.length, bytes - done)));
    };
  const dealer = new Dealer({
    ...at,
    keys: freshKeys(),
    bulk: bulk(at.kernels.memory),
    sink: {
      emit,
      emitBoth(pointer, bytes) {
        emit(pointer, bytes);
        emit(pointer, bytes);
      },
      flush: () => undefined,
      endStep: onStep,
    },
  });
  for (const effect of program(dealer)) if (effect.kind === 'job') void effect.run();
}

/** Runs all three engines. */
export function runAlone(setting: Setting): AloneRun {
  const tokens = 1 + TIMED,
    { spec, program, place } = settingOf(setting, tokens),
    { filling, dealtBytes } = meterSession(setting.artefact, spec),
    places = [place('evaluator'), place('evaluator'), place('helper')] as const,
    pool = new Pool((filling?.dealtBytes ?? 0) + dealtBytes),
    queues = [new Queue(places[0]), new Queue(places[1])] as const,
    keys = freshKeys(),
    pair = { zero: keyOf(), coins: keyOf(), tweak: keys.tweak },
    out = (pointer: number, bytes: number): Uint8Array => pool.keep(new Uint8Array(places[2].kernels.memory.buffer, pointer, bytes));
  let drawn = 0,
    last = 0;
  const sink: DealtSink = {
    emit: (pointer, bytes) => queues[1].push(out(pointer, bytes)),
    emitBoth(pointer, bytes) {
      for (const queue of queues) queue.push(out(pointer, bytes));
    },
    flush: () => undefined,
    endStep() {
      last = drawn;
      drawn = 0;
    },
  };
  const { kernels } = places[2],
    counting: Kernels = {
      ...kernels,
      prg(...a) {
        drawn += 8 * a[6];
        kernels.prg(...a);
      },
    },
    dealer = new Dealer({ ...places[2], kernels: counting, keys, sink }),
    dealing = new Stopwatch(dealer);
  for (const effect of program(dealer)) if (effect.kind === 'job') void effect.run();
  const evaluators = [
      new Evaluator({ party: 0, ...places[0], keys: { ...pair, mask: keys.mask0, dealt: keys.dealt0, root: keys.root0 }, dealt: queues[0] }),
      new Evaluator({ party: 1, ...places[1], keys: { ...pair, mask: keys.mask1, dealt: keyOf(), root: keys.root1 }, dealt: queues[1] }),
    ] as const,
    watches = evaluators.map((e) => new Stopwatch(e)),
    programs = evaluators.map(program);
  const advance = (party: 0 | 1): RoundEffect | undefined => {
    for (;;) {
      watches[party]!.resume();
      const { value: effect } = programs[party]!.next();
      watches[party]!.pause();
      if (!effect || effect.kind === 'round') return effect ?? undefined;
      if (effect.kind === 'input') places[party].kernels.fill(effect.into, 0, effect.bytes / 8);
      else if (effect.kind === 'job') {
        watches[party]!.resume();
        void effect.run();
        watches[party]!.pause();
      }
    }
  };
  for (let a = advance(0), b = advance(1); a && b; a = advance(0), b = advance(1)) {
    const bytes = [a, b].map((round, i) => new Uint8Array(places[i as 0 | 1].kernels.memory.buffer, round.out, round.bytes));
    new Uint8Array(places[0].kernels.memory.buffer, a.into, a.bytes).set(bytes[1]!);
    new Uint8Array(places[1].kernels.memory.buffer, b.into, b.bytes).set(bytes[0]!);
  }
  return {
    dealer: dealing.best(),
    evaluators: [watches[0]!.best(), watches[1]!.best()],
    cost: evaluators[1].steps.at(-1)!,
    drawn: { bytes: last, ms: last / streamRate(kernels) / 1e6 },
  };
}

/** Rate of a stream in cache, GB/s. */
function streamRate(k: Kernels): number {
  const n = 1 << 13,
    at = k.memory.buffer.byteLength - 8 * n - (1 << 16);
  return rate(8 * n, () => k.prg(at, at, 1, 0, 0, 64, n));
}

/** Of the gates of one name. */
export interface Timed {
  ms: number;
  calls: number;
  elements: number;
  /** Bytes of operands and results; products with weights. */
  touched: number;
  macs: number;
}

/** Time of every gate of an engine, from the one before; what happens while it is paused does not count. */
class Stopwatch {
  private readonly steps: (Timed & { readonly name: string })[][] = [];
  private since = performance.now();
  private carried = 0;

  constructor(engine: Engine) {
    engine.observe = (_, name, outputs, inputs) => {
      const now = performance.now(),
        size = (tensors: readonly { readonly size: number }[]): number => tensors.reduce((n, t) => n + t.size, 0),
        elements = size(outputs.length > 0 ? outputs : inputs);
      (this.steps[engine.steps.length] ??= []).push({
        name,
        ms: this.carried + now - this.since,
        calls: 1,
        elements,
        touched: 8 * (size(outputs) + size(inputs)),
        macs: name === 'matmul' ? elements * size(inputs) : 0,
      });
      this.carried = 0;
      this.since = now;
    };
  }

  resume(): void {
    this.since = performance.now();
  }

  pause(): void {
    this.carried += performance.now() - this.since;
  }

  /** By name, the best of the timed tokens; sizes are the last one's. */
  best(): Map<string, Timed> {
    const found = new Map<string, Timed>(),
      timed = this.steps.slice(-TIMED);
    timed.at(-1)!.forEach(({ name, ...gate }, i) => {
      const sum = found.get(name) ?? { ms: 0, calls: 0, elements: 0, touched: 0, macs: 0 };
      found.set(name, {
        ms: sum.ms + Math.min(...timed.map((step) => step[i]!.ms)),
        calls: sum.calls + 1,
        elements: sum.elements + gate.elements,
        touched: sum.touched + gate.touched,
        macs: sum.macs + gate.macs,
      });
    });
    return found;
  }
}

/** What is dealt, in memory that has been touched before. */
class Pool {
  private readonly bytes: Uint8Array;
  private used = 0;

  constructor(bytes: number) {
    this.bytes = new Uint8Array(bytes).fill(1);
  }

  keep(part: Uint8Array): Uint8Array {
    const kept = this.bytes.subarray(this.used, (this.used += part.length));
    kept.set(part);
    return kept;
  }
}

/** Dealt bytes of one evaluator, all there before it starts. */
class Queue implements DealtSource {
  private readonly parts: Uint8Array[] = [];
  private first = 0;
  private readonly memory: WebAssembly.Memory;
  private readonly region: number;

  constructor({ kernels, arena }: { readonly kernels: { readonly memory: WebAssembly.Memory }; readonly arena: Arena }) {
    this.memory = kernels.memory;
    this.region = arena.alloc(MAX_TAKE_BYTES);
  }

  push(part: Uint8Array): void {
    this.parts.push(part);
  }

  take(bytes: number): number {
    const target = new Uint8Array(this.memory.buffer, this.region, bytes);
    for (let at = 0; at < bytes;) {
      const part = this.parts[this.first]!,
        n = Math.min(part.length, bytes - at);
      target.set(part.subarray(0, n), at);
      at += n;
      if (n === part.length) this.first++;
      else this.parts[this.first] = part.subarray(n);
    }
    return this.region;
  }

  takeBoth(bytes: number): number {
    return this.take(bytes);
  }

  discard(): void {}
  endStep(): void {}
}

/**
 * Gates of one decoded token, timed in one process: the dealer, then both evaluators in turns, over a cache filled with random wires. A gate's time is the
 * best of several tokens; beside it what this machine needs at least for the bytes that the gate touches, draws or multiplies, by rates measured here.
 */
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import { createKernels } from '../../kernels/registry.ts';
import { bindPlan, type Artefact } from '../../protocols/artefact.ts';
import { Dealer } from '../../protocols/engines/dealer.ts';
import { MAX_TAKE_BYTES, type DealtSink, type DealtSource, type Program, type RoundEffect } from '../../protocols/engines/effects.ts';
import type { Engine } from '../../protocols/engines/engine.ts';
import { Evaluator } from '../../protocols/engines/evaluator.ts';
import { session } from '../../protocols/programs/transformer.ts';
import { FULL } from '../../protocols/policy.ts';
import { arenaBytes, PROTOCOL_VERSION, type SessionSpec } from '../../protocols/session.ts';
import { rate } from './kernels.ts';

/** What one core does at best. */
export interface MachineLimits {
  /** Copying beyond the caches, read and written, GB/s. */
  readonly memoryGBs: number;
  /** Products of weights with shares in cache, GMAC/s. */
  readonly gmacs: number;
  /** Pseudorandom bytes, GB/s. */
  readonly prgGBs: number;
}

export interface GateRow {
  readonly gate: string;
  readonly calls: number;
  /** Results (of a gate that has none: operands), all calls together. */
  readonly elements: number;
  readonly dealNs: number;
  /** At P1, which takes the explicit halves. Both per element. */
  readonly evaluateNs: number;
  /** Online and dealt, all parties, per element. */
  readonly bytes: number;
  /** At least, per element of the evaluation. */
  readonly limitNs: number;
}

/** Tokens that are timed, after the first. */
const TIMED = 4;

/** One core's limits, half a second each. */
export function machineLimits(backend: string): MachineLimits {
  const n = 4 << 20,
    memory = reserveMemory(3 * 8 * n),
    k = createKernels(backend, memory),
    arena = new Arena(memory, 1 << 16, 2 * 8 * n + (8 << 20)),
    a = arena.alloc(8 * n),
    b = arena.alloc(8 * n),
    small = 1 << 13;
  return {
    memoryGBs: rate(16 * n, () => k.copy(a, b, n)),
    gmacs: rate(64 * 512, () => k.gemmI16(a, b, b + (1 << 20), 1, 512, 64, 64)),
    prgGBs: rate(8 * small, () => k.prg(a, b, 1, 0, 0, 64, small)),
  };
}

/** Rows of the gates of a token at `context` cached tokens, by time. */
export function benchGates(artefact: Artefact, backend: string, context: number, limits: MachineLimits): GateRow[] {
  const tokens = 1 + TIMED,
    filled = Math.max(0, context - artefact.prefixIds.length),
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
  const place = (role: 'evaluator' | 'helper') => {
    const bytes = arenaBytes(role, artefact, spec) + MAX_TAKE_BYTES,
      memory = reserveMemory((1 << 16) + bytes);
    return { kernels: createKernels(backend, memory), arena: new Arena(memory, 1 << 16, bytes) };
  };
  const program = (e: Engine): Program<void> => session(e, bindPlan(e, artefact), { tokens: 1, answer: tokens }, tokens, filled),
    places = [place('evaluator'), place('evaluator'), place('helper')] as const,
    queues = [new Queue(places[0]), new Queue(places[1])] as const,
    key = (): Uint8Array => crypto.getRandomValues(new Uint8Array(32)),
    keys = { mask0: key(), mask1: key(), dealt0: key(), root0: key(), root1: key(), tweak: key().slice(0, 16) },
    pair = { zero: key(), coins: key(), tweak: keys.tweak },
    out = (pointer: number, bytes: number): Uint8Array => new Uint8Array(places[2].kernels.memory.buffer, pointer, bytes).slice();
  const sink: DealtSink = {
    emit: (pointer, bytes) => queues[1].push(out(pointer, bytes)),
    emitBoth(pointer, bytes) {
      const part = out(pointer, bytes);
      for (const queue of queues) queue.push(part);
    },
    flush: () => undefined,
    endStep: () => undefined,
  };
  const dealer = new Dealer({ ...places[2], keys, sink }),
    dealing = new Stopwatch(dealer);
  for (const effect of program(dealer)) if (effect.kind === 'job') void effect.run();
  const evaluators = [
      new Evaluator({ party: 0, ...places[0], keys: { ...pair, mask: keys.mask0, dealt: keys.dealt0, root: keys.root0 }, dealt: queues[0] }),
      new Evaluator({ party: 1, ...places[1], keys: { ...pair, mask: keys.mask1, dealt: key(), root: keys.root1 }, dealt: queues[1] }),
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
  const steps = evaluators[1].steps,
    dealt = dealing.best(),
    evaluated = watches[1]!.best(),
    costs = steps.at(-1)!.gates;
  return [...evaluated]
    .map(([gate, e]): GateRow => {
      const cost = costs.get(gate) ?? { online: 0, dealt: 0 },
        perElement = (ms: number): number => (1e6 * ms) / e.elements,
        limitMs = Math.max((e.touched + cost.dealt) / limits.memoryGBs, e.macs / limits.gmacs) / 1e6 + cost.dealt / limits.prgGBs / 1e6;
      return {
        gate,
        calls: e.calls,
        elements: e.elements,
        dealNs: perElement(dealt.get(gate)?.ms ?? 0),
        evaluateNs: perElement(e.ms),
        bytes: (cost.online + cost.dealt) / e.elements,
        limitNs: perElement(limitMs),
      };
    })
    .sort((a, b) => b.evaluateNs * b.elements - a.evaluateNs * a.elements);
}

interface Timed {
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

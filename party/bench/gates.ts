/** Gates of one decoded token (alone.ts); beside a gate's time what this machine needs at least for the bytes that it touches, draws or multiplies, by rates measured here. */
import { Arena, reserveMemory } from '../../kernels/memory.ts';
import { createKernels } from '../../kernels/registry.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { runAlone } from './alone.ts';
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
  const { dealer, evaluators, cost: step } = runAlone({ artefact, backend, context });
  return [...evaluators[1]]
    .map(([gate, e]): GateRow => {
      const cost = step.gates.get(gate) ?? { online: 0, dealt: 0 },
        perElement = (ms: number): number => (1e6 * ms) / e.elements,
        limitMs = Math.max((e.touched + cost.dealt) / limits.memoryGBs, e.macs / limits.gmacs) / 1e6 + cost.dealt / limits.prgGBs / 1e6;
      return {
        gate,
        calls: e.calls,
        elements: e.elements,
        dealNs: perElement(dealer.get(gate)?.ms ?? 0),
        evaluateNs: perElement(e.ms),
        bytes: (cost.online + cost.dealt) / e.elements,
        limitNs: perElement(limitMs),
      };
    })
    .sort((a, b) => b.evaluateNs * b.elements - a.evaluateNs * a.elements);
}

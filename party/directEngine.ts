/**
 * An evaluator's engine on the thread that owns the sockets, for tokens: attached to the memory in which the worker's engine was set up and sleeps. It
 * follows the steps that the worker has run, and runs the later ones. It never blocks: a step begins when all that is dealt for it is in the ring.
 */
import { createKernels } from '../kernels/registry.ts';
import { threadedKernels } from '../kernels/threads.ts';
import { Arena } from '../kernels/memory.ts';
import type { Artefact } from '../protocols/artefact.ts';
import type { DealtSource, DesyncHash, Effect, JobEffect, Program } from '../protocols/engines/effects.ts';
import type { EvaluatorKeys } from '../protocols/engines/evaluator.ts';
import { CachetError } from '../protocols/errors.ts';
import { evaluatorProgram, type SessionSpec } from '../protocols/session.ts';
import type { EngineSpace } from './engine.ts';
import { CREDIT_BYTES, ringsEnd, type SharedRing } from './sharedRing.ts';

export interface DirectEngineOptions {
  readonly memory: WebAssembly.Memory;
  readonly ring: SharedRing;
  readonly space: EngineSpace;
  readonly artefact: Artefact;
  readonly spec: SessionSpec;
  readonly party: 0 | 1;
  readonly keys: EvaluatorKeys;
  readonly kernels: string;
  /** Steps that the worker has run, the filling of a cache among them, and the dealt bytes that it took for them. */
  readonly steps: number;
  readonly taken: number;
  /** Dealt bytes consumed in all: told now and then. */
  readonly onConsumed: (total: number) => void;
  /** A step is complete: running hash, dealt bytes taken in all, its rounds. */
  readonly onStep: (hash: DesyncHash, taken: number, rounds: number) => void;
}

export class DirectEngine implements DealtSource {
  private readonly o: DirectEngineOptions;
  private readonly program: Program<void>;
  /** The input that it waits for at first. */
  private first: Exclude<Effect, JobEffect> | undefined;
  private taken: number;
  private told: number;
  private held = 0;
  private rounds = 0;

  /** Follows the worker's steps to where it waits for the next one's input. */
  constructor(o: DirectEngineOptions) {
    const { memory, space } = o;
    this.o = o;
    this.taken = this.told = o.taken;
    this.program = evaluatorProgram({
      ...o,
      kernels: threadedKernels(createKernels(o.kernels, memory), space.threads),
      arena: new Arena(memory, ringsEnd(space.rings), space.arena),
      dealt: this,
      attach: true,
    });
    for (let left = o.steps - (o.spec.filled > 0 ? 1 : 0); left >= 0; left--) {
      const effect = this.next();
      if (effect === undefined || effect === 'later' || effect.kind !== 'input')
        throw new CachetError({ code: 'internal', what: 'engine out of step', hint: 'report this as a bug' });
      effect.elsewhere = left > 0;
      if (left === 0) this.first = effect;
    }
  }

  /** Runs to the next effect that waits for somebody else, or an output; to 'later' where the thread may do other things first; undefined at the program's end. */
  next(): Exclude<Effect, JobEffect> | 'later' | undefined {
    const { first } = this;
    this.first = undefined;
    if (first) return first;
    for (;;) {
      const { value: effect } = this.program.next();
      if (!effect) return undefined;
      if (effect.kind === 'round') this.rounds++;
      if (effect.kind !== 'job') return effect;
      void effect.run();
      if (effect.idle) return 'later';
    }
  }

  take(n: number): number {
    const { ring } = this.o;
    this.release();
    if (ring.available < n) throw new CachetError({ code: 'internal', what: 'dealt material of a step incomplete', hint: 'report this as a bug' });
    this.held = n;
    this.taken += n;
    return ring.peek(n);
  }

  takeBoth(n: number): number {
    return this.take(n);
  }

  discard(): void {
    throw new CachetError({ code: 'internal', what: 'step passed over by an engine that runs tokens', hint: 'report this as a bug' });
  }

  endStep(hash: DesyncHash): void {
    this.release();
    this.o.onStep(hash, this.taken, this.rounds);
    this.rounds = 0;
  }

  private release(): void {
    if (this.held > 0) this.o.ring.consume(this.held);
    this.held = 0;
    if (this.taken - this.told < Math.min(this.o.ring.size / 4, CREDIT_BYTES)) return;
    this.told = this.taken;
    this.o.onConsumed(this.taken);
  }
}

/** The engine's thread: runs the session's program. It blocks on shared memory; sockets, timers and heartbeats live on the main thread. */
import { parentPort, workerData } from 'node:worker_threads';
import { createKernels } from '../kernels/registry.ts';
import { Arena } from '../kernels/memory.ts';
import { readArtefact } from '../protocols/artefact.ts';
import type { DealtSink, DealtSource, Program } from '../protocols/engines/effects.ts';
import { MAX_FRAME_PAYLOAD } from '../protocols/frames.ts';
import { dealerProgram, evaluatorProgram } from '../protocols/session.ts';
import { ADDRESS, ringBase, type EngineMessage, type EngineStart } from './engineMessages.ts';
import { RING_BYTES, SharedRing } from './sharedRing.ts';

const start = workerData as EngineStart,
  { memory, spec } = start,
  bytes = new Uint8Array(memory.buffer);
const completed = new Int32Array(memory.buffer, ADDRESS.completed, 1),
  rings = ([0, 1] as const).map((i) => new SharedRing(memory, ADDRESS.rings[i], ringBase(i))) as [SharedRing, SharedRing];
const post = (message: EngineMessage): void => parentPort!.postMessage(message);
let effects = 0,
  rounds = 0;

/** Blocks until the main thread has completed the effect just posted. */
function wait(): void {
  effects++;
  for (;;) {
    const seen = Atomics.load(completed, 0);
    if (seen >= effects) return;
    Atomics.wait(completed, 0, seen);
  }
}

function drive(program: Program<void>): void {
  for (const effect of program)
    switch (effect.kind) {
      case 'round':
        rounds++;
        post({ type: 'round', out: effect.out, into: effect.into, bytes: effect.bytes, hash: effect.hash });
        wait();
        break;
      case 'input':
        post({ type: 'input', into: effect.into, bytes: effect.bytes });
        wait();
        break;
      case 'output':
        post({ type: 'output', out: effect.out, bytes: effect.bytes });
        wait();
        break;
      case 'job':
        // The WebAssembly backend answers in place.
        void effect.run();
        break;
    }
}

/** Material from the helper, out of ring 0. */
class RingSource implements DealtSource {
  private held = 0;
  private total = 0;
  private reported = 0;
  private waitedMs = 0;

  take(n: number): number {
    this.release();
    if (rings[0].available < n) {
      const since = performance.now();
      rings[0].waitAvailable(n);
      this.waitedMs += performance.now() - since;
    }
    this.held = n;
    this.total += n;
    return rings[0].peek(n);
  }

  endStep(hash: { low: number; high: number }): void {
    this.release();
    post({ type: 'step', hash, dealt: [this.total], rounds, waitDealtMs: this.waitedMs, highWater: arena.highWater });
    rounds = 0;
    this.waitedMs = 0;
  }

  private release(): void {
    rings[0].consume(this.held);
    this.held = 0;
    if (this.total - this.reported >= RING_BYTES / 4) {
      this.reported = this.total;
      post({ type: 'consumed', total: this.total });
    }
  }
}

/** Material for the evaluators, into both rings. */
class RingSink implements DealtSink {
  private readonly total = [0, 0];
  private readonly told = [0, 0];

  emit(party: 0 | 1, pointer: number, n: number): void {
    for (let at = 0; at < n;) {
      const written = rings[party].write(bytes.subarray(pointer + at, pointer + n));
      at += written;
      this.total[party]! += written;
      if (this.total[party]! - this.told[party]! >= MAX_FRAME_PAYLOAD || written === 0) {
        this.told[party] = this.total[party]!;
        post({ type: 'dealt', party, total: this.total[party]! });
      }
      if (at < n) rings[party].waitFree();
    }
  }

  flush(): void {
    post({ type: 'cut', dealt: [...this.total] });
  }

  endStep(hash: { low: number; high: number }): void {
    post({ type: 'step', hash, dealt: [...this.total], rounds: 0, waitDealtMs: 0, highWater: arena.highWater });
  }
}

const kernels = createKernels(start.kernels, memory),
  arena = new Arena(memory, start.arena, start.arenaBytes),
  artefact = readArtefact(start.artefact, start.digest);
try {
  drive(
    start.role === 'evaluator'
      ? evaluatorProgram({ party: start.party, artefact, spec, keys: start.keys, kernels, arena, dealt: new RingSource() })
      : dealerProgram({ artefact, spec, keys: start.keys, kernels, arena, sink: new RingSink() }),
  );
  post({ type: 'done' });
} catch (error) {
  post({ type: 'failed', message: error instanceof Error ? error.message : String(error), code: (error as { code?: string }).code ?? 'internal' });
}

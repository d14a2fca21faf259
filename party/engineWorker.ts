/**
 * The engine's thread: runs sessions' programs, one after another, so that its compiled code stays warm. It blocks on shared memory; sockets, timers and
 * heartbeats live on the main thread.
 */
import { parentPort } from 'node:worker_threads';
import { createKernels } from '../kernels/registry.ts';
import { threadedKernels } from '../kernels/threads.ts';
import { Arena } from '../kernels/memory.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { openShared } from './artefactShare.ts';
import { bulkRunner } from './bulk/thread.ts';
import { MAX_TAKE_BYTES, type DealtSink, type DealtSource, type DesyncHash, type Place, type Program } from '../protocols/engines/effects.ts';
import { CachetError } from '../protocols/errors.ts';
import { MAX_FRAME_PAYLOAD } from '../protocols/frames.ts';
import { dealerProgram, evaluatorProgram } from '../protocols/session.ts';
import { collectSoon } from './collect.ts';
import { ADDRESS, REPLY, type EngineMessage, type EngineStart } from './engineMessages.ts';
import { PlaceCell } from './place.ts';
import { block, CREDIT_BYTES, SharedRing } from './sharedRing.ts';
import { Recorder } from './trace/recorder.ts';

const post = (message: EngineMessage): void => parentPort!.postMessage(message);

/** The artefact of the last session, read once. */
let artefact: Artefact | undefined;

/** One session. */
class Run implements DealtSource, DealtSink {
  private readonly start: EngineStart;
  private readonly bytes: Uint8Array;
  private readonly completed: Int32Array;
  private readonly cancelled: Int32Array;
  private readonly rings: readonly [SharedRing, SharedRing];
  private readonly arena: Arena;
  private readonly reply: Int32Array;
  private readonly place: PlaceCell;
  private readonly relay: boolean;
  private readonly trace: Recorder | undefined;
  private effects = 0;
  private rounds = 0;
  // Evaluator, by stream: dealt bytes taken and not yet released, taken in all, told to the main thread.
  private readonly held: [number, number] = [0, 0];
  private readonly taken: [number, number] = [0, 0];
  private readonly reported: [number, number] = [0, 0];
  private readonly bothStream: 0 | 1;
  private waitedMs = 0;
  private stepStarted = performance.now();
  // Helper: dealt in all, told to the main thread, for both evaluators.
  private readonly dealt = [0, 0];
  private readonly told = [0, 0];

  constructor(start: EngineStart) {
    const { memory } = start;
    this.start = start;
    this.bytes = new Uint8Array(memory.buffer);
    this.completed = new Int32Array(memory.buffer, ADDRESS.completed, 1);
    this.cancelled = new Int32Array(memory.buffer, ADDRESS.cancelled, 1);
    this.reply = new Int32Array(memory.buffer, ADDRESS.reply, 3);
    this.place = new PlaceCell(memory);
    this.rings = [new SharedRing(memory, 0, start.rings), new SharedRing(memory, 1, start.rings)];
    this.arena = new Arena(memory, start.arena, start.arenaBytes);
    this.relay = start.spec.dealer === 'client';
    this.bothStream = start.role === 'evaluator' && start.party === 1 && this.relay ? 1 : 0;
    if (start.trace) this.trace = new Recorder((rows) => post({ type: 'trace', rows }));
  }

  run(): void {
    const { start, arena } = this,
      kernels = threadedKernels(createKernels(start.kernels, start.memory), start.threads);
    if (artefact?.digest !== start.artefact.digest) artefact = openShared(start.artefact);
    const common = { artefact, spec: start.spec, kernels, arena, trace: this.trace };
    this.trace?.begin();
    if (start.role === 'evaluator') return this.drive(evaluatorProgram({ ...common, party: start.party, keys: start.keys, dealt: this }));
    const bulk = start.bulk && bulkRunner(start.bulk, this.cancelled);
    try {
      this.drive(dealerProgram({ ...common, keys: start.keys, sink: this, bulk }));
    } finally {
      bulk?.close();
    }
  }

  /** The session's keys lie at the arena's start. What was recorded of a step that did not end is posted. */
  wipe(): void {
    this.bytes.fill(0, this.start.arena, this.start.arena + 4096);
    this.trace?.flush();
  }

  private drive(program: Program<void>): void {
    for (const effect of program)
      switch (effect.kind) {
        case 'round':
          this.rounds++;
          this.place.set(effect.at);
          this.ask({ type: 'round', out: effect.out, into: effect.into, bytes: effect.bytes, hash: effect.hash });
          break;
        case 'input':
          // Another engine may go on from here.
          this.release();
          this.ask({ type: 'input', into: effect.into, bytes: effect.bytes, optional: effect.optional, taken: this.taken[0] });
          effect.over = this.reply[0] === REPLY.over;
          break;
        case 'output':
          this.ask({ type: 'output', out: effect.out, bytes: effect.bytes });
          break;
        case 'turn':
          this.ask({ type: 'turn' });
          effect.turn = { tokens: this.reply[1]!, answer: this.reply[2]! };
          break;
        case 'job':
          // The WebAssembly backend answers in place.
          void effect.run();
          break;
      }
  }

  /** Posts an effect and blocks until the main thread has completed it. */
  private ask(message: Extract<EngineMessage, { type: 'round' | 'input' | 'output' | 'turn' }>): void {
    const since = this.trace?.now();
    post(message);
    this.effects++;
    for (let seen = Atomics.load(this.completed, 0); seen < this.effects; seen = Atomics.load(this.completed, 0))
      block(this.completed, 0, seen, this.cancelled);
    if (since !== undefined) this.trace!.waited(message.type, since, 'bytes' in message ? message.bytes : 0);
  }

  // ---- evaluator: material from the dealer, out of ring 0; what P0 relays out of ring 1 ----------------------------------------------
  take(n: number, at: Place): number {
    return this.takeFrom(0, n, at);
  }

  takeBoth(n: number, at: Place): number {
    return this.takeFrom(this.bothStream, n, at);
  }

  discard(own: number, both: number): void {
    const left: [number, number] = [own, 0];
    left[this.bothStream] += both;
    for (const stream of [0, 1] as const)
      while (left[stream] > 0) {
        const n = Math.min(left[stream], MAX_TAKE_BYTES);
        this.takeFrom(stream, n);
        left[stream] -= n;
      }
  }

  private takeFrom(stream: 0 | 1, n: number, at?: Place): number {
    this.release();
    const ring = this.rings[stream];
    if (ring.available < n) {
      const since = performance.now();
      if (at) this.place.set(at);
      ring.waitAvailable(n);
      this.waitedMs += performance.now() - since;
      this.trace?.waited('dealt', since, n);
    }
    this.held[stream] = n;
    this.taken[stream] += n;
    return ring.peek(n);
  }

  private release(): void {
    for (const stream of [0, 1] as const) {
      if (this.held[stream] > 0) this.rings[stream].consume(this.held[stream]);
      this.held[stream] = 0;
      const untold = this.taken[stream] - this.reported[stream];
      if (untold > 0 && untold >= Math.min(this.rings[stream].size / 4, CREDIT_BYTES)) {
        this.reported[stream] = this.taken[stream];
        post({ type: 'consumed', stream, total: this.taken[stream] });
      }
    }
  }

  // ---- dealer: material for the evaluators, into both rings ------------------------------------------------------------------------
  emit(pointer: number, n: number): void {
    this.emitTo(1, pointer, n);
  }

  emitBoth(pointer: number, n: number): void {
    this.emitTo(0, pointer, n);
    if (!this.relay) this.emitTo(1, pointer, n);
  }

  private emitTo(party: 0 | 1, pointer: number, n: number): void {
    const ring = this.rings[party];
    for (let at = 0; at < n;) {
      const written = ring.write(this.bytes.subarray(pointer + at, pointer + n));
      at += written;
      this.dealt[party]! += written;
      if (this.dealt[party]! - this.told[party]! >= MAX_FRAME_PAYLOAD || written === 0) {
        this.told[party] = this.dealt[party]!;
        post({ type: 'dealt', party, total: this.dealt[party]! });
      }
      if (at < n) {
        const since = performance.now();
        ring.waitFree();
        this.waitedMs += performance.now() - since;
        this.trace?.waited('credit', since, n - at);
      }
    }
  }

  flush(): void {
    post({ type: 'cut', dealt: [...this.dealt] });
  }

  // ---- both ------------------------------------------------------------------------------------------------------------------------------
  endStep(hash: DesyncHash, skipped = false): void {
    if (this.start.role === 'evaluator') this.release();
    const dealt = this.start.role === 'evaluator' ? [...this.taken] : [...this.dealt],
      now = performance.now(),
      busyMs = now - this.stepStarted - this.waitedMs;
    post({ type: 'step', skipped, hash, dealt, rounds: this.rounds, waitDealtMs: this.waitedMs, busyMs, highWater: this.arena.highWater });
    this.rounds = 0;
    this.waitedMs = 0;
    this.stepStarted = now;
  }
}

parentPort!.on('message', (start: EngineStart) => {
  const run = new Run(start);
  try {
    run.run();
    post({ type: 'done' });
  } catch (error) {
    // Another error's text may quote what it stumbled over.
    const { code, message } = error instanceof CachetError ? error : { code: 'internal', message: `engine failed: ${(error as Error).name}` };
    if (code !== 'cancelled') post({ type: 'failed', message, code });
  }
  run.wipe();
  post({ type: 'idle' });
  collectSoon();
});

/** The main thread's end of an engine: reserves its memory, starts its worker, completes its effects. */
import { Worker } from 'node:worker_threads';
import { reserveMemory } from '../kernels/memory.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError, type ErrorCode } from '../protocols/errors.ts';
import { arenaBytes, type SessionSpec } from '../protocols/session.ts';
import { ADDRESS, FIRST_RING, ringBase, type EngineMessage, type EngineStart } from './engineMessages.ts';
import { RING_SPACE, SharedRing } from './sharedRing.ts';

type Role = Pick<Extract<EngineStart, { role: 'evaluator' }>, 'role' | 'party' | 'keys'> | Pick<Extract<EngineStart, { role: 'helper' }>, 'role' | 'keys'>;

export class EngineThread {
  readonly memory: WebAssembly.Memory;
  readonly rings: readonly [SharedRing, SharedRing];
  private readonly worker: Worker;
  private readonly completed: Int32Array;

  /** `artefact.bytes` should lie in a SharedArrayBuffer, so that the worker does not copy it. */
  constructor(o: {
    role: Role;
    artefact: Artefact;
    spec: SessionSpec;
    kernels: string;
    onMessage: (message: EngineMessage) => void;
    onError: (error: CachetError) => void;
  }) {
    const arena = FIRST_RING + 2 * RING_SPACE,
      size = arenaBytes(o.role.role, o.artefact, o.spec);
    this.memory = reserveMemory(arena + size);
    this.completed = new Int32Array(this.memory.buffer, ADDRESS.completed, 1);
    this.rings = [new SharedRing(this.memory, ADDRESS.rings[0], ringBase(0)), new SharedRing(this.memory, ADDRESS.rings[1], ringBase(1))];
    const workerData: EngineStart = {
      ...o.role,
      memory: this.memory,
      kernels: o.kernels,
      artefact: o.artefact.bytes,
      digest: o.artefact.digest,
      spec: o.spec,
      arena,
      arenaBytes: size,
    };
    this.worker = new Worker(new URL('./engineWorker.js', import.meta.url), { workerData });
    this.worker.on('message', (message: EngineMessage) => {
      if (message.type === 'failed') o.onError(new CachetError({ code: message.code as ErrorCode, what: message.message }));
      else o.onMessage(message);
    });
    this.worker.on('error', (cause) =>
      o.onError(new CachetError({ code: 'internal', what: 'engine stopped', got: cause.message, hint: 'report this as a bug', cause })),
    );
  }

  /** The bytes at an address of the engine's memory. */
  view(pointer: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, pointer, bytes);
  }

  /** Lets the worker go on after its effect. */
  complete(): void {
    Atomics.add(this.completed, 0, 1);
    Atomics.notify(this.completed, 0);
  }

  async stop(): Promise<void> {
    await this.worker.terminate();
  }
}

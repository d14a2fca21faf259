/** The main thread's end of an engine: reserves its memory, gives the session to a worker, completes its effects. Workers are kept between sessions. */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { packageRoot } from '../client/node.ts';
import { reserveMemory, WORKING_BYTES } from '../kernels/memory.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { shareArtefact } from './artefactShare.ts';
import { collectSoon } from './collect.ts';
import { meterSession, tokenCost } from '../protocols/cost.ts';
import { CachetError, type ErrorCode } from '../protocols/errors.ts';
import { BULK_BYTES } from '../protocols/engines/dealer.ts';
import type { Turn } from '../protocols/engines/effects.ts';
import { arenaBytes, type SessionSpec } from '../protocols/session.ts';
import type { BulkThread } from './bulk/thread.ts';
import { ADDRESS, REPLY, type EngineMessage, type EngineStart } from './engineMessages.ts';
import { KernelThreads } from './kernelThreads.ts';
import { PlaceCell } from './place.ts';
import { MIN_RING_BYTES, ringsEnd, SharedRing, type RingSizes } from './sharedRing.ts';
import type { TraceRows } from './trace/recorder.ts';

type Role = Pick<Extract<EngineStart, { role: 'evaluator' }>, 'role' | 'party' | 'keys'> | Pick<Extract<EngineStart, { role: 'helper' }>, 'role' | 'keys'>;

/** Workers without a session: their code is compiled and warm. They do not keep the process alive. */
const idle: Worker[] = [];
/** More than so many are dropped. */
const MAX_IDLE = 2;
/** How long a worker may take to notice that its session is over. */
const STOP_MS = 10_000;

/** Engines whose worker has not come back. */
let running = 0;

/** Tokens whose material an engine has room for. */
const TOKENS_AHEAD = 4;

/** What a session's engine reserves, in bytes: an upper bound of what it will touch. */
export interface EngineSpace {
  readonly rings: RingSizes;
  readonly arena: number;
  /** Threads that compute on it. */
  readonly threads: number;
  readonly total: number;
}

/**
 * Rings for a few tokens' dealt material within `aheadMib` (the next lower power of two), `whole`: for the prompt's as well; the arena; working space of
 * further threads at the end. `bulk`: a backend has a part in it.
 */
export function engineSpace(
  role: 'evaluator' | 'helper',
  artefact: Artefact,
  spec: SessionSpec,
  aheadMib: number,
  { whole = false, threads = 1, bulk = false }: { readonly whole?: boolean; readonly threads?: number; readonly bulk?: boolean } = {},
): EngineSpace {
  const prompt = whole ? meterSession(artefact, { ...spec, maxTokens: 1 }).dealtBytes : 0,
    wanted = Math.max(prompt, TOKENS_AHEAD * tokenCost(artefact, spec.filled + spec.context, spec.policy).dealtBytes),
    ring = Math.max(MIN_RING_BYTES, Math.min(2 ** Math.ceil(Math.log2(wanted)), 2 ** (20 + Math.floor(Math.log2(aheadMib))))),
    // An evaluator's second one is for what is relayed.
    rings: RingSizes = [ring, role === 'helper' || spec.dealer === 'client' ? ring : 0],
    arena = arenaBytes(role, artefact, spec) + (bulk ? BULK_BYTES : 0);
  return { rings, arena, threads, total: ringsEnd(rings) + arena + (threads - 1) * WORKING_BYTES };
}

export class EngineThread {
  readonly memory: WebAssembly.Memory;
  readonly rings: readonly [SharedRing, SharedRing];
  /** Where the program waits, or waited last. */
  readonly place: PlaceCell;
  private readonly worker: Worker;
  private readonly threads: KernelThreads;
  private readonly completed: Int32Array;
  /** Reply, turn's tokens, turn's answer. */
  private readonly reply: Int32Array;
  private stopping: NodeJS.Timeout | undefined;
  private released = false;

  constructor(o: {
    role: Role;
    artefact: Artefact;
    spec: SessionSpec;
    space: EngineSpace;
    kernels: string;
    /** The dealer's bulk backend, if the process has one. */
    bulk?: BulkThread | undefined;
    /** Takes what the engine recorded, after every step and at the end; nothing is recorded without. */
    onTrace?: ((rows: TraceRows) => void) | undefined;
    onMessage: (message: EngineMessage) => void;
    onError: (error: CachetError) => void;
  }) {
    const { rings, threads } = o.space;
    this.memory = reserveMemory(o.space.total);
    this.place = new PlaceCell(this.memory);
    this.completed = new Int32Array(this.memory.buffer, ADDRESS.completed, 1);
    this.reply = new Int32Array(this.memory.buffer, ADDRESS.reply, 3);
    this.rings = [new SharedRing(this.memory, 0, rings), new SharedRing(this.memory, 1, rings)];
    const start: EngineStart = {
      ...(o.role.role === 'helper' && o.bulk ? { ...o.role, bulk: o.bulk.serve(this.memory) } : o.role),
      memory: this.memory,
      kernels: o.kernels,
      artefact: shareArtefact(o.artefact),
      spec: o.spec,
      trace: o.onTrace !== undefined,
      rings,
      arena: ringsEnd(rings),
      arenaBytes: o.space.arena,
      threads,
    };
    const stopped = (cause: Error): void =>
      o.onError(new CachetError({ code: 'internal', what: 'engine stopped', got: cause.name, hint: 'report this as a bug', cause }));
    this.threads = new KernelThreads({ memory: this.memory, kernels: o.kernels, threads, onError: stopped });
    this.worker = idle.pop() ?? new Worker(join(packageRoot(), 'dist', 'party', 'engineWorker.js'));
    this.worker.ref();
    this.worker.on('message', (message: EngineMessage) => {
      if (message.type === 'idle') this.release();
      else if (message.type === 'trace') o.onTrace?.(message.rows);
      else if (message.type === 'failed') o.onError(new CachetError({ code: message.code as ErrorCode, what: message.message }));
      else o.onMessage(message);
    });
    this.worker.on('error', stopped);
    running++;
    this.worker.once('exit', this.left);
    this.worker.postMessage(start, start.role === 'helper' && start.bulk ? [start.bulk.port] : []);
  }

  /** The bytes at an address of the engine's memory. */
  view(pointer: number, bytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, pointer, bytes);
  }

  /** Lets the worker go on after its effect. */
  complete(reply: number = REPLY.done): void {
    Atomics.store(this.reply, 0, reply);
    Atomics.add(this.completed, 0, 1);
    Atomics.notify(this.completed, 0);
  }

  /** Answers `turn`. */
  completeTurn(turn: Turn): void {
    Atomics.store(this.reply, 1, turn.tokens);
    Atomics.store(this.reply, 2, turn.answer);
    this.complete();
  }

  /** Ends the session for the engine; the worker goes back, or is dropped if it does not answer. */
  stop(): void {
    if (this.released || this.stopping) return;
    this.stopping = setTimeout(() => void this.worker.terminate(), STOP_MS);
    this.stopping.unref();
    Atomics.store(new Int32Array(this.memory.buffer, ADDRESS.cancelled, 1), 0, 1);
    Atomics.notify(this.completed, 0);
    for (const ring of this.rings) ring.wake();
    this.threads.stop();
  }

  /** Sessions may be over before their workers have noticed, and only then is the memory nobody's. */
  private readonly left = (): void => {
    clearTimeout(this.stopping);
    if (--running === 0) collectSoon();
  };

  private release(): void {
    this.released = true;
    this.threads.stop();
    // Without a name this would remove Node's own listeners as well.
    this.worker.removeAllListeners('message');
    this.worker.removeAllListeners('error');
    this.worker.off('exit', this.left);
    this.left();
    this.worker.unref();
    if (idle.length < MAX_IDLE) idle.push(this.worker);
    else void this.worker.terminate();
  }
}

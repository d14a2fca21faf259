/** A dealing process's bulk backend: one thread for all its sessions, and an engine's end of it. */
import { join } from 'node:path';
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { packageRoot } from '../../client/node.ts';
import type { BulkJob, BulkKind } from '../../kernels/bulk.ts';
import type { BulkRunner } from '../../protocols/engines/effects.ts';
import { CachetError } from '../../protocols/errors.ts';
import type { BackendName } from '../config.ts';
import type { PartyEvent } from '../log.ts';
import { block } from '../sharedRing.ts';
import { BULK, type BulkRequest, type FromBulk, type ToBulk } from './messages.ts';

/** What an engine is given to reach the backend; the port is transferred. */
export interface BulkStart {
  readonly port: MessagePort;
  readonly kinds: readonly BulkKind[];
}

/** How long opening, trying and measuring a backend may take: drivers compile programs. */
const OPEN_MS = 60_000;

export class BulkThread {
  private readonly worker: Worker;
  /** As it is named, and on what. */
  readonly name: string;
  readonly device: string;
  /** What it computes; the rest is left to the engines. */
  readonly kinds: readonly BulkKind[];

  private constructor(worker: Worker, opened: Extract<FromBulk, { type: 'opened' }>) {
    this.worker = worker;
    this.name = opened.name;
    this.device = opened.device;
    this.kinds = opened.kinds;
  }

  /** One line for people. */
  get description(): string {
    return `${this.kinds.join(', ')} on ${this.device}`;
  }

  /**
   * Opens and tries a backend. `onFailed`: its device has failed later on, and the engines compute themselves.
   * @throws CachetError 'config' with the reason where it is not there, not exact or, for `auto`, not faster than the engine.
   */
  static async open(backend: Exclude<BackendName, 'wasm'>, onFailed: (reason: string) => void): Promise<BulkThread> {
    const worker = new Worker(join(packageRoot(), 'dist', 'party', 'bulk', 'worker.js'));
    try {
      const opened = await new Promise<FromBulk>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no answer within ${OPEN_MS / 1000} s`)), OPEN_MS);
        worker.once('message', resolve).once('error', reject);
        worker.once('exit', (code) => reject(new Error(`its thread ended with code ${code}`)));
        worker.once('message', () => clearTimeout(timer));
        tell(worker, { type: 'open', backend });
      });
      if (opened.type !== 'opened') throw new Error(opened.reason);
      worker.removeAllListeners('exit');
      worker.on('message', (m: FromBulk) => m.type === 'failed' && onFailed(m.reason));
      worker.removeAllListeners('error').on('error', (cause) => onFailed(cause.name));
      worker.unref();
      return new BulkThread(worker, opened);
    } catch (error) {
      await worker.terminate();
      throw new CachetError({
        code: 'config',
        step: '--backend',
        what: `backend ${backend} cannot be used`,
        expected: 'one that is installed, exact and faster than wasm',
        got: (error as Error).message,
        hint: '--backend wasm',
      });
    }
  }

  /** What an engine over this memory is started with. */
  serve(memory: WebAssembly.Memory): BulkStart {
    const { port1, port2 } = new MessageChannel();
    tell(this.worker, { type: 'serve', memory, port: port1 }, [port1]);
    return { port: port2, kinds: this.kinds };
  }

  /** Gives the device back; the thread ends. */
  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.worker.once('exit', resolve));
    this.worker.ref();
    tell(this.worker, { type: 'close' });
    await ended;
  }
}

/**
 * The backend that a configuration names, for a dealing process; undefined where that is the engine's own kernels. `auto` never fails: what it settles for is
 * told as an event. @throws CachetError 'config' where another backend was named and cannot be used.
 */
export async function openBulk(backend: BackendName, onEvent: (event: Extract<PartyEvent, { event: 'backend' }>) => void): Promise<BulkThread | undefined> {
  if (backend === 'wasm') return undefined;
  try {
    const bulk = await BulkThread.open(backend, (got) =>
      onEvent({
        event: 'backend',
        name: 'wasm',
        error: new CachetError({ code: 'internal', step: backend, what: 'backend failed', expected: 'results', got }),
      }),
    );
    onEvent({ event: 'backend', name: bulk.name, device: bulk.description });
    return bulk;
  } catch (error) {
    if (backend !== 'auto') throw error;
    onEvent({ event: 'backend', name: 'wasm', error: error as Error });
    return undefined;
  }
}

const tell = (worker: Worker, message: ToBulk, transfer: MessagePort[] = []): void => worker.postMessage(message, transfer);

/** An engine's way to it: blocks the engine's thread until a list is answered. @throws CachetError 'cancelled' once the session is over. */
export function bulkRunner({ port, kinds }: BulkStart, cancelled: Int32Array): BulkRunner & { close(): void } {
  const state = new Int32Array(new SharedArrayBuffer(4));
  let usable = true;
  return {
    kinds,
    run(jobs: readonly BulkJob[]): boolean {
      if (!usable) return false;
      Atomics.store(state, 0, BULK.waiting);
      const request: BulkRequest = { jobs, state };
      port.postMessage(request);
      while (Atomics.load(state, 0) === BULK.waiting) block(state, 0, BULK.waiting, cancelled);
      usable = Atomics.load(state, 0) === BULK.done;
      return usable;
    },
    close: () => port.close(),
  };
}

/** What the engine's worker and the main thread say to each other, and where things lie in their shared memory. */
import type { SharedArtefact } from './artefactShare.ts';
import type { DealerKeys } from '../protocols/engines/dealer.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import type { EvaluatorKeys } from '../protocols/engines/evaluator.ts';
import type { SessionSpec } from '../protocols/session.ts';
import type { RingSizes } from './sharedRing.ts';
import type { TraceRows } from './trace/recorder.ts';
import type { BulkStart } from './bulk/thread.ts';

/** Low page: kernels own it from 4096 on; sharedRing.ts has the rings' counters. */
export const ADDRESS = {
  /** u32: effects that the main thread has completed. */
  completed: 1024,
  /** u32: not 0 once the session is over for the engine. */
  cancelled: 1028,
  /** u32 each: answer to an effect; see REPLY. The turn's tokens and answer. */
  reply: 1048,
  turnTokens: 1052,
  turnAnswer: 1056,
  /** Of place.ts. */
  place: 1064,
} as const;

/** Answers to an input that may be left out. */
export const REPLY = { done: 0, over: 1 } as const;

interface StartCommon {
  readonly memory: WebAssembly.Memory;
  readonly kernels: string;
  readonly artefact: SharedArtefact;
  readonly spec: SessionSpec;
  /** Whether to record gates and waits. */
  readonly trace: boolean;
  readonly rings: RingSizes;
  /** Where the arena begins, and its size. */
  readonly arena: number;
  readonly arenaBytes: number;
  /** Threads that compute on the memory, this one among them. */
  readonly threads: number;
}
export type EngineStart =
  | (StartCommon & { readonly role: 'evaluator'; readonly party: 0 | 1; readonly keys: EvaluatorKeys })
  | (StartCommon & { readonly role: 'helper'; readonly keys: DealerKeys; readonly bulk?: BulkStart | undefined });

/** Worker to main. `round`, `input`, `output` and `turn` block the worker until it is told that they are complete. */
export type EngineMessage =
  | { readonly type: 'round'; readonly out: number; readonly into: number; readonly bytes: number; readonly hash: DesyncHash }
  /** `taken`: dealt bytes of the first stream that the engine has taken in all. */
  | { readonly type: 'input'; readonly into: number; readonly bytes: number; readonly optional: boolean; readonly taken: number }
  | { readonly type: 'output'; readonly out: number; readonly bytes: number }
  /** The program is ready for another turn. */
  | { readonly type: 'turn' }
  /** Evaluator: dealt bytes of this stream consumed in all. */
  | { readonly type: 'consumed'; readonly stream: 0 | 1; readonly total: number }
  /** Helper: bytes dealt in all to this party, up to here within the present step. */
  | { readonly type: 'dealt'; readonly party: 0 | 1; readonly total: number }
  /** Helper: frames end at these totals. */
  | { readonly type: 'cut'; readonly dealt: readonly number[] }
  /** A step is complete, or passed over; evaluator: the dealt bytes of each stream that it took in all, and its cost; dealer: the bytes dealt in all to each. */
  | {
      readonly type: 'step';
      readonly skipped: boolean;
      readonly hash: DesyncHash;
      readonly dealt: readonly number[];
      readonly rounds: number;
      /** Waiting for dealt material; at the dealer: for room. */
      readonly waitDealtMs: number;
      /** The step without that, waits for others included at an evaluator. */
      readonly busyMs: number;
      readonly highWater: number;
    }
  /** What was recorded since the last one. */
  | { readonly type: 'trace'; readonly rows: TraceRows }
  | { readonly type: 'done' }
  /** The worker is free for another session, however this one ended. */
  | { readonly type: 'idle' }
  | { readonly type: 'failed'; readonly message: string; readonly code: string };

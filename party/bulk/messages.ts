/** What the thread of a bulk backend, the dealing process and its engines say to each other. */
import type { MessagePort } from 'node:worker_threads';
import type { BulkJob, BulkKind } from '../../kernels/bulk.ts';

/** To the thread: first `open`, then an engine's memory and its port each, at last `close`. */
export type ToBulk =
  | { readonly type: 'open'; readonly backend: string }
  | { readonly type: 'serve'; readonly memory: WebAssembly.Memory; readonly port: MessagePort }
  | { readonly type: 'close' };
/** From the thread: what it opened, or the reason why it did not; that its device failed and lists are not answered any more. */
export type FromBulk =
  | { readonly type: 'opened'; readonly name: string; readonly device: string; readonly kinds: readonly BulkKind[] }
  | { readonly type: 'refused'; readonly reason: string }
  | { readonly type: 'failed'; readonly reason: string };
/** From an engine: a list, and the word that it waits on. */
export interface BulkRequest {
  readonly jobs: readonly BulkJob[];
  readonly state: Int32Array;
}
/** The word's values. */
export const BULK = { waiting: 0, done: 1, failed: 2 } as const;

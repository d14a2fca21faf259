export interface Secrets {
  readonly words: readonly string[];
  /** Token ids in order: any four in a row count. */
  readonly ids: readonly number[];
  /** Known keys: any spelling of eight bytes in a row counts. */
  readonly keys: readonly Uint8Array[];
  /** Public strings that may stand there. */
  readonly allowed?: readonly string[];
}
export function leaks(text: string, s: Secrets): string[];
export function withoutSessionIds(text: string): string;

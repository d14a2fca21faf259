/** Errors that a person reads: one line that says what, expected, got, where, and what to try. Never a share, mask, token or key. */

export const ERROR_CODES = [
  'usage',
  'config',
  'artefact',
  'model',
  'range',
  'shape',
  'desync',
  'frame',
  'handshake',
  'link',
  'timeout',
  'aborted',
  'cancelled',
  'limit',
  'policy',
  'store',
  'internal',
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

export interface ErrorDetails {
  readonly code: ErrorCode;
  /** What went wrong, in a few words. */
  readonly what: string;
  readonly expected?: string;
  readonly got?: string;
  /** What the user can do about it. */
  readonly hint?: string;
  readonly party?: string;
  /** Layer, gate or phase. */
  readonly step?: string;
  readonly cause?: unknown;
  /** It came from another party: who found it, and its text there. */
  readonly relayed?: { readonly origin: string; readonly text: string };
}

export class CachetError extends Error {
  override readonly name = 'CachetError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(details: ErrorDetails) {
    const where = [details.party, details.step].filter(Boolean).join(', ');
    const parts = [(where ? `${where}: ` : '') + details.what];
    if (details.expected !== undefined) parts.push(`expected ${details.expected}`);
    if (details.got !== undefined) parts.push(`got ${details.got}`);
    if (details.hint !== undefined) parts.push(`try: ${details.hint}`);
    super(parts.join('; '), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.details = details;
  }
}

/** Whether a message may have these names of a JSON file, which may be another one than was meant, a private text. */
export const areFieldNames = (keys: readonly string[]): boolean => keys.every((key) => /^[A-Za-z]\w{0,30}$/.test(key));

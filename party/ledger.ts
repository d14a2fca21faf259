/** Tickets of sessions that this party has taken part in: each is good for one session, across restarts if there is a file. */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { CachetError } from '../protocols/errors.ts';

export class Ledger {
  private readonly seen: Set<string>;
  private readonly file: number | undefined;
  private readonly path: string | undefined;

  /** Lines of hex, one a ticket. @throws CachetError 'config' for a file that cannot be read or written. */
  constructor(path?: string) {
    this.path = path;
    try {
      this.seen = new Set(path && existsSync(path) ? readFileSync(path, 'utf8').split('\n') : []);
      this.file = path === undefined ? undefined : openSync(path, 'a', 0o600);
    } catch (cause) {
      throw this.unusable(cause);
    }
  }

  /** Durable before it returns. @throws CachetError 'handshake' for a ticket used before. */
  use(ticket: string, party: string): void {
    if (this.seen.has(ticket))
      throw new CachetError({
        code: 'handshake',
        party,
        what: 'session used before',
        expected: 'a fresh ticket',
        got: 'one of an earlier session',
        hint: 'begin a new session',
      });
    this.seen.add(ticket);
    if (this.file === undefined) return;
    try {
      writeSync(this.file, `${ticket}\n`);
      fsyncSync(this.file);
    } catch (cause) {
      throw this.unusable(cause);
    }
  }

  has(ticket: string): boolean {
    return this.seen.has(ticket);
  }

  close(): void {
    if (this.file !== undefined) closeSync(this.file);
  }

  private unusable(cause: unknown): CachetError {
    return new CachetError({
      code: 'config',
      what: 'ledger of sessions cannot be kept',
      expected: `${this.path} to be readable and writable`,
      got: (cause as NodeJS.ErrnoException).code ?? String(cause),
      hint: '"ledger" in the configuration',
      cause,
    });
  }
}

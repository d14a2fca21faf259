/**
 * What this party has used up, across restarts if there is a file: tickets of sessions, and units of stores. Lines, each durable before what it stands for
 * happens: a ticket in hex; `store ROLE ID TOKEN` when a store becomes this party's; `unit ROLE ID INDEX TOKEN` before a unit is used. The token goes into the store's
 * folder as well, a new one with every line: a folder that has another one was copied or restored.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { CachetError } from '../protocols/errors.ts';

/** What the ledger knows of a store. */
interface StoreRecord {
  /** The latest, and the one before: a crash may have come between ledger and folder. */
  tokens: readonly string[];
  readonly used: Set<number>;
  /** Largest index used, -1 for none: nothing up to it is used after a restart. */
  mark: number;
}

const NEW: Readonly<StoreRecord> = { tokens: [], used: new Set(), mark: -1 };

export class Ledger {
  private readonly tickets = new Set<string>();
  private readonly stores = new Map<string, StoreRecord>();
  private readonly file: number | undefined;
  private readonly path: string | undefined;
  /** The file may end in a part of a line. */
  private torn = false;

  /** @throws CachetError 'config' for a file that cannot be read or written, or a disk that is full. */
  constructor(path?: string) {
    this.path = path;
    if (path === undefined) return;
    try {
      const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
      for (const line of text.split('\n')) this.take(line);
      this.file = openSync(path, 'a', 0o600);
      // A line that a crash cut off stands for nothing; the next one begins behind it. A new file shows that there is space.
      if (!text.endsWith('\n')) this.append('\n');
    } catch (cause) {
      throw this.unusable(cause);
    }
  }

  /** Durable before it returns. @throws CachetError 'handshake' for a ticket used before. */
  use(ticket: string, party: string): void {
    if (this.has(ticket))
      throw new CachetError({
        code: 'handshake',
        party,
        what: 'session used before',
        expected: 'a fresh ticket',
        got: 'one of an earlier session',
        hint: 'begin a new session',
      });
    this.write(ticket);
  }

  has(ticket: string): boolean {
    return this.tickets.has(ticket);
  }

  /** `id`: the evaluator's role and the store's id, 16 bytes in hex, as are tokens. */
  store(id: string): Readonly<StoreRecord> {
    return this.stores.get(id) ?? NEW;
  }

  /** The store is this party's from now on. Durable before it returns. */
  adopt(id: string, token: string): void {
    this.write(`store ${id} ${token}`);
  }

  /** Marks a unit as used. Durable before it returns. @throws CachetError 'store' for one that was used before. */
  useUnit(id: string, index: number, token: string): void {
    if (this.store(id).used.has(index))
      throw new CachetError({
        code: 'store',
        what: `unit ${index} used before`,
        expected: 'one that the ledger does not have',
        got: 'one of an earlier session',
        hint: 'a store is used once: deal a new one',
      });
    this.write(`unit ${id} ${index} ${token}`);
  }

  close(): void {
    if (this.file !== undefined) closeSync(this.file);
  }

  private write(line: string): void {
    if (this.file !== undefined)
      try {
        this.append(`${this.torn ? '\n' : ''}${line}\n`);
      } catch (cause) {
        throw this.unusable(cause);
      }
    this.take(line);
  }

  /** All of it, or what was written of it is torn: a disk that becomes full takes a part first. */
  private append(text: string): void {
    this.torn = true;
    writeFileSync(this.file!, text);
    fsyncSync(this.file!);
    this.torn = false;
  }

  /** What a whole line says. */
  private take(line: string): void {
    const [, id, index, token] = /^(?:store|unit) (p[01] [0-9a-f]{32}) (?:(\d+) )?([0-9a-f]{32})$/.exec(line) ?? [];
    if (id === undefined) {
      if (line !== '') this.tickets.add(line);
      return;
    }
    const record = this.stores.get(id) ?? { tokens: [], used: new Set(), mark: -1 };
    this.stores.set(id, record);
    record.tokens = [token!, ...record.tokens.slice(0, 1)];
    if (index === undefined) return;
    record.used.add(Number(index));
    record.mark = Math.max(record.mark, Number(index));
  }

  private unusable(cause: unknown): CachetError {
    const { code } = cause as NodeJS.ErrnoException;
    return new CachetError({
      code: 'config',
      what: 'ledger cannot be kept',
      expected: `${this.path} to be readable and writable`,
      got: code ?? String(cause),
      hint: code === 'ENOSPC' ? 'free some space, or another "ledger" in the configuration' : '"ledger" in the configuration',
      cause,
    });
  }
}

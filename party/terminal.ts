/** What commands share towards a person: progress on stderr, results on stdout, numbers with units. */
import { cpus } from 'node:os';

/** A progress line on a terminal that is overwritten; on anything else one line a phase. */
export class Progress {
  private readonly live: boolean;
  private readonly silent: boolean;
  private shown = '';

  constructor(o: { silent?: boolean } = {}) {
    this.silent = o.silent ?? false;
    this.live = process.stderr.isTTY === true;
  }

  update(text: string): void {
    if (this.silent || !this.live || text === this.shown) return;
    process.stderr.write(`\r\x1b[K${text}`);
    this.shown = text;
  }

  /** A line that stays. */
  done(text: string): void {
    if (this.silent) return;
    process.stderr.write(this.live ? `\r\x1b[K${text}\n` : `${text}\n`);
    this.shown = '';
  }
}

export const describeMachine = (): string => `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${cpus().length} cores, Node ${process.versions.node}`;

export const bytes = (n: number): string =>
  n < 1e3 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e9).toFixed(2)} GB`;

export const count = (n: number): string => n.toLocaleString('en-US');

/** Rows of cells, columns aligned; numbers to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((r) => r[c]!.length)));
  return rows
    .map((r) =>
      r
        .map((cell, c) => (/^[-\d.,]+( |$)/.test(cell) || c > 0 ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** Calls `stop` on Ctrl-C or termination; a second Ctrl-C ends the process at once. */
export function onInterrupt(stop: () => void): void {
  let asked = false;
  const handler = (): void => {
    if (asked) process.exit(130);
    asked = true;
    stop();
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
}

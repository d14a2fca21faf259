/** What commands share towards a person: progress on stderr, results on stdout, numbers with units. */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Between plain lines on long work. */
const PLAIN_MS = 5_000;

/** A progress line on a terminal that is overwritten; on anything else a line a phase, and every few seconds. */
export class Progress {
  private readonly live: boolean;
  private readonly silent: boolean;
  private shown = '';
  private said = performance.now();

  constructor(o: { silent?: boolean } = {}) {
    this.silent = o.silent ?? false;
    this.live = process.stderr.isTTY === true;
  }

  /** Shown at once on a terminal, elsewhere every few seconds while it lasts. */
  update(text: string): void {
    if (this.silent || text === this.shown || (text === '' && !this.live)) return;
    if (this.live) process.stderr.write(`\r\x1b[K${text}`);
    else if (performance.now() - this.said > PLAIN_MS) this.plain(text);
    this.shown = text;
  }

  private plain(text: string): void {
    process.stderr.write(`${text}\n`);
    this.said = performance.now();
  }

  /** A line that stays. */
  done(text: string): void {
    if (this.silent) return;
    if (this.live) process.stderr.write(`\r\x1b[K${text}\n`);
    else this.plain(text);
    this.shown = '';
  }
}

export const describeMachine = (): string => `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${cpus().length} cores, Node ${process.versions.node}`;

/** Bytes of memory that this process has had resident at most. What the system reports for resource usage may count the process that started this one. */
export function peakResident(): number {
  try {
    return 1024 * Number(/VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
  } catch {
    return 1024 * process.resourceUsage().maxRSS;
  }
}

/** The middle value; the upper one of two. */
export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

export const bytes = (n: number): string =>
  n < 1e3 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(2)} MB` : `${(n / 1e9).toFixed(2)} GB`;

/** A share, as a percentage of two decimals. */
export const percent = (v: number): string => `${(100 * v).toFixed(2)} %`;

export const count = (n: number): string => n.toLocaleString('en-US');

/** Rows of cells, the first the header; columns of numbers to the right, of text to the left. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = rows[0]!.map((_, c) => ({
    width: Math.max(...rows.map((r) => r[c]!.length)),
    numeric: rows.slice(1).every((r) => r[c] === '' || /^[-+]?[\d.,]+(e[-+]?\d+)?( |$|%)/.test(r[c]!)),
  }));
  return rows
    .map((r) =>
      columns
        .map(({ width, numeric }, c) => (numeric ? r[c]!.padStart(width) : r[c]!.padEnd(width)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** Text in lines of at most 78 characters, set in by two. */
export const wrap = (text: string): string => text.replaceAll(/(.{1,76})(?:\s+|$)/g, '  $1\n').trimEnd();

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

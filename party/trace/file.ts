/**
 * The file of `--trace FILE`: JSON lines, or Chrome trace events for a name that ends in .json. Records are appended whole as they come, so that a process
 * that dies leaves what it had written: at worst the last line is cut, and a .json file lacks its closing bracket, which the format allows.
 *
 * A file that cannot be written any more (a full disk) ends the trace and nothing else: one complaint, and the session goes on.
 */
import { closeSync, createWriteStream, openSync, writeSync, type WriteStream } from 'node:fs';
import { CachetError } from '../../protocols/errors.ts';
import type { SessionSpec } from '../../protocols/session.ts';
import { describeMachine } from '../terminal.ts';
import type { TraceRows } from './recorder.ts';
import { chromeEvents, micro, recordsOf, TRACE_VERSION, type TraceParty, type TraceRecord } from './records.ts';

/** What may wait for a slow disk. */
const MAX_WAITING = 64 << 20;

/** ms since 1970, finer than Date.now(). */
export const clock = (): number => performance.timeOrigin + performance.now();

export interface TracedSession {
  readonly party: TraceParty;
  /** First 8 bytes of the session id, hex. */
  readonly session: string;
  readonly spec: Pick<SessionSpec, 'artefact' | 'promptTokens' | 'maxTokens'>;
}

export class TraceFile {
  private readonly path: string;
  private readonly chrome: boolean;
  private readonly shared: boolean;
  private readonly onError: (error: CachetError) => void;
  private readonly stream: WriteStream;
  private sessions = 0;
  private failed = false;

  /**
   * Begins a new file; one that exists is replaced. `shared`: another process has begun it and will end it, records are only appended.
   * @throws CachetError 'usage' if it cannot be opened.
   */
  constructor(o: { path: string; shared?: boolean; onError: (error: CachetError) => void }) {
    this.path = o.path;
    this.chrome = isChrome(o.path);
    this.shared = o.shared ?? false;
    this.onError = o.onError;
    let fd: number;
    try {
      if (!this.shared) closeSync(openSync(o.path, 'w'));
      fd = openSync(o.path, 'a');
    } catch (cause) {
      throw new CachetError({
        code: 'usage',
        step: '--trace',
        what: 'cannot write file',
        expected: o.path,
        got: (cause as NodeJS.ErrnoException).code ?? 'an error',
        hint: 'a file in a folder that exists',
        cause,
      });
    }
    this.stream = createWriteStream(o.path, { fd });
    this.stream.on('error', (cause: NodeJS.ErrnoException) => this.fail(cause.code ?? 'an error'));
    // Other processes may append from now on.
    if (this.chrome && !this.shared)
      try {
        writeSync(fd, '[\n');
      } catch (cause) {
        this.fail((cause as NodeJS.ErrnoException).code ?? 'an error');
      }
  }

  /** Begins a session's records; returns what takes those of its engine. */
  session(o: TracedSession): { readonly rows: (rows: TraceRows) => void; readonly add: (records: Iterable<TraceRecord>) => void } {
    const { party, session, spec } = o,
      number = this.sessions++,
      add = (records: Iterable<TraceRecord>): void => this.write(records, number);
    add([
      {
        kind: 'header',
        version: TRACE_VERSION,
        party,
        session,
        model: spec.artefact,
        machine: describeMachine(),
        promptTokens: spec.promptTokens,
        maxTokens: spec.maxTokens,
        start: micro(clock()),
      },
    ]);
    return { rows: (rows) => add(recordsOf(rows, party, session)), add };
  }

  /** Writes what waits, and the end of a file that is not shared. */
  async close(): Promise<void> {
    if (this.failed) return;
    // A last event without a comma behind it makes the array whole.
    const end = this.chrome && !this.shared ? `${JSON.stringify({ ph: 'M', name: 'cachet_end', pid: 1, tid: 0, args: {} })}\n]\n` : '';
    await new Promise<void>((resolve) => {
      this.stream.once('close', resolve);
      this.stream.end(end);
    });
  }

  private write(records: Iterable<TraceRecord>, sessionNumber: number): void {
    if (this.failed) return;
    let text = '';
    for (const r of records)
      if (this.chrome) for (const event of chromeEvents(r, sessionNumber)) text += `${JSON.stringify(event)},\n`;
      else text += `${JSON.stringify(r)}\n`;
    this.stream.write(text);
    if (this.stream.writableLength > MAX_WAITING) this.fail('a disk that is too slow');
  }

  private fail(got: string): void {
    if (this.failed) return;
    this.failed = true;
    this.stream.destroy();
    this.onError(
      new CachetError({
        code: 'usage',
        step: '--trace',
        what: 'trace ends here, the session goes on',
        expected: `${this.path} to take it`,
        got,
        hint: 'another disk',
      }),
    );
  }
}

export const isChrome = (path: string): boolean => path.endsWith('.json');

/** A unit's file in the helper's place: gives an evaluator's session the frames that the helper would send, as far as its credit goes, and `turnDealt` at the end. */
import type { Link } from '../../client/link.ts';
import { CachetError } from '../../protocols/errors.ts';
import { FRAME } from '../../protocols/frames.ts';
import type { Control } from '../../protocols/handshake.ts';
import type { UnitReader } from './unitFile.ts';

/** What an evaluator's session needs of who deals. */
export type DealtFrom = Pick<Link, 'peer' | 'onControl' | 'onFrame' | 'onEnd' | 'control' | 'close' | 'fail'>;

export class StoredDealer implements DealtFrom {
  readonly peer = 'store';
  onControl: DealtFrom['onControl'];
  onFrame: DealtFrom['onFrame'];
  onEnd: DealtFrom['onEnd'];
  private readonly reader: UnitReader;
  private credit = 0;
  private sent = 0;
  private frames = 0;
  private reading = false;
  private ended = false;

  constructor(reader: UnitReader) {
    this.reader = reader;
  }

  control(message: Control): void {
    if (message.type !== 'credit')
      throw new CachetError({
        code: 'policy',
        party: this.peer,
        what: 'a further turn over a store',
        expected: 'one prompt and its answer: the unit of a store',
        got: message.type,
        hint: 'a helper, or --helper client',
      });
    this.credit = Math.max(this.credit, message.limit);
    void this.pump();
  }

  close(): void {
    if (this.ended) return;
    this.ended = true;
    if (!this.reading) void this.reader.close();
  }

  fail(): void {
    this.close();
  }

  private async pump(): Promise<void> {
    if (this.reading || this.ended) return;
    this.reading = true;
    try {
      while (!this.ended && this.reader.nextBytes !== undefined && this.sent + this.reader.nextBytes <= this.credit) {
        const frame = await this.reader.frame();
        if (this.ended) break;
        if (!frame) {
          this.onControl?.({ type: 'turnDealt' });
          break;
        }
        const { payload, hash, last } = frame;
        this.sent += payload.length;
        this.onFrame?.({ kind: FRAME.dealt, last, sequence: this.frames++, session: [0, 0], hash, length: payload.length }, payload);
      }
    } catch (error) {
      if (!this.ended)
        this.onEnd?.(
          error instanceof CachetError
            ? error
            : new CachetError({ code: 'store', what: 'unit cannot be read', got: (error as NodeJS.ErrnoException).code ?? 'an error', cause: error }),
          false,
        );
    }
    this.reading = false;
    // What came while the file was being read.
    if (this.ended) await this.reader.close();
  }
}

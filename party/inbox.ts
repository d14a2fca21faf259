/** Collects one message of known length and hash from frames: the engine says where it goes, possibly after its frames came. */
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import type { FrameHeader } from '../protocols/frames.ts';

interface Expected {
  readonly into: Uint8Array;
  readonly hash: DesyncHash | undefined;
  readonly done: () => void;
}

export class Inbox {
  private readonly frames: { header: FrameHeader; payload: Uint8Array }[] = [];
  private readonly peer: string;
  private readonly limit: number;
  private readonly where: () => string;
  private held = 0;
  private filled = 0;
  private expected: Expected | undefined;

  /** `limit`: bytes that may wait here. `where`: what the expected message belongs to, for errors. */
  constructor(peer: string, limit: number, where: () => string) {
    this.peer = peer;
    this.limit = limit;
    this.where = where;
  }

  /** @throws CachetError 'frame' or 'desync' if the frames are not the message that is expected. */
  push(header: FrameHeader, payload: Uint8Array): void {
    this.held += payload.length;
    if (this.held > this.limit)
      throw new CachetError({
        code: 'frame',
        party: this.peer,
        what: 'more than one message ahead',
        expected: `at most ${this.limit} bytes`,
        got: `${this.held} bytes`,
      });
    this.frames.push({ header, payload });
    this.settle();
    // What waits outlives the socket's buffer.
    if (this.frames.length > 0) this.frames.push({ header, payload: this.frames.pop()!.payload.slice() });
  }

  /** One message at a time. `hash` is compared where given. */
  expect(into: Uint8Array, hash: DesyncHash | undefined, done: () => void): void {
    this.expected = { into, hash, done };
    this.filled = 0;
    this.settle();
  }

  /** Takes the expectation back. @throws CachetError 'frame' if part of the message has come. */
  cancel(): void {
    if (this.filled > 0 || this.frames.length > 0)
      throw new CachetError({ code: 'frame', party: this.peer, what: 'message that nobody waits for', expected: 'none', got: 'one' });
    this.expected = undefined;
  }

  private settle(): void {
    while (this.expected && this.frames.length > 0) {
      const { into, hash, done } = this.expected,
        { header, payload } = this.frames.shift()!;
      this.held -= payload.length;
      if (hash && (header.hash.low !== hash.low || header.hash.high !== hash.high))
        throw new CachetError({
          code: 'desync',
          party: this.peer,
          step: this.where(),
          what: 'parties run different programs',
          expected: 'the same gates and shapes',
          got: 'another running hash',
          hint: 'give all parties the same model and version',
        });
      const end = this.filled + payload.length;
      if (end > into.length || header.last !== (end === into.length))
        throw new CachetError({
          code: 'frame',
          party: this.peer,
          step: this.where(),
          what: 'message of the wrong length',
          expected: `${into.length} bytes`,
          got: `${header.last ? '' : 'more than '}${end} bytes`,
        });
      into.set(payload, this.filled);
      this.filled = end;
      if (header.last) {
        this.expected = undefined;
        done();
      }
    }
  }
}

/** One stream of dealt material that comes to an evaluator: into the engine's ring, with the step ends that the dealer announces. */
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import { HEADER_BYTES, type FrameHeader } from '../protocols/frames.ts';
import type { SharedRing } from './sharedRing.ts';

/** A step's end: dealt bytes in all, the dealer's running hash, the step's bytes on the wire. */
export interface StepEnd {
  readonly end: number;
  readonly hash: DesyncHash;
  readonly framed: number;
}

export class DealtStream {
  /** Announced and not yet reached by the engine. */
  readonly ends: StepEnd[] = [];
  /** Bytes received in all. */
  total = 0;
  private framed = 0;
  private readonly peer: string;
  private readonly ring: SharedRing;

  constructor(peer: string, ring: SharedRing) {
    this.peer = peer;
    this.ring = ring;
  }

  /** `keep` false: the material is counted and thrown away. @throws CachetError 'frame' for more than the credit allows. */
  push(header: FrameHeader, payload: Uint8Array, keep: boolean): void {
    this.total += payload.length;
    this.framed += HEADER_BYTES + payload.length;
    if (keep && this.ring.write(payload) !== payload.length)
      throw new CachetError({
        code: 'frame',
        party: this.peer,
        what: 'more dealt material than the credit allows',
        expected: `${this.ring.size} bytes ahead at most`,
        got: `${payload.length} more`,
      });
    if (!header.last) return;
    this.ends.push({ end: this.total, hash: header.hash, framed: this.framed });
    this.framed = 0;
  }
}

/**
 * Frames: the unit on a link between parties. A fixed 32-byte little-endian header, then the payload:
 *
 *   0  u8   version       2  u16  flags       8  u32[2]  first 8 bytes of the session id     24  u32  payload length
 *   1  u8   kind          4  u32  sequence   16  u32[2]  running hash of (gate, shape)       28  u32  0
 *
 * A round's message, a step's dealt material and a client's message are byte strings of a length that both sides know from `cost`; they are cut
 * into frames of at most MAX_FRAME_PAYLOAD bytes. What counts as a byte: headers and payloads of `round` and `dealt` frames; control, WebSocket
 * and TLS are shown apart. Sequence numbers count the frames of one kind and direction. Flag 1 marks a message's last frame.
 */
import { CachetError } from './errors.ts';
import type { DesyncHash } from './engines/effects.ts';

export const FRAME_VERSION = 1;
export const HEADER_BYTES = 32;
export const MAX_FRAME_PAYLOAD = 256 << 10;

/** Kinds of frames: control carries a msgpack map, the others raw bytes. */
export const FRAME = { control: 0, round: 1, dealt: 2, input: 3, output: 4 } as const;
export type FrameKind = (typeof FRAME)[keyof typeof FRAME];

/** Bytes on the wire of a message of `payload` bytes: an empty message still takes one frame. */
export const framedBytes = (payload: number): number => payload + HEADER_BYTES * Math.max(1, Math.ceil(payload / MAX_FRAME_PAYLOAD));

export interface FrameHeader {
  readonly kind: FrameKind;
  /** The last frame of its message. */
  readonly last: boolean;
  readonly sequence: number;
  /** First 8 bytes of the session id as two words; zero before there is one. */
  readonly session: readonly [number, number];
  readonly hash: DesyncHash;
  readonly length: number;
}

export function writeHeader(view: DataView, h: FrameHeader): void {
  view.setUint8(0, FRAME_VERSION);
  view.setUint8(1, h.kind);
  view.setUint16(2, h.last ? 1 : 0, true);
  view.setUint32(4, h.sequence, true);
  view.setUint32(8, h.session[0], true);
  view.setUint32(12, h.session[1], true);
  view.setInt32(16, h.hash.low, true);
  view.setInt32(20, h.hash.high, true);
  view.setUint32(24, h.length, true);
  view.setUint32(28, 0, true);
}

/** @throws CachetError 'frame' for a frame of another version, an unknown kind, or a length that is not that of the bytes. */
export function readHeader(frame: Uint8Array): FrameHeader {
  if (frame.length < HEADER_BYTES) throw bad('truncated frame', `at least ${HEADER_BYTES} bytes`, `${frame.length} bytes`);
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength),
    kind = view.getUint8(1),
    length = view.getUint32(24, true);
  if (view.getUint8(0) !== FRAME_VERSION) throw bad('frame of another version', `version ${FRAME_VERSION}`, `version ${view.getUint8(0)}`);
  if (kind > FRAME.output) throw bad('unknown frame kind', `0 .. ${FRAME.output}`, String(kind));
  if (view.getUint16(2, true) > 1 || view.getUint32(28, true) !== 0) throw bad('reserved header bits set', 'zeros', 'other');
  if (length !== frame.length - HEADER_BYTES || length > MAX_FRAME_PAYLOAD)
    throw bad('wrong frame length', `${frame.length - HEADER_BYTES} bytes, at most ${MAX_FRAME_PAYLOAD}`, `${length} in the header`);
  return {
    kind: kind as FrameKind,
    last: view.getUint16(2, true) === 1,
    sequence: view.getUint32(4, true),
    session: [view.getUint32(8, true), view.getUint32(12, true)],
    hash: { low: view.getInt32(16, true), high: view.getInt32(20, true) },
    length,
  };
}

const bad = (what: string, expected: string, got: string): CachetError =>
  new CachetError({ code: 'frame', what, expected, got, hint: 'run the same version of cachet on all parties' });

/**
 * One WebSocket between two parties as a link: control messages and byte messages in frames (protocols/frames.ts). Checks version, session, kind,
 * sequence and length of every frame; counts bytes. Works over the browser's WebSocket and the `ws` package alike.
 */
import { pack, unpack } from 'msgpackr';
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import { FRAME, HEADER_BYTES, MAX_FRAME_PAYLOAD, readHeader, writeHeader, type FrameHeader, type FrameKind } from '../protocols/frames.ts';
import { parseControl, type Control } from '../protocols/handshake.ts';

/** What a link needs of a WebSocket. */
export interface Socket {
  binaryType: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  /** `sent` once the bytes are not needed any more; never, where the socket does not say (a browser's copies them). */
  send(data: Uint8Array<ArrayBuffer>, sent?: () => void): void;
  close(code?: number, reason?: string): void;
  addEventListener(
    type: 'open' | 'message' | 'close' | 'error',
    listener: (event: { data?: unknown; reason?: string; code?: number; message?: string }) => void,
  ): void;
}

const NO_HASH: DesyncHash = { low: 0, high: 0 };
/** Most bytes of a session's frames that may come before this end knows of it. */
const MAX_HELD = 4 * MAX_FRAME_PAYLOAD;
const OPEN = 1;
/** Frames of at most 2^SMALLEST bytes share buffers of that size. */
const SMALLEST = 10;

const countedAs = (kind: number): 'round' | 'dealt' | 'other' => (kind === FRAME.round ? 'round' : kind === FRAME.dealt ? 'dealt' : 'other');

export class Link {
  /** Name of the other end, for messages. */
  peer: string;
  /** Bytes sent and received, payloads and headers, by what they are. */
  readonly counted = { round: { sent: 0, received: 0 }, dealt: { sent: 0, received: 0 }, other: { sent: 0, received: 0 } };
  onControl: ((message: Control) => void) | undefined;
  /** The payload is the caller's: whoever keeps it copies it. */
  onFrame: ((header: FrameHeader, payload: Uint8Array) => void) | undefined;
  /** Called once, with the reason; not after `close` here. `clean`: the other end closed the link in good order. */
  onEnd: ((error: CachetError, clean: boolean) => void) | undefined;
  private readonly socket: Socket;
  private session: readonly [number, number] | undefined;
  /** Frames of the session to come: the other end knew of it first. */
  private held: { readonly header: FrameHeader; readonly payload: Uint8Array }[] = [];
  private readonly next = { sent: [0, 0, 0, 0, 0], received: [0, 0, 0, 0, 0] };
  private ended = false;
  /** Buffers that frames were sent from, by the logarithm of their size. Without them every byte sent is garbage outside of V8's heap, which makes it collect. */
  private readonly spare: Uint8Array<ArrayBuffer>[][] = [];

  constructor(socket: Socket, peer: string) {
    this.socket = socket;
    this.peer = peer;
    socket.addEventListener('message', (event) => this.receive(event.data));
    socket.addEventListener('close', (event) =>
      this.end(
        new CachetError({
          code: 'link',
          what: `connection to ${this.peer} closed`,
          got: event.reason || `code ${event.code ?? 'unknown'}`,
          hint: `see the log of ${this.peer}`,
        }),
        event.code === 1000,
      ),
    );
    socket.addEventListener('error', (event) =>
      this.end(
        new CachetError({
          code: 'link',
          what: `connection to ${this.peer} failed`,
          got: event.message ?? 'an error',
          hint: `check that ${this.peer} is running`,
        }),
      ),
    );
  }

  /** From here on all frames carry, and must carry, this session's prefix. Handlers are set before the caller's turn ends: frames that came early go to them. */
  bind(session: Uint8Array): void {
    const view = new DataView(session.buffer, session.byteOffset, 8),
      early = this.held;
    this.session = [view.getUint32(0, true), view.getUint32(4, true)];
    this.held = [];
    if (early.length > 0) queueMicrotask(() => early.forEach((frame) => this.guarded(() => this.take(frame.header, frame.payload))));
  }

  get open(): boolean {
    return !this.ended && this.socket.readyState === OPEN;
  }

  /** Bytes that wait in the socket. */
  get waiting(): number {
    return this.socket.bufferedAmount;
  }

  control(message: Control): void {
    const payload = pack(message),
      frame = this.frame({ kind: FRAME.control, last: true, hash: NO_HASH }, payload.length);
    frame.set(payload, HEADER_BYTES);
    this.push(frame);
  }

  /** Sends a message in frames; the bytes are copied before this returns. `last` is false for a part of a longer message. */
  send(kind: Exclude<FrameKind, typeof FRAME.control>, message: Uint8Array, hash: DesyncHash = NO_HASH, last = true): void {
    for (let from = 0; from < message.length || from === 0; from += MAX_FRAME_PAYLOAD) {
      const part = message.subarray(from, from + MAX_FRAME_PAYLOAD),
        frame = this.frame({ kind, last: last && from + MAX_FRAME_PAYLOAD >= message.length, hash }, part.length);
      frame.set(part, HEADER_BYTES);
      this.push(frame);
    }
  }

  /** Nothing that comes after this is taken. What the handlers refer to is let go of now, not when the other end has closed as well. */
  close(): void {
    this.ended = true;
    this.forget();
    this.socket.close(1000);
  }

  /** Tells the other end why, then closes. */
  fail(error: CachetError): void {
    if (this.ended) return;
    // Before the other end hears: what it answers is not taken any more.
    this.ended = true;
    if (this.socket.readyState === OPEN) {
      const { relayed } = error.details;
      this.control({
        type: 'error',
        code: error.code,
        message: (relayed?.text ?? error.message).slice(0, 1000),
        ...(relayed ? { origin: relayed.origin } : {}),
      });
    }
    this.close();
  }

  /** The other end does not answer any more: ends with this reason. */
  lost(error: CachetError): void {
    if (!this.ended) this.end(error);
  }

  private frame(header: Omit<FrameHeader, 'session' | 'length' | 'sequence'>, length: number): Uint8Array<ArrayBuffer> {
    const frame = this.buffer(HEADER_BYTES + length);
    writeHeader(new DataView(frame.buffer), { ...header, length, session: this.session ?? [0, 0], sequence: this.next.sent[header.kind]!++ });
    this.counted[countedAs(header.kind)].sent += frame.length;
    return frame;
  }

  private buffer(bytes: number): Uint8Array<ArrayBuffer> {
    const size = Math.max(SMALLEST, Math.ceil(Math.log2(bytes))),
      whole = (this.spare[size] ??= []).pop() ?? new Uint8Array(2 ** size);
    return whole.subarray(0, bytes);
  }

  private push(frame: Uint8Array<ArrayBuffer>): void {
    if (this.socket.readyState !== OPEN) return;
    const whole = new Uint8Array(frame.buffer);
    this.socket.send(frame, () => void this.spare[Math.log2(whole.length)]!.push(whole));
  }

  private receive(data: unknown): void {
    this.guarded(() => {
      if (!(data instanceof ArrayBuffer) && !(data instanceof Uint8Array))
        throw new CachetError({ code: 'frame', what: 'text message', expected: 'binary frames', got: typeof data });
      // Plain, also of a Buffer, whose `slice` does not copy.
      const frame = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.length),
        header = readHeader(frame),
        payload = frame.subarray(HEADER_BYTES);
      if (header.sequence !== this.next.received[header.kind]!++)
        throw new CachetError({
          code: 'frame',
          what: 'frame out of order',
          expected: `number ${this.next.received[header.kind]! - 1} of its kind`,
          got: String(header.sequence),
        });
      this.counted[countedAs(header.kind)].received += frame.length;
      this.take(header, payload);
    });
  }

  /** A frame in its order: of the session, or of its setting up. An error counts on either side of the bind, since the ends do not bind at once. */
  private take(header: FrameHeader, payload: Uint8Array): void {
    const unbound = header.session[0] === 0 && header.session[1] === 0,
      control = header.kind === FRAME.control ? parseControl(unpack(payload.slice())) : undefined,
      early = !this.session && !unbound;
    if (control?.type === 'error' && (early || unbound || this.ofSession(header))) throw relayedError(control, this.peer);
    if (early) return this.hold(header, payload);
    if (this.session && !this.ofSession(header))
      throw new CachetError({ code: 'frame', what: 'frame of another session', expected: 'this session', got: 'another' });
    if (control) this.onControl?.(control);
    else {
      if (!this.onFrame) throw new CachetError({ code: 'frame', what: 'unexpected frame', expected: 'control messages', got: `kind ${header.kind}` });
      this.onFrame(header, payload);
    }
  }

  private ofSession({ session }: FrameHeader): boolean {
    return session[0] === this.session?.[0] && session[1] === this.session?.[1];
  }

  private hold(header: FrameHeader, payload: Uint8Array): void {
    this.held.push({ header, payload: payload.slice() });
    const bytes = this.held.reduce((sum, frame) => sum + HEADER_BYTES + frame.payload.length, 0);
    if (bytes > MAX_HELD)
      throw new CachetError({ code: 'frame', what: 'too many frames before the session', expected: `at most ${MAX_HELD} bytes`, got: `${bytes} bytes` });
  }

  /** What goes wrong with a frame ends the link; the other end is told, unless it was the one that told. */
  private guarded(action: () => void): void {
    if (this.ended) return;
    try {
      action();
    } catch (cause) {
      const error =
        cause instanceof CachetError
          ? cause
          : new CachetError({ code: 'frame', what: 'undecodable frame', got: cause instanceof Error ? cause.name : typeof cause, cause });
      const told = error.details.relayed ? error : new CachetError({ ...error.details, party: error.details.party ?? `link to ${this.peer}` });
      const handler = this.onEnd;
      this.onEnd = undefined;
      if (!error.details.relayed) this.fail(told);
      this.end(told);
      handler?.(told, false);
    }
  }

  private forget(): void {
    this.onFrame = undefined;
    this.onControl = undefined;
    this.onEnd = undefined;
  }

  private end(error: CachetError, clean = false): void {
    const handler = this.onEnd;
    this.ended = true;
    this.forget();
    if (this.socket.readyState === OPEN) this.socket.close(1000);
    handler?.(error, clean);
  }
}

/** What another party found, by its own words: its name stands before them once, whatever way they came. */
function relayedError({ code, message, origin }: Extract<Control, { type: 'error' }>, peer: string): CachetError {
  const by = origin ?? peer;
  return new CachetError({ code, what: message, ...(message.startsWith(`${by}: `) ? {} : { party: by }), relayed: { origin: by, text: message } });
}

/** Why a signal was aborted, as an error. */
export const abortedBy = ({ reason }: AbortSignal): CachetError =>
  reason instanceof CachetError ? reason : new CachetError({ code: 'aborted', what: 'interrupted' });

/** Waits for the next control message, which must be of that type. @throws CachetError if another comes, the link ends or time is up. */
export function expectControl<T extends Control['type']>(
  link: Link,
  types: T | readonly T[],
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<Extract<Control, { type: T }>> {
  const accepted = [types].flat() as readonly string[],
    name = accepted.join(' or ');
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortedBy(signal));
    const finish = (error?: CachetError, message?: Control): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
      link.onControl = undefined;
      link.onEnd = undefined;
      if (error) reject(error);
      else resolve(message as Extract<Control, { type: T }>);
    };
    const timer = setTimeout(
      () =>
        finish(
          new CachetError({
            code: 'timeout',
            what: `no ${name} from ${link.peer}`,
            expected: `one within ${timeoutMs / 1000} s`,
            got: 'nothing',
            hint: `check that ${link.peer} and the parties behind it are running`,
          }),
        ),
      timeoutMs,
    );
    const aborted = (): void => finish(abortedBy(signal!));
    signal?.addEventListener('abort', aborted, { once: true });
    link.onEnd = (error) => finish(error);
    link.onControl = (message) =>
      finish(
        accepted.includes(message.type)
          ? undefined
          : new CachetError({ code: 'handshake', party: link.peer, what: 'unexpected message', expected: name, got: message.type }),
        message,
      );
  });
}

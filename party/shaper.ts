/**
 * A network in a link: what is sent leaves after it has passed a line of so many Mbit/s, half a round trip later. Both ends shape what they send. Kernels
 * cannot be assumed to have netem; this works everywhere, between processes on one machine as between machines.
 *
 * Accuracy: that of clock.ts, 0.1 to 0.3 ms, and never early (test/shaper.test.ts). WebSocket's own pings are not shaped.
 */
import type { Socket } from '../client/link.ts';
import { CachetError } from '../protocols/errors.ts';
import { atTime, startClock } from './clock.ts';

export interface Net {
  /** As it was written. */
  readonly name: string;
  /** Round trip, ms; 0: none added. */
  readonly rttMs: number;
  /** Each direction of each link; Infinity: unlimited. */
  readonly mbps: number;
}

/** MPCache's and Puma's settings; cachet --net. */
const NAMED: Readonly<Record<string, Omit<Net, 'name'>>> = {
  loopback: { rttMs: 0, mbps: Infinity },
  lan: { rttMs: 0.8, mbps: 3000 },
  wan: { rttMs: 80, mbps: 100 },
};

/** @throws CachetError 'usage' for anything but loopback, lan, wan or rtt=MS,mbps=N. */
export function parseNet(text: string): Net {
  const named = Object.hasOwn(NAMED, text) ? NAMED[text] : undefined;
  if (named) return { name: text, ...named };
  const fields = new Map(text.split(',').map((part) => part.split('=', 2) as [string, string | undefined]));
  const rttMs = Number(fields.get('rtt') ?? 0),
    mbps = Number(fields.get('mbps') ?? Infinity),
    known =
      fields.size === text.split(',').length &&
      [...fields].every(([key, value]) => ['rtt', 'mbps'].includes(key) && value !== undefined && value.trim() !== '');
  if (!known || !(rttMs >= 0 && rttMs <= 10_000) || !(mbps > 0))
    throw new CachetError({
      code: 'usage',
      what: 'unknown network',
      expected: 'loopback, lan (3 Gbit/s, 0.8 ms), wan (100 Mbit/s, 80 ms) or rtt=MS,mbps=N',
      got: text.slice(0, 60),
    });
  return { name: text, rttMs, mbps };
}

/** A socket that sends through `net`. */
export class ShapedSocket implements Socket {
  private readonly socket: Socket;
  private readonly net: Net;
  private readonly queue: { readonly data: Uint8Array<ArrayBuffer>; readonly sent: (() => void) | undefined; readonly due: number }[] = [];
  private queued = 0;
  /** When the line is free again. */
  private freeAt = 0;
  private waiting = false;
  private closing: { readonly code: number | undefined; readonly reason: string | undefined } | undefined;

  constructor(socket: Socket, net: Net) {
    this.socket = socket;
    this.net = net;
    startClock();
    socket.addEventListener('close', () => {
      this.queue.length = 0;
      this.queued = 0;
    });
  }

  get binaryType(): string {
    return this.socket.binaryType;
  }
  set binaryType(type: string) {
    this.socket.binaryType = type;
  }
  get readyState(): number {
    return this.closing && this.socket.readyState === 1 ? 2 : this.socket.readyState;
  }
  /** With what has not left yet, so that senders hold back as on a real line. */
  get bufferedAmount(): number {
    return this.queued + this.socket.bufferedAmount;
  }
  addEventListener(...args: Parameters<Socket['addEventListener']>): void {
    this.socket.addEventListener(...args);
  }

  send(data: Uint8Array<ArrayBuffer>, sent?: () => void): void {
    const now = performance.now();
    this.freeAt = Math.max(now, this.freeAt) + (8 * data.length) / (this.net.mbps * 1e3);
    this.queue.push({ data, sent, due: this.freeAt + this.net.rttMs / 2 });
    this.queued += data.length;
    this.wait();
  }

  /** What was sent goes first. */
  close(code?: number, reason?: string): void {
    this.closing ??= { code, reason };
    this.release();
  }

  private wait(): void {
    if (this.waiting || this.queue.length === 0) return;
    this.waiting = true;
    atTime(this.queue[0]!.due, () => {
      this.waiting = false;
      this.release();
    });
  }

  private release(): void {
    const now = performance.now();
    while (this.queue.length > 0 && this.queue[0]!.due <= now) {
      const { data, sent } = this.queue.shift()!;
      this.queued -= data.length;
      if (this.socket.readyState === 1) this.socket.send(data, sent);
    }
    if (this.queue.length > 0) this.wait();
    else if (this.closing) this.socket.close(this.closing.code, this.closing.reason);
  }
}

/** The socket itself where the net adds nothing. */
export const shaped = (socket: Socket, net: Net): Socket => (net.rttMs === 0 && net.mbps === Infinity ? socket : new ShapedSocket(socket, net));

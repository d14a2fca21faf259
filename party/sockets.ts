/** WebSockets of the `ws` package as links: connecting, listening, heartbeats. */
import { createServer } from 'node:http';
import type { AddressInfo, Socket as TcpSocket } from 'node:net';
import { WebSocket, WebSocketServer } from 'ws';
import { Link, type Socket } from '../client/link.ts';
import { CachetError } from '../protocols/errors.ts';
import { passed } from './collect.ts';
import { parseNet, shaped, type Net } from './shaper.ts';
import { HEADER_BYTES, MAX_FRAME_PAYLOAD } from '../protocols/frames.ts';

/**
 * A client's frames carry a mask (RFC 6455), against scripts that choose bytes for proxies to misread. Here it is zero, so that neither side passes over the
 * data once more: payloads are uniform already, peers are parties.
 */
const NO_MASK = { generateMask: (mask: Buffer): void => void mask.fill(0) } as const;
const OPTIONS = { perMessageDeflate: false, maxPayload: HEADER_BYTES + MAX_FRAME_PAYLOAD } as const;
/** How long a peer may take to hear why, once this end is interrupted. */
const GRACE_MS = 2000;

/** What a link goes over. */
export interface Line {
  readonly net: Net;
  /** A peer that is silent for so long is given up; it is pinged four times as often. */
  readonly silenceMs: number;
}
const PLAIN: Line = { net: parseNet('loopback'), silenceMs: 20_000 };

export const lineOf = (config: { readonly net: string; readonly silenceMs: number }): Line => ({ net: parseNet(config.net), silenceMs: config.silenceMs });

/** Pings while open; a peer that is silent for too long (no answer to pings either: stopped, or its network is gone) is given up. */
function heartbeat(socket: WebSocket, silenceMs: number, onSilence: () => void): void {
  const every = silenceMs / 4;
  let heard = Date.now(),
    looked = heard;
  const alive = (): void => void (heard = Date.now());
  socket.on('pong', alive);
  socket.on('message', alive);
  const timer = setInterval(() => {
    const now = Date.now(),
      late = now - looked - every;
    looked = now;
    // Time in which this process did not run itself (stopped, starved) is not the peer's: what it sent meanwhile is read after this.
    if (late > every) heard += late;
    if (now - heard > silenceMs) {
      onSilence();
      socket.terminate();
    } else if (socket.readyState === WebSocket.OPEN) socket.ping();
  }, every);
  timer.unref();
  socket.on('close', () => clearInterval(timer));
}

/** Payload of a WebSocket control frame, at most (RFC 6455, 5.5). */
const MAX_CONTROL = 125;

/** What a `ws` receiver has that its types do not tell; the version is pinned, test/links.test.ts shows that it is so. */
interface Receiver {
  consume(bytes: number): Buffer;
  readonly _buffers: readonly Buffer[];
  readonly _fin: boolean;
  readonly _fragmented: number;
}

/**
 * Messages that come in several reads are put together in one buffer a link instead of one each: handlers of links keep nothing of a message. What lies
 * outside of V8's heap is dear to allocate: the sum makes V8 collect.
 */
function reuse(socket: WebSocket): void {
  const receiver = (socket as unknown as { _receiver: Receiver })._receiver,
    whole = Buffer.alloc(OPTIONS.maxPayload),
    consume = receiver.consume.bind(receiver);
  receiver.consume = (bytes) => {
    const buffers = receiver._buffers;
    // Not what is kept for later: a control frame's payload, a part of a message in several WebSocket frames.
    if (bytes <= buffers[0]!.length || bytes > whole.length || bytes <= MAX_CONTROL || !receiver._fin || receiver._fragmented !== 0) return consume(bytes);
    for (let at = 0; at < bytes;) {
      const part = consume(Math.min(bytes - at, buffers[0]!.length));
      whole.set(part, at);
      at += part.length;
    }
    return whole.subarray(0, bytes);
  };
}

function link(socket: WebSocket, peer: string, { net, silenceMs }: Line): Link {
  socket.binaryType = 'nodebuffer';
  reuse(socket);
  socket.on('message', (data: Buffer) => passed(data.length));
  const made = new Link(shaped(socket as unknown as Socket, net), peer);
  heartbeat(socket, silenceMs, () =>
    made.lost(
      new CachetError({
        code: 'timeout',
        what: `${made.peer} is silent`,
        expected: `a sign of life within ${silenceMs / 1000} s`,
        got: 'nothing',
        hint: `check that ${made.peer} is running and reachable`,
      }),
    ),
  );
  return made;
}

/** @throws CachetError 'link' if nobody listens there within the timeout; tries again until then. */
export async function connect(url: string, peer: string, timeoutMs: number, signal?: AbortSignal, line: Line = PLAIN): Promise<Link> {
  const until = Date.now() + timeoutMs;
  for (;;) {
    const socket = new WebSocket(url, { ...OPTIONS, ...NO_MASK, handshakeTimeout: timeoutMs });
    const failure = await new Promise<Error | undefined>((resolve) => {
      const aborted = (): void => {
        socket.terminate();
        resolve(new Error('interrupted'));
      };
      signal?.addEventListener('abort', aborted, { once: true });
      socket.once('open', () => {
        signal?.removeEventListener('abort', aborted);
        resolve(undefined);
      });
      socket.once('error', (error) => {
        signal?.removeEventListener('abort', aborted);
        resolve(error);
      });
    });
    if (!failure) {
      if (signal) endSoonAfter(signal, socket);
      return link(socket, peer, line);
    }
    if (signal?.aborted) throw new CachetError({ code: 'aborted', what: 'interrupted' });
    if (Date.now() > until)
      throw new CachetError({
        code: 'link',
        what: `cannot connect to ${peer}`,
        expected: `a party listening at ${url}`,
        got: failure.message || (failure as NodeJS.ErrnoException).code || 'no answer',
        hint: `start it: cachet party --role ${peer} --config FILE`,
      });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** A peer that does not answer a close (stopped, its network gone) does not keep an interrupted process alive. */
function endSoonAfter(signal: AbortSignal, socket: WebSocket): void {
  const aborted = (): void => void setTimeout(() => socket.terminate(), GRACE_MS).unref();
  signal.addEventListener('abort', aborted, { once: true });
  socket.once('close', () => signal.removeEventListener('abort', aborted));
}

export interface Listener {
  readonly port: number;
  close(): Promise<void>;
}

/**
 * A connection that has not become a WebSocket after the silence that a peer may keep is closed. @throws CachetError 'link' if the address is in use.
 */
export function listen(host: string, port: number, onLink: (link: Link) => void, line: Line = PLAIN): Promise<Listener> {
  const { silenceMs } = line,
    /** All that are open, whatever they have become: a half-open one would keep the process alive. */
    open = new Set<TcpSocket>(),
    server = createServer({ headersTimeout: silenceMs, requestTimeout: silenceMs, connectionsCheckingInterval: silenceMs / 4 }, (_, response) =>
      response.writeHead(426, { connection: 'close' }).end(),
    );
  server.on('connection', (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
  const sockets = new WebSocketServer({ server, ...OPTIONS });
  sockets.on('connection', (socket, request) => onLink(link(socket, request.socket.remoteAddress ?? 'peer', line)));
  return new Promise((resolve, reject) => {
    sockets.once('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new CachetError({
          code: 'link',
          what: 'cannot listen',
          expected: `${host}:${port} free`,
          got: cause.code ?? cause.message,
          hint: 'another port in the configuration',
          cause,
        }),
      ),
    );
    server.listen(port, host, () =>
      resolve({
        port: (server.address() as AddressInfo).port,
        close: () =>
          new Promise((done) => {
            server.close(() => done());
            for (const socket of open) socket.destroy();
          }),
      }),
    );
  });
}

/** The shaper over real sockets: latency, throughput, order, closing; and a session whose time the rounds explain. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import type { Socket } from '../client/link.ts';
import { PrivateSession } from '../client/session.ts';
import { reach } from '../party/reach.ts';
import { Trio } from '../party/launch.ts';
import { parseNet, ShapedSocket } from '../party/shaper.ts';
import { tinyNotes } from './support/tinyNotes.ts';

let server: WebSocketServer;
beforeAll(async () => {
  server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await new Promise((resolve) => server.once('listening', resolve));
});
afterAll(() => server.close());

/** A shaped sender and what arrives at the other end, with times. */
async function line(net: string) {
  const arrived: { at: number; first: number; bytes: number }[] = [];
  let closed: ((at: number) => void) | undefined;
  const end = new Promise<number>((resolve) => (closed = resolve));
  server.once('connection', (socket) => {
    socket.on('message', (data: Buffer) => arrived.push({ at: performance.now(), first: data[0]!, bytes: data.length }));
    socket.on('close', () => closed!(performance.now()));
  });
  const socket = new WebSocket(`ws://127.0.0.1:${(server.address() as { port: number }).port}`, { perMessageDeflate: false });
  await new Promise((resolve) => socket.once('open', resolve));
  return { socket: new ShapedSocket(socket as unknown as Socket, parseNet(net)), arrived, end };
}
const until = async (done: () => boolean): Promise<void> => {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 1));
};
const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

/** Times are those of a machine that may do other things as well: a line that keeps its promise does so at one of a few attempts. */
const TIMED = { retry: 4 };

describe('shaper', () => {
  it.each([1, 10, 80])('rtt=%i: a frame arrives half a round trip later', TIMED, async (rtt) => {
    const { socket, arrived } = await line(`rtt=${rtt}`),
      times: number[] = [];
    for (let i = 0; i < 20; i++) {
      const sent = performance.now();
      socket.send(new Uint8Array(100));
      await until(() => arrived.length > i);
      times.push(arrived[i]!.at - sent);
    }
    socket.close(1000);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(rtt / 2);
    expect(median(times) - rtt / 2).toBeLessThan(1);
  });

  it.each([50, 400])('mbps=%i: bytes pass at that rate, in order, and count as buffered until they leave', TIMED, async (mbps) => {
    const { socket, arrived } = await line(`mbps=${mbps}`),
      frames = 40,
      size = (mbps * 1e6 * 0.5) / 8 / frames,
      start = performance.now();
    for (let i = 0; i < frames; i++) socket.send(new Uint8Array(size).fill(i));
    expect(socket.bufferedAmount).toBeGreaterThan(0.9 * frames * size);
    await until(() => arrived.length === frames);
    const seconds = (arrived.at(-1)!.at - start) / 1e3;
    expect((frames * Math.floor(size) * 8) / seconds / 1e6 / mbps).toBeGreaterThan(0.95);
    expect((frames * Math.floor(size) * 8) / seconds / 1e6 / mbps).toBeLessThan(1.02);
    expect(arrived.map((a) => a.first)).toEqual(Array.from({ length: frames }, (_, i) => i));
    expect(socket.bufferedAmount).toBe(0);
    socket.close(1000);
  });

  it('close lets what was sent go first', async () => {
    const { socket, arrived, end } = await line('rtt=60');
    socket.send(new Uint8Array(5));
    socket.close(1000);
    expect(socket.readyState).toBe(2);
    await end;
    expect(arrived).toHaveLength(1);
  });

  it.each(['dsl', 'rtt=x', 'rtt=-1', 'mbps=0', 'rtt=', 'rtt=5,colour=1', 'rtt=1,rtt=2', 'toString'])('refuses %s', (net) => {
    expect(() => parseNet(net)).toThrow(/unknown network; expected loopback, lan/);
  });

  it('a token over a shaped network takes its rounds times the round trip, and not much more', TIMED, async () => {
    const artefact = tinyNotes(),
      rtt = 10,
      took = async (net: string): Promise<{ ms: number; rounds: number }> => {
        const trio = await Trio.start('tiny-notes', { net });
        try {
          const session = await PrivateSession.open({
            ...reach(trio.config, artefact, 'server', new AbortController().signal),
            artefact,
            promptTokens: 4,
            maxTokens: 6,
          });
          await session.step([10, 11, 12, 13]);
          for (let i = 0; i < 5; i++) await session.step([20 + i]);
          await session.stop();
          const steps = session.reports.slice(1);
          return { ms: median(steps.map((r) => r.ms)), rounds: steps[0]!.rounds };
        } finally {
          await trio.stop();
        }
      };
    const bare = await took('loopback'),
      far = await took(`rtt=${rtt}`),
      // Messages of both directions are on their way at once: a round is half a round trip.
      explained = (far.rounds * rtt) / 2 + bare.ms;
    expect(far.ms / explained).toBeGreaterThan(0.85);
    expect(far.ms / explained).toBeLessThan(1.25);
  });
});

/** Frames, links, rings and inboxes: what passes, and what every kind of bad frame gets. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Link, type Socket } from '../client/link.ts';
import { Inbox } from '../party/inbox.ts';
import { connect, listen } from '../party/sockets.ts';
import { engineSpace } from '../party/engine.ts';
import { tokenCost } from '../protocols/cost.ts';
import { PROTOCOL_VERSION } from '../protocols/session.ts';
import { tinyNotes } from './support/tinyNotes.ts';
import { MIN_RING_BYTES, ringsEnd, SharedRing, type RingSizes } from '../party/sharedRing.ts';
import { CachetError } from '../protocols/errors.ts';
import { FRAME, framedBytes, HEADER_BYTES, MAX_FRAME_PAYLOAD, readHeader, writeHeader, type FrameHeader } from '../protocols/frames.ts';
import { FULL } from '../protocols/policy.ts';

/** Two ends of an in-memory connection: delivers at once. */
class Pipe implements Socket {
  binaryType = 'nodebuffer';
  readyState = 1;
  bufferedAmount = 0;
  other!: Pipe;
  sent: Uint8Array[] = [];
  private readonly listeners = new Map<string, ((event: { data?: unknown; code?: number }) => void)[]>();
  send(data: Uint8Array<ArrayBuffer>): void {
    this.sent.push(data);
    this.other.emit('message', { data });
  }
  close(): void {
    if (this.readyState !== 1) return;
    this.readyState = 3;
    this.other.readyState = 3;
    this.other.emit('close', { code: 1000 });
  }
  addEventListener(type: string, listener: (event: { data?: unknown; code?: number }) => void): void {
    this.listeners.set(type, [...(this.listeners.get(type) ?? []), listener]);
  }
  emit(type: string, event: { data?: unknown; code?: number }): void {
    for (const listener of this.listeners.get(type) ?? []) listener(event);
  }
}

function pair() {
  const a = new Pipe(),
    b = new Pipe();
  a.other = b;
  b.other = a;
  return { a, b, left: new Link(a, 'right'), right: new Link(b, 'left') };
}

const header = (h: Partial<FrameHeader> & { payload?: number } = {}): Uint8Array => {
  const frame = new Uint8Array(HEADER_BYTES + (h.payload ?? 3));
  writeHeader(new DataView(frame.buffer), {
    kind: FRAME.round,
    last: true,
    sequence: 0,
    session: [0, 0],
    hash: { low: 0, high: 0 },
    length: h.payload ?? 3,
    ...h,
  });
  return frame;
};

const id = (byte: number): Uint8Array => new Uint8Array(32).fill(byte);

describe('frames', () => {
  it('read what they write', () => {
    const h = { kind: FRAME.dealt, last: false, sequence: 7, session: [1, 0xffffffff] as const, hash: { low: -5, high: 9 }, length: 3 };
    const frame = new Uint8Array(HEADER_BYTES + 3);
    writeHeader(new DataView(frame.buffer), h);
    expect(readHeader(frame)).toEqual(h);
  });
  it('count one header a frame, an empty message included', () => {
    expect([0, 1, MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD + 1].map(framedBytes)).toEqual([32, 33, MAX_FRAME_PAYLOAD + 32, MAX_FRAME_PAYLOAD + 65]);
  });
  it.each<[string, (f: Uint8Array) => Uint8Array]>([
    ['truncated frame', (f) => f.subarray(0, 20)],
    ['frame of another version', (f) => (f.fill(9, 0, 1), f)],
    ['unknown frame kind', (f) => (f.fill(99, 1, 2), f)],
    ['reserved header bits set', (f) => (f.fill(1, 28, 29), f)],
    ['wrong frame length', (f) => f.subarray(0, f.length - 1)],
  ])('refuse a %s', (what, spoil) => expect(() => readHeader(spoil(header()))).toThrow(what));
});

describe('links', () => {
  it('carry control messages and messages of any length, and count alike at both ends', () => {
    const { left, right } = pair(),
      got: Uint8Array[] = [],
      lasts: boolean[] = [];
    right.onFrame = (h, p) => (got.push(p.slice()), lasts.push(h.last));
    for (const n of [0, 5, 2 * MAX_FRAME_PAYLOAD, 2 * MAX_FRAME_PAYLOAD + 1]) left.send(FRAME.round, new Uint8Array(n).fill(n & 255));
    expect(got.map((p) => p.length)).toEqual([0, 5, MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD, 1]);
    expect(lasts).toEqual([true, true, false, true, false, false, true]);
    expect(left.counted.round.sent).toBe(right.counted.round.received);
    let control: unknown;
    right.onControl = (m) => (control = m);
    left.control({ type: 'credit', limit: 5 });
    expect(control).toEqual({ type: 'credit', limit: 5 });
  });
  it.each<[RegExp, (a: Pipe, right: Link, left: Link) => void]>([
    [/frame out of order/, (a) => a.send(header({ sequence: 1 }) as Uint8Array<ArrayBuffer>)],
    [/frame of another session/, (a, right) => (right.bind(id(3)), a.send(header({ session: [1, 2] }) as Uint8Array<ArrayBuffer>))],
    [/too many frames before the session/, (_, __, left) => (left.bind(id(3)), left.send(FRAME.round, new Uint8Array(4 * MAX_FRAME_PAYLOAD)))],
    [/text message/, (a) => a.other.emit('message', { data: 'x' })],
    [/bad control message, field type/, (a) => a.send(Uint8Array.from([...header({ kind: FRAME.control, payload: 1 }).subarray(0, HEADER_BYTES), 0x80]))],
  ])('end with %s, told to both ends', (reason, act) => {
    const { a, left, right } = pair(),
      reasons: string[] = [];
    right.onFrame = () => undefined;
    left.onEnd = (e) => reasons.push(e.message);
    right.onEnd = (e) => reasons.push(e.message);
    act(a, right, left);
    expect(reasons).toHaveLength(2);
    for (const r of reasons) expect(r).toMatch(reason);
    expect(right.open).toBe(false);
  });
  it('keep frames of a session that the other end knew of first, in order', async () => {
    const { left, right } = pair(),
      got: string[] = [];
    left.bind(id(3));
    left.send(FRAME.round, Uint8Array.of(1));
    left.control({ type: 'credit', limit: 2 });
    right.bind(id(3));
    right.onFrame = (_, payload) => got.push(`frame ${payload[0]}`);
    right.onControl = (m) => got.push(m.type);
    await Promise.resolve();
    left.send(FRAME.round, Uint8Array.of(3));
    expect(got).toEqual(['frame 1', 'credit', 'frame 3']);
  });
  it('keep what comes early, over sockets whose buffers are used again', async () => {
    const received: Uint8Array[] = [];
    let right: Link | undefined;
    const listener = await listen('127.0.0.1', 0, (link) => (right = link)),
      left = await connect(`ws://127.0.0.1:${listener.port}`, 'right', 5000);
    left.bind(id(3));
    for (const byte of [1, 2, 3]) left.send(FRAME.round, new Uint8Array(200_000).fill(byte));
    await expect.poll(() => right?.counted.round.received, { timeout: 5000 }).toBe(3 * (200_000 + HEADER_BYTES));
    right!.onFrame = (_, payload) => void received.push(payload.slice());
    right!.bind(id(3));
    await expect.poll(() => received.length).toBe(3);
    expect(received.map((p) => [p.length, new Set(p).size, p[0]])).toEqual([1, 2, 3].map((byte) => [200_000, 1, byte]));
    left.close();
    await listener.close();
  });
  it('refuse early frames of another session once bound, and hear an error from either side of the bind', async () => {
    for (const [from, to, said] of [
      [3, 4, /frame of another session/],
      [undefined, 4, /no disk/],
      [3, undefined, /no disk/],
    ] as const) {
      const { left, right } = pair();
      let reason = '';
      right.onEnd = (e) => (reason = e.message);
      right.onFrame = () => undefined;
      if (from !== undefined) left.bind(id(from));
      if (from !== undefined && to !== undefined) left.send(FRAME.round, Uint8Array.of(1));
      if (to !== undefined) right.bind(id(to));
      if (from === undefined || to === undefined) left.fail(new CachetError({ code: 'model', what: 'no disk' }));
      await Promise.resolve();
      expect(reason).toMatch(said);
    }
  });
  it.each<[string, (link: Link) => void]>([
    ['closed', (link) => link.close()],
    ['failed', (link) => link.fail(new CachetError({ code: 'link', what: 'x' }))],
    ['lost', (link) => link.lost(new CachetError({ code: 'link', what: 'x' }))],
  ])('that are %s let go of their handlers, and of the session behind them, though the other end stays open', (_, end) => {
    const { b, left } = pair();
    b.emit = () => undefined;
    left.onFrame = left.onControl = left.onEnd = () => undefined;
    end(left);
    expect(b.readyState).toBe(3);
    expect([left.onFrame, left.onControl, left.onEnd]).toEqual([undefined, undefined, undefined]);
  });

  it('say when the other end closed in good order', () => {
    const { left, right } = pair();
    let clean: boolean | undefined;
    right.onEnd = (_, c) => (clean = c);
    left.close();
    expect(clean).toBe(true);
  });
});

describe('inbox', () => {
  const frame = (last: boolean, length: number, low = 1): [FrameHeader, Uint8Array] => [
    { kind: FRAME.round, last, sequence: 0, session: [0, 0], hash: { low, high: 0 }, length },
    new Uint8Array(length).fill(length),
  ];
  it('puts frames together whether they come before or after the engine asks', () => {
    for (const early of [true, false]) {
      const inbox = new Inbox('p1', 100, () => 'step 0'),
        into = new Uint8Array(5);
      let done = 0;
      if (early) inbox.push(...frame(false, 3));
      inbox.expect(into, { low: 1, high: 0 }, () => done++);
      if (!early) inbox.push(...frame(false, 3));
      inbox.push(...frame(true, 2));
      expect([done, ...into]).toEqual([1, 3, 3, 3, 2, 2]);
    }
  });
  it('refuses another hash, a wrong length and too much', () => {
    const start = (): Inbox => {
      const inbox = new Inbox('p1', 100, () => 'step 0');
      inbox.expect(new Uint8Array(5), { low: 1, high: 0 }, () => undefined);
      return inbox;
    };
    expect(() => start().push(...frame(true, 5, 2))).toThrow(/different programs/);
    expect(() => start().push(...frame(true, 4))).toThrow(/wrong length; expected 5 bytes; got 4/);
    expect(() => start().push(...frame(false, 6))).toThrow(/wrong length/);
    expect(() => new Inbox('p1', 100, () => 'step 0').push(...frame(true, 101))).toThrow(CachetError);
  });
});

describe('shared ring', () => {
  const SIZES: RingSizes = [MIN_RING_BYTES, 0];
  it('gives back the written bytes in order, contiguous, over many turns', () => {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(ringsEnd(SIZES) / 65536), maximum: 400, shared: true }),
      ring = new SharedRing(memory, 0, SIZES),
      all = new Uint8Array(memory.buffer);
    // Just before the end, so that every run wraps.
    Atomics.store(new Int32Array(memory.buffer, 1032, 2), 0, MIN_RING_BYTES - 1000);
    Atomics.store(new Int32Array(memory.buffer, 1032, 2), 1, MIN_RING_BYTES - 1000);
    let next = 0,
      read = 0;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), fc.integer({ min: 1, max: 700 }), (w, r) => {
        next += ring.write(Uint8Array.from({ length: w }, (_, i) => (next + i) % 251));
        const n = Math.min(r, ring.available),
          at = ring.peek(n);
        for (let i = 0; i < n; i++) expect(all[at + i]).toBe((read + i) % 251);
        ring.consume(n);
        read += n;
      }),
      { numRuns: 200 },
    );
    expect(read).toBeGreaterThan(1000);
  });
  it('takes no more than is free', () => {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(ringsEnd(SIZES) / 65536), maximum: 400, shared: true }),
      ring = new SharedRing(memory, 0, SIZES);
    expect(ring.write(new Uint8Array(MIN_RING_BYTES + 5))).toBe(MIN_RING_BYTES);
    expect(ring.free).toBe(0);
    expect(ring.write(new Uint8Array(1))).toBe(0);
  });
});

describe("an engine's space", () => {
  const artefact = tinyNotes(),
    spec = {
      version: PROTOCOL_VERSION,
      artefact: artefact.digest,
      weights: 'open',
      dealer: 'helper',
      promptTokens: 3,
      maxTokens: 20,
      context: 22,
      filled: 900,
      policy: FULL,
    } as const,
    deal = tokenCost(artefact, 922).dealtBytes;
  it.each([
    [64, 2 ** Math.ceil(Math.log2(4 * deal))],
    // The next lower power of two, and never less than what the flow of dealt frames needs.
    [15, MIN_RING_BYTES],
    [8, MIN_RING_BYTES],
  ])('has room for four tokens of dealt material within %i MiB', (aheadMib, ring) => {
    const evaluator = engineSpace('evaluator', artefact, spec, aheadMib),
      helper = engineSpace('helper', artefact, spec, aheadMib);
    expect([evaluator.rings, helper.rings]).toEqual([
      [ring, 0],
      [ring, ring],
    ]);
    expect(engineSpace('evaluator', artefact, { ...spec, dealer: 'client' }, aheadMib).rings).toEqual([ring, ring]);
    expect(evaluator.total).toBeGreaterThan(evaluator.arena + ring);
    expect(evaluator.total).toBeLessThan(helper.total);
  });
});

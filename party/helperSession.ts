/** One session at the dealer (the helper, or the client for itself), on the main thread: sends what the dealer's engine puts into its rings, as far as each evaluator's credit goes. */
import type { Link } from '../client/link.ts';
import type { Artefact } from '../protocols/artefact.ts';
import type { DealerKeys } from '../protocols/engines/dealer.ts';
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash, Turn } from '../protocols/engines/effects.ts';
import { FRAME, MAX_FRAME_PAYLOAD } from '../protocols/frames.ts';
import type { SessionSpec } from '../protocols/session.ts';
import type { BulkThread } from './bulk/thread.ts';
import { EngineThread, type EngineSpace } from './engine.ts';
import type { EngineMessage } from './engineMessages.ts';
import type { TraceRows } from './trace/recorder.ts';

/** Bytes that may wait in a socket before the helper pauses. */
const MAX_WAITING = 4 << 20;
const RETRY_MS = 2;
/** Steps whose times are kept. */
const MAX_STEPS = 256;

/** What the dealer needs of an evaluator. */
export type DealtTo = Pick<Link, 'peer' | 'onControl' | 'onEnd' | 'waiting' | 'send' | 'control' | 'close' | 'fail'>;

interface Stream {
  readonly link: DealtTo;
  credit: number;
  sent: number;
  /** Dealt in all, as far as the engine has told: the ring may already hold bytes of a step whose beginning is not known here yet. */
  ready: number;
  /** Where frames end: a step's end has its hash. */
  readonly ends: { at: number; hash: DesyncHash | undefined }[];
  retry: NodeJS.Timeout | undefined;
  told: boolean;
  /** Announced by this evaluator and not begun. */
  readonly turns: Turn[];
}

export class HelperSession {
  private readonly engine: EngineThread;
  private readonly streams: readonly [Stream, Stream];
  private readonly onEnd: (error: CachetError | undefined) => void;
  /** The engine's time for the first and each of the latest steps, ms. */
  readonly stepMs: number[] = [];
  private dealtAll = false;
  private closed = 0;
  private ended = false;

  /** Links bound to the session. */
  constructor(o: {
    artefact: Artefact;
    spec: SessionSpec;
    kernels: string;
    bulk?: BulkThread | undefined;
    space: EngineSpace;
    keys: DealerKeys;
    links: readonly [DealtTo, DealtTo];
    onTrace: ((rows: TraceRows) => void) | undefined;
    onEnd: (error: CachetError | undefined) => void;
  }) {
    this.onEnd = o.onEnd;
    this.streams = o.links.map((link): Stream => ({ link, credit: 0, sent: 0, ready: 0, ends: [], retry: undefined, told: false, turns: [] })) as [
      Stream,
      Stream,
    ];
    this.streams.forEach((s, party) => {
      s.link.onControl = (m) => {
        if (m.type === 'turn') {
          s.turns.push({ tokens: m.tokens, answer: m.answer });
          return this.nextTurn();
        }
        if (m.type !== 'credit')
          return this.end(new CachetError({ code: 'frame', party: s.link.peer, what: 'unexpected message', expected: 'credit or turn', got: m.type }));
        s.credit = Math.max(s.credit, m.limit);
        this.pump(party as 0 | 1);
      };
      // An evaluator that has everything closes in good order; the client as dealer need not deal to the end.
      s.link.onEnd = (e, clean) => this.end(clean && (s.told || o.spec.dealer === 'client') ? undefined : e);
    });
    this.engine = new EngineThread({
      role: { role: 'helper', keys: o.keys },
      artefact: o.artefact,
      spec: o.spec,
      kernels: o.kernels,
      bulk: o.bulk,
      space: o.space,
      onTrace: o.onTrace,
      onMessage: (m) => this.fromEngine(m),
      onError: (e) => this.end(e),
    });
  }

  abort(error: CachetError): void {
    this.end(error);
  }

  private fromEngine(m: EngineMessage): void {
    if (this.ended) return;
    if (m.type === 'dealt') {
      this.streams[m.party].ready = m.total;
      return this.pump(m.party);
    }
    if (m.type === 'turn') {
      this.dealtAll = true;
      this.streams.forEach((s, party) => {
        this.pump(party as 0 | 1);
      });
      return this.nextTurn();
    }
    if (m.type === 'step') {
      this.stepMs.push(m.busyMs);
      if (this.stepMs.length > MAX_STEPS) this.stepMs.splice(1, 1);
    }
    this.streams.forEach((s, party) => {
      if (m.type === 'step' || m.type === 'cut') {
        s.ready = m.dealt[party]!;
        s.ends.push({ at: s.ready, hash: m.type === 'step' ? m.hash : undefined });
      }
      this.pump(party as 0 | 1);
    });
  }

  /** Goes on once all material of the last turn is made and both evaluators have announced the same next one. */
  private nextTurn(): void {
    const [a, b] = this.streams.map((s) => s.turns[0]);
    if (!this.dealtAll || !a || !b || !this.streams.every((s) => s.told)) return;
    if (a.tokens !== b.tokens || a.answer !== b.answer)
      return this.end(
        new CachetError({
          code: 'desync',
          what: 'evaluators announce different turns',
          expected: 'the same tokens and answer',
          got: 'two',
          hint: 'run the same version',
        }),
      );
    this.dealtAll = false;
    for (const s of this.streams) {
      s.turns.shift();
      s.told = false;
    }
    this.engine.completeTurn(a);
  }

  /** Sends whole frames: MAX_FRAME_PAYLOAD bytes, or what is left up to a cut. */
  private pump(party: 0 | 1): void {
    const s = this.streams[party],
      ring = this.engine.rings[party];
    clearTimeout(s.retry);
    while (!this.ended) {
      const end = s.ends[0],
        n = end ? Math.min(MAX_FRAME_PAYLOAD, end.at - s.sent) : MAX_FRAME_PAYLOAD;
      if (end && n === 0 && !end.hash) {
        s.ends.shift();
        continue;
      }
      if (s.sent + n > Math.min(s.ready, s.credit)) break;
      if (s.link.waiting > MAX_WAITING) {
        s.retry = setTimeout(() => this.pump(party), RETRY_MS);
        return;
      }
      const atEnd = end !== undefined && s.sent + n === end.at;
      s.link.send(FRAME.dealt, this.engine.view(ring.peek(n), n), atEnd ? end.hash : undefined, atEnd && end.hash !== undefined);
      ring.consume(n);
      s.sent += n;
      if (atEnd) s.ends.shift();
    }
    if (this.dealtAll && s.ends.length === 0 && !s.told) {
      s.told = true;
      s.link.control({ type: 'turnDealt' });
      this.nextTurn();
    }
  }

  private end(error: CachetError | undefined): void {
    if (this.ended) return;
    // Both evaluators have to be through.
    if (!error && ++this.closed < 2) return;
    this.ended = true;
    this.engine.stop();
    for (const s of this.streams) {
      clearTimeout(s.retry);
      if (error) s.link.fail(error);
      else s.link.close();
    }
    this.onEnd(error);
  }
}

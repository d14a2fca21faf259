/** One session at the helper, on the main thread: sends what the dealer's engine puts into its rings, as far as each evaluator's credit goes. */
import type { Link } from '../client/link.ts';
import type { Artefact } from '../protocols/artefact.ts';
import type { DealerKeys } from '../protocols/engines/dealer.ts';
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import { FRAME, MAX_FRAME_PAYLOAD } from '../protocols/frames.ts';
import type { SessionSpec } from '../protocols/session.ts';
import { EngineThread } from './engine.ts';
import type { EngineMessage } from './engineMessages.ts';
import type { TraceRows } from './trace/recorder.ts';

/** Bytes that may wait in a socket before the helper pauses. */
const MAX_WAITING = 4 << 20;
const RETRY_MS = 2;

interface Stream {
  readonly link: Link;
  credit: number;
  sent: number;
  /** Dealt in all, as far as the engine has told: the ring may already hold bytes of a step whose beginning is not known here yet. */
  ready: number;
  /** Where frames end: a step's end has its hash. */
  readonly ends: { at: number; hash: DesyncHash | undefined }[];
  retry: NodeJS.Timeout | undefined;
  told: boolean;
}

export class HelperSession {
  private readonly engine: EngineThread;
  private readonly streams: readonly [Stream, Stream];
  private readonly onEnd: (error: CachetError | undefined) => void;
  private dealtAll = false;
  private closed = 0;
  private ended = false;

  /** Links bound to the session. */
  constructor(o: {
    artefact: Artefact;
    spec: SessionSpec;
    kernels: string;
    keys: DealerKeys;
    links: readonly [Link, Link];
    onTrace: ((rows: TraceRows) => void) | undefined;
    onEnd: (error: CachetError | undefined) => void;
  }) {
    this.onEnd = o.onEnd;
    this.streams = o.links.map((link): Stream => ({ link, credit: 0, sent: 0, ready: 0, ends: [], retry: undefined, told: false })) as [Stream, Stream];
    this.streams.forEach((s, party) => {
      s.link.onControl = (m) => {
        if (m.type !== 'credit')
          return this.end(new CachetError({ code: 'frame', party: s.link.peer, what: 'unexpected message', expected: 'credit', got: m.type }));
        s.credit = Math.max(s.credit, m.limit);
        this.pump(party as 0 | 1);
      };
      // An evaluator that has everything closes in good order.
      s.link.onEnd = (e, clean) => this.end(clean && s.told ? undefined : e);
    });
    this.engine = new EngineThread({
      role: { role: 'helper', keys: o.keys },
      artefact: o.artefact,
      spec: o.spec,
      kernels: o.kernels,
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
    if (m.type === 'done') this.dealtAll = true;
    this.streams.forEach((s, party) => {
      if (m.type === 'step' || m.type === 'cut') {
        s.ready = m.dealt[party]!;
        s.ends.push({ at: s.ready, hash: m.type === 'step' ? m.hash : undefined });
      }
      this.pump(party as 0 | 1);
    });
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
      s.link.control({ type: 'stop' });
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

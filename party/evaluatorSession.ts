/**
 * One session at P0 or P1, on the main thread: moves bytes between the links and the engine's memory. After the client's stop the rest of the dealt
 * stream is taken and thrown away, so that the helper cannot tell how long the answer was.
 */
import type { Link } from '../client/link.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import type { DesyncHash } from '../protocols/engines/effects.ts';
import type { EvaluatorKeys } from '../protocols/engines/evaluator.ts';
import { FRAME, HEADER_BYTES, type FrameHeader } from '../protocols/frames.ts';
import { arenaBytes, type SessionSpec } from '../protocols/session.ts';
import { EngineThread } from './engine.ts';
import type { EngineMessage } from './engineMessages.ts';
import { Inbox } from './inbox.ts';
import { RING_BYTES } from './sharedRing.ts';
import type { TraceRows } from './trace/recorder.ts';

export interface EvaluatorSessionOptions {
  readonly party: 0 | 1;
  readonly artefact: Artefact;
  readonly spec: SessionSpec;
  readonly kernels: string;
  readonly keys: EvaluatorKeys;
  /** Bound to the session. */
  readonly links: { readonly client: Link; readonly peer: Link; readonly helper: Link };
  /** Longest wait for the client's next token. */
  readonly clientTimeoutMs: number;
  readonly onTrace: ((rows: TraceRows) => void) | undefined;
  /** Called once; undefined: in good order. */
  readonly onEnd: (error: CachetError | undefined) => void;
}

export class EvaluatorSession {
  private readonly o: EvaluatorSessionOptions;
  private readonly engine: EngineThread;
  private readonly rounds: Inbox;
  private readonly inputs: Inbox;
  /** Step ends that the helper announced: dealt bytes in all, hash, bytes on the wire. */
  private readonly announced: { end: number; hash: DesyncHash; framed: number }[] = [];
  /** Step ends that the engine reached. */
  private readonly reached: Extract<EngineMessage, { type: 'step' }>[] = [];
  private dealt = 0;
  private framed = 0;
  private steps = 0;
  private sentBefore = 0;
  private stepStarted = 0;
  private timer: NodeJS.Timeout | undefined;
  private state: 'running' | 'draining' | 'ended' = 'running';
  private helperDone = false;
  private peerGone: CachetError | undefined;

  constructor(o: EvaluatorSessionOptions) {
    this.o = o;
    const { client, peer, helper } = o.links,
      limit = arenaBytes('evaluator', o.artefact, o.spec);
    this.rounds = new Inbox(peer.peer, limit);
    this.inputs = new Inbox(client.peer, limit);
    this.engine = new EngineThread({
      role: { role: 'evaluator', party: o.party, keys: o.keys },
      artefact: o.artefact,
      spec: o.spec,
      kernels: o.kernels,
      onTrace: o.onTrace,
      onMessage: (m) => this.guard(() => this.fromEngine(m)),
      onError: (e) => this.end(e),
    });
    peer.onFrame = this.on(FRAME.round, peer, (h, p) => this.rounds.push(h, p));
    client.onFrame = this.on(FRAME.input, client, (h, p) => this.inputs.push(h, p));
    helper.onFrame = this.on(FRAME.dealt, helper, (h, p) => this.fromHelper(h, p));
    client.onControl = (m) =>
      this.guard(() => {
        if (m.type !== 'stop') throw new CachetError({ code: 'frame', party: client.peer, what: 'unexpected message', expected: 'stop', got: m.type });
        this.drain();
      });
    helper.onControl = (m) =>
      this.guard(() => {
        if (m.type !== 'stop') throw new CachetError({ code: 'frame', party: helper.peer, what: 'unexpected message', expected: 'stop', got: m.type });
        this.helperDone = true;
        this.finish();
      });
    client.onEnd = (e) => this.state === 'running' && this.end(e);
    helper.onEnd = (e) => !this.helperDone && this.end(e);
    // A peer that finished first closes in good order; it is missed only if a round is still to come.
    peer.onEnd = (e, clean) => {
      this.peerGone = e;
      if (this.state === 'running' && !clean) this.end(e);
      else this.finish();
    };
    helper.control({ type: 'credit', limit: RING_BYTES });
  }

  abort(error: CachetError): void {
    this.end(error);
  }

  private on(kind: number, link: Link, take: (header: FrameHeader, payload: Uint8Array) => void) {
    return (header: FrameHeader, payload: Uint8Array): void => {
      if (header.kind !== kind)
        throw new CachetError({
          code: 'frame',
          party: link.peer,
          what: 'frame of a kind that this party does not send',
          expected: String(kind),
          got: String(header.kind),
        });
      this.guard(() => take(header, payload));
    };
  }

  private guard(action: () => void): void {
    try {
      if (this.state !== 'ended') action();
    } catch (error) {
      this.end(error as CachetError);
    }
  }

  private fromEngine(m: EngineMessage): void {
    const { client, peer, helper } = this.o.links;
    if (this.state !== 'running') return;
    switch (m.type) {
      case 'round':
        if (this.peerGone) throw this.peerGone;
        peer.send(FRAME.round, this.engine.view(m.out, m.bytes), m.hash);
        this.rounds.expect(this.engine.view(m.into, m.bytes), m.hash, () => this.engine.complete());
        break;
      case 'input':
        this.timer = setTimeout(
          () =>
            this.end(
              new CachetError({ code: 'timeout', what: 'no token from the client', expected: `one within ${this.o.clientTimeoutMs / 1000} s`, got: 'nothing' }),
            ),
          this.o.clientTimeoutMs,
        );
        this.inputs.expect(this.engine.view(m.into, m.bytes), undefined, () => {
          clearTimeout(this.timer);
          this.stepStarted = performance.now();
          this.engine.complete();
        });
        break;
      case 'output':
        client.send(FRAME.output, this.engine.view(m.out, m.bytes));
        this.engine.complete();
        break;
      case 'consumed':
        helper.control({ type: 'credit', limit: m.total + RING_BYTES });
        break;
      case 'step':
        this.reached.push(m);
        this.settleSteps();
        break;
      case 'done':
        this.drain();
        break;
    }
  }

  private fromHelper(header: FrameHeader, payload: Uint8Array): void {
    this.dealt += payload.length;
    this.framed += HEADER_BYTES + payload.length;
    if (this.state === 'draining') this.o.links.helper.control({ type: 'credit', limit: this.dealt + RING_BYTES });
    else if (this.engine.rings[0].write(payload) !== payload.length)
      throw new CachetError({
        code: 'frame',
        party: this.o.links.helper.peer,
        what: 'more dealt material than the credit allows',
        expected: `${RING_BYTES} bytes ahead at most`,
        got: `${payload.length} more`,
      });
    if (header.last) {
      this.announced.push({ end: this.dealt, hash: header.hash, framed: this.framed });
      this.framed = 0;
      this.settleSteps();
    }
  }

  /** Compares the helper's step ends with the engine's, and reports the step to the client. */
  private settleSteps(): void {
    while (this.announced.length > 0 && this.reached.length > 0) {
      const theirs = this.announced.shift()!,
        mine = this.reached.shift()!,
        sent = this.o.links.peer.counted.sent;
      if (theirs.end !== mine.dealt[0] || theirs.hash.low !== mine.hash.low || theirs.hash.high !== mine.hash.high)
        throw new CachetError({
          code: 'desync',
          party: this.o.links.helper.peer,
          what: 'parties run different programs',
          expected: `${mine.dealt[0]} bytes dealt by step ${this.steps}`,
          got: `${theirs.end} bytes, or another running hash`,
          hint: 'give all parties the same model and version',
        });
      this.o.links.client.control({
        type: 'report',
        step: this.steps,
        rows: this.steps === 0 ? this.o.spec.promptTokens : 1,
        rounds: mine.rounds,
        onlineBytes: sent - this.sentBefore,
        dealtBytes: theirs.framed,
        ms: performance.now() - this.stepStarted,
        waitDealtMs: mine.waitDealtMs,
      });
      this.sentBefore = sent;
      this.steps++;
    }
  }

  /** No further step: the engine goes, the helper may deal to its end. */
  private drain(): void {
    if (this.state !== 'running') return;
    this.state = 'draining';
    clearTimeout(this.timer);
    this.engine.stop();
    this.o.links.helper.control({ type: 'credit', limit: this.dealt + RING_BYTES });
    this.finish();
  }

  /** In good order: P1 closes the link between the evaluators, P0 waits for that. */
  private finish(): void {
    if (this.state !== 'draining' || !this.helperDone) return;
    if (this.o.party === 1 || this.peerGone) this.end(undefined);
  }

  private end(error: CachetError | undefined): void {
    if (this.state === 'ended') return;
    this.state = 'ended';
    clearTimeout(this.timer);
    this.engine.stop();
    for (const link of Object.values(this.o.links)) {
      if (error) link.fail(error);
      else link.close();
    }
    this.o.onEnd(error);
  }
}

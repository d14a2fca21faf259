/**
 * One session at P0 or P1, on the main thread: moves bytes between the links and the engine's memory. Where the client deals, P0 relays to P1 what both
 * need. After the client's stop the rest of the dealt
 * stream is taken and thrown away, so that the helper cannot tell how long the answer was.
 */
import type { Link } from '../client/link.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import { tokenCost } from '../protocols/cost.ts';
import type { RoundEffect, Turn } from '../protocols/engines/effects.ts';
import type { EvaluatorKeys } from '../protocols/engines/evaluator.ts';
import { FRAME, type FrameHeader } from '../protocols/frames.ts';
import type { Control } from '../protocols/handshake.ts';
import { arenaBytes, noRoom, tokenBytes, turnSlots, type SessionSpec } from '../protocols/session.ts';
import { DealtStream } from './dealtStream.ts';
import { DirectEngine } from './directEngine.ts';
import { EngineThread, type EngineSpace } from './engine.ts';
import { REPLY, type EngineMessage } from './engineMessages.ts';
import { Inbox } from './inbox.ts';
import type { DealtFrom } from './store/storedDealer.ts';
import type { TraceRows } from './trace/recorder.ts';

export interface EvaluatorSessionOptions {
  readonly party: 0 | 1;
  readonly artefact: Artefact;
  readonly spec: SessionSpec;
  readonly kernels: string;
  readonly space: EngineSpace;
  readonly keys: EvaluatorKeys;
  /** Bound to the session. */
  readonly links: { readonly client: Link; readonly peer: Link; readonly helper: DealtFrom };
  /** Longest wait for the client's next token. */
  readonly clientTimeoutMs: number;
  /** Longest wait within a step. */
  readonly progressMs: number;
  readonly onTrace: ((rows: TraceRows) => void) | undefined;
  /** Whether this is the party's only session: its tokens then run on the main thread. */
  readonly alone: () => boolean;
  /** Called once; undefined: in good order. */
  readonly onEnd: (error: CachetError | undefined) => void;
}

/** How long a token's round is waited for without sleeping. */
const POLL_MS = 1;

type Ask = Omit<Extract<EngineMessage, { type: 'input' }>, 'taken'> | Extract<EngineMessage, { type: 'turn' }>;

/** The end of a step at an engine. */
interface Reached extends Pick<Extract<EngineMessage, { type: 'step' }>, 'skipped' | 'hash' | 'dealt' | 'rounds' | 'waitDealtMs'> {
  readonly rows: number;
  readonly ms: number;
}

export class EvaluatorSession {
  private readonly o: EvaluatorSessionOptions;
  private readonly engine: EngineThread;
  private readonly rounds: Inbox;
  private readonly inputs: Inbox;
  /** What the dealer sends to this evaluator; at P1, where the client deals: also what P0 relays. */
  private readonly streams: readonly DealtStream[];
  /** Where the client deals, it sends what both evaluators need to P0 alone. */
  private readonly relay: 'none' | 'out' | 'in';
  /** Step ends that the engine reached. */
  private readonly reached: Reached[] = [];
  /** The engine on this thread, once it runs the tokens; the worker's sleeps from then on. */
  private direct: DirectEngine | undefined;
  /** A step whose input is here and whose dealt material is not. */
  private undealt = false;
  private waitDealtMs = 0;
  /** P0, relaying: bytes that it consumed in all, and what P1 allows: nothing before it is there. */
  private consumed = 0;
  /** Dealt bytes of the steps so far. */
  private relayLimit = 0;
  private steps = 0;
  private rows = 0;
  private sentBefore = 0;
  private stepStarted = performance.now();
  private timer: NodeJS.Timeout | undefined;
  /** When the engine last asked for something, or got it. */
  private progressed = performance.now();
  private readonly watch: NodeJS.Timeout;
  /** What the engine waits for from the client. */
  private asked: Ask | undefined;
  private nextTurn: Turn | undefined;
  /** The client wants to know when the next step's material is there. */
  private dealtAsked = false;
  /** Slots that the turns so far take; turns announced to the dealer, and dealt. */
  private slots: number;
  private turns = 1;
  private turnsDealt = 0;
  private state: 'running' | 'draining' | 'ended' = 'running';
  private peerGone: CachetError | undefined;

  constructor(o: EvaluatorSessionOptions) {
    this.o = o;
    const { client, peer, helper } = o.links,
      limit = arenaBytes('evaluator', o.artefact, o.spec);
    this.relay = o.spec.dealer !== 'client' ? 'none' : o.party === 0 ? 'out' : 'in';
    this.slots = turnSlots({ tokens: o.spec.promptTokens, answer: o.spec.maxTokens });
    this.rounds = new Inbox(peer.peer, limit, () => this.where());
    this.inputs = new Inbox(client.peer, limit, () => `step ${this.steps}`);
    this.engine = new EngineThread({
      role: { role: 'evaluator', party: o.party, keys: o.keys },
      artefact: o.artefact,
      spec: o.spec,
      kernels: o.kernels,
      space: o.space,
      onTrace: o.onTrace,
      onMessage: (m) => this.guard(() => this.fromEngine(m)),
      onError: (e) => this.end(e),
    });
    const [first, second] = this.engine.rings;
    this.streams = [new DealtStream(helper.peer, first), ...(this.relay === 'in' ? [new DealtStream(peer.peer, second)] : [])];
    peer.onFrame = this.on(this.relay === 'in' ? [FRAME.round, FRAME.dealt] : [FRAME.round], peer, (h, p) =>
      h.kind === FRAME.round ? this.rounds.push(h, p) : this.dealt(1, h, p),
    );
    client.onFrame = this.on([FRAME.input], client, (h, p) => this.inputs.push(h, p));
    helper.onFrame = this.on([FRAME.dealt], helper, (h, p) => {
      if (this.relay === 'out' && this.state === 'running') peer.send(FRAME.dealt, p, h.hash, h.last);
      this.dealt(0, h, p);
    });
    client.onControl = this.controls(client, {
      stop: () => this.drain(),
      turn: ({ tokens, answer }) => this.takeTurn({ tokens, answer }),
      awaitDealt: () => {
        this.dealtAsked = true;
        this.answerDealt();
      },
    });
    helper.onControl = this.controls(helper, {
      turnDealt: () => {
        this.turnsDealt++;
        this.finish();
      },
    });
    peer.onControl = this.controls(
      peer,
      this.relay !== 'out'
        ? {}
        : {
            credit: ({ limit: allowed }) => {
              this.relayLimit = Math.max(this.relayLimit, allowed);
              this.credit();
            },
          },
    );
    client.onEnd = (e) => this.state === 'running' && this.end(e);
    helper.onEnd = (e) => !(this.state === 'draining' && this.allDealt) && this.end(e);
    // A peer that finished first closes in good order; it is missed only if a round is still to come.
    peer.onEnd = (e, clean) => {
      this.peerGone = e;
      if (this.state === 'running' && !clean) this.end(e);
      else this.finish();
    };
    if (this.relay === 'in') peer.control({ type: 'credit', limit: second.size });
    this.credit();
    this.watch = setInterval(() => this.checkProgress(), o.progressMs / 4);
  }

  abort(error: CachetError): void {
    this.end(error);
  }

  private on(kinds: readonly number[], link: DealtFrom, take: (header: FrameHeader, payload: Uint8Array) => void) {
    return (header: FrameHeader, payload: Uint8Array): void => {
      if (!kinds.includes(header.kind))
        throw new CachetError({
          code: 'frame',
          party: link.peer,
          what: 'frame of a kind that this party does not send',
          expected: kinds.join(' or '),
          got: String(header.kind),
        });
      this.guard(() => take(header, payload));
    };
  }

  private controls(link: DealtFrom, handlers: { readonly [T in Control['type']]?: (message: Extract<Control, { type: T }>) => void }) {
    return (m: Control): void =>
      this.guard(() => {
        const handler = handlers[m.type] as ((message: Control) => void) | undefined;
        if (!handler)
          throw new CachetError({
            code: 'frame',
            party: link.peer,
            what: 'unexpected message',
            expected: Object.keys(handlers).join(' or ') || 'none',
            got: m.type,
          });
        handler(m);
      });
  }

  private guard(action: () => void): void {
    try {
      if (this.state !== 'ended') action();
    } catch (error) {
      // Another error's text may quote what it stumbled over.
      this.end(
        error instanceof CachetError
          ? error
          : new CachetError({ code: 'internal', what: `engine failed: ${(error as Error).name}`, hint: 'report this as a bug', cause: error }),
      );
    }
  }

  private fromEngine(m: EngineMessage): void {
    const { client, peer } = this.o.links;
    if (this.state !== 'running') return;
    this.progressed = performance.now();
    switch (m.type) {
      case 'round':
        if (this.peerGone) throw this.peerGone;
        peer.send(FRAME.round, this.engine.view(m.out, m.bytes), m.hash);
        this.rounds.expect(this.engine.view(m.into, m.bytes), m.hash, () => this.engine.complete());
        break;
      case 'input':
        // The client's next turn may be here before the engine asks for a token that will not come: the frames behind it are the turn's.
        if (m.optional && this.nextTurn) return this.engine.complete(REPLY.over);
        if (this.directly(m)) return this.drive();
        this.await(m, 'token');
        this.inputs.expect(this.engine.view(m.into, m.bytes), undefined, () => {
          this.answered();
          this.rows = m.bytes / tokenBytes(this.o.artefact);
          this.stepStarted = performance.now();
          this.engine.complete();
        });
        this.answerDealt();
        this.offerTurn();
        break;
      case 'turn':
        // Without room for another turn the session is over.
        if (!this.nextTurn && this.slots >= this.o.spec.context) return this.drain();
        this.await(m, 'turn');
        this.offerTurn();
        break;
      case 'output':
        client.send(FRAME.output, this.engine.view(m.out, m.bytes));
        this.engine.complete();
        break;
      case 'consumed':
        if (m.stream === 1) peer.control({ type: 'credit', limit: m.total + this.engine.rings[1].size });
        else {
          this.consumed = m.total;
          this.credit();
        }
        break;
      case 'step':
        this.reached.push({ ...m, rows: this.rows, ms: performance.now() - this.stepStarted });
        this.settleSteps();
        break;
    }
  }

  /**
   * Whether the tokens are run on this thread from here on: they have hundreds of rounds with little to compute, and each round that another thread runs
   * waits twice for a thread to wake. Not where other sessions would wait for this one's gates, where a step's material could not lie ready, or for a trace.
   */
  private directly(m: Extract<EngineMessage, { type: 'input' }>): boolean {
    const { o, engine } = this,
      { spec, artefact, party, keys, kernels, space } = o,
      [ring] = engine.rings;
    if (m.bytes !== tokenBytes(artefact) || this.relay !== 'none' || o.onTrace || !o.alone()) return false;
    // A session of one turn: the program waits for nothing but tokens.
    if (this.turns > 1 || spec.context > this.slots) return false;
    if (tokenCost(artefact, spec.filled + spec.context, spec.policy).dealtBytes > ring.size) return false;
    // The step after the filling one evicts what was filled, at the price of many tokens.
    if (spec.evictFilled && this.steps + this.reached.length < 2) return false;
    this.direct = new DirectEngine({
      memory: engine.memory,
      ring,
      space,
      artefact,
      spec,
      party,
      keys,
      kernels,
      steps: this.steps + this.reached.length,
      taken: m.taken,
      onConsumed: (total) => {
        this.consumed = total;
        this.credit();
      },
      onStep: (hash, taken, rounds) =>
        this.reached.push({
          skipped: false,
          hash,
          dealt: [taken],
          rounds,
          waitDealtMs: this.waitDealtMs,
          rows: 1,
          ms: performance.now() - this.stepStarted,
        }),
    });
    return true;
  }

  /** Runs the engine on this thread up to where it waits for somebody. */
  private drive(): void {
    const { client, peer } = this.o.links;
    while (this.state === 'running') {
      const effect = this.direct!.next();
      this.progressed = performance.now();
      this.settleSteps();
      if (effect === 'later') return void setImmediate(() => this.guard(() => this.drive()));
      if (effect === undefined || effect.kind === 'turn') return this.drain();
      if (effect.kind === 'output') client.send(FRAME.output, this.engine.view(effect.out, effect.bytes));
      else if (effect.kind === 'input') {
        this.await({ type: 'input', into: effect.into, bytes: effect.bytes, optional: effect.optional }, 'token');
        this.inputs.expect(this.engine.view(effect.into, effect.bytes), undefined, () => {
          this.answered();
          this.stepStarted = performance.now();
          this.undealt = true;
          this.beginDirect();
        });
        return this.answerDealt();
      } else {
        if (this.peerGone) throw this.peerGone;
        this.engine.place.set(effect.at);
        peer.send(FRAME.round, this.engine.view(effect.out, effect.bytes), effect.hash);
        if (!this.heard(effect)) return;
      }
    }
  }

  /** Whether the peer's half of a round is here already; if not, the engine goes on when it comes. */
  private heard({ into, bytes, hash }: RoundEffect): boolean {
    let here = false,
      waiting = false;
    this.rounds.expect(this.engine.view(into, bytes), hash, () => {
      here = true;
      if (waiting) this.drive();
    });
    waiting = !here;
    if (waiting) this.poll(performance.now() + POLL_MS, () => !here);
    return here;
  }

  /** Keeps the event loop from sleeping for the moment that a round usually takes: an idle core takes longer to wake than the peer to answer. */
  private poll(until: number, waiting: () => boolean): void {
    setImmediate(() => {
      if (waiting() && this.state === 'running' && performance.now() < until) this.poll(until, waiting);
    });
  }

  /** Runs a token on this thread once all that is dealt for it is there: this thread is the one that takes it in. */
  private beginDirect(): void {
    if (!this.undealt || this.streams[0]!.ends.length === 0) return;
    this.undealt = false;
    this.waitDealtMs = performance.now() - this.stepStarted;
    this.drive();
  }

  /** A peer that lives but sends nothing, or material that does not come: the links' heartbeats do not see that. */
  private checkProgress(): void {
    if (this.state !== 'running' || this.asked || performance.now() - this.progressed < this.o.progressMs) return;
    this.end(
      new CachetError({
        code: 'timeout',
        what: `no progress in ${this.where()}`,
        expected: `${this.o.links.peer.peer}'s next message or the dealer's material within ${this.o.progressMs / 1000} s`,
        got: 'nothing',
        hint: 'look at the logs of the other parties; progressMs in the configuration for a slow network',
      }),
    );
  }

  /** For messages: what the engine waits in. */
  private where(): string {
    return `step ${this.steps}${String(this.engine.place)}`;
  }

  /** The engine waits for the client. */
  private await(asked: Ask, what: string): void {
    const ms = this.o.clientTimeoutMs;
    this.asked = asked;
    this.timer = setTimeout(
      () => this.end(new CachetError({ code: 'timeout', what: `no ${what} from the client`, expected: `one within ${ms / 1000} s`, got: 'nothing' })),
      ms,
    );
  }

  private answered(): void {
    clearTimeout(this.timer);
    this.engine.place.clear();
    this.progressed = performance.now();
    this.asked = undefined;
  }

  private takeTurn(turn: Turn): void {
    const left = this.o.spec.context - this.slots;
    if (this.state !== 'running') return;
    if (this.nextTurn)
      throw new CachetError({ code: 'usage', party: this.o.links.client.peer, what: 'turn before the last one began', expected: 'one at a time', got: 'two' });
    if (turnSlots(turn) > left) throw noRoom(turnSlots(turn), left);
    this.slots += turnSlots(turn);
    this.turns++;
    this.nextTurn = turn;
    this.o.links.helper.control({ type: 'turn', ...turn });
    this.offerTurn();
  }

  /** Begins the client's next turn, once the engine waits for it, or for a token of the present one that will not come. */
  private offerTurn(): void {
    const { asked, nextTurn } = this;
    if (!asked || !nextTurn) return;
    if (asked.type === 'turn') {
      this.answered();
      this.nextTurn = undefined;
      this.engine.completeTurn(nextTurn);
    } else {
      if (!asked.optional)
        throw new CachetError({ code: 'usage', party: this.o.links.client.peer, what: 'turn within a prompt', expected: 'all of its tokens', got: 'a turn' });
      this.inputs.cancel();
      this.answered();
      this.engine.complete(REPLY.over);
    }
  }

  /** What the dealer may send: as far as this evaluator, and the one that it relays to, have room. */
  private credit(): void {
    const limit = this.consumed + this.engine.rings[0].size;
    this.o.links.helper.control({ type: 'credit', limit: this.relay === 'out' ? Math.min(limit, this.relayLimit) : limit });
  }

  private dealt(stream: 0 | 1, header: FrameHeader, payload: Uint8Array): void {
    const draining = this.state === 'draining';
    this.streams[stream]!.push(header, payload, !draining);
    if (draining && stream === 0) this.o.links.helper.control({ type: 'credit', limit: this.streams[0]!.total + this.engine.rings[0].size });
    if (!header.last) return;
    this.settleSteps();
    this.answerDealt();
    this.beginDirect();
  }

  /** While the engine waits for a step's input, an announced end that it has not reached is that step's. */
  private answerDealt(): void {
    if (!this.dealtAsked || !this.asked || this.streams.some((s) => s.ends.length <= this.reached.length)) return;
    this.dealtAsked = false;
    this.o.links.client.control({ type: 'stepDealt' });
  }

  /** Compares the dealer's step ends with the engine's, and reports the step to the client. */
  private settleSteps(): void {
    while (this.reached.length > 0 && this.streams.every((s) => s.ends.length > 0)) {
      const mine = this.reached.shift()!,
        theirs = this.streams.map((s) => s.ends.shift()!),
        sent = this.o.links.peer.counted.round.sent;
      theirs.forEach((end, i) => {
        if (end.end === mine.dealt[i] && end.hash.low === mine.hash.low && end.hash.high === mine.hash.high) return;
        throw new CachetError({
          code: 'desync',
          party: this.o.links.helper.peer,
          what: 'parties run different programs',
          expected: `${mine.dealt[i]} bytes dealt by step ${this.steps}`,
          got: `${end.end} bytes, or another running hash`,
          hint: 'give all parties the same model and version',
        });
      });
      if (mine.skipped) continue;
      this.o.links.client.control({
        type: 'report',
        step: this.steps,
        rows: mine.rows,
        rounds: mine.rounds,
        onlineBytes: sent - this.sentBefore,
        dealtBytes: theirs[0]!.framed,
        relayedBytes: this.relay === 'out' ? theirs[0]!.framed : 0,
        ms: mine.ms,
        waitDealtMs: mine.waitDealtMs,
      });
      this.sentBefore = sent;
      this.steps++;
    }
  }

  /** The client deals for itself and need not deal to the end, from a store nothing is to be hidden; a helper must not see when the answer ended. */
  private get allDealt(): boolean {
    return this.o.spec.dealer !== 'helper' || this.turnsDealt === this.turns;
  }

  /** No further step: the engine goes, the helper may deal to its end. */
  private drain(): void {
    if (this.state !== 'running') return;
    this.state = 'draining';
    clearTimeout(this.timer);
    this.engine.stop();
    this.o.links.helper.control({ type: 'credit', limit: this.streams[0]!.total + this.engine.rings[0].size });
    this.finish();
  }

  /** In good order: P1 closes the link between the evaluators, P0 waits for that. */
  private finish(): void {
    if (this.state !== 'draining' || !this.allDealt) return;
    if (this.o.party === 1 || this.peerGone) this.end(undefined);
  }

  private end(error: CachetError | undefined): void {
    if (this.state === 'ended') return;
    this.state = 'ended';
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.direct = undefined;
    this.engine.stop();
    for (const link of Object.values(this.o.links)) {
      if (error) link.fail(error);
      else link.close();
    }
    this.o.onEnd(error);
  }
}

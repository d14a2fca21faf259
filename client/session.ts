/**
 * The client's end of a session: splits embeddings into shares, sends one to each evaluator, adds up the shares of the hidden state that come back.
 * Neither evaluator sees a token, the helper sees nothing of the client at all.
 */
import { CachetError } from '../protocols/errors.ts';
import { FRAME } from '../protocols/frames.ts';
import type { Report } from '../protocols/handshake.ts';
import { TURN_ROWS } from '../protocols/programs/transformer.ts';
import { FULL, type Policy } from '../protocols/policy.ts';
import type { Turn } from '../protocols/engines/effects.ts';
import { checkSpec, noRoom, PROTOCOL_VERSION, turnSlots, weightsOf, type SessionSpec } from '../protocols/session.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { requireRole } from '../protocols/secret.ts';
import { inputShares, resultBytes, resultOf } from './head.ts';
import { expectControl, type Link } from './link.ts';

/** Opens a link to an evaluator; Node and browsers differ in this alone. */
export type Connect = (evaluator: 'p0' | 'p1') => Promise<Link>;

/**
 * The client as dealer of its own session (two parties): begins once `hello` is on its way, with the ticket; rejects when dealing fails; resolves when
 * the session is over. party/clientDealer.ts is the one for Node.
 */
export type Deal = (o: { readonly ticket: Uint8Array; readonly spec: SessionSpec; readonly nonce: Uint8Array; readonly signal: AbortSignal }) => Promise<void>;

/** What one step took: both evaluators' counts together. */
export interface StepReport {
  /** Tokens that went in. */
  readonly rows: number;
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  /** What P0 passed on to P1 of it, where the client deals. */
  readonly relayedBytes: number;
  /** Slower evaluator's time from input to output. */
  readonly ms: number;
  /** Of that, waiting for the helper. */
  readonly waitDealtMs: number;
}

export interface SessionOptions {
  readonly artefact: Artefact;
  readonly connect: Connect;
  /** Private tokens of the prompt, without the artefact's public prefix. */
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** Slots for the tokens of all turns; those of the first turn alone by default. */
  readonly context?: number;
  /** Slots of random keys and values before these, for benchmarks; the parties must be set up for it. @default 0 */
  readonly filled?: number;
  /** Whether these compete with the prompt's tokens where the policy evicts. @default false */
  readonly evictFilled?: boolean;
  /** What the cache keeps and what tokens attend to. @default every token attends to all */
  readonly policy?: Policy;
  /** The client deals; without it the helper does. */
  readonly deal?: Deal;
  /** The material lies in the parties' stores. @default false */
  readonly stored?: boolean;
  /** @default 30000 */
  readonly timeoutMs?: number;
  /** Longest wait for a step's result. @default 600000 */
  readonly stepTimeoutMs?: number;
  readonly signal?: AbortSignal;
  /** The session is agreed; nothing private has been sent. */
  readonly onSession?: (session: PrivateSession) => void;
  readonly onReport?: (step: number, report: StepReport) => void;
  /** Called once if the session fails after it was agreed, also while nobody waits for anything: a party is gone. */
  readonly onFailure?: (error: CachetError) => void;
  /** Called when a step's shares are sent, and when its result is there. */
  readonly onPhase?: (step: number, phase: 'sent' | 'received') => void;
}

export class PrivateSession {
  readonly reports: StepReport[] = [];
  /** Of the slots that were filled before the first step. */
  filling: StepReport | undefined;
  /** Session id, hex of the first 8 bytes. */
  readonly id: string;
  private readonly o: SessionOptions;
  private readonly links: readonly [Link, Link];
  private readonly partial: [Report[], Report[]] = [[], []];
  private readonly received: [Uint8Array[], Uint8Array[]] = [[], []];
  private waiting: { resolve: () => void; reject: (error: CachetError) => void } | undefined;
  /** Of the next token: positions count tokens, the public prefix included. */
  private position: number;
  private stepDealt: ((evaluator: number) => void) | undefined;
  private failure: CachetError | undefined;
  private steps = 0;
  /** Batches of the present turn's tokens that are still to be sent, and tokens of its answer that may still be asked for. */
  private batches: number[];
  private answerLeft: number;
  /** Rows before the next step's tokens that pad them: the prompt's alone. */
  private padding: number;
  private slotsLeft: number;
  private readonly dealing: AbortController;
  private readonly aborted = (): void => this.fail(new CachetError({ code: 'aborted', what: 'interrupted' }));
  private readonly outputs: [number, number] = [0, 0];

  /** @throws CachetError 'limit' for a prompt that does not fit the model, 'link', 'handshake', 'timeout', 'aborted'. */
  static async open(o: SessionOptions): Promise<PrivateSession> {
    const spec: SessionSpec = {
      version: PROTOCOL_VERSION,
      artefact: o.artefact.digest,
      weights: weightsOf(o.artefact),
      dealer: o.deal ? 'client' : o.stored ? 'store' : 'helper',
      promptTokens: o.promptTokens,
      maxTokens: o.maxTokens,
      context: o.context ?? o.promptTokens + o.maxTokens - 1,
      filled: o.filled ?? 0,
      ...(o.evictFilled && { evictFilled: true }),
      policy: o.policy ?? FULL,
    };
    if (o.promptTokens < 1) throw new CachetError({ code: 'usage', what: 'empty prompt', expected: 'at least one private token', got: 'none' });
    requireRole(o.artefact.header, 'client');
    checkSpec(o.artefact, spec);
    const timeoutMs = o.timeoutMs ?? 30_000,
      ticket = crypto.getRandomValues(new Uint8Array(16)),
      nonce = crypto.getRandomValues(new Uint8Array(32));
    const dealing = new AbortController(),
      interrupted = (): void => dealing.abort(),
      links = await connectBoth(o.connect);
    o.signal?.addEventListener('abort', interrupted, { once: true });
    try {
      // What one evaluator refuses, the other is not waited for.
      const ready = links.map((link) => expectControl(link, 'ready', timeoutMs, dealing.signal)),
        both = Promise.all(ready);
      both.catch(() => undefined);
      for (const link of links) link.control({ type: 'hello', role: 'client', ticket, nonce, spec });
      const dealt = o.deal?.({ ticket, spec, nonce, signal: dealing.signal });
      dealt?.catch(() => undefined);
      // Dealing goes on for as long as the session does: here only its failure counts.
      const [a, b] = await (dealt ? Promise.race([both, dealt.then(() => both)]) : both);
      if (hex(a!.session) !== hex(b!.session))
        throw new CachetError({ code: 'handshake', what: 'evaluators are in different sessions', expected: 'one session id', got: 'two' });
      const rows = a!.promptRows ?? spec.promptTokens;
      if (rows !== (b!.promptRows ?? spec.promptTokens) || rows < spec.promptTokens)
        throw new CachetError({
          code: 'handshake',
          what: 'evaluators have different units',
          expected: `one of at least ${spec.promptTokens} prompt tokens`,
          got: `${rows} and ${b!.promptRows ?? spec.promptTokens}`,
        });
      for (const link of links) link.bind(a!.session);
      const session = new PrivateSession(o, { ...spec, padding: rows - spec.promptTokens }, links, hex(a!.session.subarray(0, 8)), dealing);
      dealt?.catch((error: CachetError) => session.fail(error));
      o.onSession?.(session);
      return session;
    } catch (error) {
      dealing.abort(error);
      // The evaluator that did not refuse hears why.
      for (const link of links) {
        if (error instanceof CachetError) link.fail(error);
        else link.close();
      }
      throw error;
    } finally {
      o.signal?.removeEventListener('abort', interrupted);
    }
  }

  private constructor(o: SessionOptions, spec: SessionSpec, links: readonly [Link, Link], id: string, dealing: AbortController) {
    this.o = o;
    this.batches = [spec.promptTokens];
    this.padding = spec.padding ?? 0;
    this.position = o.artefact.prefixIds.length;
    this.answerLeft = spec.maxTokens;
    this.slotsLeft = spec.context - turnSlots({ tokens: spec.promptTokens, answer: spec.maxTokens });
    this.dealing = dealing;
    this.links = links;
    this.id = id;
    links.forEach((link, i) => {
      link.onFrame = (header, payload) => {
        if (header.kind !== FRAME.output) throw new CachetError({ code: 'frame', what: 'unexpected frame', expected: 'output', got: `kind ${header.kind}` });
        this.received[i]!.push(payload.slice());
        if (header.last) this.outputs[i]!++;
        this.settle();
      };
      link.onControl = (m) => {
        if (m.type === 'stepDealt') return this.stepDealt?.(i);
        if (m.type !== 'report') throw new CachetError({ code: 'frame', what: 'unexpected message', expected: 'report', got: m.type });
        this.partial[i]!.push(m);
        this.report();
      };
      // An evaluator that has sent its last result may close before the other has sent its own.
      link.onEnd = (error, clean) => void ((clean && this.slotsLeft === 0 && this.answerLeft === 0 && this.outputs[i] === this.steps) || this.fail(error));
    });
    o.signal?.addEventListener('abort', this.aborted, { once: true });
  }

  /** Slots that are left for further turns. */
  get room(): number {
    return this.slotsLeft;
  }

  /**
   * Begins a further turn: its tokens (the last one of the answer before among them), and how long its answer may be. What the last turn left of its
   * allowance is passed over. Lengths are public. @throws CachetError 'limit' if the session has no room for it.
   */
  turn(turn: Turn): void {
    if (this.failure) throw this.failure;
    if (this.batches.length > 0)
      throw new CachetError({ code: 'usage', what: 'turn within a prompt', expected: `${this.batches[0]} more tokens`, got: 'a turn' });
    if (turnSlots(turn) > this.slotsLeft) throw noRoom(turnSlots(turn), this.slotsLeft);
    this.slotsLeft -= turnSlots(turn);
    this.answerLeft = turn.answer;
    for (let left = turn.tokens; left > 0; left -= TURN_ROWS) this.batches.push(Math.min(left, TURN_ROWS));
    for (const link of this.links) link.control({ type: 'turn', tokens: turn.tokens, answer: turn.answer });
  }

  /** Sends a turn's tokens. Returns what `step` returns for the last of them. */
  async prompt(ids: readonly number[]): Promise<Float64Array> {
    let hidden: Float64Array | undefined;
    for (let at = 0; this.batches.length > 0;) {
      const n = this.batches[0]!;
      hidden = await this.step(ids.slice(at, at + n));
      at += n;
    }
    return hidden!;
  }

  /**
   * One step: a batch of the turn's tokens, or the next token of its answer. Returns the last position's residual stream, before the final norm; with
   * private weights its logits, or the most likely token alone. `logitsOf` gives the logits, `chooser` a token of any.
   */
  async step(ids: readonly number[]): Promise<Float64Array> {
    const { artefact } = this.o,
      expected = this.batches[0] ?? 1;
    if (this.failure) throw this.failure;
    if (ids.length !== expected || (this.answerLeft === 0 && this.batches.length === 0))
      throw new CachetError({
        code: 'usage',
        what: 'step does not fit the session',
        expected: `${expected} tokens, ${this.answerLeft} more of the answer`,
        got: `${ids.length} tokens in step ${this.steps + 1}`,
      });
    this.batches.shift();
    if (this.batches.length === 0) this.answerLeft--;
    this.steps++;
    // Padding is text like the prompt's, before it, so that its values are in range; nothing attends to it.
    const before = Array.from({ length: this.padding }, (_, i) => ids[i % ids.length]!),
      shares = inputShares(artefact, [...before, ...ids], this.position - this.padding);
    this.padding = 0;
    this.position += ids.length;
    this.links.forEach((link, i) => link.send(FRAME.input, shares[i]!));
    this.o.onPhase?.(this.steps - 1, 'sent');
    await this.result();
    this.o.onPhase?.(this.steps - 1, 'received');
    const [a, b] = this.received.map((parts) => join(parts.splice(0))),
      bytes = resultBytes(artefact);
    if (a!.length !== bytes || b!.length !== bytes)
      throw new CachetError({
        code: 'frame',
        what: 'result of the wrong length',
        expected: `${bytes} bytes`,
        got: `${a!.length} and ${b!.length}`,
      });
    return resultOf(artefact, [a!, b!]);
  }

  /**
   * Waits until both evaluators have everything that is dealt for the next step: for measurements with the preprocessing ready. A step that deals more than
   * an evaluator may hold ahead never is. @throws CachetError 'timeout', and what ends the session.
   */
  dealtAhead(): Promise<void> {
    const ms = this.o.stepTimeoutMs ?? 600_000,
      open = new Set([0, 1]);
    for (const link of this.links) link.control({ type: 'awaitDealt' });
    return new Promise((resolve, reject) => {
      const finish = (error?: CachetError): void => {
        clearTimeout(timer);
        this.stepDealt = undefined;
        this.waiting = undefined;
        if (error) reject(error);
        else resolve();
      };
      const timer = setTimeout(
        () =>
          finish(new CachetError({ code: 'timeout', what: 'step not dealt', expected: `within ${ms / 1000} s`, got: 'nothing', hint: 'a larger aheadMib' })),
        ms,
      );
      this.waiting = { resolve: () => undefined, reject: finish };
      this.stepDealt = (evaluator) => {
        open.delete(evaluator);
        if (open.size === 0) finish();
      };
      if (this.failure) finish(this.failure);
    });
  }

  /** Bytes to and from both evaluators. */
  get clientBytes(): { readonly sent: number; readonly received: number } {
    return {
      sent: this.links[0].counted.other.sent + this.links[1].counted.other.sent,
      received: this.links[0].counted.other.received + this.links[1].counted.other.received,
    };
  }

  /** Waits, briefly, for the last step's report. */
  async reported(): Promise<void> {
    for (let i = 0; i < 100 && this.reports.length < this.steps && !this.failure; i++) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Ends the session in good order. */
  async stop(): Promise<void> {
    await this.reported();
    this.o.signal?.removeEventListener('abort', this.aborted);
    for (const link of this.links) {
      link.onEnd = undefined;
      if (link.open) link.control({ type: 'stop' });
      link.close();
    }
    this.dealing.abort(new CachetError({ code: 'aborted', what: 'session over' }));
  }

  private result(): Promise<void> {
    return new Promise((resolve, reject) => {
      const ms = this.o.stepTimeoutMs ?? 600_000;
      const timer = setTimeout(
        () => this.fail(new CachetError({ code: 'timeout', what: 'no result from the evaluators', expected: `one within ${ms / 1000} s`, got: 'nothing' })),
        ms,
      );
      this.waiting = {
        resolve: () => (clearTimeout(timer), resolve()),
        reject: (error) => (clearTimeout(timer), reject(error)),
      };
      if (this.failure) this.fail(this.failure);
      else this.settle();
    });
  }

  private settle(): void {
    if (!this.waiting || this.stepDealt || Math.min(...this.outputs) < this.steps) return;
    const { resolve } = this.waiting;
    this.waiting = undefined;
    resolve();
  }

  private report(): void {
    while (this.partial[0].length > 0 && this.partial[1].length > 0) {
      const a = this.partial[0].shift()!,
        b = this.partial[1].shift()!;
      const report: StepReport = {
        rows: a.rows,
        rounds: a.rounds,
        onlineBytes: a.onlineBytes + b.onlineBytes,
        dealtBytes: a.dealtBytes + b.dealtBytes,
        relayedBytes: a.relayedBytes + b.relayedBytes,
        ms: Math.max(a.ms, b.ms),
        waitDealtMs: Math.max(a.waitDealtMs, b.waitDealtMs),
      };
      if (this.o.filled && !this.filling) {
        this.filling = report;
        continue;
      }
      this.reports.push(report);
      this.o.onReport?.(this.reports.length - 1, report);
    }
  }

  private fail(error: CachetError): void {
    const first = this.failure === undefined;
    this.failure ??= error;
    for (const link of this.links) link.fail(error);
    this.dealing.abort(error);
    if (first) this.o.onFailure?.(error);
    const waiting = this.waiting;
    this.waiting = undefined;
    waiting?.reject(this.failure);
  }
}

/** Both or neither: a link whose other one fails is closed. */
async function connectBoth(connect: Connect): Promise<[Link, Link]> {
  const [a, b] = await Promise.allSettled([connect('p0'), connect('p1')]);
  if (a.status === 'fulfilled' && b.status === 'fulfilled') return [a.value, b.value];
  for (const r of [a, b]) if (r.status === 'fulfilled') r.value.close();
  throw (a.status === 'rejected' ? a.reason : (b as PromiseRejectedResult).reason) as CachetError;
}

const hex = (bytes: Uint8Array): string => Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/**
 * The client's end of a session: splits embeddings into shares, sends one to each evaluator, adds up the shares of the hidden state that come back.
 * Neither evaluator sees a token, the helper sees nothing of the client at all.
 */
import { CachetError } from '../protocols/errors.ts';
import { FRAME } from '../protocols/frames.ts';
import type { Report } from '../protocols/handshake.ts';
import { SCALE } from '../protocols/programs/plan.ts';
import { checkSpec, PROTOCOL_VERSION, type SessionSpec } from '../protocols/session.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { embed } from './head.ts';
import { expectControl, type Link } from './link.ts';

/** Opens a link to an evaluator; Node and browsers differ in this alone. */
export type Connect = (evaluator: 'p0' | 'p1') => Promise<Link>;

/** What one step took: both evaluators' counts together. */
export interface StepReport {
  /** Tokens that went in. */
  readonly rows: number;
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
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
  /** @default 30000 */
  readonly timeoutMs?: number;
  /** Longest wait for a step's result. @default 600000 */
  readonly stepTimeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly onReport?: (step: number, report: StepReport) => void;
  /** Called when a step's shares are sent, and when its result is there. */
  readonly onPhase?: (step: number, phase: 'sent' | 'received') => void;
}

export class PrivateSession {
  readonly reports: StepReport[] = [];
  /** Session id, hex of the first 8 bytes. */
  readonly id: string;
  private readonly o: SessionOptions;
  private readonly links: readonly [Link, Link];
  private readonly partial: [Report[], Report[]] = [[], []];
  private readonly received: [Uint8Array[], Uint8Array[]] = [[], []];
  private waiting: { resolve: () => void; reject: (error: CachetError) => void } | undefined;
  private failure: CachetError | undefined;
  private steps = 0;
  private readonly aborted = (): void => this.fail(new CachetError({ code: 'aborted', what: 'interrupted' }));
  private readonly outputs: [number, number] = [0, 0];

  /** @throws CachetError 'limit' for a prompt that does not fit the model, 'link', 'handshake', 'timeout', 'aborted'. */
  static async open(o: SessionOptions): Promise<PrivateSession> {
    const spec: SessionSpec = { version: PROTOCOL_VERSION, artefact: o.artefact.digest, promptTokens: o.promptTokens, maxTokens: o.maxTokens };
    if (o.promptTokens < 1) throw new CachetError({ code: 'usage', what: 'empty prompt', expected: 'at least one private token', got: 'none' });
    checkSpec(o.artefact, spec);
    const timeoutMs = o.timeoutMs ?? 30_000,
      ticket = crypto.getRandomValues(new Uint8Array(16)),
      nonce = crypto.getRandomValues(new Uint8Array(32));
    const links = await Promise.all([o.connect('p0'), o.connect('p1')]);
    try {
      const ready = links.map((link) => expectControl(link, 'ready', timeoutMs, o.signal));
      for (const link of links) link.control({ type: 'hello', role: 'client', ticket, nonce, spec });
      const [a, b] = await Promise.all(ready);
      if (hex(a!.session) !== hex(b!.session))
        throw new CachetError({ code: 'handshake', what: 'evaluators are in different sessions', expected: 'one session id', got: 'two' });
      for (const link of links) link.bind(a!.session);
      return new PrivateSession(o, links as [Link, Link], hex(a!.session.subarray(0, 8)));
    } catch (error) {
      for (const link of links) link.close();
      throw error;
    }
  }

  private constructor(o: SessionOptions, links: readonly [Link, Link], id: string) {
    this.o = o;
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
        if (m.type !== 'report') throw new CachetError({ code: 'frame', what: 'unexpected message', expected: 'report', got: m.type });
        this.partial[i]!.push(m);
        this.report();
      };
      // An evaluator that has sent its last result may close before the other has sent its own.
      link.onEnd = (error, clean) => void ((clean && this.outputs[i] === o.maxTokens) || this.fail(error));
    });
    o.signal?.addEventListener('abort', this.aborted, { once: true });
  }

  /** One step: the prompt's private tokens first, then one token at a time. Returns the last position's residual stream, before the final norm. */
  async step(ids: readonly number[]): Promise<Float64Array> {
    const expected = this.steps === 0 ? this.o.promptTokens : 1,
      { artefact } = this.o;
    if (ids.length !== expected || this.steps >= this.o.maxTokens)
      throw new CachetError({
        code: 'usage',
        what: 'step does not fit the session',
        expected: `${expected} tokens, at most ${this.o.maxTokens} steps`,
        got: `${ids.length} tokens in step ${this.steps + 1}`,
      });
    if (this.failure) throw this.failure;
    this.steps++;
    const values = embed(artefact, ids, SCALE.residual),
      mask = new BigInt64Array(values.length);
    for (let at = 0; at < mask.byteLength; at += 65536) crypto.getRandomValues(new Uint8Array(mask.buffer, at, Math.min(65536, mask.byteLength - at)));
    for (let i = 0; i < values.length; i++) values[i] = values[i]! - mask[i]!;
    this.links[0].send(FRAME.input, new Uint8Array(values.buffer));
    this.links[1].send(FRAME.input, new Uint8Array(mask.buffer));
    this.o.onPhase?.(this.steps - 1, 'sent');
    await this.result();
    this.o.onPhase?.(this.steps - 1, 'received');
    const [a, b] = this.received.map((parts) => join(parts.splice(0)));
    if (a!.length !== 8 * artefact.shape.width || b!.length !== a!.length)
      throw new CachetError({
        code: 'frame',
        what: 'result of the wrong length',
        expected: `${8 * artefact.shape.width} bytes`,
        got: `${a!.length} and ${b!.length}`,
      });
    const x = new BigInt64Array(a!.buffer),
      y = new BigInt64Array(b!.buffer);
    return Float64Array.from({ length: artefact.shape.width }, (_, i) => Number(BigInt.asIntN(64, x[i]! + y[i]!)) / 2 ** SCALE.residual);
  }

  /** Bytes to and from both evaluators. */
  get clientBytes(): { readonly sent: number; readonly received: number } {
    return {
      sent: this.links[0].counted.otherSent + this.links[1].counted.otherSent,
      received: this.links[0].counted.otherReceived + this.links[1].counted.otherReceived,
    };
  }

  /** Ends the session in good order; waits (briefly) for the last step's report. */
  async stop(): Promise<void> {
    for (let i = 0; i < 100 && this.reports.length < this.steps && !this.failure; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    this.o.signal?.removeEventListener('abort', this.aborted);
    for (const link of this.links) {
      link.onEnd = undefined;
      if (link.open) link.control({ type: 'stop' });
      link.close();
    }
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
    if (!this.waiting || Math.min(...this.outputs) < this.steps) return;
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
        ms: Math.max(a.ms, b.ms),
        waitDealtMs: Math.max(a.waitDealtMs, b.waitDealtMs),
      };
      this.reports.push(report);
      this.o.onReport?.(this.reports.length - 1, report);
    }
  }

  private fail(error: CachetError): void {
    this.failure ??= error;
    for (const link of this.links) link.fail(error);
    const waiting = this.waiting;
    this.waiting = undefined;
    waiting?.reject(this.failure);
  }
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

/** What `ask` and `demo` share: one private answer, streamed, with progress by phase; the figures of its steps. */
import { generate, TextStream } from '../../client/generate.ts';
import type { Sampling } from '../../client/sampling.ts';
import type { PrivateSession, StepReport } from '../../client/session.ts';
import type { Tokenizer } from '../../client/tokenizer.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import type { Config } from '../config.ts';
import { connect } from '../sockets.ts';
import { bytes, type Progress } from '../terminal.ts';
import { ClientTrace } from '../trace/client.ts';
import type { TraceFile } from '../trace/file.ts';

export interface Answer {
  readonly ids: readonly number[];
  readonly text: string;
  readonly session: string;
  readonly reports: readonly StepReport[];
  /** From sending the prompt to the first token, ms. */
  readonly prefillMs: number;
  /** Mean time from token to token as the client sees it, ms; undefined for a single token. */
  readonly tokenMs: number | undefined;
  readonly clientBytes: { readonly sent: number; readonly received: number };
}

export async function answer(o: {
  artefact: Artefact;
  tokenizer: Tokenizer;
  config: Pick<Config, 'p0' | 'p1' | 'timeoutMs'>;
  promptIds: readonly number[];
  maxTokens: number;
  sampling?: Sampling;
  signal: AbortSignal;
  progress: Progress;
  trace?: TraceFile | undefined;
  /** Pieces of the answer as they come. */
  onText: (piece: string) => void;
}): Promise<Answer> {
  const { artefact, progress } = o,
    timeoutMs = o.config.timeoutMs ?? 30_000,
    text = new TextStream(o.tokenizer),
    trace = o.trace && new ClientTrace(o.trace),
    ids: number[] = [],
    times: number[] = [];
  let session: PrivateSession | undefined,
    whole = '',
    ticker: NodeJS.Timeout | undefined;
  const privateTokens = o.promptIds.length - artefact.prefixIds.length;
  progress.update('connecting to P0 and P1');
  try {
    for await (const id of generate({
      artefact,
      promptIds: o.promptIds,
      maxTokens: o.maxTokens,
      signal: o.signal,
      timeoutMs,
      connect: (role) => connect(o.config[role], role, timeoutMs, o.signal),
      ...(o.sampling ? { sampling: o.sampling } : {}),
      ...(trace ? { onPhase: (step, phase) => trace.phase(step, phase), onReport: (step, report) => trace.report(step, report) } : {}),
      onSession(s) {
        session = s;
        trace?.session(s.id, { artefact: artefact.digest, promptTokens: privateTokens, maxTokens: o.maxTokens });
        progress.done(`connected: session ${s.id}, keys agreed; the helper deals ahead`);
        times.push(performance.now());
        const started = performance.now(),
          tick = (): void => progress.update(`prefill: ${privateTokens} private tokens, ${((performance.now() - started) / 1e3).toFixed(1)} s`);
        ticker = setInterval(tick, 100);
        tick();
      },
    })) {
      if (ids.length === 0) {
        clearInterval(ticker);
        progress.done(`prefill: ${privateTokens} private tokens in ${((performance.now() - times[0]!) / 1e3).toFixed(2)} s`);
      }
      times.push(performance.now());
      ids.push(id);
      if (artefact.shape.eosIds.includes(id)) break;
      const piece = text.push(id);
      whole += piece;
      o.onText(piece);
    }
  } finally {
    clearInterval(ticker);
  }
  return {
    ids,
    text: whole,
    session: session!.id,
    reports: session!.reports,
    prefillMs: times[1]! - times[0]!,
    tokenMs: times.length > 2 ? (times.at(-1)! - times[1]!) / (times.length - 2) : undefined,
    clientBytes: session!.clientBytes,
  };
}

/** Totals of an answer, as `--json` gives them. */
export function figures(a: Answer) {
  const sum = (f: (r: StepReport) => number): number => a.reports.reduce((n, r) => n + f(r), 0),
    decoded = a.reports.slice(1);
  return {
    tokens: a.ids.length,
    rounds: sum((r) => r.rounds),
    onlineBytes: sum((r) => r.onlineBytes),
    dealtBytes: sum((r) => r.dealtBytes),
    clientBytes: a.clientBytes,
    prefillMs: a.prefillMs,
    tokenMs: a.tokenMs ?? null,
    waitDealtMs: sum((r) => r.waitDealtMs),
    perToken:
      decoded.length === 0 ? null : { rounds: decoded.at(-1)!.rounds, onlineBytes: decoded.at(-1)!.onlineBytes, dealtBytes: decoded.at(-1)!.dealtBytes },
  };
}

export function describeFigures(a: Answer): string {
  const f = figures(a),
    prefill = a.reports[0];
  return [
    ...(prefill
      ? [
          `prefill    ${(a.prefillMs / 1e3).toFixed(2)} s, ${prefill.rounds} rounds, ${bytes(prefill.onlineBytes)} online, ${bytes(prefill.dealtBytes)} dealt (${prefill.rows} private tokens in one batch)`,
        ]
      : []),
    ...(f.perToken
      ? [`a token    ${f.tokenMs!.toFixed(1)} ms, ${f.perToken.rounds} rounds, ${bytes(f.perToken.onlineBytes)} online, ${bytes(f.perToken.dealtBytes)} dealt`]
      : []),
    `in all     ${f.tokens} tokens, ${f.rounds} rounds, ${bytes(f.onlineBytes)} online, ${bytes(f.dealtBytes)} dealt; client sent ${bytes(f.clientBytes.sent)}, received ${bytes(f.clientBytes.received)}`,
    '           (times include dealing, which runs beside; bytes are both directions with headers)',
  ].join('\n');
}

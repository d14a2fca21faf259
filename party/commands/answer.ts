/** What `ask`, `chat` and `demo` share: one private answer, streamed, with progress by phase; the figures of its steps. */
import type { Answer, AskEvent } from '../../client/ask.ts';
import type { SessionOptions, StepReport } from '../../client/session.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { describePolicy, type Policy } from '../../protocols/policy.ts';
import { bytes, type Progress } from '../terminal.ts';
import { ClientTrace } from '../trace/client.ts';
import type { TraceFile } from '../trace/file.ts';

/** A session's hooks for a trace of the client's view. */
export function traced(
  file: TraceFile | undefined,
  artefact: Artefact,
  promptTokens: number,
  maxTokens: number,
): Pick<SessionOptions, 'onSession' | 'onPhase' | 'onReport'> {
  if (!file) return {};
  const trace = new ClientTrace(file);
  return {
    onSession: (s) => trace.session(s.id, { artefact: artefact.digest, promptTokens, maxTokens }),
    onPhase: (step, phase) => trace.phase(step, phase),
    onReport: (step, report) => trace.report(step, report),
  };
}

/** Shows a turn's events; returns its answer. `onText` gets pieces of the answer as they come; `policy` is told once parties have agreed on it. */
export async function show(events: AsyncIterable<AskEvent>, progress: Progress, onText: (piece: string) => void, policy?: Policy): Promise<Answer> {
  let ticker: NodeJS.Timeout | undefined,
    answer: Answer | undefined,
    begun = false;
  progress.update('connecting to P0 and P1');
  try {
    for await (const event of events)
      switch (event.type) {
        case 'connected':
          progress.done(`connected: session ${event.session}, keys agreed`);
          if (policy) progress.done(`cache policy ${describePolicy(policy)}`);
          break;
        case 'sent': {
          const started = performance.now(),
            tick = (): void => progress.update(`reading ${event.tokens} private tokens, ${((performance.now() - started) / 1e3).toFixed(1)} s`);
          ticker = setInterval(tick, 100);
          tick();
          break;
        }
        case 'prefilled':
          clearInterval(ticker);
          progress.done(`read ${event.tokens} private tokens in ${(event.ms / 1e3).toFixed(2)} s`);
          break;
        case 'token':
          // An answer's first token begins with the space after the question.
          if (event.text !== '') onText(begun ? event.text : event.text.trimStart());
          begun ||= event.text !== '';
          break;
        case 'answer':
          answer = event.answer;
      }
  } finally {
    clearInterval(ticker);
    progress.update('');
  }
  return answer!;
}

const total = (reports: readonly StepReport[], f: (r: StepReport) => number): number => reports.reduce((n, r) => n + f(r), 0);
const costOf = (reports: readonly StepReport[]) => ({
  rounds: total(reports, (r) => r.rounds),
  onlineBytes: total(reports, (r) => r.onlineBytes),
  dealtBytes: total(reports, (r) => r.dealtBytes),
  relayedBytes: total(reports, (r) => r.relayedBytes),
});

/** Totals of an answer, as `--json` gives them. */
export function figures(a: Answer) {
  const batches = a.reports.length - a.ids.length + 1,
    decoded = a.reports.slice(batches);
  return {
    tokens: a.ids.length,
    sentTokens: a.sentTokens,
    ...costOf(a.reports),
    clientBytes: a.clientBytes,
    prefillMs: a.prefillMs,
    tokenMs: a.tokenMs ?? null,
    waitDealtMs: total(a.reports, (r) => r.waitDealtMs),
    prefill: costOf(a.reports.slice(0, batches)),
    perToken: decoded.length === 0 ? null : costOf(decoded.slice(-1)),
  };
}

type Cost = ReturnType<typeof costOf>;
const cost = (c: Cost): string => `${c.rounds} rounds, ${bytes(c.onlineBytes)} online, ${bytes(c.dealtBytes)} dealt`;

export function describeFigures(a: Answer): string {
  const f = figures(a);
  return [
    `question   ${f.sentTokens} tokens in ${(f.prefillMs / 1e3).toFixed(2)} s: ${cost(f.prefill)}`,
    ...(f.perToken ? [`a token    ${f.tokenMs!.toFixed(1)} ms: ${cost(f.perToken)}`] : []),
    `in all     ${f.tokens} tokens: ${cost(f)}`,
    ...(f.relayedBytes > 0 ? [`relayed    ${bytes(f.relayedBytes)} of it by P0 to P1`] : []),
    `client     sent ${bytes(f.clientBytes.sent)}, received ${bytes(f.clientBytes.received)}`,
    '(times include dealing; bytes are both directions, with headers)',
  ].join('\n');
}

/** What a question cost, in one line. */
export const describeCost = (a: Answer): string => {
  const f = figures(a);
  return `[${f.sentTokens} sent, ${f.tokens} answered, ${((f.prefillMs + (f.tokenMs ?? 0) * (f.tokens - 1)) / 1e3).toFixed(2)} s, ${cost(f)}]`;
};

/**
 * Prefill and decoding through three real processes: rows pp<prompt tokens> and tg<attended tokens>, preprocessing included. A first session warms
 * the processes up and is a row of its own; further networks have rows in which the rounds explain the time.
 */
import { PrivateSession, type StepReport } from '../../client/session.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { reach } from '../reach.ts';
import { Trio } from '../launch.ts';
import { parseNet } from '../shaper.ts';
import { median } from '../terminal.ts';

export interface SessionRow {
  /** pp: prefill of that many private tokens; tg: a token at that context. */
  readonly name: string;
  readonly net: string;
  /** Median, from the client's sending to its result. */
  readonly ms: number;
  readonly minMs: number;
  readonly maxMs: number;
  /** Median of the repeats' waiting for the helper. */
  readonly waitDealtMs: number;
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  readonly goalMs?: number;
  /** tg on a shaped network: what rounds, bytes and the loopback row add up to, and the rounds' part of it. */
  readonly explainedMs?: number;
  readonly roundsMs?: number;
}

/** Tokens of a session on a slow network. */
const SLOW_TOKENS = 3;

/**
 * tg rows: one session each, `tokens` decoded. "dealing beside": token after token, the helper deals ahead on the same cores. "dealt ahead": a pause
 * before every token lets the helper fill the evaluators' buffers first; the time of the token alone is taken.
 */
export async function benchSession(o: {
  model: string;
  artefact: Artefact;
  nets: readonly string[];
  prompts: readonly number[];
  contexts: readonly number[];
  tokens: number;
  goals: Readonly<Record<string, number>>;
  signal: AbortSignal;
  onRow: (row: SessionRow) => void;
}): Promise<SessionRow[]> {
  const rows: SessionRow[] = [],
    { artefact } = o,
    prefix = artefact.prefixIds.length,
    ids = (n: number): number[] => Array.from({ length: n }, (_, i) => 5 + ((i * 37) % (artefact.shape.vocab - 5)));
  for (const net of o.nets) {
    const trio = await Trio.start(o.model, { net }),
      { rttMs, mbps } = parseNet(net),
      far = rttMs > 0 || mbps < Infinity,
      slow = rttMs > 10;
    const open = (promptTokens: number, maxTokens: number): Promise<PrivateSession> =>
      PrivateSession.open({ ...reach(trio.config, artefact, 'server', o.signal), artefact, promptTokens, maxTokens });
    const add = (name: string, reports: readonly StepReport[], ms: readonly number[]): void => {
      const { rounds, onlineBytes, dealtBytes } = reports.at(-1)!,
        goal = far ? undefined : o.goals[name],
        near = rows.find((r) => r.net === 'loopback' && r.name === name);
      // Both evaluators send at once, so a round is one way, as are the client's input and output.
      const roundsMs = ((rounds + 2) * rttMs) / 2,
        explained = far && near && name.startsWith('tg') ? roundsMs + (8 * onlineBytes) / 2 / (mbps * 1e3) + near.ms : undefined;
      const row: SessionRow = {
        name,
        net,
        ms: median(ms),
        minMs: Math.min(...ms),
        maxMs: Math.max(...ms),
        waitDealtMs: median(reports.map((r) => r.waitDealtMs)),
        rounds,
        onlineBytes,
        dealtBytes,
        ...(goal === undefined ? {} : { goalMs: goal }),
        ...(explained === undefined ? {} : { explainedMs: explained, roundsMs }),
      };
      rows.push(row);
      o.onRow(row);
    };
    const prefill = async (n: number): Promise<{ ms: number; reports: readonly StepReport[] }> => {
      const session = await open(n, 1),
        start = performance.now();
      await session.step(ids(n));
      const ms = performance.now() - start;
      await session.stop();
      await trio.ended(session.id);
      return { ms, reports: session.reports };
    };
    const decode = async (name: string, context: number, tokens: number, pause: number): Promise<void> => {
      const prompt = context - prefix - (tokens >> 1),
        session = await open(prompt, tokens + 1),
        times: number[] = [];
      await session.step(ids(prompt));
      for (let t = 0; t < tokens; t++) {
        if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
        const start = performance.now();
        await session.step(ids(1));
        times.push(performance.now() - start);
      }
      await session.stop();
      add(name, session.reports.slice(1), times);
      await trio.ended(session.id);
    };
    try {
      if (!slow) {
        const cold = await prefill(o.prompts[0]!);
        if (!far) add(`pp${o.prompts[0]}, first session`, cold.reports, [cold.ms]);
        if (!far) await decode(`tg${o.contexts[0]}, first session`, o.contexts[0]!, o.tokens, 0);
      }
      for (const n of slow ? o.prompts.slice(0, 1) : o.prompts) {
        const runs = [];
        for (let repeat = 0; repeat < (slow ? 1 : 3); repeat++) runs.push(await prefill(n));
        add(
          `pp${n}`,
          runs.flatMap((r) => r.reports),
          runs.map((r) => r.ms),
        );
      }
      for (const context of slow ? o.contexts.slice(0, 1) : o.contexts)
        for (const pause of far ? [0] : [0, 250])
          await decode(`tg${context}, ${pause > 0 ? 'dealt ahead' : 'dealing beside'}`, context, slow ? SLOW_TOKENS : o.tokens, pause);
    } finally {
      await trio.stop();
    }
  }
  return rows;
}

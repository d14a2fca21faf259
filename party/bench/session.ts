/** Prefill and decoding through three real processes on loopback: rows pp<prompt tokens> and tg<context>, preprocessing included and, for tg, also ready. */
import { connect } from '../sockets.ts';
import { PrivateSession, type StepReport } from '../../client/session.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { Trio } from '../launch.ts';

export interface SessionRow {
  /** pp: prefill of that many private tokens; tg: a token at that context. */
  readonly name: string;
  readonly ms: number;
  /** Median of the repeats' waiting for the helper. */
  readonly waitDealtMs: number;
  readonly rounds: number;
  readonly onlineBytes: number;
  readonly dealtBytes: number;
  readonly goalMs?: number;
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/**
 * tg rows: one session each, `tokens` decoded. "dealing beside": token after token, the helper deals ahead on the same cores. "dealt ahead": a pause
 * before every token lets the helper fill the evaluators' buffers first; the time of the token alone is taken.
 */
export async function benchSession(o: {
  model: string;
  artefact: Artefact;
  prompts: readonly number[];
  contexts: readonly number[];
  tokens: number;
  goals: Readonly<Record<string, number>>;
  onRow: (row: SessionRow) => void;
}): Promise<SessionRow[]> {
  const trio = await Trio.start(o.model),
    rows: SessionRow[] = [],
    { artefact } = o,
    prefix = artefact.prefixIds.length;
  const add = (name: string, reports: readonly StepReport[], ms: readonly number[]): void => {
    const last = reports.at(-1)!,
      goal = o.goals[name];
    const row: SessionRow = {
      name,
      ms: median(ms),
      waitDealtMs: median(reports.map((r) => r.waitDealtMs)),
      rounds: last.rounds,
      onlineBytes: last.onlineBytes,
      dealtBytes: last.dealtBytes,
      ...(goal === undefined ? {} : { goalMs: goal }),
    };
    rows.push(row);
    o.onRow(row);
  };
  const ids = (n: number): number[] => Array.from({ length: n }, (_, i) => 5 + ((i * 37) % (artefact.shape.vocab - 5)));
  const open = (promptTokens: number, maxTokens: number): Promise<PrivateSession> =>
    PrivateSession.open({ artefact, promptTokens, maxTokens, connect: (role) => connect(trio.config[role], role, 30_000) });
  try {
    for (const n of o.prompts) {
      const times: number[] = [],
        reports: StepReport[] = [];
      for (let repeat = 0; repeat < 3; repeat++) {
        const session = await open(n, 1),
          start = performance.now();
        await session.step(ids(n));
        times.push(performance.now() - start);
        await session.stop();
        reports.push(...session.reports);
        await trio.ended(session.id);
      }
      add(`pp${n}`, reports, times);
    }
    for (const context of o.contexts)
      for (const pause of [0, 250]) {
        const prompt = context - prefix - (o.tokens >> 1),
          session = await open(prompt, o.tokens + 1),
          times: number[] = [];
        await session.step(ids(prompt));
        for (let t = 0; t < o.tokens; t++) {
          if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
          const start = performance.now();
          await session.step(ids(1));
          times.push(performance.now() - start);
        }
        await session.stop();
        add(`tg${context}, ${pause > 0 ? 'dealt ahead' : 'dealing beside'}`, session.reports.slice(1), times);
        await trio.ended(session.id);
      }
  } finally {
    await trio.stop();
  }
  return rows;
}

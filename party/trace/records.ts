/**
 * The records of a trace: what `--trace` writes and `cachet trace` reads. In a .jsonl file one record a line; a `header` begins every session of every
 * party. In a .json file the same records are the `args` of Chrome trace events. Strict schemas: numbers, and strings from short lists.
 */
import { z } from 'zod';
import { COLUMN, COLUMNS, ROW, WAITS, type TraceRows } from './recorder.ts';

export const TRACE_VERSION = 1;
export const PARTIES = ['p0', 'p1', 'helper', 'client'] as const;
export type TraceParty = (typeof PARTIES)[number];

const count = z.number().int().min(0),
  ms = z.number().min(0),
  where = {
    party: z.enum(PARTIES),
    /** First 8 bytes of the session id, hex. */
    session: z.string().regex(/^[0-9a-f]{16}$/),
  },
  /** Step 0 is the prefill; each further one a token. */
  step = count,
  /** Rounds and bytes of all parties together, as the Meter counts them. */
  cost = { rounds: count, onlineBytes: count, dealtBytes: count },
  /** Times in ms; `start` since 1970. */
  time = { start: ms, ms };

export const recordSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('header'),
    version: z.literal(TRACE_VERSION),
    ...where,
    /** SHA-256 of the artefact, hex. */
    model: z.string().regex(/^[0-9a-f]{64}$/),
    machine: z.string().max(200),
    promptTokens: count,
    maxTokens: count,
    start: ms,
  }),
  /** A gate, a linear map, or an opening of `calls` tensors. Bytes without headers. `ms`: without `waitMs`, the waits in it. */
  z.strictObject({
    kind: z.literal('gate'),
    ...where,
    step,
    layer: count,
    gate: count,
    name: z.string().regex(/^[A-Za-z][A-Za-z0-9]{0,31}$/),
    calls: count,
    elements: count,
    ...cost,
    ...time,
    waitMs: ms,
  }),
  /** A wait. For the peer: one round, with the bytes of both evaluators, headers included; else the bytes that were wanted or sent. */
  z.strictObject({ kind: z.literal('wait'), ...where, step, for: z.enum([...WAITS, 'session', 'result']), bytes: count, ...time }),
  /** A step is complete; bytes with headers. At the client `ms` is the slower evaluator's. */
  z.strictObject({ kind: z.literal('step'), ...where, step, ...cost, ...time }),
]);
export type TraceRecord = z.infer<typeof recordSchema>;
export type TraceHeader = Extract<TraceRecord, { kind: 'header' }>;

/** To microseconds. */
export const micro = (n: number): number => Math.max(0, Math.round(n * 1e3) / 1e3);

export function* recordsOf({ rows, names }: TraceRows, party: TraceParty, session: string): Generator<TraceRecord, void, void> {
  for (let at = 0; at < rows.length; at += COLUMNS) {
    const cell = (column: keyof typeof COLUMN): number => rows[at + COLUMN[column]]!;
    const cost = { rounds: cell('rounds'), onlineBytes: cell('onlineBytes'), dealtBytes: cell('dealtBytes') },
      time = { start: micro(cell('start')), ms: micro(cell('ms')) },
      step = cell('step');
    if (cell('kind') === ROW.step) yield { kind: 'step', party, session, step, ...cost, ...time };
    else if (cell('kind') === ROW.wait) yield { kind: 'wait', party, session, step, for: WAITS[cell('name')]!, bytes: cost.onlineBytes, ...time };
    else
      yield {
        kind: 'gate',
        party,
        session,
        step,
        layer: cell('layer'),
        gate: cell('gate'),
        name: names[cell('name')]!,
        calls: cell('calls'),
        elements: cell('elements'),
        ...cost,
        ...time,
        waitMs: micro(cell('waitMs')),
      };
  }
}

// ---- Chrome trace events: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU ------------------------------------

const LANES = ['steps', 'engine', 'network'] as const;

/** Lanes of a session of its own: slices of one lane may nest, but not overlap. */
const laneOf = (sessionNumber: number, lane: (typeof LANES)[number]): number => LANES.length * sessionNumber + LANES.indexOf(lane) + 1;

/** A record as events: pid is the party, tid the session's lane. */
export function chromeEvents(r: TraceRecord, sessionNumber: number): object[] {
  const pid = PARTIES.indexOf(r.party) + 1;
  if (r.kind === 'header')
    return [
      { ph: 'M', name: 'process_name', pid, tid: 0, args: { name: r.party } },
      ...LANES.map((lane) => ({ ph: 'M', name: 'thread_name', pid, tid: laneOf(sessionNumber, lane), args: { name: `${lane} ${r.session}` } })),
      { ph: 'M', name: 'cachet_header', pid, tid: 0, args: r },
    ];
  const { start } = r,
    ms = r.kind === 'gate' ? r.ms + r.waitMs : r.ms,
    name =
      r.kind === 'gate' ? r.name : r.kind === 'wait' ? (r.for === 'output' ? 'output' : `wait for ${r.for}`) : r.step === 0 ? 'prefill' : `token ${r.step}`,
    tid = laneOf(sessionNumber, r.kind === 'wait' ? 'network' : r.kind === 'step' ? 'steps' : 'engine');
  // Whole us, shortened by what rounding may add: the next slice begins where this one ends.
  return [{ ph: 'X', name, cat: r.kind, pid, tid, ts: Math.round(1e3 * start), dur: Math.max(0, Math.floor(1e3 * ms) - 1), args: r }];
}

/** Reads trace files of either format, whole or cut off, and adds them up: per party what each gate took, in calls, time, rounds and bytes. */
import { readBytes } from '../../client/node.ts';
import { CachetError } from '../../protocols/errors.ts';
import { PARTIES, recordSchema, type TraceHeader, type TraceParty, type TraceRecord } from './records.ts';

export interface Trace {
  readonly records: readonly TraceRecord[];
  /** Lines that are no record: a process died while it wrote one. */
  readonly damaged: number;
}

/** @throws CachetError 'usage' for a file that has no record. */
export async function readTrace(path: string): Promise<Trace> {
  const text = new TextDecoder().decode(await readBytes(path, 'usage')),
    records: TraceRecord[] = [];
  let damaged = 0;
  for (const line of text.split('\n')) {
    const json = line.trim().replace(/,$/, '');
    if (json === '' || json === '[' || json === ']') continue;
    const value = parse(json),
      event = value as { ph?: unknown; name?: unknown; args?: unknown } | undefined;
    // Chrome's own metadata: names of processes and lanes, the end.
    if (event?.ph === 'M' && event.name !== 'cachet_header') continue;
    const record = recordSchema.safeParse(event?.ph === undefined ? value : event.args);
    if (record.success) records.push(record.data);
    else damaged++;
  }
  if (records.length === 0)
    throw new CachetError({
      code: 'usage',
      step: path,
      what: 'not a trace',
      expected: 'what --trace wrote, by this version',
      got: damaged > 0 ? 'other text' : 'no record',
    });
  return { records, damaged };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export interface GateSum {
  readonly name: string;
  calls: number;
  ms: number;
  rounds: number;
  onlineBytes: number;
  dealtBytes: number;
}

/** Sums of one party over the sessions of a trace. */
export interface PartySum {
  readonly party: TraceParty;
  readonly headers: readonly TraceHeader[];
  /** Complete ones, and their time and cost with headers, as the Meter has it. */
  steps: number;
  ms: number;
  rounds: number;
  onlineBytes: number;
  dealtBytes: number;
  /** Bytes of frame headers: what a step costs beyond its gates. */
  headerBytes: { online: number; dealt: number };
  /** Slowest first. */
  gates: readonly GateSum[];
  /** By whom was waited for: how often, how long. */
  readonly waits: Record<string, { calls: number; ms: number }>;
}

/** Per party that has records. A step that did not end counts nowhere: its cost is not known. */
export function summarise(records: readonly TraceRecord[]): PartySum[] {
  const complete = new Set<string>(),
    key = (r: { party: string; session: string; step: number }): string => `${r.party} ${r.session} ${r.step}`;
  for (const r of records) if (r.kind === 'step') complete.add(key(r));
  return PARTIES.filter((party) => records.some((r) => r.party === party)).map((party) => {
    const mine = records.filter((r) => r.party === party),
      gates = new Map<string, GateSum>();
    const sum: PartySum = {
      party,
      headers: mine.filter((r) => r.kind === 'header'),
      steps: 0,
      ms: 0,
      rounds: 0,
      onlineBytes: 0,
      dealtBytes: 0,
      headerBytes: { online: 0, dealt: 0 },
      gates: [],
      waits: {},
    };
    for (const r of mine) {
      if (r.kind === 'header' || !(complete.has(key(r)) || (r.kind === 'wait' && r.for === 'session'))) continue;
      if (r.kind === 'step') {
        sum.steps++;
        add(sum, r);
      } else if (r.kind === 'wait') {
        const wait = (sum.waits[r.for] ??= { calls: 0, ms: 0 });
        wait.calls++;
        wait.ms += r.ms;
      } else {
        const gate = gates.get(r.name) ?? { name: r.name, calls: 0, ms: 0, rounds: 0, onlineBytes: 0, dealtBytes: 0 };
        gates.set(r.name, gate);
        gate.calls += r.calls;
        add(gate, r);
      }
    }
    sum.gates = [...gates.values()].sort((a, b) => b.ms - a.ms);
    // The client has steps alone: the evaluators' gates are not its own.
    if (gates.size > 0)
      sum.headerBytes = {
        online: sum.onlineBytes - sum.gates.reduce((n, g) => n + g.onlineBytes, 0),
        dealt: sum.dealtBytes - sum.gates.reduce((n, g) => n + g.dealtBytes, 0),
      };
    return sum;
  });
}

type Amounts = Pick<GateSum, 'ms' | 'rounds' | 'onlineBytes' | 'dealtBytes'>;

function add(to: Amounts, r: Readonly<Amounts>): void {
  to.ms += r.ms;
  to.rounds += r.rounds;
  to.onlineBytes += r.onlineBytes;
  to.dealtBytes += r.dealtBytes;
}

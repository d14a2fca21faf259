/** `cachet trace`: what the gates of a traced session took, per party. */
import { Command } from 'commander';
import { bytes, count, table } from '../terminal.ts';
import { readTrace, summarise, type PartySum } from '../trace/read.ts';

export const traceCommand = new Command('trace')
  .description('Per gate: calls, time, share of the time, rounds, bytes; from what --trace wrote.')
  .argument('<file...>', 'trace files of any of the parties, .jsonl or .json')
  .option('--json', 'sums as JSON on stdout')
  .addHelpText(
    'after',
    `
Rounds and bytes are all parties' together, as cachet cost says them; a party's
table has its own times. Steps that did not end are left out.
A trace is public information: how long each gate took for which shapes, and
which waits there were.`,
  )
  .action(async (files: string[], o: { json?: boolean }) => {
    const traces = await Promise.all(files.map(readTrace)),
      sums = summarise(traces.flatMap((t) => t.records)),
      damaged = traces.reduce((n, t) => n + t.damaged, 0);
    if (o.json) return void console.log(JSON.stringify({ damaged, parties: sums }));
    console.log(sums.map(describe).join('\n\n'));
    if (damaged > 0) process.stderr.write(`cachet: ${damaged} damaged ${damaged === 1 ? 'line' : 'lines'} left out\n`);
  });

const ms = (n: number): string => `${n < 100 ? n.toFixed(2) : n.toFixed(0)} ms`;

function describe(s: PartySum): string {
  const share = (n: number): string => (s.ms > 0 ? `${((100 * n) / s.ms).toFixed(1)} %` : ''),
    sessions = new Set(s.headers.map((h) => h.session)).size;
  const rows = [
    ['', 'calls', 'time', 'share', 'rounds', 'online', 'dealt'],
    ...s.gates.map((g) => [g.name, count(g.calls), ms(g.ms), share(g.ms), cell(g.rounds), sized(g.onlineBytes), sized(g.dealtBytes)]),
    ...(s.gates.length > 0 ? [['frame headers', '', '', '', '', sized(s.headerBytes.online), sized(s.headerBytes.dealt)]] : []),
    // What is waited for before a step begins is no part of its time.
    ...Object.entries(s.waits).map(([name, w]) => [
      WAIT[name]!,
      count(w.calls),
      ms(w.ms),
      ['client', 'session', 'result'].includes(name) ? '' : share(w.ms),
      '',
      '',
      '',
    ]),
    ['all steps', count(s.steps), ms(s.ms), s.steps > 0 ? '100 %' : '', cell(s.rounds), sized(s.onlineBytes), sized(s.dealtBytes)],
  ];
  return `${s.party}: ${sessions} ${sessions === 1 ? 'session' : 'sessions'}${s.headers[0] ? `, ${s.headers[0].machine}` : ''}\n\n${table(rows)}`;
}

const WAIT: Readonly<Record<string, string>> = {
  peer: 'wait: peer',
  helper: 'wait: helper',
  client: 'wait: client',
  output: 'send output',
  evaluators: 'wait: p0, p1',
  session: 'wait: session',
  result: 'wait: result',
};
const cell = (n: number): string => (n === 0 ? '' : count(n));
const sized = (n: number): string => (n === 0 ? '' : bytes(n));

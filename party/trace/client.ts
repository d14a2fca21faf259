/** The client's view of a session for a trace: how long it took to be agreed, each step's wait for the result, and what the evaluators reported of it. */
import type { StepReport } from '../../client/session.ts';
import { clock, type TracedSession, type TraceFile } from './file.ts';
import { micro, type TraceRecord } from './records.ts';

export class ClientTrace {
  private readonly file: TraceFile;
  private readonly opened = clock();
  /** When each step's shares were sent. */
  private readonly sent: number[] = [];
  private id = '';
  private add: (records: Iterable<TraceRecord>) => void = () => undefined;

  constructor(file: TraceFile) {
    this.file = file;
  }

  /** The session is agreed. */
  session(id: string, spec: TracedSession['spec']): void {
    this.id = id;
    this.add = this.file.session({ party: 'client', session: id, spec }).add;
    this.wait(0, 'session', this.opened);
  }

  phase(step: number, phase: 'sent' | 'received'): void {
    if (phase === 'sent') this.sent[step] = clock();
    else this.wait(step, 'result', this.sent[step]!);
  }

  report(step: number, r: StepReport): void {
    const { rounds, onlineBytes, dealtBytes, ms } = r;
    this.add([{ kind: 'step', ...this.where, step, rounds, onlineBytes, dealtBytes, start: micro(this.sent[step]!), ms: micro(ms) }]);
  }

  private wait(step: number, what: 'session' | 'result', since: number): void {
    this.add([{ kind: 'wait', ...this.where, step, for: what, bytes: 0, start: micro(since), ms: micro(clock() - since) }]);
  }

  private get where() {
    return { party: 'client' as const, session: this.id };
  }
}

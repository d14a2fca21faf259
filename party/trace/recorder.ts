/**
 * What an engine's thread notes down while it works: gates from the engine's hook, waits from the thread that waits. Rows of numbers in one preallocated
 * array, posted once a step. Shapes, counts and times alone: nothing here has a pointer to a value.
 *
 * A gate's time runs from the end of the one before, so the gates of a step add up to the step: what the program does between two gates (copies into
 * caches) counts for the later one. Waits are taken out of it and have rows of their own.
 */
import { framedBytes } from '../../protocols/frames.ts';
import type { StepCost, Trace } from '../../protocols/engines/engine.ts';

/** Whom the engine waits for: the peer's half of a round, the helper's material, the client's shares, an output to be sent, the evaluators to take material. */
export const WAITS = ['peer', 'helper', 'client', 'output', 'evaluators'] as const;
const WAIT_OF = { round: 0, dealt: 1, input: 2, turn: 2, output: 3, credit: 4 } as const;

/** Columns of a row; for a wait `name` is an index into WAITS and its bytes are in `onlineBytes`, for a gate an index into the names. Times in ms, since 1970. */
export const COLUMN = {
  kind: 0,
  name: 1,
  step: 2,
  layer: 3,
  gate: 4,
  calls: 5,
  elements: 6,
  rounds: 7,
  onlineBytes: 8,
  dealtBytes: 9,
  start: 10,
  ms: 11,
  waitMs: 12,
} as const;
export const COLUMNS = 13;
export const ROW = { gate: 0, wait: 1, step: 2 } as const;

export interface TraceRows {
  readonly rows: Float64Array;
  readonly names: readonly string[];
}

/** Rows of a step of an ordinary model; more are a matter of one copy. */
const FIRST_ROWS = 4096;

export class Recorder implements Trace {
  private readonly post: (rows: TraceRows) => void;
  private readonly indices = new Map<string, number>();
  private readonly names: string[] = [];
  private rows = new Float64Array(FIRST_ROWS * COLUMNS);
  private used = 0;
  private stepNumber = 0;
  private stepStart = 0;
  /** End of the gate before, and waiting since then. */
  private last = 0;
  private waiting = 0;

  constructor(post: (rows: TraceRows) => void) {
    this.post = post;
  }

  now(): number {
    return performance.now();
  }

  /** Time counts from here on. */
  begin(): void {
    this.stepStart = this.last = this.now();
    this.waiting = 0;
  }

  gate(gate: number, name: string, layer: number, calls: number, elements: number, rounds: number, onlineBytes: number, dealtBytes: number): void {
    const now = this.now();
    let index = this.indices.get(name);
    if (index === undefined) {
      index = this.names.push(name) - 1;
      this.indices.set(name, index);
    }
    this.row(ROW.gate, index, layer, gate, calls, elements, rounds, onlineBytes, dealtBytes, this.last, now - this.last - this.waiting, this.waiting);
    this.last = now;
    this.waiting = 0;
  }

  /** A wait that began at `since` (by `now`) is over. `bytes`: what was waited for, or sent; of a round both directions with headers are noted. */
  waited(what: keyof typeof WAIT_OF, since: number, bytes: number): void {
    const ms = this.now() - since;
    this.row(ROW.wait, WAIT_OF[what], 0, 0, 0, 0, 0, what === 'round' ? 2 * framedBytes(bytes) : bytes, 0, since, ms, 0);
    // A step begins when its input is there.
    if (what === 'input') this.begin();
    else this.waiting += ms;
  }

  step(cost: StepCost): void {
    const now = this.now();
    this.row(ROW.step, 0, 0, 0, 1, 0, cost.rounds, cost.onlineBytes, cost.dealtBytes, this.stepStart, now - this.stepStart, 0);
    this.flush();
    this.stepNumber++;
    this.begin();
  }

  /** Posts what there is. */
  flush(): void {
    if (this.used === 0) return;
    this.post({ rows: this.rows.slice(0, this.used), names: [...this.names] });
    this.used = 0;
  }

  private row(
    kind: number,
    name: number,
    layer: number,
    gate: number,
    calls: number,
    elements: number,
    rounds: number,
    onlineBytes: number,
    dealtBytes: number,
    start: number,
    ms: number,
    waitMs: number,
  ): void {
    if (this.used + COLUMNS > this.rows.length) {
      const larger = new Float64Array(2 * this.rows.length);
      larger.set(this.rows);
      this.rows = larger;
    }
    const r = this.rows,
      at = this.used;
    this.used += COLUMNS;
    r[at + COLUMN.kind] = kind;
    r[at + COLUMN.name] = name;
    r[at + COLUMN.step] = this.stepNumber;
    r[at + COLUMN.layer] = layer;
    r[at + COLUMN.gate] = gate;
    r[at + COLUMN.calls] = calls;
    r[at + COLUMN.elements] = elements;
    r[at + COLUMN.rounds] = rounds;
    r[at + COLUMN.onlineBytes] = onlineBytes;
    r[at + COLUMN.dealtBytes] = dealtBytes;
    r[at + COLUMN.start] = performance.timeOrigin + start;
    r[at + COLUMN.ms] = ms;
    r[at + COLUMN.waitMs] = waitMs;
  }
}

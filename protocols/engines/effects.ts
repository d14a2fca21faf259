/**
 * What a running program asks of its driver. A program is a synchronous generator; it yields an effect, the driver performs it (exchanges
 * frames, waits for the client, runs a kernel job) and resumes the program. Everything else, taking dealt material included, is a direct
 * call. Pointers are byte offsets into the engine's memory and stay valid until the program is resumed.
 */
import type { BulkJob, BulkKind } from '../../kernels/bulk.ts';

/** Where a program is, for messages: public, since lengths alone decide it. */
export interface Place {
  readonly layer: number;
  readonly gate: number;
  readonly name: string;
}

/** One exchange between the evaluators: send `bytes` bytes at `out`, receive as many into `into`. `hash` is the desync hash for the header. */
export interface RoundEffect {
  readonly kind: 'round';
  readonly out: number;
  readonly into: number;
  readonly bytes: number;
  readonly hash: DesyncHash;
  /** Good until the program is resumed. */
  readonly at: Place;
}

/** Wait for `bytes` bytes from the client (its shares of `rows` embedded tokens) and write them to `into`. */
export interface InputEffect {
  readonly kind: 'input';
  readonly into: number;
  readonly bytes: number;
  /** A token of an answer: the client may end the turn instead; the driver then sets `over`. */
  readonly optional: boolean;
  over: boolean;
  /** Another engine over the same memory runs this step: this one follows (set by the driver of an attached evaluator). */
  elsewhere: boolean;
}

/** A turn of a session: tokens that the client sends, then an answer of at most so many. Public. */
export interface Turn {
  readonly tokens: number;
  readonly answer: number;
}

/** Wait for the client's next turn; the driver sets it, or leaves it undefined at the end of the session. */
export interface TurnEffect {
  readonly kind: 'turn';
  turn: Turn | undefined;
}

/** Send `bytes` bytes at `out` to the client. */
export interface OutputEffect {
  readonly kind: 'output';
  readonly out: number;
  readonly bytes: number;
}

/** A kernel call that a backend may answer later; a synchronous backend runs it in place. */
export interface JobEffect {
  readonly kind: 'job';
  /** Nobody waits for it: a thread that has other things to do does them first. */
  readonly idle?: boolean;
  run(): void | Promise<void>;
}

/** Computes the dealer's bulk jobs elsewhere, while the dealer's thread waits as it may for dealt material to be taken. */
export interface BulkRunner {
  readonly kinds: readonly BulkKind[];
  /** False: not computed, and the results' places hold anything. */
  run(jobs: readonly BulkJob[]): boolean;
}

export type Effect = RoundEffect | InputEffect | OutputEffect | TurnEffect | JobEffect;
export type Program<T> = Generator<Effect, T, void>;

/** Two 32-bit halves of the running hash of (gate, shape) over the program so far. */
export interface DesyncHash {
  readonly low: number;
  readonly high: number;
}

/**
 * Where an evaluator takes dealt material from, in program order. Blocks (or throws) until it is there. What is for this evaluator alone (`take`) and
 * what is for both (`takeBoth`) may come in one stream or in two.
 */
export interface DealtSource {
  /** Pointer to the next `bytes` bytes, contiguous; valid until the next call. `at`: the gate that takes them. */
  take(bytes: number, at: Place): number;
  takeBoth(bytes: number, at: Place): number;
  /** Passes over material of a step that is not run. */
  discard(own: number, both: number): void;
  /** Checks the dealer's running hash for the step just finished, or passed over. */
  endStep(hash: DesyncHash, skipped: boolean): void;
}

/** Where the dealer puts material; bytes are copied before the call returns. */
export interface DealtSink {
  /** For P1 alone: P0's halves come from its stream. */
  emit(pointer: number, bytes: number): void;
  emitBoth(pointer: number, bytes: number): void;
  /** Cuts both streams into frames here, and sends them. */
  flush(): void;
  /** Flushes both streams: the material of one step (the prefill, or one token) is complete. */
  endStep(hash: DesyncHash): void;
}

/** Largest single `take`, hence the slack behind a ring: gates deal in chunks of at most this many bytes. */
export const MAX_TAKE_BYTES = 1 << 20;

/** Dealt bytes, both evaluators together, after which the streams are flushed; several times smaller than an evaluator's buffer. */
export const FLUSH_BYTES = 2 << 20;

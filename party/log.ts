/**
 * What a party says: a closed set of events through pino, and nothing else. The logger takes an event only if it fits its schema exactly; of an error it
 * reads code and message of a CachetError, of any other error nothing. There is no way to log an object, a buffer or a text of one's own.
 */
import { pino, type DestinationStream } from 'pino';
import { z } from 'zod';
import { CachetError, ERROR_CODES } from '../protocols/errors.ts';
import { policySchema } from '../protocols/policy.ts';
import { ROLES, type PartyRole } from './config.ts';
import { bytes } from './terminal.ts';

export const PEERS = ['client', 'dealer', ...ROLES] as const;
export type Peer = (typeof PEERS)[number];
export const LOG_LEVELS = ['info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

const count = z.number().int().min(0),
  session = z.string().regex(/^[0-9a-f]{16}$/),
  error = z.instanceof(Error),
  traffic = z.array(z.strictObject({ peer: z.enum(PEERS), sent: count, received: count })).max(3);

const eventSchema = z.discriminatedUnion('event', [
  z.strictObject({ event: z.literal('listening'), url: z.string().regex(/^ws:\/\/[A-Za-z0-9.:[\]-]{1,80}$/) }),
  /** `session`: the id's first 8 bytes, hex. `unit`: of the store, if it uses one. */
  z.strictObject({ event: z.literal('session'), session, promptTokens: count, maxTokens: count, policy: policySchema.shape.name, unit: count.optional() }),
  /**
   * Bytes on each link, headers included: with the client, with the others. `memory`: bytes that the process has ever had resident. `stepMs`: the helper's
   * engine's time for a step, median of the latest ones. `cpuMs`: processor time of the process while the session lasted.
   */
  z.strictObject({
    event: z.literal('end'),
    session,
    seconds: z.number().min(0),
    traffic,
    memory: count,
    cpuMs: z.number().min(0),
    stepMs: z.number().min(0).optional(),
    error: error.optional(),
  }),
  z.strictObject({ event: z.literal('refused'), error }),
  /** What the dealer's bulk work runs on; `error`: it is left to the engine's kernels, and why. */
  z.strictObject({ event: z.literal('backend'), name: z.string().max(20), device: z.string().max(120).optional(), error: error.optional() }),
  /** The trace ends, the party goes on. */
  z.strictObject({ event: z.literal('trace'), error }),
]);
export type PartyEvent = z.infer<typeof eventSchema>;

type Without<E> = E extends unknown ? Omit<E, 'error'> : never;
/** An event as it is logged; `dropped`: something that is not an event. */
export type LogLine = (Without<PartyEvent> | { readonly event: 'dropped' }) & { readonly code?: string; readonly error?: string | undefined };

/** Longest message; control characters (a peer's reason may have some) become spaces. */
const MAX_MESSAGE = 1000;
const UNPRINTABLE = /[^\x20-\x7e\u00a0-\u2027\u202f-\ud7ff\ue000-\ufffd]+/g;

function failure(e: unknown): { code: string; error: string } {
  if (!(e instanceof CachetError) || !ERROR_CODES.includes(e.code)) return { code: 'internal', error: 'internal error' };
  return { code: e.code, error: e.message.replaceAll(UNPRINTABLE, ' ').slice(0, MAX_MESSAGE) };
}

/** The line of an event, and its level. */
function lineOf(value: unknown): { level: 'info' | 'warn' | 'error'; line: LogLine } {
  const parsed = eventSchema.safeParse(value);
  if (!parsed.success) return { level: 'error', line: { event: 'dropped' } };
  const e = parsed.data;
  if (!('error' in e) || e.error === undefined) return { level: 'info', line: { ...e, error: undefined } };
  const { error: cause, ...rest } = e;
  return { level: 'warn', line: { ...rest, ...failure(cause) } };
}

export class PartyLog {
  private readonly write: (level: 'info' | 'warn' | 'error', line: LogLine) => void;

  /** `json`: pino's JSON lines; otherwise one line for a person each. `out`: stdout unless given. */
  constructor(o: { role: PartyRole; level: LogLevel; json: boolean; out?: DestinationStream }) {
    const out = o.out ?? standardOutput();
    const logger = pino(
      { level: o.level, base: { role: o.role }, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (level) => ({ level }) } },
      out,
    );
    this.write = (level, line) => {
      if (o.json) logger[level](line);
      else if (logger.isLevelEnabled(level)) out.write(`${describe(o.role, line)}\n`);
    };
  }

  log(event: PartyEvent): void {
    const { level, line } = lineOf(event);
    this.write(level, line);
  }
}

/** Written at once, so that a last line is not lost; a reader that is gone does not matter. */
function standardOutput(): DestinationStream {
  const out = pino.destination({ dest: 1, sync: true });
  out.on('error', () => undefined);
  return out;
}

function describe(role: PartyRole, e: LogLine): string {
  const because = e.error === undefined ? '' : `: ${e.error}`;
  switch (e.event) {
    case 'listening':
      return `${role}: listening at ${e.url}`;
    case 'session':
      return `${role}: session ${e.session}: ${e.promptTokens} private tokens, at most ${e.maxTokens} generated, ${e.policy} cache${e.unit === undefined ? '' : `, unit ${e.unit} of the store`}`;
    case 'end':
      return `${role}: session ${e.session} ended after ${e.seconds.toFixed(1)} s${because}; ${e.traffic.map((t) => `${t.peer}: sent ${bytes(t.sent)}, received ${bytes(t.received)}`).join('; ')}`;
    case 'refused':
      return `${role}: refused${because}`;
    case 'backend':
      return `${role}: ${e.name} deals${e.device === undefined ? '' : `: ${e.device}`}${because}`;
    case 'trace':
      return `${role}${because}`;
    case 'dropped':
      return `${role}: something that is not an event was not logged`;
  }
}

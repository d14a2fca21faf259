/**
 * How a session begins, and every control message (msgpack maps, schema-checked). The client names the session by a random ticket:
 *
 *   client -> P0, P1   hello { ticket, nonce, spec }
 *   P1 -> P0           hello { ticket, client's nonce, own nonce and X25519 key, spec }      P0 -> P1  welcome { nonce, key }
 *   P0, P1 -> H        the same                                                             H -> both welcome { nonce, key } once both are there
 *   P0, P1 -> client   ready { session }
 *
 * Where the client deals for itself there is no helper: it opens one more link to each evaluator, `deal { ticket }`, over which P0 and P1 join it as they
 * would join the helper.
 *
 * Where the material comes from stores that were dealt before there is no helper either: P1's join says which unit is its next, P0's welcome which one
 * both use (the larger of both), and the unit's id stands for the helper's nonce. `ready` tells the client how many rows the unit's prompt has.
 *
 * Session id = SHA-256(spec, ticket, nonces of client, p0, p1, helper): fresh as long as one party's nonce is. Pair secrets: HKDF-SHA256 of the X25519
 * secret with the session id as salt and one info string a purpose. The exchange is not authenticated yet: whoever can stand between the parties can
 * read a session; only loopback or a network that is trusted will do until identities are added.
 */
import { x25519 } from '@noble/curves/ed25519.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { utf8ToBytes } from '@noble/hashes/utils.js';
import { z } from 'zod';
import type { DealerKeys } from './engines/dealer.ts';
import type { EvaluatorKeys } from './engines/evaluator.ts';
import { CachetError, ERROR_CODES } from './errors.ts';
import { canonicalPolicy, policyDifference } from './policy.ts';
import { PROTOCOL_VERSION, sessionSpecSchema, turnSchema, type SessionSpec } from './session.ts';

const bytes = (n: number) => z.custom<Uint8Array>((b) => b instanceof Uint8Array && b.length === n, { message: `expected ${n} bytes` });
const count = z.number().int().min(0);

export const controlSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('hello'), role: z.literal('client'), ticket: bytes(16), nonce: bytes(32), spec: sessionSpecSchema }),
  z.strictObject({
    type: z.literal('join'),
    role: z.enum(['p0', 'p1']),
    ticket: bytes(16),
    clientNonce: bytes(32),
    nonce: bytes(32),
    publicKey: bytes(32),
    spec: sessionSpecSchema,
    /** P1's store, and the first unit in it that it has not used. */
    unit: z.strictObject({ store: bytes(16), next: count }).optional(),
  }),
  z.strictObject({
    type: z.literal('welcome'),
    role: z.enum(['p0', 'helper']),
    nonce: bytes(32),
    publicKey: bytes(32),
    /** The store's unit for this session. */
    unit: z.strictObject({ index: count, id: bytes(32) }).optional(),
  }),
  /** Client as dealer, on a link of its own: evaluators join over it. */
  z.strictObject({ type: z.literal('deal'), role: z.literal('dealer'), ticket: bytes(16) }),
  z.strictObject({ type: z.literal('ready'), session: bytes(32), promptRows: z.number().int().min(1).optional() }),
  /** Client to evaluators, these to the dealer: a further turn. */
  turnSchema.extend({ type: z.literal('turn') }),
  /** Dealer to evaluators: all material of the turns so far is on its way. */
  z.strictObject({ type: z.literal('turnDealt') }),
  /** Evaluator to dealer: bytes of the dealt stream that it may have sent in all; P1 to P0: of what P0 relays. */
  z.strictObject({ type: z.literal('credit'), limit: count }),
  /** Evaluator to client, after each step: its own counts. */
  z.strictObject({
    type: z.literal('report'),
    step: count,
    rows: count,
    rounds: count,
    onlineBytes: count,
    dealtBytes: count,
    relayedBytes: count,
    ms: z.number(),
    waitDealtMs: z.number(),
  }),
  /** Client to evaluators, and their answer once all that is dealt for the next step is there: for measurements. */
  z.strictObject({ type: z.literal('awaitDealt') }),
  z.strictObject({ type: z.literal('stepDealt') }),
  /** Client to evaluators: no further token. */
  z.strictObject({ type: z.literal('stop') }),
  /** `origin`: who found it, if not the sender. */
  z.strictObject({ type: z.literal('error'), code: z.enum(ERROR_CODES), message: z.string().max(1000), origin: z.string().max(32).optional() }),
]);
export type Control = z.infer<typeof controlSchema>;
export type Hello = Extract<Control, { type: 'hello' }>;
export type Join = Extract<Control, { type: 'join' }>;
export type DealOffer = Extract<Control, { type: 'deal' }>;
export type Report = Extract<Control, { type: 'report' }>;

/** @throws CachetError 'handshake' naming the field. */
export function parseControl(value: unknown): Control {
  const parsed = controlSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!,
    field = issue.path.join('.') || 'type';
  throw new CachetError({
    code: 'handshake',
    what: `bad control message, field ${field}`,
    expected: `the messages of protocol version ${PROTOCOL_VERSION}`,
    got: issue.code,
    hint: 'run the same version of cachet on all parties',
  });
}

/** Two specs must be the same in every field. @throws CachetError 'handshake' naming the first that differs. */
export function requireSameSpec(mine: SessionSpec, theirs: SessionSpec): void {
  for (const key of Object.keys(sessionSpecSchema.shape) as (keyof SessionSpec)[])
    if (key !== 'policy' && mine[key] !== theirs[key])
      throw new CachetError({
        code: 'handshake',
        what: `parties disagree about ${key}`,
        expected: String(mine[key]),
        got: String(theirs[key]),
        hint: 'give all parties the same model and version',
      });
  const other = policyDifference(mine.policy, theirs.policy);
  if (other)
    throw new CachetError({
      code: 'handshake',
      what: `parties disagree about the cache policy's ${other.field}`,
      expected: other.expected,
      got: other.got,
      hint: 'give all parties the same cache policy',
    });
}

export interface Nonces {
  readonly client: Uint8Array;
  readonly p0: Uint8Array;
  readonly p1: Uint8Array;
  readonly helper: Uint8Array;
}

export function sessionId(spec: SessionSpec, ticket: Uint8Array, nonces: Nonces): Uint8Array {
  const hash = sha256.create();
  const { version, artefact, weights, dealer, promptTokens, maxTokens, context, filled, evictFilled, policy } = spec,
    agreed = ['cachet session', version, artefact, weights, dealer, promptTokens, maxTokens, context, filled, evictFilled ?? false, canonicalPolicy(policy)];
  hash.update(utf8ToBytes(JSON.stringify(agreed)));
  for (const part of [ticket, nonces.client, nonces.p0, nonces.p1, nonces.helper]) hash.update(part);
  return hash.digest();
}

/** One end of a key exchange; the secret key never leaves this object. */
export class KeyExchange {
  private readonly secret: Uint8Array;
  readonly publicKey: Uint8Array;

  /** A fresh key, or one that is kept: 32 bytes. */
  constructor(secret = x25519.utils.randomSecretKey()) {
    this.secret = secret;
    this.publicKey = x25519.getPublicKey(secret);
  }

  /** 32-byte keys for this pair of parties and this session, one a purpose. */
  derive(peer: Uint8Array, session: Uint8Array): (purpose: string) => Uint8Array {
    const shared = x25519.getSharedSecret(this.secret, peer);
    return (purpose) => hkdf(sha256, shared, session, utf8ToBytes(`cachet/${PROTOCOL_VERSION}/${purpose}`), 32);
  }
}

/** Public; 16 bytes. `session`: its id, or that of a stored unit. */
const tweakOf = (session: Uint8Array): Uint8Array => sha256.create().update(utf8ToBytes('cachet/tweak')).update(session).digest().slice(0, 16);

export function evaluatorKeys(
  party: 0 | 1,
  session: Uint8Array,
  helper: (purpose: string) => Uint8Array,
  peer: (purpose: string) => Uint8Array,
): EvaluatorKeys {
  return {
    mask: helper(`mask/p${party}`),
    dealt: helper(`dealt/p${party}`),
    root: helper(`root/p${party}`),
    zero: peer('zero'),
    coins: peer('coins'),
    tweak: tweakOf(session),
  };
}

export function dealerKeys(session: Uint8Array, p0: (purpose: string) => Uint8Array, p1: (purpose: string) => Uint8Array): DealerKeys {
  return { mask0: p0('mask/p0'), mask1: p1('mask/p1'), dealt0: p0('dealt/p0'), root0: p0('root/p0'), root1: p1('root/p1'), tweak: tweakOf(session) };
}

/** Keys of one evaluator's half of a stored unit: what it would otherwise share with the helper. `dealt` is used by P0 alone. */
export type UnitKeys = Pick<EvaluatorKeys, 'mask' | 'dealt' | 'root'>;

/** Fresh keys of a unit that is dealt ahead; `draw` gives random bytes. */
export function dealUnitKeys(
  id: Uint8Array,
  draw: (bytes: number) => Uint8Array,
): { readonly dealer: DealerKeys; readonly halves: readonly [UnitKeys, UnitKeys] } {
  const half = (): UnitKeys => ({ mask: draw(32), dealt: draw(32), root: draw(32) }),
    [p0, p1] = [half(), half()];
  return { dealer: { mask0: p0.mask, mask1: p1.mask, dealt0: p0.dealt, root0: p0.root, root1: p1.root, tweak: tweakOf(id) }, halves: [p0, p1] };
}

/** An evaluator's keys for a session over a stored unit: the unit's, and those of the live exchange with its peer. */
export function storedKeys(id: Uint8Array, unit: UnitKeys, peer: (purpose: string) => Uint8Array): EvaluatorKeys {
  return { ...unit, zero: peer('zero'), coins: peer('coins'), tweak: tweakOf(id) };
}

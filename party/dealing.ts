/** How a dealer, the helper or the client for itself, agrees on a session with the evaluators that have joined it. */
import { randomBytes } from 'node:crypto';
import { bytesToHex } from '@noble/hashes/utils.js';
import type { Link } from '../client/link.ts';
import type { DealerKeys } from '../protocols/engines/dealer.ts';
import { CachetError } from '../protocols/errors.ts';
import { dealerKeys, KeyExchange, requireSameSpec, sessionId, type Join } from '../protocols/handshake.ts';
import type { SessionSpec } from '../protocols/session.ts';

export interface Joined {
  readonly link: Link;
  readonly message: Join;
}

/** Welcomes both over links that are bound to the session from then on. @throws CachetError 'handshake' if they do not mean the same session. */
export function agreeAsDealer(party: string, p0: Joined, p1: Joined): { readonly session: Uint8Array; readonly spec: SessionSpec; readonly keys: DealerKeys } {
  const { ticket, spec, clientNonce } = p0.message;
  requireSameSpec(spec, p1.message.spec);
  if (bytesToHex(clientNonce) !== bytesToHex(p1.message.clientNonce))
    throw new CachetError({ code: 'handshake', party, what: 'parties met different clients', expected: 'one nonce', got: 'two' });
  const nonce = new Uint8Array(randomBytes(32)),
    session = sessionId(spec, ticket, { client: clientNonce, p0: p0.message.nonce, p1: p1.message.nonce, helper: nonce });
  const [with0, with1] = [p0, p1].map(({ link, message }) => {
    const exchange = new KeyExchange();
    link.control({ type: 'welcome', role: 'helper', nonce, publicKey: exchange.publicKey });
    link.bind(session);
    return exchange.derive(message.publicKey, session);
  });
  return { session, spec, keys: dealerKeys(session, with0!, with1!) };
}

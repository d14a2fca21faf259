/**
 * The client as dealer of its own session: two party processes, no helper. Open weights only. It may know all masks of its session, since they hide
 * nothing but its own text; what the evaluators send each other it never sees.
 */
import { bytesToHex } from '@noble/hashes/utils.js';
import { abortedBy, expectControl, type Link } from '../client/link.ts';
import type { Connect, Deal } from '../client/session.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import { requireSameSpec } from '../protocols/handshake.ts';
import { openBulk } from './bulk/thread.ts';
import type { BackendName } from './config.ts';
import { agreeAsDealer } from './dealing.ts';
import { engineSpace } from './engine.ts';
import { HelperSession } from './helperSession.ts';

/** What a client's engine may deal ahead of the evaluators, whose own rings bound it as well. */
const AHEAD_MIB = 16;

/** `connect` opens a further link to an evaluator. */
export function clientDealer(o: { artefact: Artefact; kernels: string; backend: BackendName; threads: number; timeoutMs: number; connect: Connect }): Deal {
  return async ({ ticket, spec, nonce, signal }) => {
    const links: Link[] = [],
      bulk = await openBulk(o.backend, ({ name, error }) => void (error && process.stderr.write(`cachet: ${name} deals: ${error.message}\n`)));
    try {
      const [p0, p1] = await Promise.all(
        (['p0', 'p1'] as const).map(async (role) => {
          const link = await o.connect(role);
          links.push(link);
          const join = expectControl(link, 'join', o.timeoutMs, signal);
          link.control({ type: 'deal', role: 'dealer', ticket });
          const message = await join;
          requireSameSpec(spec, message.spec);
          if (message.role !== role || bytesToHex(message.clientNonce) !== bytesToHex(nonce))
            throw new CachetError({ code: 'handshake', party: role, what: 'evaluator joined another session', expected: 'this one', got: 'another' });
          return { link, message };
        }),
      );
      const { keys } = agreeAsDealer('client', p0!, p1!);
      await new Promise<void>((resolve, reject) => {
        const session = new HelperSession({
          artefact: o.artefact,
          spec,
          kernels: o.kernels,
          bulk,
          space: engineSpace('helper', o.artefact, spec, AHEAD_MIB, { threads: o.threads, bulk: bulk !== undefined }),
          keys,
          onTrace: undefined,
          links: [p0!.link, p1!.link],
          onEnd: (error) => (error && !signal.aborted ? reject(error) : resolve()),
        });
        signal.addEventListener('abort', () => session.abort(abortedBy(signal)), { once: true });
      });
    } catch (error) {
      for (const link of links) link.fail(error as CachetError);
      if (!signal.aborted) throw error;
    } finally {
      await bulk?.close();
    }
  };
}

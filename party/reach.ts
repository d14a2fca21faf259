/** How a client session in Node reaches the parties of a configuration. */
import type { Connect, Deal } from '../client/session.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { clientDealer } from './clientDealer.ts';
import { addressOf, type Config } from './config.ts';
import { connect, lineOf } from './sockets.ts';

/** Who deals, as commands call it. */
export type DealerChoice = 'server' | 'client' | 'store';

/** Options of a session: links to the evaluators and, where the client deals for itself, the dealer. */
export function reach(
  config: Config,
  artefact: Artefact,
  dealer: DealerChoice,
  signal: AbortSignal,
): { readonly connect: Connect; readonly timeoutMs: number; readonly signal: AbortSignal; readonly deal?: Deal; readonly stored?: boolean } {
  const { timeoutMs, kernels, backend, threads } = config,
    line = lineOf(config),
    to: Connect = (role) => connect(addressOf(config, role), role, timeoutMs, signal, line);
  return {
    connect: to,
    timeoutMs,
    signal,
    ...(dealer === 'store' ? { stored: true } : {}),
    ...(dealer === 'client' ? { deal: clientDealer({ artefact, kernels, backend, threads, timeoutMs, connect: to }) } : {}),
  };
}

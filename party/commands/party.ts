/** `cachet party`: one party's process, until it is stopped. */
import { Command, Option } from 'commander';
import { readModelArtefact } from '../../client/node.ts';
import { readConfigFile, type PartyRole } from '../config.ts';
import { Party, type PartyEvent } from '../party.ts';
import { bytes, onInterrupt } from '../terminal.ts';

const EXAMPLE = `
A configuration, the same file for all parties (defaults in brackets):

  { "model": "tiny-notes",            model folder, or the embedded model ["tiny-notes"]
    "p0": "ws://127.0.0.1:7700",      address of evaluator P0
    "p1": "ws://127.0.0.1:7701",      address of evaluator P1
    "helper": "ws://127.0.0.1:7702",  address of the helper
    "timeoutMs": 30000,               longest wait for another party during set-up, ms [30000]
    "clientTimeoutMs": 600000,        longest wait for the client's next token, ms [600000]
    "maxSessions": 2,                 sessions at a time [2]
    "insecure": false }               allow addresses other than loopback [false]

The parties' key exchange is not authenticated and links are not encrypted yet: use loopback, or a network that you trust.`;

export const partyCommand = new Command('party')
  .description('Run one party: an evaluator (p0, p1) or the helper. Stops on Ctrl-C.')
  .addOption(new Option('--role <role>', 'which party this is').choices(['p0', 'p1', 'helper']).makeOptionMandatory())
  .requiredOption('--config <file>', 'configuration, JSON (see below)')
  .option('--json', 'events as JSON lines on stdout')
  .addHelpText('after', EXAMPLE)
  .action(async (o: { role: PartyRole; config: string; json?: boolean }) => {
    const config = await readConfigFile(o.config),
      artefact = await readModelArtefact(config.model);
    if (config.insecure) process.stderr.write(`cachet: ${o.role}: WARNING: insecure configuration: links are neither encrypted nor authenticated\n`);
    const party = new Party({ role: o.role, config, artefact, onEvent: (e) => console.log(o.json ? JSON.stringify(e) : describe(o.role, e)) });
    await party.start();
    await new Promise<void>((resolve) => onInterrupt(resolve));
    await party.close();
  });

function describe(role: PartyRole, e: PartyEvent): string {
  switch (e.event) {
    case 'listening':
      return `${role}: listening at ${e.url}`;
    case 'session':
      return `${role}: session ${e.session}: ${e.spec!.promptTokens} private tokens, at most ${e.spec!.maxTokens} generated`;
    case 'end':
      return `${role}: session ${e.session} ended after ${e.seconds!.toFixed(1)} s${e.error ? `: ${e.error}` : ''}; ${e.traffic!.map((t) => `${t.peer}: sent ${bytes(t.sent)}, received ${bytes(t.received)}`).join('; ')}`;
    case 'refused':
      return `${role}: refused: ${e.error}`;
  }
}

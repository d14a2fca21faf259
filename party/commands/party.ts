/** `cachet party`: one party's process, until it is stopped. */
import { Command, Option } from 'commander';
import { readModelArtefact } from '../../client/node.ts';
import { readConfigFile, ROLES, type PartyRole } from '../config.ts';
import { LOG_LEVELS, PartyLog, type LogLevel } from '../log.ts';
import { Party } from '../party.ts';
import { onInterrupt } from '../terminal.ts';
import { TraceFile } from '../trace/file.ts';
import { TRACE_HELP, traceOption } from './options.ts';

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
  .addOption(new Option('--role <role>', 'which party this is').choices(ROLES).makeOptionMandatory())
  .requiredOption('--config <file>', 'configuration, JSON (see below)')
  .option('--json', 'events as JSON lines on stdout')
  .addOption(new Option('--log-level <level>', 'events from this level on').choices(LOG_LEVELS).default('info'))
  .addOption(traceOption())
  .addOption(new Option('--trace-shared', 'the trace file belongs to the process that started this one: append').hideHelp())
  .addHelpText('after', `${EXAMPLE}\n${TRACE_HELP}`)
  .action(async (o: { role: PartyRole; config: string; json?: boolean; logLevel: LogLevel; trace?: string; traceShared?: boolean }) => {
    const config = await readConfigFile(o.config),
      artefact = await readModelArtefact(config.model);
    if (config.insecure) process.stderr.write(`cachet: ${o.role}: WARNING: insecure configuration: links are neither encrypted nor authenticated\n`);
    const log = new PartyLog({ role: o.role, level: o.logLevel, json: o.json === true }),
      trace =
        o.trace === undefined
          ? undefined
          : new TraceFile({ path: o.trace, shared: o.traceShared === true, onError: (error) => log.log({ event: 'trace', error }) });
    const party = new Party({ role: o.role, config, artefact, onEvent: (e) => log.log(e), trace });
    await party.start();
    await new Promise<void>((resolve) => onInterrupt(resolve));
    await party.close();
    await trace?.close();
  });

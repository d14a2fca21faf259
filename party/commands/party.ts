/** `cachet party`: one party's process, until it is stopped. */
import { Command, Option } from 'commander';
import { readModelArtefact, readPolicy } from '../../client/node.ts';
import { ROLES, type PartyRole } from '../config.ts';
import { LOG_LEVELS, PartyLog, type LogLevel } from '../log.ts';
import { Party } from '../party.ts';
import { onInterrupt } from '../terminal.ts';
import { TraceFile } from '../trace/file.ts';
import { addConfig, configOf, TRACE_HELP, traceOption } from './options.ts';

const EXAMPLE = `
Example: three terminals, each with one of
  cachet party --role helper --config parties.json
  cachet party --role p0 --config parties.json
  cachet party --role p1 --config parties.json
where parties.json has at least
  { "p0": "ws://127.0.0.1:7700", "p1": "ws://127.0.0.1:7701",
    "helper": "ws://127.0.0.1:7702" }

The key exchange is not authenticated and links are not encrypted yet: use
loopback, or a network that you trust.`;

export const partyCommand = addConfig(
  new Command('party')
    .description('Run one party: an evaluator (p0, p1) or the helper. Stops on Ctrl-C.')
    .addOption(new Option('--role <role>', 'which party this is').choices(ROLES).makeOptionMandatory()),
)
  .option('--json', 'events as JSON lines on stdout')
  .addOption(new Option('--log-level <level>', 'events from this level on').choices(LOG_LEVELS).default('info'))
  .addOption(traceOption())
  .addOption(new Option('--until-stdin-ends', 'stop when the process that started this one is gone').hideHelp())
  .addOption(new Option('--trace-shared', 'the trace file belongs to the process that started this one: append').hideHelp())
  .addHelpText('after', `${EXAMPLE}\n${TRACE_HELP}`)
  .action(
    async (o: { role: PartyRole; config?: string; json?: boolean; logLevel: LogLevel; trace?: string; traceShared?: boolean; untilStdinEnds?: boolean }) => {
      const config = await configOf(o),
        artefact = await readModelArtefact(config.model),
        policy = config.policy === undefined ? undefined : await readPolicy(config.policy, config.model, artefact);
      if (config.insecure) process.stderr.write(`cachet: ${o.role}: WARNING: insecure configuration: links are neither encrypted nor authenticated\n`);
      const log = new PartyLog({ role: o.role, level: o.logLevel, json: o.json === true }),
        trace =
          o.trace === undefined
            ? undefined
            : new TraceFile({ path: o.trace, shared: o.traceShared === true, onError: (error) => log.log({ event: 'trace', error }) });
      const party = new Party({ role: o.role, config, artefact, onEvent: (e) => log.log(e), trace, policy });
      await party.start();
      await new Promise<void>((resolve) => {
        onInterrupt(resolve);
        if (o.untilStdinEnds) process.stdin.on('end', resolve).on('error', resolve).resume();
      });
      process.stdin.destroy();
      await party.close();
      await trace?.close();
    },
  );

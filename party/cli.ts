#!/usr/bin/env node
/** The command line: one file a command in commands/, listed here. Errors are one line on stderr and a non-zero exit status. */
import { Command, CommanderError } from 'commander';
import { packageVersion } from '../client/node.ts';
import { CachetError } from '../protocols/errors.ts';
import { askCommand } from './commands/ask.ts';
import { chatCommand } from './commands/chat.ts';
import { completionCommand } from './commands/completion.ts';
import { benchCommand } from './commands/bench.ts';
import { costCommand } from './commands/cost.ts';
import { dealCommand } from './commands/deal.ts';
import { demoCommand } from './commands/demo.ts';
import { doctorCommand } from './commands/doctor.ts';
import { evalCommand } from './commands/eval.ts';
import { initCommand } from './commands/init.ts';
import { modelsCommand } from './commands/models.ts';
import { partyCommand } from './commands/party.ts';
import { policyCommand } from './commands/policy.ts';
import { prepareCommand } from './commands/prepare.ts';
import { storeCommand } from './commands/store.ts';
import { traceCommand } from './commands/trace.ts';
import { weightsCommand } from './commands/weights.ts';

const commands = [
  demoCommand,
  askCommand,
  chatCommand,
  initCommand,
  partyCommand,
  doctorCommand,
  modelsCommand,
  prepareCommand,
  dealCommand,
  storeCommand,
  weightsCommand,
  evalCommand,
  costCommand,
  policyCommand,
  benchCommand,
  traceCommand,
  completionCommand,
];

const program = new Command('cachet')
  // A subcommand's options are its own, whatever its parent's are called.
  .enablePositionalOptions()
  .description('Private transformer inference: a prompt that nobody else may see.')
  .version(packageVersion())
  .showHelpAfterError('(add --help for the options)');
for (const command of commands) program.addCommand(command);
const json = process.argv.includes('--json');
for (const command of [program, ...commands.flatMap((c) => [c, ...c.commands])]) {
  command.exitOverride().configureHelp({ helpWidth: 80 });
  // A program that reads JSON gets its errors as JSON too, below.
  if (json) command.showHelpAfterError(false).configureOutput({ writeErr: () => undefined });
}

/** One line; of an error that is not ours the name alone, since its text may quote what it stumbled over. */
function complain(error: unknown): void {
  const ours = error instanceof CachetError ? error.details : undefined;
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode;
    if (json && error.exitCode !== 0) console.error(JSON.stringify({ error: { code: 'usage', what: error.message.replace(/^error: /, '') } }));
    return;
  }
  process.exitCode = ours?.code === 'aborted' && ours.what === 'interrupted' ? 130 : 1;
  const foreign = `internal error (${error instanceof Error ? error.name : typeof error}); try: report this as a bug; CACHET_DEBUG=1 shows it`;
  if (json) {
    const { cause: _, ...details } = ours ?? { code: 'internal', what: foreign, cause: undefined };
    console.error(JSON.stringify({ error: details }));
  } else process.stderr.write(`cachet: ${error instanceof CachetError ? error.message : foreign}\n`);
  if (!ours && process.env['CACHET_DEBUG']) console.error(error);
}

for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, (error: unknown) => {
    complain(error);
    process.exit();
  });

// A reader that is gone (cachet .. | head) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => (error.code === 'EPIPE' ? process.exit() : complain(error)));

try {
  await program.parseAsync();
} catch (error) {
  complain(error);
}

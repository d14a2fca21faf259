#!/usr/bin/env node
/** The command line: one file a command in commands/, listed here. Errors are one line on stderr and a non-zero exit status. */
import { Command, CommanderError } from 'commander';
import { CachetError } from '../protocols/errors.ts';
import { askCommand } from './commands/ask.ts';
import { chatCommand } from './commands/chat.ts';
import { benchCommand } from './commands/bench.ts';
import { costCommand } from './commands/cost.ts';
import { demoCommand } from './commands/demo.ts';
import { partyCommand } from './commands/party.ts';
import { prepareCommand } from './commands/prepare.ts';
import { traceCommand } from './commands/trace.ts';

const commands = [demoCommand, askCommand, chatCommand, partyCommand, costCommand, prepareCommand, benchCommand, traceCommand];

const program = new Command('cachet')
  .description('Private transformer inference: a prompt that nobody else may see.')
  .version('0.1.0')
  .showHelpAfterError('(add --help for the options)');
for (const command of commands) program.addCommand(command);
program.exitOverride();
for (const command of commands) command.exitOverride();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else {
    if (error instanceof CachetError && error.code === 'aborted' && error.details.what === 'interrupted') process.exitCode = 130;
    else process.exitCode = 1;
    process.stderr.write(`cachet: ${error instanceof Error ? error.message : String(error)}\n`);
    if (!(error instanceof CachetError) && process.env['CACHET_DEBUG']) console.error(error);
  }
}

#!/usr/bin/env node
/** The command line: one file a command in commands/, listed here. Errors are one line on stderr and a non-zero exit status. */
import { Command, CommanderError } from 'commander';
import { CachetError } from '../protocols/errors.ts';
import { prepareCommand } from './commands/prepare.ts';

const commands = [prepareCommand];

const program = new Command('cachet').description('Private transformer inference: a prompt that nobody else may see.').version('0.1.0').showHelpAfterError('(add --help for the options)');
for (const command of commands) program.addCommand(command);
program.exitOverride();
for (const command of commands) command.exitOverride();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else {
    process.stderr.write(`cachet: ${error instanceof Error ? error.message : String(error)}\n`);
    if (!(error instanceof CachetError) && process.env['CACHET_DEBUG']) console.error(error);
    process.exitCode = 1;
  }
}

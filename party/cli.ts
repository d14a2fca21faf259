#!/usr/bin/env node
/** The command line, of the commands in commands/. Errors are one line on stderr and a non-zero exit status. */
import { CommanderError } from 'commander';
import { CachetError } from '../protocols/errors.ts';
import { nameOf } from './commands/options.ts';
import { makeProgram } from './commands/program.ts';

const json = process.argv.includes('--json');
/** The command that refused its arguments. */
let refusing = '';
const program = makeProgram((command) => (refusing = command === program ? '' : `${nameOf(command)} `));

/** A word as commands are called: anything else may be a prompt whose command was forgotten. */
const WORD = /^error: unknown command '[\w-]{1,30}'/;

/** Of commander's own errors: what is wrong, and what to try; undefined where that is a help text, which it has written. */
function refusal({ code, message }: CommanderError): { readonly what: string; readonly hint: string } | undefined {
  if (code === 'commander.help') return json ? { what: 'no command', hint: 'cachet --help lists them' } : undefined;
  const [what, similar] = message.split('\n', 2) as [string, string?],
    meant = /Did you mean (?:one of )?(.*)\?/.exec(similar ?? '')?.[1];
  return {
    what: code === 'commander.unknownCommand' && !WORD.test(what) ? 'unknown command' : what.replace(/^error: /, '').replace(/\.$/, ''),
    hint: `${meant ? `${meant}, or ` : ''}cachet ${refusing}--help`,
  };
}

/** One line; of an error that is not ours the name alone, since its text may quote what it stumbled over. */
function complain(error: unknown): void {
  const ours = error instanceof CachetError ? error.details : undefined;
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode;
    const refused = error.exitCode === 0 ? undefined : refusal(error);
    if (refused && json) console.error(JSON.stringify({ error: { code: 'usage', ...refused } }));
    else if (refused) process.stderr.write(`cachet: ${refused.what}; try: ${refused.hint}\n`);
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

/** All commands, one file each, in the order in which --help lists them. */
import { Command } from 'commander';
import { packageVersion } from '../../client/node.ts';
import { askCommand } from './ask.ts';
import { chatCommand } from './chat.ts';
import { completionCommand } from './completion.ts';
import { benchCommand } from './bench.ts';
import { costCommand } from './cost.ts';
import { dealCommand } from './deal.ts';
import { demoCommand } from './demo.ts';
import { doctorCommand } from './doctor.ts';
import { evalCommand } from './eval.ts';
import { initCommand } from './init.ts';
import { modelsCommand } from './models.ts';
import { partyCommand } from './party.ts';
import { policyCommand } from './policy.ts';
import { prepareCommand } from './prepare.ts';
import { storeCommand } from './store.ts';
import { traceCommand } from './trace.ts';
import { weightsCommand } from './weights.ts';

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

/** Columns of help texts. */
const WIDTH = 80;

/** A command and all below it. */
export const tree = (command: Command): Command[] => [command, ...command.commands.flatMap(tree)];

/** Errors are thrown, nothing is written about them; `onRefused` is told before which command refuses what it was given. */
export function makeProgram(onRefused: (command: Command) => void): Command {
  const program = new Command('cachet')
    // A subcommand's options are its own, whatever its parent's are called.
    .enablePositionalOptions()
    .description('Private transformer inference: a prompt that nobody else may see.')
    .version(packageVersion());
  for (const command of commands) program.addCommand(command);
  for (const command of tree(program))
    command
      .exitOverride()
      .configureHelp({ helpWidth: WIDTH })
      .configureOutput({ outputError: () => onRefused(command) });
  return program;
}

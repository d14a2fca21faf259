/** `cachet policy`: the cache policies there are, or one of them, checked against a model. */
import { Command } from 'commander';
import { EMBEDDED_MODEL, readModelArtefact, readPolicy } from '../../client/node.ts';
import { describePolicy, PRESETS } from '../../protocols/policy.ts';
import { wrap } from '../terminal.ts';

export const policyCommand = new Command('policy')
  .description('Cache policies: the presets, or what a name or a file says for a model.')
  .argument('[policy]', 'a name or a JSON file (default: all presets)')
  .option('--model <model>', 'model with an artefact that is to follow it', EMBEDDED_MODEL)
  .option('--json', 'as JSON on stdout: with the parts of it changed, a file for --policy')
  .action(async (text: string | undefined, o: { model: string; json?: boolean }) => {
    const policy = text === undefined ? undefined : await readPolicy(text, o.model, await readModelArtefact(o.model));
    if (o.json) return void console.log(JSON.stringify(policy ?? Object.values(PRESETS), null, 2));
    for (const p of policy ? [policy] : Object.values(PRESETS)) console.log(wrap(describePolicy(p)));
  });

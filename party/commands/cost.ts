/** `cachet cost`: rounds and bytes of a session, exactly, without running it. */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, readModelArtefact } from '../../client/node.ts';
import { meterSession } from '../../protocols/cost.ts';
import type { StepCost } from '../../protocols/engines/engine.ts';
import { checkSpec, PROTOCOL_VERSION } from '../../protocols/session.ts';
import { bytes, count, table } from '../terminal.ts';
import { integer } from './options.ts';

export const costCommand = new Command('cost')
  .description('Rounds and bytes of a session, from the Meter: what the parties will measure, exactly. Nothing is run.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--prompt-tokens <n>', 'private tokens of the prompt, public prefix not counted').argParser(integer(1)).default(150))
  .addOption(new Option('--max-tokens <n>', 'tokens generated').argParser(integer(1)).default(16))
  .option('--json', 'all steps as JSON on stdout')
  .action(async (o: { model: string; promptTokens: number; maxTokens: number; json?: boolean }) => {
    const artefact = await readModelArtefact(o.model);
    checkSpec(artefact, { version: PROTOCOL_VERSION, artefact: artefact.digest, promptTokens: o.promptTokens, maxTokens: o.maxTokens });
    const cost = meterSession(artefact, o),
      plain = (s: StepCost) => ({ rounds: s.rounds, onlineBytes: s.onlineBytes, dealtBytes: s.dealtBytes, gates: Object.fromEntries(s.gates) });
    if (o.json)
      return void console.log(
        JSON.stringify({
          model: artefact.name,
          promptTokens: o.promptTokens,
          maxTokens: o.maxTokens,
          rounds: cost.rounds,
          onlineBytes: cost.onlineBytes,
          dealtBytes: cost.dealtBytes,
          steps: cost.steps.map(plain),
        }),
      );
    const last = cost.steps.at(-1)!,
      row = (name: string, s: { rounds: number; onlineBytes: number; dealtBytes: number }): string[] => [
        name,
        String(s.rounds),
        bytes(s.onlineBytes),
        bytes(s.dealtBytes),
      ];
    const context = (step: number): number => artefact.prefixIds.length + o.promptTokens + step;
    console.log(
      `${artefact.name}: ${o.promptTokens} private tokens, ${o.maxTokens} generated; bytes are both directions and both evaluators, headers included\n`,
    );
    console.log(
      table([
        ['step', 'rounds', 'online', 'dealt'],
        row(`prefill of ${o.promptTokens}`, cost.steps[0]!),
        ...(cost.steps.length > 1 ? [row(`token at context ${context(1)}`, cost.steps[1]!)] : []),
        ...(cost.steps.length > 2 ? [row(`token at context ${context(cost.steps.length - 1)}`, last)] : []),
        row('session', cost),
      ]),
    );
    console.log(`\ngates of ${cost.steps.length > 1 ? 'the last token' : 'the prefill'} (payload, without headers)\n`);
    console.log(
      table([
        ['gate', 'calls', 'online', 'dealt'],
        ...[...last.gates]
          .sort((a, b) => b[1].online + b[1].dealt - a[1].online - a[1].dealt)
          .map(([name, g]) => [name, count(g.calls), bytes(g.online), bytes(g.dealt)]),
      ]),
    );
  });

/** `cachet cost`: rounds and bytes of a session, exactly, without running it. */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, readPolicy } from '../../client/node.ts';
import { meterSession } from '../../protocols/cost.ts';
import type { StepCost } from '../../protocols/engines/engine.ts';
import { describePolicy } from '../../protocols/policy.ts';
import { checkSpec, PROTOCOL_VERSION, turnSlots } from '../../protocols/session.ts';
import { artefactOf } from '../preparing.ts';
import { bytes, count, table, wrap } from '../terminal.ts';
import { dealerOption, integer, policyOption } from './options.ts';

interface Options {
  model: string;
  promptTokens: number;
  maxTokens: number;
  helper: 'server' | 'client';
  policy: string;
  turnTokens?: number;
  json?: boolean;
}

export const costCommand = new Command('cost')
  .description('Rounds and bytes of a session, from the Meter: what the parties will measure, exactly. Nothing is run.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--prompt-tokens <n>', 'private tokens of the prompt, public prefix not counted').argParser(integer(1)).default(150))
  .addOption(new Option('--max-tokens <n>', 'tokens generated').argParser(integer(1)).default(16))
  .addOption(dealerOption())
  .addOption(policyOption())
  .addOption(new Option('--turn-tokens <n>', 'also a further turn of a chat: tokens of its question').argParser(integer(1)))
  .option('--json', 'all steps as JSON on stdout')
  .action(async (o: Options) => {
    const artefact = await artefactOf(o.model),
      policy = await readPolicy(o.policy, o.model, artefact, o),
      dealer = o.helper === 'client' ? 'client' : 'helper',
      turns = o.turnTokens === undefined ? [] : [{ tokens: o.turnTokens, answer: o.maxTokens }],
      context = [{ tokens: o.promptTokens, answer: o.maxTokens }, ...turns].reduce((n, t) => n + turnSlots(t), 0);
    checkSpec(artefact, {
      version: PROTOCOL_VERSION,
      artefact: artefact.digest,
      weights: 'open',
      dealer,
      promptTokens: o.promptTokens,
      maxTokens: o.maxTokens,
      context,
      filled: 0,
      policy,
    });
    const cost = meterSession(artefact, { promptTokens: o.promptTokens, maxTokens: o.maxTokens, dealer, policy }, turns),
      plain = ({ gates, parts, partRounds, ...s }: StepCost) => ({
        ...s,
        gates: Object.fromEntries(gates),
        parts: Object.fromEntries(parts),
        partRounds: Object.fromEntries(partRounds),
      });
    if (o.json)
      return void console.log(
        JSON.stringify({ model: artefact.name, promptTokens: o.promptTokens, maxTokens: o.maxTokens, dealer, policy, ...cost, steps: cost.steps.map(plain) }),
      );
    const steps = cost.steps.slice(0, o.maxTokens),
      last = steps.at(-1)!,
      further = cost.steps.slice(o.maxTokens),
      batches = further.slice(0, further.length - o.maxTokens + 1),
      relayed = dealer === 'client',
      row = (name: string, s: Pick<StepCost, 'rounds' | 'onlineBytes' | 'dealtBytes' | 'relayedBytes'>): string[] => [
        name,
        String(s.rounds),
        bytes(s.onlineBytes),
        bytes(s.dealtBytes),
        ...(relayed ? [bytes(s.relayedBytes)] : []),
      ];
    const context0 = artefact.prefixIds.length + o.promptTokens,
      sum = (f: (s: StepCost) => number): number => batches.reduce((n, s) => n + f(s), 0);
    console.log(
      `${artefact.name}: ${o.promptTokens} private tokens, ${o.maxTokens} generated; bytes are both directions and\nboth evaluators, headers included${relayed ? '; the client deals, P0 relays what both need' : ''}\n\n${wrap(`cache policy ${describePolicy(policy)}`)}\n`,
    );
    console.log(
      table([
        ['step', 'rounds', 'online', 'dealt', ...(relayed ? ['relayed'] : [])],
        row(`prefill of ${o.promptTokens}`, steps[0]!),
        ...(steps.length > 1 ? [row(`token at context ${context0 + 1}`, steps[1]!)] : []),
        ...(steps.length > 2 ? [row(`token at context ${context0 + steps.length - 1}`, last)] : []),
        ...(batches.length > 0
          ? [
              row(`further question of ${o.turnTokens}`, {
                rounds: sum((s) => s.rounds),
                onlineBytes: sum((s) => s.onlineBytes),
                dealtBytes: sum((s) => s.dealtBytes),
                relayedBytes: sum((s) => s.relayedBytes),
              }),
            ]
          : []),
        row('session', cost),
      ]),
    );
    console.log(`\ngates of ${steps.length > 1 ? 'the last token' : 'the prefill'} (payload, without headers)\n`);
    console.log(
      table([
        ['gate', 'calls', 'online', 'dealt'],
        ...[...last.gates]
          .sort((a, b) => b[1].online + b[1].dealt - a[1].online - a[1].dealt)
          .map(([name, g]) => [name, count(g.calls), bytes(g.online), bytes(g.dealt)]),
      ]),
    );
  });

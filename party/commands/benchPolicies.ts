/** `cachet bench policies`: cache policies side by side (bench/policies.ts), and the time of their tokens through three processes (bench/steps.ts). */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, goodPolicies, readPolicy } from '../../client/node.ts';
import { CachetError } from '../../protocols/errors.ts';
import { POLICY_NAMES, type Policy } from '../../protocols/policy.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { ablation, choiceRows, fixedBudget, policyRows, type ChoiceRow, type PolicyRow } from '../bench/policies.ts';
import { benchSteps, type StepsRow } from '../bench/steps.ts';
import { artefactOf } from '../preparing.ts';
import { bytes, describeMachine, onInterrupt, Progress, table } from '../terminal.ts';
import { integer, integers, needing } from './options.ts';

interface Options {
  readonly model: string;
  readonly policy: string[];
  readonly context: number[];
  readonly ablation?: boolean;
  readonly growth?: boolean;
  readonly auto?: boolean;
  readonly answer: number[];
  readonly time?: number[];
  readonly timed?: string[];
  readonly tokens: number;
  readonly reps: number;
  readonly json?: boolean;
}

export const policiesCommand = new Command('policies')
  .description('Cache policies side by side, from the Meter: a token at contexts before eviction, and the eviction. Nothing is run but for --time.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(
    new Option('--policy <policies...>', `of ${POLICY_NAMES.join(', ')}, or JSON files`).default(
      ['full', 'mpcache', 'mpcache-paper', 'aggressive'],
      'full mpcache mpcache-paper aggressive',
    ),
  )
  .addOption(
    new Option('--context <list>', 'cached tokens before eviction, with spaces between')
      .argParser(integers(64))
      .default([512, 1024, 2048, 4096, 8192], '512 1024 2048 4096 8192'),
  )
  .option('--ablation', 'also each policy technique by technique')
  .option('--growth', 'also a policy with eviction under the budget that it has at the first context')
  .option('--auto', 'also what auto chooses between, and what it takes')
  .addOption(new Option('--answer <list>', 'with --auto: tokens of answers, with spaces between').argParser(integers(1)).default([64, 1024], '64 1024'))
  .addOption(new Option('--time <list>', 'also the time of a token through three processes, at these contexts').argParser(integers(64)))
  .option('--timed <names...>', 'with --time: of these policies alone')
  .addOption(new Option('--tokens <n>', 'with --time: tokens of a session').argParser(integer(2)).default(8))
  .addOption(new Option('--reps <n>', 'with --time: sessions for a row').argParser(integer(1)).default(1))
  .option('--json', 'rows as JSON on stdout')
  .action(async (o: Options) => {
    const artefact = await artefactOf(o.model),
      named = await Promise.all(o.policy.map((name) => readPolicy(name, o.model, artefact))),
      { layers } = artefact.shape,
      budget = o.context[0]! - artefact.prefixIds.length,
      machine = describeMachine();
    const found = {
      machine,
      policies: policyRows(artefact, named, o.context),
      ...(o.ablation && {
        ablation: named.filter((p) => p.static ?? p.dynamic).map((p) => ({ of: p.name, rows: policyRows(artefact, ablation(p), o.context) })),
      }),
      ...(o.growth && {
        growth: policyRows(
          artefact,
          named.filter((p) => p.static).map((p) => fixedBudget(p, budget, layers)),
          o.context,
        ),
      }),
      ...(o.auto && { auto: await chosen(o, artefact) }),
      ...(o.time && { rows: await timed(o, artefact, timedOf(o, named), o.time) }),
    };
    if (o.json) return void console.log(JSON.stringify(found));
    console.log(`${machine}\n\n${costs(found.policies)}`);
    for (const { of, rows } of found.ablation ?? []) console.log(`\n${of}, technique by technique\n\n${costs(rows)}`);
    if (found.growth) console.log(`\nthe budget of T = ${o.context[0]} at every T\n\n${costs(found.growth)}`);
    if (found.auto) console.log(`\nwhat auto chooses between, and takes\n\n${choices(found.auto)}`);
    if (found.rows) console.log(`\ntokens through three processes on loopback, ${o.reps} sessions of ${o.tokens}\n\n${times(found.rows)}`);
  });

needing(policiesCommand, '--time', '--timed', '--tokens', '--reps');
needing(policiesCommand, '--auto', '--answer');

/** @throws CachetError 'usage' naming one that is not among the policies. */
function timedOf(o: Options, named: readonly Policy[]): readonly Policy[] {
  const unknown = o.timed?.find((name) => !named.some((p) => p.name === name));
  if (unknown !== undefined)
    throw new CachetError({
      code: 'usage',
      step: '--timed',
      what: 'no such policy',
      expected: named.map((p) => p.name).join(', '),
      got: unknown,
      hint: 'one of those',
    });
  return o.timed ? named.filter((p) => o.timed!.includes(p.name)) : named;
}

async function chosen(o: Options, artefact: Artefact): Promise<ChoiceRow[]> {
  const good = await goodPolicies(o.model, artefact);
  return o.context.flatMap((context) => o.answer.flatMap((answer) => choiceRows(artefact, good, context, answer)));
}

async function timed(o: Options, artefact: Artefact, policies: readonly Policy[], contexts: readonly number[]): Promise<StepsRow[]> {
  const abort = new AbortController(),
    progress = new Progress({ silent: false }),
    rows: StepsRow[] = [];
  onInterrupt(() => abort.abort());
  for (const context of contexts)
    for (const policy of policies)
      rows.push(
        await benchSteps({
          task: 'decode',
          model: o.model,
          artefact,
          parts: undefined,
          policy,
          net: 'loopback',
          context,
          tokens: o.tokens,
          reps: o.reps,
          threads: 1,
          aheadMib: 64,
          signal: abort.signal,
          onProgress: (text) => progress.update(`${policy.name} at ${context}: ${text}`),
        }),
      );
  progress.update('');
  return rows;
}

const costs = (rows: readonly PolicyRow[]): string =>
  table([
    ['T', "T'", 'policy', 'rounds', 'online', 'dealt', 'attention', 'eviction'],
    ...rows.map((r) => [
      String(r.context),
      String(r.kept),
      r.policy,
      String(r.rounds),
      bytes(r.onlineBytes),
      bytes(r.dealtBytes),
      bytes(r.attentionBytes),
      r.eviction ? `${bytes(r.eviction.bytes)}, ${r.eviction.rounds} rounds` : '',
    ]),
  ]);

const choices = (rows: readonly ChoiceRow[]): string =>
  table([
    ['T', 'answer', "T'", 'policy', 'a token', 'eviction', 'in all', ''],
    ...rows.map((r) => [
      String(r.context),
      String(r.answer),
      String(r.kept),
      r.policy,
      bytes(r.tokenBytes),
      r.evictionBytes > 0 ? bytes(r.evictionBytes) : '',
      bytes(r.bytes),
      r.taken ? 'auto' : '',
    ]),
  ]);

const times = (rows: readonly StepsRow[]): string =>
  table([
    ['T', "T'", 'policy', 'ready', 'dealing beside', 'eviction', 'as predicted'],
    ...rows.map((r) => [
      String(r.context),
      String(r.kept),
      r.policy,
      r.onlineMs ? `${r.onlineMs.median.toFixed(0)} ms` : '-',
      `${r.endToEndMs.median.toFixed(0)} ms`,
      r.eviction ? `${r.eviction.ms.median.toFixed(0)} ms` : '',
      r.rounds === r.predicted.rounds && r.onlineBytes === r.predicted.onlineBytes && r.dealtBytes === r.predicted.dealtBytes ? 'yes' : 'NO',
    ]),
  ]);

/** `cachet deal`: fills a store with units, each the material of one session, before any prompt exists. */
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL, readPolicy } from '../../client/node.ts';
import { meterSession } from '../../protocols/cost.ts';
import { openBulk } from '../bulk/thread.ts';
import { configSchema, type BackendName } from '../config.ts';
import { requireRole } from '../../protocols/secret.ts';
import { artefactOf } from '../preparing.ts';
import { DealerStore, type DealtUnit } from '../store/dealing.ts';
import { readPublicKey } from '../store/folder.ts';
import { bytes, median, onInterrupt, Progress } from '../terminal.ts';
import { integer, policyOption } from './options.ts';

interface Options {
  model: string;
  prefill: number;
  tokens: number;
  policy: string;
  count: number;
  out: string;
  p0Key?: string;
  p1Key?: string;
  kernels: 'wasm' | 'reference';
  backend: BackendName;
  threads: number;
  json?: boolean;
}

export const dealCommand = new Command('deal')
  .description('Deal the correlated randomness of sessions ahead of time into a store that evaluators use up, each unit once.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--prefill <n>', 'private tokens of a prompt at most: shorter ones are padded').argParser(integer(1)).makeOptionMandatory())
  .addOption(new Option('--tokens <n>', 'tokens of an answer at most').argParser(integer(1)).makeOptionMandatory())
  .addOption(policyOption())
  .addOption(new Option('--count <n>', 'units to deal, each for one session').argParser(integer(1)).default(1))
  .requiredOption('--out <dir>', 'the store; one of the same model, policy and lengths gets more units')
  .option('--p0-key <key>', "P0's public key, hex or a file of cachet store key (default: a key made in the store)")
  .option('--p1-key <key>', "P1's public key")
  .addOption(new Option('--kernels <name>', 'kernel backend').choices(configSchema.shape.kernels.unwrap().options).default('wasm'))
  .addOption(new Option('--backend <name>', 'what computes bulk work').choices(configSchema.shape.backend.unwrap().options).default('wasm'))
  .addOption(new Option('--threads <n>', 'threads that compute large kernels').argParser(integer(1)).default(1))
  .option('--json', 'result as JSON on stdout')
  .addHelpText(
    'after',
    `
Example:
  cachet deal --prefill 256 --tokens 16 --count 10 --out store
  cachet party --role p0 --config p0.json --store store
  cachet party --role p1 --config p1.json --store store
  cachet ask --config client.json --helper store --question "..."
Sessions have the policy that the store was dealt for (ask --policy).
Give P0 the folder store/p0 and p0.key, P1 the folder store/p1 and p1.key, and
neither the other's; of a private model it is the helper's part that deals
(--model parts/helper). Whoever deals knows all masks: the machine that does
must not be an evaluator's.`,
  )
  .action(async (o: Options) => {
    const artefact = await artefactOf(o.model);
    requireRole(artefact.header, 'helper');
    const lengths = { promptTokens: o.prefill, maxTokens: o.tokens },
      policy = await readPolicy(o.policy, o.model, artefact, lengths),
      terms = { ...lengths, policy },
      progress = new Progress({ silent: o.json === true }),
      abort = new AbortController();
    onInterrupt(() => abort.abort());
    const bulk = await openBulk(o.backend, ({ name, device, error }) =>
        progress.done(`${name} deals${device === undefined ? '' : `: ${device}`}${error ? `: ${error.message}` : ''}`),
      ),
      store = new DealerStore({
        dir: o.out,
        artefact,
        terms,
        kernels: o.kernels,
        threads: o.threads,
        bulk,
        keys: [readPublicKey(o.p0Key), readPublicKey(o.p1Key)],
      }),
      whole = o.count * meterSession(artefact, { ...terms, dealer: 'store' }).dealtBytes,
      started = performance.now(),
      units: DealtUnit[] = [];
    let dealt = 0;
    const seconds = (): number => (performance.now() - started) / 1e3,
      /** An entry of the store is a token's material, of the prompt or of the answer. */
      entries = o.count * (o.prefill + o.tokens - 1),
      onBytes = (n: number): void => {
        dealt += n;
        const share = dealt / whole;
        progress.update(
          `unit ${units.length + 1} of ${o.count}: ${bytes(dealt)} of ${bytes(whole)}, ${bytes(Math.round(dealt / seconds()))}/s, ${((share * entries) / seconds()).toFixed(1)} tokens/s, ${((1 / share - 1) * seconds()).toFixed(0)} s left`,
        );
      };
    try {
      while (units.length < o.count) units.push(await store.deal({ onBytes, signal: abort.signal }));
    } finally {
      store.close();
      await bulk?.close();
    }
    const stored = units.reduce((n, u) => n + u.bytes, 0),
      steps = units.map((u) => u.stepMs),
      later = steps.flatMap((s) => s.slice(1)),
      result = {
        store: o.out,
        model: artefact.name,
        policy: policy.name,
        units: store.units,
        dealt: units.map((u) => u.index),
        seconds: seconds(),
        tokensPerSecond: entries / seconds(),
        bytesPerSecond: stored / seconds(),
        storedBytes: stored,
        bytesPerUnit: stored / o.count,
        bytesPerToken: stored / o.count / (o.prefill + o.tokens - 1),
        dealMs: { unit: median(units.map((u) => u.ms)), prefill: median(steps.map((s) => s[0]!)), token: later.length > 0 ? median(later) : null },
      };
    if (o.json) return void console.log(JSON.stringify(result));
    progress.done(
      `dealt ${o.count} units in ${result.seconds.toFixed(1)} s: ${bytes(stored)}, ${bytes(Math.round(result.bytesPerSecond))}/s, ${result.tokensPerSecond.toFixed(1)} tokens/s`,
    );
    console.log(
      `${o.out}: ${result.units} units of ${o.prefill} + ${o.tokens} tokens, ${policy.name} cache; ${bytes(result.bytesPerUnit)} a unit, ${bytes(result.bytesPerToken)} a token, both evaluators together\n` +
        `dealing: ${result.dealMs.prefill.toFixed(0)} ms a prompt${result.dealMs.token === null ? '' : `, ${result.dealMs.token.toFixed(1)} ms a token`}`,
    );
  });

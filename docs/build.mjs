/**
 * Writes the generated parts of the documentation: the cost table (from `cachet cost`), the benchmark page (from docs/benchmarks/*.json, or the files
 * after --benchmarks), and with --bench the README's figures (from `cachet bench`).
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { writeBenchmarks } from './benchmarks.mjs';
import { table } from './tables.mjs';

const root = new URL('../', import.meta.url);
const cachet = (...args) => JSON.parse(execFileSync(process.execPath, ['dist/party/cli.js', ...args, '--json'], { cwd: root, maxBuffer: 1 << 28 }).toString());
const bytes = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(2)} MB`);

function put(file, marker, text) {
  const path = new URL(file, root),
    old = readFileSync(path, 'utf8'),
    parts = old.split(new RegExp(`(<!-- ${marker}:[^>]*-->\n)[^]*?(<!-- /${marker} -->)`));
  if (parts.length !== 4) throw new Error(`${file} has no place for ${marker}`);
  writeFileSync(path, `${parts[0]}${parts[1]}\n${text}\n\n${parts[2]}${parts[3]}`);
}

/** A decoded token of tiny-notes at 256 attended tokens, and its prefill. */
export function costTable() {
  const cost = cachet('cost', '--prompt-tokens', '254', '--max-tokens', '2'),
    token = cost.steps[1],
    layers = 6;
  const gates = Object.entries(token.gates)
    .filter(([, g]) => g.online + g.dealt > 0)
    .toSorted((a, b) => b[1].online + b[1].dealt - a[1].online - a[1].dealt);
  return table([
    ['gate', 'calls', 'online bytes', 'dealt bytes'],
    ...gates.map(([name, g]) => [name, String(g.calls), String(g.online), String(g.dealt)]),
    ['**token, with headers**', `${token.rounds} rounds (${token.rounds / layers} a layer)`, String(token.onlineBytes), String(token.dealtBytes)],
    ['prefill of 254 tokens', `${cost.steps[0].rounds} rounds`, String(cost.steps[0].onlineBytes), String(cost.steps[0].dealtBytes)],
  ]);
}

function figures() {
  const b = cachet('bench');
  return [
    `\`cachet bench\` on ${b.machine}; three processes on this machine, model ${b.model}, greedy; all times include dealing on the same cores. Bytes are both`,
    'directions and both evaluators, headers included. pp: prefill of that many private tokens in one batch; tg: one token at that many attended tokens. lan: 3 Gbit/s,',
    '0.8 ms round trip; wan: 100 Mbit/s, 80 ms, by the shaper in the links; "explained": rounds times half the round trip, bytes over the line, and the loopback row.',
    '',
    table([
      ['network', 'row', 'ms', 'goal', 'explained', 'rounds', 'online', 'dealt'],
      ...b.session.map((r) => [
        r.net,
        r.name,
        r.ms.toFixed(0),
        r.goalMs === undefined ? '' : `${r.goalMs}`,
        r.explainedMs === undefined ? '' : `${r.explainedMs.toFixed(0)} (rounds ${r.roundsMs.toFixed(0)})`,
        String(r.rounds),
        bytes(r.onlineBytes),
        bytes(r.dealtBytes),
      ]),
    ]),
    '',
    table([
      ['kernel, one core', 'rate', 'floor'],
      ...b.kernels.filter((r) => r.floor !== undefined).map((r) => [r.name, `${r.rate.toFixed(2)} ${r.unit}`, String(r.floor)]),
    ]),
  ].join('\n');
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  put('docs/PROTOCOL.md', 'cost', costTable());
  const at = process.argv.indexOf('--benchmarks');
  writeBenchmarks(at < 0 ? [] : process.argv.slice(at + 1).filter((argument) => !argument.startsWith('--')));
  if (process.argv.includes('--bench')) put('README.md', 'figures', figures());
  execFileSync('npx', ['prettier', '--write', 'docs', 'README.md'], { cwd: root, stdio: 'inherit' });
}

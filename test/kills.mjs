/**
 * Random kills: three party processes serve one `cachet ask` after another, or a `cachet chat` that has its answer and waits for the next question; at a
 * random moment of its life a random process of the four is killed, terminated, interrupted, or stopped for a while. Afterwards nothing may hang or be left,
 * and nothing secret may have been said. Needs `npm run build`.
 *
 *   node test/kills.mjs [--count 200] [--seed N] [--json]
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { freePort, pause, run, seeded, startParty, within } from './support/killing.mjs';
import { leaks } from './support/leaks.mjs';

const { values: o } = parseArgs({
    options: { count: { type: 'string', default: '200' }, seed: { type: 'string' }, json: { type: 'boolean', default: false } },
  }),
  count = Number(o.count),
  seed = Number(o.seed ?? Math.floor(Math.random() * 2 ** 31));
const ROLES = ['helper', 'p0', 'p1'],
  /** A session may take so long to end everywhere, ms; above all limits in the parties' configuration. */
  LIMIT_MS = 15_000,
  MAX_RESIDENT_MIB = 400,
  ABOUT = "Nina's pin is 4711. Vera is in room 214. Omar lives in Oslo.",
  PROMPT = " Nina's pin is 4711. Vera is in room 214. Omar lives in Oslo.<|user|> What is Nina's pin?<|assistant|>",
  temporary = mkdtempSync(join(tmpdir(), 'cachet-kills-')),
  env = { ...process.env, TMPDIR: temporary };

const random = seeded(seed),
  pick = (list) => list[Math.floor(random() * list.length)];

const violations = [];
const violate = (what) => {
  violations.push(what);
  process.stderr.write(`VIOLATION: ${what}\n`);
};

const ports = Object.fromEntries(await Promise.all(ROLES.map(async (role) => [role, await freePort()]))),
  addresses = [
    `--p0=ws://127.0.0.1:${ports.p0}`,
    `--p1=ws://127.0.0.1:${ports.p1}`,
    `--helper-url=ws://127.0.0.1:${ports.helper}`,
    '--timeout-ms=3000',
    '--silence-ms=2000',
  ];

/** Names alone: a count may be the pin's digits by chance. */
const SECRETS = { words: ['Nina', 'Vera', 'Omar', 'Oslo'], ids: [], keys: [], allowed: [temporary] };
function listen(who, text) {
  const found = leaks(text, SECRETS);
  if (found.length > 0) violate(`${who} says a secret (${found.join(', ')}): ${text.slice(0, 500)}`);
}

/** role -> the party's process, its sessions begun and ended since it was started. */
const parties = new Map();
async function start(role) {
  const limits = ['--client-timeout-ms', '5000', '--progress-ms', '4000'],
    counts = { begun: 0, ended: 0 };
  const party = await startParty(role, [...addresses, ...limits], {
    env,
    violate,
    onEvent(line) {
      const { event } = line;
      listen(role, JSON.stringify(line));
      if (event === 'session') counts.begun++;
      if (event === 'end') counts.ended++;
    },
  });
  parties.set(role, { process: party, counts });
}

/** Asked once; its stdin stays open. */
function chat(args) {
  const client = run(['chat', ...addresses, '--max-tokens', '6', ...args], env, 'pipe');
  client.child.stdin.on('error', () => undefined);
  client.child.stdin.write(`${ABOUT} What is Nina's pin?\n`);
  return client;
}
const ask = (args = []) => run(['ask', ...addresses, '--max-tokens', '6', ...args, PROMPT], env);

const phaseOf = ({ out, err, idle }) => (idle ? 'idle' : out !== '' || /read \d+/.test(err) ? 'answer' : err.includes('connected') ? 'prefill' : 'before');

async function settle(what) {
  const until = Date.now() + LIMIT_MS,
    open = () => [...parties].filter(([, p]) => !p.process.gone && p.counts.begun > p.counts.ended).map(([role]) => role);
  while (open().length > 0 && Date.now() < until) await pause(20);
  if (open().length > 0) violate(`${what}: a session does not end at ${open().join(', ')}`);
}

async function undisturbed(what) {
  const client = ask(),
    end = await within(client.ended, LIMIT_MS);
  if (end === undefined) client.child.kill('SIGKILL');
  if (end?.code !== 0 || client.out.trim() !== '4711.')
    violate(`${what}: the next session: status ${end?.code}, ${client.out.trim()} ${client.err.slice(-300)}`);
  await settle(what);
}

const resident = (pid) => Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024;

for (const role of ROLES) await start(role);
const began = Date.now();
await undisturbed('at the start');
const life = Date.now() - began,
  tally = {};
for (let i = 1; i <= count && violations.length < 10; i++) {
  const victim = pick([...ROLES, 'client']),
    signal = pick(['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGSTOP']),
    dealer = pick(['server', 'server', 'client']),
    waits = pick([false, false, true]),
    client = (waits ? chat : ask)(['--helper', dealer]);
  if (waits) {
    for (let t = 0; t < LIMIT_MS && !client.out.includes('\n'); t += 20) await pause(20);
    client.idle = client.out.includes('\n');
    if (!client.idle) violate(`kill ${i}: no answer for a chat: ${client.err.slice(-300)}`);
    await pause(random() * 500);
  } else await within(client.ended, random() * 1.1 * life);
  const phase = phaseOf(client),
    over = client.child.exitCode !== null,
    what = `kill ${i} (${signal} to ${victim}, ${over ? 'afterwards' : phase}, ${dealer === 'client' ? 'two' : 'three'} parties)`,
    target = victim === 'client' ? client.child : parties.get(victim).process.child;
  target.kill(signal);
  if (signal === 'SIGSTOP') {
    await pause(300 + random() * 3000);
    target.kill('SIGCONT');
  }
  // A chat ends by itself when a party of its session is gone; one that was only stopped for a while may go on.
  const gone = victim !== 'client' && signal !== 'SIGSTOP' && (dealer !== 'client' || victim !== 'helper');
  if (waits && !gone) client.child.stdin.end();
  const end = await within(client.ended, LIMIT_MS);
  if (waits && gone && end?.code === 0) violate(`${what}: the chat ends as if all were well: ${client.err.slice(-300)}`);
  if (end === undefined) {
    violate(`${what}: the client hangs: ${client.err.slice(-300)}`);
    client.child.kill('SIGKILL');
  } else if (end.code !== 0 && end.signal === null) {
    const lines = client.err.split('\n').filter((line) => line.startsWith('cachet:'));
    if (lines.length !== 1 || / {4}at |internal error/.test(client.err)) violate(`${what}: the client says: ${client.err.slice(-500)}`);
  }
  if (victim !== 'client' && signal !== 'SIGSTOP') {
    const party = parties.get(victim).process;
    for (let t = 0; t < LIMIT_MS && !party.gone; t += 20) await pause(20);
    if (!party.gone) violate(`${what}: ${victim} goes on`);
    listen(victim, party.text);
    await start(victim);
  }
  listen('the client', client.err);
  await settle(what);
  if (i % 5 === 0) await undisturbed(what);
  const outcome = end?.code === 0 ? 'answered' : end?.signal ? 'killed' : 'one line';
  for (const key of [`victim ${victim}`, `signal ${signal}`, `phase ${over ? 'after' : phase}`, `client ${outcome}`]) tally[key] = (tally[key] ?? 0) + 1;
  if (i % 10 === 0) process.stderr.write(`${i} of ${count} kills, ${violations.length} violations\n`);
}

await undisturbed('at the end');
const memory = Object.fromEntries([...parties].map(([role, p]) => [role, Math.round(resident(p.process.child.pid))]));
for (const [role, mib] of Object.entries(memory)) if (mib > MAX_RESIDENT_MIB) violate(`${role} is resident with ${mib} MiB`);
for (const p of parties.values()) p.process.child.kill('SIGTERM');
for (let t = 0; t < LIMIT_MS && [...parties.values()].some((p) => !p.process.gone); t += 20) await pause(20);
for (const [role, p] of parties) if (!p.process.gone) violate(`${role} does not stop`);
for (const [role, p] of parties) listen(role, p.process.text);
const hex = Object.values(ports).map((port) => `:${port.toString(16).toUpperCase().padStart(4, '0')}`);
for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1)) {
  const [, local, , tcp] = line.trim().split(/\s+/);
  // 0A listening, 01 established.
  if (local && hex.some((port) => local.endsWith(port)) && ['0A', '01'].includes(tcp)) violate(`a socket is left: ${line.trim()}`);
}
const left = readdirSync(temporary);
if (left.length > 0) violate(`temporary files are left: ${left.join(', ')}`);
rmSync(temporary, { recursive: true });
const seconds = Math.round((Date.now() - began) / 1000);
if (o.json) console.log(JSON.stringify({ count, seed, seconds, violations, tally, memory }));
else {
  console.log(`${count} kills in ${seconds} s, seed ${seed}: ${violations.length} violations`);
  for (const [key, n] of Object.entries(tally).toSorted()) console.log(`  ${key.padEnd(20)}${String(n).padStart(5)}`);
  console.log(
    `  resident at the end: ${Object.entries(memory)
      .map(([role, mib]) => `${role} ${mib} MiB`)
      .join(', ')}`,
  );
}
process.exitCode = violations.length > 0 ? 1 : 0;

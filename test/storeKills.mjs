/**
 * Random kills around a store: a dealer writes it while two evaluators use it; at a random moment one of the three is killed and started again. No unit may
 * be used in two sessions, and none may be lost but those that a session had taken. The store has a cache policy that evicts and chooses, and prompts are padded,
 * unless another one is named. Needs `npm run build`.
 *
 *   node test/storeKills.mjs [--count 50] [--policy mpcache-paper] [--seed N] [--json]
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { freePort, pause, run, seeded, startParty, within } from './support/killing.mjs';

const { values: o } = parseArgs({
    options: {
      count: { type: 'string', default: '50' },
      policy: { type: 'string', default: 'mpcache-paper' },
      seed: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  }),
  count = Number(o.count),
  seed = Number(o.seed ?? Math.floor(Math.random() * 2 ** 31)),
  random = seeded(seed),
  pick = (list) => list[Math.floor(random() * list.length)];
const ROLES = ['p0', 'p1'],
  LIMIT_MS = 120_000,
  PROMPT = " Nina's pin is 4711. Vera is in room 214.<|user|> What is Nina's pin?<|assistant|>",
  temporary = mkdtempSync(join(tmpdir(), 'cachet-kills-')),
  store = join(temporary, 'store'),
  ledger = (role) => join(temporary, `${role}.ledger`),
  ports = Object.fromEntries(await Promise.all(ROLES.map(async (role) => [role, await freePort()]))),
  addresses = [`--p0=ws://127.0.0.1:${ports.p0}`, `--p1=ws://127.0.0.1:${ports.p1}`, '--timeout-ms=3000', '--silence-ms=2000'];

const violations = [];
const violate = (what) => {
  violations.push(what);
  process.stderr.write(`VIOLATION: ${what}\n`);
};

/** role -> unit -> session, for as long as the run lasts. */
const used = Object.fromEntries(ROLES.map((role) => [role, new Map()])),
  parties = new Map();
async function start(role) {
  parties.set(
    role,
    await startParty(role, [...addresses, '--store', store, '--ledger', ledger(role), '--client-timeout-ms', '5000', '--progress-ms', '4000'], {
      env: process.env,
      violate,
      onEvent({ event, session, unit }) {
        if (event !== 'session') return;
        if (used[role].has(unit)) violate(`${role} uses unit ${unit} in session ${session} and in ${used[role].get(unit)}`);
        used[role].set(unit, session);
      },
    }),
  );
}

const deal = (units) => run(['deal', '--prefill', '28', '--tokens', '6', '--policy', o.policy, '--count', String(units), '--out', store], process.env);
const ask = () => run(['ask', ...addresses, '--helper', 'store', '--policy', o.policy, '--max-tokens', '6', PROMPT], process.env);
async function succeeds(command, what) {
  const end = await within(command.ended, LIMIT_MS);
  if (end?.code !== 0) violate(`${what}: status ${end?.code}: ${command.err.slice(-300)}`);
  return command.out.trim();
}

const unitsOf = (role) => readdirSync(join(store, role)).flatMap((name) => (/^unit-\d+\.cachet$/.test(name) ? [Number(/\d+/.exec(name)[0])] : []));
/** Units that were ever whole at both. */
const whole = new Set();
function look() {
  const p1 = new Set(unitsOf('p1'));
  for (const unit of unitsOf('p0')) if (p1.has(unit)) whole.add(unit);
}
const marked = (role) => [...readFileSync(ledger(role), 'utf8').matchAll(/^unit \S+ \S+ (\d+) /gm)].map((m) => Number(m[1]));

await succeeds(deal(2), 'the first dealing');
for (const role of ROLES) await start(role);
const began = Date.now(),
  expected = '4711.',
  first = await succeeds(ask(), 'the first question'),
  life = Date.now() - began,
  tally = {};
if (first !== expected) violate(`the first answer is ${first}`);
let asked = 1;
for (let i = 1; i <= count && violations.length < 10; i++) {
  look();
  const victim = pick(['p0', 'p1', 'dealer']),
    dealer = deal(2),
    client = ask(),
    what = `kill ${i} of ${victim}`;
  asked++;
  await pause(random() * 1.2 * life);
  (victim === 'dealer' ? dealer.child : parties.get(victim).child).kill('SIGKILL');
  if (victim !== 'dealer') {
    for (let t = 0; t < LIMIT_MS && !parties.get(victim).gone; t += 20) await pause(20);
    await start(victim);
  }
  const end = await within(client.ended, LIMIT_MS),
    dealt = await within(dealer.ended, LIMIT_MS);
  if (end === undefined || dealt === undefined) violate(`${what}: the ${end === undefined ? 'client' : 'dealer'} hangs`);
  if (end?.code === 0 && client.out.trim() !== expected) violate(`${what}: the answer is ${client.out.trim()}`);
  if (end?.code !== 0 && client.err.split('\n').filter((line) => line.startsWith('cachet:')).length !== 1) violate(`${what}: ${client.err.slice(-300)}`);
  if (victim !== 'dealer' && dealt?.code !== 0) violate(`${what}: the dealer: ${dealer.err.slice(-300)}`);
  look();
  for (const key of [`victim ${victim}`, `client ${end?.code === 0 ? 'answered' : 'one line'}`]) tally[key] = (tally[key] ?? 0) + 1;
  if (i % 10 === 0) process.stderr.write(`${i} of ${count} kills, ${violations.length} violations\n`);
}

await succeeds(deal(1), 'dealing at the end');
look();
asked++;
if ((await succeeds(ask(), 'the last question')) !== expected) violate('the last answer is another one');
for (const [role, party] of parties) {
  party.child.kill('SIGTERM');
  for (let t = 0; t < LIMIT_MS && !party.gone; t += 20) await pause(20);
  if (!party.gone) violate(`${role} does not stop`);
}
for (const [unit, session] of used.p0)
  if (used.p1.has(unit) && used.p1.get(unit) !== session) violate(`unit ${unit} is in session ${session} at p0, in ${used.p1.get(unit)} at p1`);
const marks = ROLES.map(marked),
  taken = new Set(marks.flat());
marks.forEach((list, i) => {
  if (new Set(list).size !== list.length) violate(`${ROLES[i]}'s ledger has a unit twice`);
});
const left = ROLES.map((role) => new Set(unitsOf(role)));
for (const unit of whole) if (!taken.has(unit) && !left.every((units) => units.has(unit))) violate(`unit ${unit} is lost`);
if (taken.size > asked) violate(`${taken.size} units are taken by ${asked} questions`);
for (const role of ROLES) for (const name of readdirSync(join(store, role))) if (name.endsWith('.part')) violate(`${role} has ${name} left`);
const verified = JSON.parse(await succeeds(run(['store', 'verify', store, '--json'], process.env), 'verify'));
rmSync(temporary, { recursive: true });
const seconds = Math.round((Date.now() - began) / 1000),
  result = { count, policy: o.policy, seed, seconds, violations, tally, asked, taken: taken.size, whole: whole.size, verified: verified.checked };
if (o.json) console.log(JSON.stringify(result));
else
  console.log(
    `${count} kills in ${seconds} s, seed ${seed}: ${violations.length} violations; ${result.taken} units taken by ${asked} questions, ${result.whole} dealt`,
  );
process.exitCode = violations.length > 0 ? 1 : 0;

/** What the scripts of random kills share: a repeatable generator, waits, the processes that they start and watch. */
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';

export const CLI = new URL('../../dist/party/cli.js', import.meta.url).pathname;

/** mulberry32 in [0, 1): a run can be repeated by its seed, up to the machine's timing. */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const within = (promise, ms) => Promise.race([promise, pause(ms).then(() => undefined)]);

export const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

/** A party's process, listening when this resolves: its events go to `onEvent`; what it should not say to `violate`. */
export async function startParty(role, args, { env, onEvent, violate }) {
  const child = spawn(process.execPath, [CLI, 'party', '--role', role, ...args, '--json'], { env, stdio: ['ignore', 'pipe', 'pipe'] }),
    party = { child, gone: false, text: '' };
  child.once('exit', () => (party.gone = true));
  child.stderr.on('data', (data) => {
    party.text += data;
    if (/ {4}at |internal error/.test(party.text)) violate(`${role} says: ${party.text.slice(0, 300)}`);
  });
  await new Promise((resolve) => {
    let rest = '';
    child.once('exit', resolve);
    child.stdout.on('data', (data) => {
      const lines = (rest + data).split('\n');
      rest = lines.pop();
      for (const event of lines.map((line) => JSON.parse(line))) {
        if (event.event === 'listening') resolve();
        onEvent(event, party);
      }
    });
  });
  if (party.gone) violate(`${role} does not start: ${party.text.slice(0, 300)}`);
  return party;
}

/** A client or another command to its end: its output, and `ended` with status and signal. `stdin`: 'pipe' for one that is left open. */
export function run(args, env, stdin = 'ignore') {
  const child = spawn(process.execPath, [CLI, ...args], { env, stdio: [stdin, 'pipe', 'pipe'] }),
    command = { child, out: '', err: '' };
  child.stdout.on('data', (data) => (command.out += data));
  child.stderr.on('data', (data) => (command.err += data));
  command.ended = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
  return command;
}

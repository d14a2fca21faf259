/**
 * Writes TOUR.md: screens of the real commands, in a folder of their own, 80 columns wide. A screen is an entry of SCREENS; `npm run tour` makes all of them.
 * Fails if a screen is wider than 80 columns or a command ends otherwise than it should. What is one line by rule (errors, JSON, a party's log) is shown as a
 * terminal breaks it.
 */
import { spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const ROOT = new URL('../', import.meta.url).pathname,
  folder = mkdtempSync(join(tmpdir(), 'cachet-tour-')),
  env = { ...process.env, COLUMNS: '80', PATH: `${join(folder, '.bin')}:${process.env.PATH}`, CACHET_MODELS: '' };
delete env.FORCE_COLOR;

const NOTE = `Nina lives in Lisbon. The doctor of Omar is Dr Novak. Nina is allergic to
latex. Omar's visit is on Tuesday. Vera is in room 214. Nina uses pin 4711.
`;
const QUESTIONS = `What is Nina's pin?
Where does Nina live?
Which room is Vera in?
`;

/** `status`: how the command ends, 0 unless said. `background`: it goes on while the others run; the screen is taken at the end. */
const SCREENS = [
  { title: 'What there is', run: 'cachet --help' },
  { title: 'Will it run here?', run: 'cachet doctor' },
  { title: 'The main job', text: 'What `npm start` does.', run: 'cachet demo' },
  { title: 'The same with two parties', text: 'The client deals the correlated randomness of its own session.', run: 'cachet demo --helper client' },
  { title: 'Three machines', text: 'Here all three are this one.', run: 'cachet init' },
  {
    title: 'The parties',
    text: 'Each in a terminal of its own; what they said is shown as it was at the end of this tour.',
    run: 'cachet party --role helper --config helper.json',
    background: true,
  },
  { run: 'cachet party --role p0 --config p0.json', background: true },
  { run: 'cachet party --role p1 --config p1.json', background: true },
  { title: 'A question', run: 'cat note.txt' },
  { run: 'cachet ask --config client.json --note note.txt \\\n  --question "What is Nina\'s pin?"' },
  { title: 'A conversation', run: 'cat questions.txt' },
  {
    text: 'The note is sent with the first question; the next ones cost their own tokens alone (the lines in brackets). Questions are typed, or lines of stdin.',
    run: 'cachet chat --config client.json --note note.txt < questions.txt',
  },
  { title: 'Where the time goes', run: 'cachet demo --trace t.jsonl --json > /dev/null; cachet trace t.jsonl' },
  { title: 'What it costs, without running it', run: 'cachet cost --prompt-tokens 150 --turn-tokens 12' },
  { run: 'cachet cost --prompt-tokens 150 --helper client' },
  { title: 'Models', run: 'cachet models' },
  { title: 'When something is wrong', run: 'cachet ask --config client.json ""', status: 1 },
  { run: 'cachet ask --p0 ws://127.0.0.1:9 --p1 ws://127.0.0.1:9 \\\n  --timeout-ms 300 "Hello."', status: 1 },
  { run: 'cachet party --role p0 --config p0.json', status: 1 },
  { run: 'cachet cost --model nowhere', status: 1 },
  { run: 'cachet cost --prompt-tokens many --json', status: 1 },
];

const COLUMNS = 80;
const wide = SCREENS.flatMap((s) => s.run.split('\n')).find((line) => line.length > COLUMNS - '$ '.length);
if (wide) throw new Error(`a command of more than ${COLUMNS} columns: ${wide}`);

mkdirSync(join(folder, '.bin'));
writeFileSync(join(folder, '.bin', 'cachet'), `#!/bin/sh\nexec "${process.execPath}" "${ROOT}dist/party/cli.js" "$@"\n`);
chmodSync(join(folder, '.bin', 'cachet'), 0o755);
writeFileSync(join(folder, 'note.txt'), NOTE);
writeFileSync(join(folder, 'questions.txt'), QUESTIONS);

/** What is never more than one line, however wide. */
const ONE_LINE = /^(cachet|helper|p0|p1): |^\{/;

/** Lines as they stand in the end: progress that was overwritten is gone. @throws Error naming a line that is too wide. */
function screen(raw, command) {
  return raw
    .split('\n')
    .map((line) => line.split('\r').filter(Boolean).at(-1) ?? '')
    .map((line) => stripVTControlCharacters(line).trimEnd())
    .flatMap((line) => {
      if (line.length <= COLUMNS) return line;
      if (!ONE_LINE.test(line)) throw new Error(`${command}: a line of ${line.length} columns: ${line}`);
      return line.match(new RegExp(`.{1,${COLUMNS}}`, 'g'));
    })
    .join('\n')
    .trim();
}

function start(command) {
  const child = spawn('bash', ['-c', `${command} 2>&1`], { cwd: folder, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] }),
    shown = { child, raw: '' };
  child.stdout.on('data', (data) => (shown.raw += data));
  shown.ended = new Promise((resolve) => child.once('close', resolve));
  return shown;
}

const shown = [];
try {
  for (const s of SCREENS) {
    process.stderr.write(`${s.run}\n`);
    const run = start(s.run);
    shown.push(run);
    if (s.background) {
      while (!run.raw.includes('listening') && run.child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 50));
      continue;
    }
    const status = await run.ended;
    if (status !== (s.status ?? 0)) throw new Error(`${s.run}: status ${status}\n${run.raw}`);
  }
} finally {
  for (const [i, s] of SCREENS.entries()) if (s.background && shown[i]) process.kill(-shown[i].child.pid, 'SIGTERM');
  await Promise.all(shown.map((s) => s.ended));
}
const parts = SCREENS.map((s, i) => {
  const text = screen(shown[i].raw.replaceAll(folder, '.').replaceAll(ROOT, ''), s.run).replaceAll(/ +$/gm, '');
  return `${s.title ? `## ${s.title}\n\n` : ''}${s.text ? `${s.text}\n\n` : ''}\`\`\`console\n$ ${s.run}\n${text}\n\`\`\`\n`;
});
writeFileSync(
  new URL('TOUR.md', import.meta.url),
  `# Tour\n\nScreens of the commands, 80 columns wide, as \`npm run tour\` took them; figures are those of one run on a small virtual machine with 2 cores.\n\n${parts.join('\n')}`,
);
rmSync(folder, { recursive: true });
const version = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).version;
process.stderr.write(`docs/TOUR.md written, cachet ${version}\n`);

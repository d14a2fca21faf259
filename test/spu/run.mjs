/**
 * Our engine and SPU on the same shapes, in turns on this machine: ours, SPU, ours, SPU .. for every point, so that what else the machine does
 * falls on both. SPU runs in a private virtual environment (made on the first run, CPython 3.11), its script is peer.py. Needs `npm run build`.
 *
 *   npm run bench:spu -- [--contexts 512,1024,2048] [--prefill 32] [--weights public] [--reps 2] [--tokens 4] [--operators] [--only ours|spu] [--json] [--out FILE]
 *
 * PYTHON names the Python that makes the environment. A saved file becomes a part of docs/BENCHMARKS.md by `npm run docs -- --benchmarks FILE`.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { BenchmarkError, compare, compareOperators, goals, operatorGoals, parseOperators, parseOurs, parsePeer } from './rows.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url)),
  CLI = `${root}dist/party/cli.js`,
  REQUIREMENTS = fileURLToPath(new URL('requirements.txt', import.meta.url)),
  PEER = fileURLToPath(new URL('peer.py', import.meta.url)),
  VENV = `${root}node_modules/.cache/spu-venv`,
  MODEL = 'random:gpt2',
  /** Who knows the weights, in the words of SPU and as our options. */
  OUR_WEIGHTS = { public: [], secret: ['--weights', 'private'] };

const say = (line) => process.stderr.write(`${line}\n`);

/** Runs a program and gives its standard output; its errors end as one line. */
const run = (what, file, args, hint) =>
  new Promise((resolve, reject) =>
    execFile(file, args, { cwd: root, maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const lines = stderr.split('\n').filter((line) => line.trim() !== ''),
        last = lines.findLast((line) => /error|cachet:/i.test(line)) ?? lines.at(-1) ?? error.message.split('\n')[0];
      reject(new BenchmarkError(`${what} failed; expected exit status 0; got ${error.code ?? error.signal}: ${last}; try: ${hint}`));
    }),
  );

/** The virtual environment's Python; made anew when the pinned requirements or the Python that makes it change. */
async function environment() {
  const base = process.env.PYTHON ?? 'python3',
    version = (await run(base, base, ['-c', 'import sys, venv, ensurepip; print(sys.version.split()[0])'], 'Debian: apt-get install python3-venv')).trim();
  if (!version.startsWith('3.11.'))
    throw new BenchmarkError(`${base} is another Python; expected 3.11, which SPU's wheel is made for; got ${version}; try: PYTHON=/path/to/python3.11`);
  const stamp = createHash('sha256')
      .update(`${version}\n${readFileSync(REQUIREMENTS, 'utf8')}`)
      .digest('hex'),
    stampFile = `${VENV}/stamp`,
    python = `${VENV}/bin/python`;
  try {
    if (readFileSync(stampFile, 'utf8') === stamp) return python;
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  say(`making the virtual environment of SPU, Python ${version}: once, about a minute`);
  rmSync(VENV, { recursive: true, force: true });
  mkdirSync(VENV, { recursive: true });
  await run('making a virtual environment', base, ['-m', 'venv', VENV], 'Debian: apt-get install python3-venv');
  await run('installing SPU', python, ['-m', 'pip', 'install', '--quiet', '--requirement', REQUIREMENTS], 'a package index that pip reaches, x86-64 Linux');
  writeFileSync(stampFile, stamp);
  return python;
}

function integers(name, text, least) {
  const list = text.split(',').filter((item) => item !== '');
  for (const item of list)
    if (!/^\d+$/.test(item) || Number(item) < least)
      throw new BenchmarkError(`bad --${name}; expected integers of at least ${least} with commas between; got ${JSON.stringify(item)}; try: --help`);
  return list.map(Number);
}

function options() {
  let o;
  try {
    o = parseArgs({
      options: {
        contexts: { type: 'string', default: '512,1024,2048' },
        prefill: { type: 'string', default: '32' },
        weights: { type: 'string', default: 'public' },
        reps: { type: 'string', default: '2' },
        tokens: { type: 'string', default: '4' },
        operators: { type: 'boolean', default: false },
        only: { type: 'string' },
        json: { type: 'boolean', default: false },
        out: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    throw new BenchmarkError(`${error.message}; try: --help`);
  }
  const [reps] = integers('reps', o.reps, 1),
    [tokens] = integers('tokens', o.tokens, 1);
  for (const weights of o.weights.split(','))
    if (!(weights in OUR_WEIGHTS)) throw new BenchmarkError(`bad --weights; expected public, secret or both with a comma; got ${weights}; try: --help`);
  if (o.only !== undefined && !['ours', 'spu'].includes(o.only)) throw new BenchmarkError(`bad --only; expected ours or spu; got ${o.only}; try: --help`);
  const points = o.weights
    .split(',')
    .flatMap((weights) => [
      ...integers('contexts', o.contexts, 1).map((context) => ({ task: 'decode', model: MODEL, weights, context, tokens: 1 })),
      ...integers('prefill', o.prefill, 1).map((prefill) => ({ task: 'prefill', model: MODEL, weights, context: 0, tokens: prefill })),
    ]);
  return { ...o, reps, tokens, points };
}

const name = (point) => `${point.task} ${point.task === 'decode' ? `T = ${point.context}` : `${point.tokens} tokens`}, ${point.weights} weights`;

async function measure(point, o, python) {
  const decode = point.task === 'decode',
    ours = [],
    peer = [],
    shape = decode ? ['--context', `${point.context}`, '--tokens', `${o.tokens}`] : ['--tokens', `${point.tokens}`],
    command = [
      'bench',
      point.task,
      '--model',
      MODEL,
      '--policy',
      'full',
      ...shape,
      ...OUR_WEIGHTS[point.weights],
      '--net',
      'loopback',
      '--reps',
      '1',
      '--json',
    ],
    peerShape = decode ? ['--context', `${point.context}`] : ['--tokens', `${point.tokens}`];
  for (let rep = 1; rep <= o.reps; rep++) {
    if (o.only !== 'spu') {
      const row = parseOurs(await run('cachet bench', process.execPath, [CLI, ...command], 'npm run build'));
      say(
        `${name(point)}, ${rep} of ${o.reps}: ours ${row.onlineMs ? `${row.onlineMs.median.toFixed(0)} ms online, ` : ''}${row.endToEndMs.median.toFixed(0)} ms with dealing`,
      );
      ours.push(row);
    }
    if (o.only !== 'ours') {
      const args = [PEER, '--task', point.task, ...peerShape, '--weights', point.weights, '--reps', '1', '--json'],
        row = parsePeer(await run('SPU', python, args, 'free memory of 8 GB, --contexts with smaller numbers'));
      say(`${name(point)}, ${rep} of ${o.reps}: SPU ${(1000 * row.execS[0]).toFixed(0)} ms, ${(row.bytes / 1e6).toFixed(1)} MB`);
      peer.push(row);
    }
  }
  const figures = compare({ ...point, ours, peer });
  return { ...point, ours, peer, figures, goals: goals(point, figures) };
}

/** The operators of cache selection in the paper's shape, both sides in turns. */
async function measureOperators(o, python) {
  const operators = { ours: [], peer: { topk: [], onehot: [], gather: [] } };
  for (let rep = 1; rep <= o.reps; rep++) {
    if (o.only !== 'spu') {
      operators.ours.push(parseOperators(await run('cachet bench operators', process.execPath, [CLI, 'bench', 'operators', '--json'], 'npm run build')));
      say(
        `operators, ${rep} of ${o.reps}: ours ${operators.ours
          .at(-1)
          .map((r) => `${r.operator} ${r.ms.median.toFixed(2)} ms`)
          .join(', ')}`,
      );
    }
    for (const [task, rows] of o.only === 'ours' ? [] : Object.entries(operators.peer)) {
      rows.push(parsePeer(await run('SPU', python, [PEER, '--task', task, '--context', '512', '--reps', '1', '--json'], 'free memory of 8 GB')));
      say(`operators, ${rep} of ${o.reps}: SPU ${task} ${(1000 * rows.at(-1).execS[0]).toFixed(0)} ms, ${(rows.at(-1).bytes / 1e6).toFixed(1)} MB`);
    }
  }
  return operators;
}

function saved(file, write) {
  try {
    write();
  } catch (error) {
    throw new BenchmarkError(`cannot write ${file}; expected a file in a folder that can be made; got ${error.code}; try: another --out`);
  }
}

async function main() {
  const o = options();
  if (o.help) {
    console.log(/npm run bench:spu.*/.exec(readFileSync(new URL(import.meta.url), 'utf8'))[0]);
    return;
  }
  if (o.out !== undefined) saved(o.out, () => mkdirSync(dirname(o.out), { recursive: true }));
  if (o.only !== 'spu' && !existsSync(CLI)) throw new BenchmarkError(`no ${CLI}; expected our engine, built; got no file; try: npm run build`);
  const python = o.only === 'ours' ? undefined : await environment(),
    result = {
      version: 1,
      date: new Date().toISOString(),
      net: 'loopback',
      machine: {
        cpu: cpus()[0]?.model ?? 'unknown',
        cores: cpus().length,
        memoryGiB: Math.round(totalmem() / 2 ** 30),
        platform: `${process.platform} ${process.arch}`,
        // What else the machine did: seconds of a loaded machine are worth little, even in turns.
        loadAtStart: loadavg()[0],
      },
      versions: {
        node: process.version,
        cachet: JSON.parse(readFileSync(`${root}package.json`, 'utf8')).version,
        peer: readFileSync(REQUIREMENTS, 'utf8').trim().split('\n'),
      },
      points: [],
    };
  for (const point of o.points) {
    result.points.push(await measure(point, o, python));
    // After each point: a long run that is cut off keeps what it has.
    if (o.out !== undefined) saved(o.out, () => writeFileSync(o.out, `${JSON.stringify(result, undefined, 2)}\n`));
  }
  if (o.operators) {
    result.operators = await measureOperators(o, python);
    if (o.out !== undefined) saved(o.out, () => writeFileSync(o.out, `${JSON.stringify(result, undefined, 2)}\n`));
  }
  if (o.json) console.log(JSON.stringify(result));
  else
    for (const point of result.points) {
      const { ratios } = point.figures,
        missed = point.goals.filter((g) => !g.met).map((g) => `${g.measure} ${g.got.toPrecision(3)} (goal ${g.least ?? g.most})`);
      console.log(
        `${name(point)}: ${
          ratios
            ? Object.entries(ratios)
                .map(([key, x]) => `${key} ${x.toFixed(1)}x`)
                .join(', ')
            : 'one side only'
        }`,
      );
      if (missed.length > 0) console.log(`  missed: ${missed.join(', ')}`);
    }
  if (!o.json && result.operators)
    for (const g of operatorGoals(compareOperators(result.operators)))
      console.log(`gather, ${g.measure}: ${g.got.toFixed(0)}x (goal ${g.least}${g.met ? '' : ', missed'})`);
}

main().catch((error) => {
  if (!(error instanceof BenchmarkError)) throw error;
  say(`bench:spu: ${error.message}`);
  process.exitCode = 1;
});

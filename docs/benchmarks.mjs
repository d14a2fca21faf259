/**
 * Writes docs/BENCHMARKS.md and its charts from rows that were measured before: docs/benchmarks/*.json, or the files named.
 * A file is what `npm run bench:spu -- --out FILE` wrote, or the standard output of `cachet bench decode|prefill|policies --json`. Nothing is measured here.
 *
 *   node docs/benchmarks.mjs [FILE ...]
 */
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { backendCharts, backendSection } from './backendRows.mjs';
import { chart, COLOURS } from './charts.mjs';
import { policyCharts, policySection } from './policyRows.mjs';
import { qualityCharts, qualityRuns, qualitySection } from './qualityRows.mjs';
import { megabytes, ms, table, times } from './tables.mjs';
import { compare, compareOperators, goals, operatorGoals } from '../test/spu/rows.mjs';

const folder = new URL('benchmarks/', import.meta.url),
  PAGE = new URL('BENCHMARKS.md', import.meta.url);
const WORDS = {
  ready: 'SPU time / ours, preprocessing ready',
  all: 'SPU time / ours, dealing included',
  bytes: 'SPU bytes / ours, online and dealt',
  online: 'SPU bytes / ours, online alone',
  roundsPerLayer: 'rounds a layer',
  oursBytes: 'bytes in all',
};

/** Points by shape: where a shape was measured twice, the later run of both sides. */
function latest(files) {
  const points = new Map(),
    rank = (p) => (p.ours.length > 0 && p.peer.length > 0 ? 1 : 0);
  for (const file of files.toSorted((a, b) => a.date.localeCompare(b.date)))
    for (const point of file.points) {
      const key = [point.task, point.model, point.weights, point.context, point.tokens].join(),
        old = points.get(key);
      if (old === undefined || rank(point) >= rank(old)) points.set(key, { ...point, figures: compare(point) });
    }
  return [...points.values()].toSorted((a, b) => a.weights.localeCompare(b.weights) || a.context - b.context || a.tokens - b.tokens);
}

const shape = (p) => (p.task === 'decode' ? `T = ${p.context}` : `${p.tokens} tokens`);

function latencyTable(points) {
  return table([
    ['', 'weights', 'SPU, s', 'ours, preprocessing ready, ms', 'ours, dealing included, ms', 'ratio, ready', 'ratio, with dealing'],
    ...points.map((p) => {
      const { ours, peer, ratios } = p.figures;
      return [shape(p), p.weights, peer ? peer.s.toFixed(2) : '-', ms(ours?.onlineMs), ms(ours?.endToEndMs), times(ratios?.ready), times(ratios?.all)];
    }),
  ]);
}

function bytesTable(points) {
  return table([
    [
      '',
      'weights',
      'SPU, MB',
      'SPU, messages of a party',
      'ours, online + dealt, MB',
      'ours, online, MB',
      'rounds (a layer)',
      'as predicted',
      'ratio, all',
      'ratio, online',
    ],
    ...points.map((p) => {
      const { ours, peer, ratios } = p.figures;
      return [
        shape(p),
        p.weights,
        megabytes(peer?.bytes),
        peer ? String(peer.messages) : '-',
        megabytes(ours?.bytes),
        megabytes(ours?.onlineBytes),
        ours ? `${ours.rounds} (${ours.roundsPerLayer?.toFixed(1) ?? '-'})` : '-',
        ours ? (ours.exact ? 'yes' : '**no**') : '-',
        times(ratios?.bytes),
        times(ratios?.online),
      ];
    }),
  ]);
}

function goalTable(points) {
  const show = (measure, n) => (n === undefined ? '' : measure === 'oursBytes' ? `${megabytes(n)} MB` : measure === 'roundsPerLayer' ? n.toFixed(1) : times(n));
  return table([
    ['', 'measure', 'goal', 'stretch', 'measured', ''],
    ...points.flatMap((p) =>
      goals(p, p.figures).map((g) => [
        `${p.task}, ${shape(p)}${p.weights === 'public' ? '' : `, ${p.weights} weights`}`,
        WORDS[g.measure],
        `${g.least === undefined ? 'at most' : 'at least'} ${show(g.measure, g.least ?? g.most)}`,
        show(g.measure, g.stretch),
        show(g.measure, g.got),
        g.met ? 'met' : '**missed**',
      ]),
    ),
  ]);
}

function ownTable(rows) {
  return table([
    ['model', 'task', 'T', 'policy', 'weights', 'net', 'online, ms (min .. max)', 'dealing included, ms', 'rounds', 'online, MB', 'dealt, MB'],
    ...rows.map((r) => [
      r.model,
      r.task,
      String(r.context),
      r.policy,
      r.weights,
      r.net,
      r.onlineMs ? `${ms(r.onlineMs.median)} (${ms(r.onlineMs.min)} .. ${ms(r.onlineMs.max)})` : '-',
      ms(r.endToEndMs.median),
      String(r.rounds),
      megabytes(r.onlineBytes),
      megabytes(r.dealtBytes),
    ]),
  ]);
}

function charts(points) {
  const decode = points.filter((p) => p.task === 'decode' && p.weights === 'public'),
    contexts = decode.map((p) => p.context),
    series = (name, colour, of, below = false) => ({ name, colour, below, values: decode.map((p) => of(p.figures)) }),
    million = (n) => (n === undefined ? undefined : n / 1e6);
  return {
    'bytes.svg': chart('Bytes per token, all parties', 'MB per token (log)', contexts, [
      series('SPU ABY3', COLOURS.peer, (f) => million(f.peer?.bytes)),
      series('Cachet, online + dealt', COLOURS.all, (f) => million(f.ours?.bytes)),
      series('Cachet, online', COLOURS.ready, (f) => million(f.ours?.onlineBytes), true),
    ]),
    'latency.svg': chart('Time per token, loopback', 'ms per token (log)', contexts, [
      series('SPU ABY3', COLOURS.peer, (f) => f.peer && 1000 * f.peer.s),
      series('Cachet, dealing included', COLOURS.all, (f) => f.ours?.endToEndMs),
      series('Cachet, preprocessing ready', COLOURS.ready, (f) => f.ours?.onlineMs, true),
    ]),
  };
}

function operatorTables(operators) {
  const figures = compareOperators(operators);
  return [
    "In the paper's shape: 32 heads of 32, 512 cached tokens in clusters of 16, 50 tokens chosen (ours: 4 clusters). SPU gathers rows of K with one-hot rows of 512; ours gathers the chosen clusters' _logits_ and scatters their",
    "probabilities back, so that K and V stay where they are; a gather of K itself is shown beside it. Ours: all parties in one process, both evaluators' work one after the other, preprocessing ready; SPU: in-memory link.",
    '',
    table([
      ['operator', 'system', 'ms', 'MB, online + dealt', 'rounds or messages'],
      ...figures.peer.map((r) => [r.operator, 'SPU ABY3', r.ms.toFixed(0), (r.bytes / 1e6).toFixed(1), String(r.messages)]),
      ...figures.ours.map((r) => [r.operator, 'Cachet', r.ms.toFixed(2), (r.bytes / 1e6).toFixed(3), String(r.rounds)]),
    ]),
    ...operatorGoals(figures).map(
      (g) =>
        `\n${g.measure === 'bytes' ? 'Traffic' : 'Time'} of SPU's one-hot gather over ours: **${g.got.toFixed(0)}x** (goal ${g.least}x, ${g.met ? 'met' : '**missed**'}).`,
    ),
  ].join('\n');
}

function runs(files) {
  return files
    .map(({ name, date, machine: m, versions: v, points }) => {
      const reps = Math.max(1, ...points.map((p) => Math.max(p.ours.length, p.peer.length))),
        commits = [...new Set(points.flatMap((p) => p.ours.map((r) => r.commit)).filter((c) => c !== undefined))];
      return [
        `- [\`${name}\`](benchmarks/${name}), ${date.slice(0, 10)}: ${m.cpu}, ${m.cores} cores, ${m.memoryGiB} GiB, load average ${m.loadAtStart.toFixed(1)} at the start; Node ${v.node.slice(1)}, ${v.peer[0].replace('==', ' ')};`,
        `${reps === 1 ? 'one run' : `${reps} runs`} of a side and point${commits.length > 0 ? `; commit ${commits.join(', ')}` : ''}.`,
      ].join(' ');
    })
    .join('\n');
}

function text(files, rows, points, operators, found, quality, dealing) {
  const decode = points.filter((p) => p.task === 'decode'),
    prefill = points.filter((p) => p.task === 'prefill');
  return [
    '# Benchmarks',
    '<!-- Written by `npm run docs` from docs/benchmarks/*.json. -->',
    'Cachet against [SPU](https://github.com/secretflow/spu) 0.9.5 with ABY3, the back end of PUMA and MPCache, on the same shape and the same machine, in turns: ours, SPU, ours, SPU.',
    [
      '- **Model**: the shape of GPT-2 small with random weights (12 layers, 12 heads of 64, width 768, MLP 3072, vocabulary 50257). `public` weights are known to all parties, `secret` ones to none.',
      '- **Decode**: one new token over a cache of T tokens, the whole cache attended. **Prefill**: that many private tokens in one batch.',
      '- **Network**: none. SPU: three parties as threads of one process over its in-memory link, one worker thread each. Cachet: three processes over WebSockets on loopback. So SPU pays for no socket.',
      '- **Time** of SPU is that of execution alone, without compiling and sharing the inputs. Ours is given twice: with _preprocessing ready_ (what the helper deals was there before the token),',
      '  and with _dealing included_ on the same cores. ABY3 has no preprocessing. Medians over all runs.',
      "- **Bytes** are those that all parties send together. SPU counts payloads; our figures have our frames' headers in them. _Messages_ are send actions of the party that sends most.",
      "- **Not the same work at the end**: SPU's rows include the output head (768 x 50257) inside the protocol, since only there it has the hidden state in shares; ours is computed at the client, from the hidden state that it may know. With secret weights ours has both ends inside, the embedding of a token that nobody sees and the head; SPU's begins with the embedded token.",
      "- The peer is not handicapped: see the choices at the top of [`test/spu/peer.py`](../test/spu/peer.py), above all its softmax with one reciprocal a row, which halves SPU's bytes.",
    ].join('\n'),
    'Runs:',
    runs(files),
    '## Goals',
    points.some((p) => goals(p, p.figures).length > 0) ? goalTable(points) : 'Not judged yet: no saved run has both sides.',
    ...(decode.length > 0
      ? [
          '## One decoded token',
          latencyTable(decode),
          '![Time per token over T](benchmarks/latency.svg)',
          bytesTable(decode),
          '![Bytes per token over T](benchmarks/bytes.svg)',
        ]
      : []),
    ...(prefill.length > 0 ? ['## Prefill', latencyTable(prefill), bytesTable(prefill)] : []),
    ...policySection(found, points),
    ...qualitySection(quality),
    ...(operators ? ['## Operators of cache selection', operatorTables(operators)] : []),
    ...dealing,
    ...(rows.length > 0 ? ['## Our engine on other models and networks', ownTable(rows)] : []),
    '## Again',
    'The environment of SPU (CPython 3.11, x86-64 Linux) is made on the first run; about 8 GB of memory must be free.',
    '```sh\nnpm run build\nnpm run bench:spu -- --reps 3 --out docs/benchmarks/gpt2.json\nnpm run bench:policies\nnpm run docs\n```',
    'Quality of policies, of a prepared model in DIR: a run is one object of the list in `benchmarks/quality.json`.',
    '```sh\nnpm run -s cachet -- eval --model DIR --text docs/PROTOCOL.md --policy full docs/benchmarks/policies/*-[0-9]*.json --spread --streaming --questions 80 --prompt-tokens "500 600 700" --positions 96 --continuation 48 --sample 2 --report --json\nnpm run -s cachet -- eval --model DIR --policy full docs/benchmarks/policies/streaming*.json --questions 104 --seed 101 --prompt-tokens "500 600 700" --sample 0 --json\nnpm run -s cachet -- eval --model DIR --text docs/PROTOCOL.md --policy full docs/benchmarks/policies/streaming*.json --questions 8 --prompt-tokens "1000 1500" --positions 96 --continuation 48 --sample 0 --json\nnpm run -s cachet -- eval --model tiny-notes --policy full mpcache --questions 504 --json\n```',
  ].join('\n\n');
}

/** The page and its charts by file name, of the contents of row files, each with its `name`. */
export function render(contents) {
  const files = contents.filter((c) => Array.isArray(c.points)),
    points = latest(files),
    found = contents.find((c) => c.policies?.some((r) => r.kept !== undefined)),
    quality = qualityRuns(contents);
  return {
    page: `${text(
      files,
      contents.filter((c) => c !== found).flatMap((c) => c.rows ?? []),
      points,
      files.findLast((f) => f.operators)?.operators,
      found,
      quality,
      backendSection(contents),
    )}\n`,
    charts: {
      ...(points.some((p) => p.task === 'decode' && p.weights === 'public') ? charts(points) : {}),
      ...backendCharts(contents),
      ...policyCharts(found, points),
      ...qualityCharts(quality),
    },
  };
}

/** Writes the page and the charts; `paths` are files of rows, by default all in docs/benchmarks/, where there may be none yet. */
export function writeBenchmarks(paths) {
  if (paths.length === 0 && !existsSync(folder)) return;
  const chosen =
      paths.length > 0
        ? paths
        : readdirSync(folder)
            .filter((name) => name.endsWith('.json'))
            .toSorted()
            .map((name) => new URL(name, folder)),
    { page, charts } = render(chosen.map((path) => ({ name: String(path).split('/').at(-1), ...JSON.parse(readFileSync(path, 'utf8')) })));
  writeFileSync(PAGE, page);
  for (const [name, svg] of Object.entries(charts)) writeFileSync(new URL(name, folder), svg);
}

if (process.argv[1] === new URL(import.meta.url).pathname) writeBenchmarks(process.argv.slice(2));

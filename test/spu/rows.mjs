/**
 * Rows of both sides of the comparison with SPU: what a row must hold, the ratios of a pair, the goals beside them. Plain computation, no I/O.
 *
 * A point is one shape: `{ task, model, weights, context, tokens, ours: rows, peer: rows }`, rows in the order measured, alternating.
 */

/** What stops a benchmark, as one line: what, expected, got, what to try. */
export class BenchmarkError extends Error {
  name = 'BenchmarkError';
}

/** Layers of the measured models, for rounds per layer. */
const LAYERS = { 'random:gpt2': 12 };

/** Goals by measure, for public weights where no others are named; `at` is the context of a decoded token or the private tokens of a prefill, `stretch` is worth having but not asked. */
const GOALS = [
  { task: 'decode', weights: 'secret', at: 512, measure: 'ready', least: 12 },
  { task: 'decode', weights: 'secret', at: 512, measure: 'online', least: 15 },
  { task: 'decode', at: 512, measure: 'ready', least: 15, stretch: 20 },
  { task: 'decode', at: 2048, measure: 'ready', least: 25, stretch: 35 },
  ...[512, 1024, 2048].map((at) => ({ task: 'decode', at, measure: 'all', least: 8 })),
  ...[512, 1024, 2048].map((at, i) => ({ task: 'decode', at, measure: 'bytes', least: 5 + i })),
  ...[512, 1024, 2048].map((at, i) => ({ task: 'decode', at, measure: 'online', least: 20 + 2 * i })),
  ...[512, 1024, 2048].map((at) => ({ task: 'decode', at, measure: 'roundsPerLayer', most: 15 })),
  { task: 'prefill', at: 32, measure: 'all', least: 15 },
  { task: 'prefill', at: 32, measure: 'oursBytes', most: 0.4e9, stretch: 0.3e9 },
];

const field = (row, path, what) => {
  const value = path.split('.').reduce((at, key) => at?.[key], row);
  if (typeof value !== 'number' || !(value >= 0))
    throw new BenchmarkError(`${what} has no number ${path}; expected one; got ${JSON.stringify(value) ?? 'nothing'}; try: npm run build`);
  return value;
};

function json(text, what) {
  try {
    return JSON.parse(text);
  } catch {
    throw new BenchmarkError(`${what} printed no JSON; expected one object; got ${JSON.stringify(text.slice(0, 80))}; try: the same command by hand`);
  }
}

/**
 * The row of `cachet bench decode|prefill --json`; fields beyond those compared are kept as they are.
 * @throws BenchmarkError where the text is not JSON, has not exactly one row, or a compared field is not a number.
 */
export function parseOurs(text) {
  const rows = json(text, 'cachet bench').rows;
  if (!Array.isArray(rows) || rows.length !== 1)
    throw new BenchmarkError(`cachet bench printed another result; expected one row; got ${rows?.length ?? 'none'}; try: npm run build`);
  // A prefill whose material does not fit ahead has no time with the preprocessing ready: null, said so.
  const ready = rows[0].onlineMs === null ? [] : ['onlineMs.median'];
  for (const path of [...ready, 'endToEndMs.median', 'rounds', 'onlineBytes', 'dealtBytes']) field(rows[0], path, 'a row of cachet bench');
  return rows[0];
}

/**
 * The row of `test/spu/peer.py --json`.
 * @throws BenchmarkError where the text is not such a row.
 */
export function parsePeer(text) {
  const row = json(text, 'peer.py');
  field(row, 'bytes', "SPU's row");
  if (!Array.isArray(row.execS) || row.execS.length === 0 || !Array.isArray(row.messages))
    throw new BenchmarkError("SPU's row lacks execS or messages; expected lists of numbers; got none; try: the spu of test/spu/requirements.txt");
  return row;
}

/** The middle of a list of numbers, or the mean of the two in the middle. */
export function median(numbers) {
  const sorted = [...numbers].toSorted((a, b) => a - b),
    half = sorted.length / 2;
  return (sorted[Math.floor(half)] + sorted[Math.ceil(half) - 1]) / 2;
}

/**
 * One point's figures: SPU `{ s, bytes, messages }`, ours `{ onlineMs, endToEndMs, onlineBytes, dealtBytes, bytes, rounds, roundsPerLayer, exact }`
 * (undefined while that side has no row, `onlineMs` also where material does not fit ahead), medians over runs, per decoded token or for the whole prefill. `ratios` are SPU's figure over ours:
 * `ready` SPU's seconds to our online time (material was dealt before), `all` to our time with dealing on the same cores, `bytes` to online and dealt
 * bytes, `online` to online bytes alone. Bytes are those of all parties together; where runs differ, SPU's least and our most.
 */
export function compare(point) {
  const { ours: mine, peer: theirs } = point,
    peer = theirs.length > 0 && {
      s: median(theirs.flatMap((r) => r.execS)),
      bytes: Math.min(...theirs.map((r) => r.bytes)),
      messages: Math.min(...theirs.map((r) => Math.max(...r.messages))),
    },
    most = (of) => Math.max(...mine.map(of)),
    ours = mine.length > 0 && {
      ...(mine.every((r) => r.onlineMs) && { onlineMs: median(mine.map((r) => r.onlineMs.median)) }),
      endToEndMs: median(mine.map((r) => r.endToEndMs.median)),
      onlineBytes: most((r) => r.onlineBytes),
      dealtBytes: most((r) => r.dealtBytes),
      bytes: most((r) => r.onlineBytes + r.dealtBytes),
      rounds: most((r) => r.rounds),
      roundsPerLayer: LAYERS[point.model] && most((r) => r.rounds) / LAYERS[point.model],
      exact: mine.every((r) => r.predicted && ['rounds', 'onlineBytes', 'dealtBytes'].every((key) => r.predicted[key] === r[key])),
    };
  return {
    ...(peer && { peer }),
    ...(ours && { ours }),
    ...(peer &&
      ours && {
        ratios: {
          ...(ours.onlineMs !== undefined && { ready: (1000 * peer.s) / ours.onlineMs }),
          all: (1000 * peer.s) / ours.endToEndMs,
          bytes: peer.bytes / ours.bytes,
          online: peer.bytes / ours.onlineBytes,
        },
      }),
  };
}

/** The goals of a point that can be judged by `figures` of `compare`: `{ measure, least | most, stretch, got, met }`. */
export function goals(point, { ours, ratios }) {
  const at = point.task === 'decode' ? point.context : point.tokens,
    figure = { ...ratios, roundsPerLayer: ours?.roundsPerLayer, oursBytes: ours?.bytes };
  return GOALS.filter((g) => g.task === point.task && g.at === at && point.weights === (g.weights ?? 'public') && figure[g.measure] !== undefined).map((g) => {
    const { measure, least, most, stretch } = g,
      got = figure[measure];
    return { measure, least, most, stretch, got, met: least === undefined ? got <= most : got >= least };
  });
}

/** Of the paper (MPCache, arXiv 2501.06807, section 5.3): its cluster gather against gathering token by token with one-hot rows. */
const GATHER_GOALS = [
  { measure: 'bytes', least: 369.8 },
  { measure: 'time', least: 73.5 },
];

/**
 * The rows of `cachet bench operators --json`.
 * @throws BenchmarkError where the text is not JSON, has no rows, or a compared field is not a number.
 */
export function parseOperators(text) {
  const { rows } = json(text, 'cachet bench operators');
  if (!Array.isArray(rows) || rows.length === 0)
    throw new BenchmarkError('cachet bench operators printed another result; expected rows; got none; try: npm run build');
  for (const row of rows) for (const path of ['ms.median', 'rounds', 'onlineBytes', 'dealtBytes']) field(row, path, 'a row of cachet bench operators');
  return rows;
}

/**
 * Operators of both sides, medians over runs: `{ ours: [{ operator, ms, rounds, bytes }], peer: [{ operator, ms, messages, bytes }], gather }`; `gather` is SPU's
 * one-hot gather over ours `{ time, bytes }`, undefined while a side has no row. Ours is all that replaces it: the chosen clusters' logits gathered and their
 * probabilities scattered, online and dealt.
 */
export function compareOperators({ ours: runs, peer }) {
  const ours = (runs[0] ?? []).map(({ operator, rounds }, i) => ({
      operator,
      ms: median(runs.map((rows) => rows[i].ms.median)),
      rounds,
      bytes: Math.max(...runs.map((rows) => rows[i].onlineBytes + rows[i].dealtBytes)),
    })),
    theirs = Object.entries(peer)
      .filter(([, rows]) => rows.length > 0)
      .map(([operator, rows]) => ({
        operator,
        ms: 1000 * median(rows.flatMap((r) => r.execS)),
        messages: Math.min(...rows.map((r) => Math.max(...r.messages))),
        bytes: Math.min(...rows.map((r) => r.bytes)),
      })),
    mine = ours.find((r) => r.operator === 'gather and scatter'),
    other = theirs.find((r) => r.operator === 'gather');
  return { ours, peer: theirs, ...(mine && other && { gather: { time: other.ms / mine.ms, bytes: other.bytes / mine.bytes } }) };
}

/** The goals of the gather: `{ measure, least, got, met }`; none while a side has no row. */
export const operatorGoals = ({ gather }) =>
  gather ? GATHER_GOALS.map(({ measure, least }) => ({ measure, least, got: gather[measure], met: gather[measure] >= least })) : [];

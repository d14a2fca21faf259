/**
 * The section and the chart of dealing, of the row files whose `dealing`, `stores` and `backends` are rows of `cachet bench dealing|store|backends --json`. Nothing
 * is measured here.
 */
import { BACKEND_COLOURS, bars } from './charts.mjs';
import { megabytes, table } from './tables.mjs';

const fixed = (n, digits = 1) => (n === undefined || n === null ? '-' : n.toFixed(digits)),
  short = (n) => (n === undefined ? '-' : String(Number(n.toPrecision(2)))),
  named = (rows) => [...new Set(rows.map((r) => r.backend))],
  /** An emulated GPU is named as such. */
  label = (rows, backend) => {
    const device = rows.find((r) => r.backend === backend && r.device)?.device ?? '';
    return /on the CPU/.test(device) ? `${backend} (${device.split(' ')[0]}, emulated)` : backend;
  };

function dealingText(rows) {
  const kinds = Object.keys(rows[0].dealMsOf),
    of = (r) => `${r.model}, T = ${r.context}`;
  return [
    "What the dealer's engine takes for a token, by kind of correlation, beside the evaluators' engines, each alone in one process; the ratio is that to the mean of both evaluators (goal: at most 0.5). Processor time: of the three processes, sockets and waits included.",
    table([
      ['ms a token', 'dealing', ...kinds, 'P0', 'P1', 'ratio', 'processor time: helper, P0, P1', 'ratio', 'dealt, MB', 'tokens/s', 'streams alone'],
      ...rows.map((r) => [
        of(r),
        fixed(r.dealMs),
        ...kinds.map((k) => fixed(r.dealMsOf[k])),
        fixed(r.evaluateMs.p0),
        fixed(r.evaluateMs.p1),
        `${r.ratio.toFixed(2)}${r.ratio <= 0.5 ? '' : ' **missed**'}`,
        r.cpuMs ? `${fixed(r.cpuMs.helper, 0)}, ${fixed(r.cpuMs.p0, 0)}, ${fixed(r.cpuMs.p1, 0)}` : '-',
        r.cpuRatio ? r.cpuRatio.toFixed(2) : '-',
        megabytes(r.dealtBytes),
        fixed(r.tokensPerSecond),
        fixed(r.streams.ms),
      ]),
    ]),
    ...rows.flatMap((r) => {
      const measured = r.backends.filter((b) => b.kind),
        work = [...new Set(measured.map((b) => b.kind))];
      if (measured.length === 0) return [];
      return [
        `The same token's bulk work by backend (${of(r)}), ms, sending to and from the device included. Jobs of all layers come together; masks of a token's openings are too few for it and are drawn by the engine itself.`,
        table([
          ['backend', ...work.map((k) => `${k}: jobs in lists`), ...work.map((k) => `${k}, ms`)],
          ...named(measured).map((backend) => {
            const cell = (k, f) => {
              const found = measured.find((b) => b.backend === backend && b.kind === k);
              return found ? f(found) : '-';
            };
            return [label(measured, backend), ...work.map((k) => cell(k, (b) => `${b.jobs} in ${b.lists}`)), ...work.map((k) => cell(k, (b) => short(b.ms)))];
          }),
        ]),
      ];
    }),
  ];
}

const storeText = (rows) => [
  'Dealt ahead into a store: bytes on the disk, both evaluators together, and time to deal and write a unit.',
  table([
    ['units', 'policy', 'backend', 'MB a unit', 'MB a token', 'dealing, ms: prompt, token, unit on the disk', 'tokens/s', 'MB/s'],
    ...rows.map((r) => [
      `${r.model}, ${r.promptTokens} + ${r.maxTokens} tokens`,
      r.policy,
      r.backend,
      megabytes(r.bytesPerUnit),
      megabytes(r.bytesPerToken),
      `${fixed(r.dealMs.prefill, 0)}, ${fixed(r.dealMs.token)}, ${fixed(r.dealMs.unit, 0)}`,
      fixed(r.tokensPerSecond),
      fixed(r.bytesPerSecond / 1e6, 0),
    ]),
  ]),
];

/** Works, each with the rates of the backends that do it. */
const works = (rows) => [...new Set(rows.filter((r) => r.name).map((r) => `${r.name}, ${r.unit}`))];
const rateOf = (rows, backend, work) => rows.find((r) => r.backend === backend && `${r.name}, ${r.unit}` === work)?.rate;

function rateText(rows) {
  const absent = rows.filter((r) => r.reason);
  return [
    "Rates of the dealer's bulk work, uploads and downloads included; wasm on one core. A GPU that is emulated on the CPU shows exactness and nothing about a GPU; `auto` never takes one, and takes another backend for the kinds alone in which it is faster than wasm.",
    table([['work', ...named(rows).map((b) => label(rows, b))], ...works(rows).map((w) => [w, ...named(rows).map((b) => short(rateOf(rows, b, w)))])]),
    ...absent.map((r) => `${r.backend} was not measured: ${r.reason}`),
    '![Rates of bulk work by backend](benchmarks/backends.svg)',
  ];
}

function rateChart(rows) {
  const names = works(rows);
  return bars(
    "The dealer's bulk work by backend",
    'rate (log)',
    names,
    named(rows).map((backend) => ({
      name: label(rows, backend),
      colour: BACKEND_COLOURS[backend],
      values: names.map((work) => rateOf(rows, backend, work)),
    })),
  );
}

const rowsOf = (contents, name) => contents.flatMap((c) => c[name] ?? []);

/** Paragraphs of the page, none where there are no rows. */
export function backendSection(contents) {
  const [dealing, stores, backends] = ['dealing', 'stores', 'backends'].map((name) => rowsOf(contents, name)),
    machine = contents.find((c) => c.dealing || c.stores || c.backends)?.machine;
  if (dealing.length + stores.length + backends.length === 0) return [];
  return [
    '## Dealing',
    `${machine}; beside other work on the machine, the best of many short runs.`,
    ...(dealing.length > 0 ? dealingText(dealing) : []),
    ...(stores.length > 0 ? storeText(stores) : []),
    ...(backends.length > 0 ? rateText(backends) : []),
  ];
}

/** Charts by file name. */
export function backendCharts(contents) {
  const rows = rowsOf(contents, 'backends');
  return rows.some((r) => r.rate) ? { 'backends.svg': rateChart(rows) } : {};
}

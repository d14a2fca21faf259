/** The part of docs/BENCHMARKS.md on cache policies: tables and charts of what `cachet bench policies --json` wrote, beside the points of the comparison with SPU. */
import { chart, COLOURS, POLICY_COLOURS } from './charts.mjs';
import { megabytes, ms, table, times } from './tables.mjs';

/** The policy that has the paper's budget with our cheapest score and ranking, and what it is to reach at T. */
const BUDGET = 'paper-budget',
  T = 2048,
  GOALS = { attention: 3.39, bytes: 8.37, growth: 0.25, rounds: 19 };
/** Contexts whose techniques are shown one by one. */
const SHOWN = [2048, 8192];

const allBytes = (r) => r.onlineBytes + r.dealtBytes,
  percent = (v) => `${v < 0 ? '' : '+'}${(100 * v).toFixed(1)} %`;

/** Each once, in the order met. */
const each = (rows, key) => [...new Set(rows.map((r) => r[key]))];

/** What a file's rows say of one policy at one context: its own, those of the full cache, times of both. */
function figures(found, row) {
  const at = (rows, policy) => rows?.find((r) => r.policy === policy && r.context === row.context),
    full = at(found.policies, 'full');
  return { full: full === row || row.policy === 'full' ? undefined : full, time: at(found.rows, row.policy), fullTime: at(found.rows, 'full') };
}

function tokens(found) {
  const measured = found.rows?.length > 0,
    timed = (cells) => (measured ? cells : []);
  return table([
    [
      'T',
      "T'",
      'policy',
      'rounds',
      'online, MB',
      'dealt, MB',
      ...timed(['ready, ms', 'with dealing, ms']),
      'full / it: bytes',
      'full / it: attention',
      ...timed(['full / it: ready', 'full / it: with dealing']),
    ],
    ...found.policies.map((r) => {
      const { full, time, fullTime } = figures(found, r),
        over = (of) => (full ? times(of(full) / of(r)) : ''),
        slower = (of) => (full && time && fullTime && of(time) && of(fullTime) ? times(of(fullTime).median / of(time).median) : '');
      return [
        String(r.context),
        String(r.kept),
        r.policy,
        String(r.rounds),
        megabytes(r.onlineBytes),
        megabytes(r.dealtBytes),
        ...timed([ms(time?.onlineMs?.median), ms(time?.endToEndMs.median)]),
        over(allBytes),
        over((o) => o.attentionBytes),
        ...timed([slower((o) => o.onlineMs), slower((o) => o.endToEndMs)]),
      ];
    }),
  ]);
}

function evictions(found) {
  const measured = found.rows?.length > 0;
  return table([
    ['T', "T'", 'policy', 'MB, online + dealt', 'rounds', ...(measured ? ['the first token later by, ms'] : [])],
    ...found.policies
      .filter((r) => r.eviction)
      .map((r) => [
        String(r.context),
        String(r.kept),
        r.policy,
        megabytes(r.eviction.bytes),
        String(r.eviction.rounds),
        ...(measured ? [ms(figures(found, r).time?.eviction?.ms.median)] : []),
      ]),
  ]);
}

const ablations = (found) =>
  table([
    ['T', "T'", 'of', 'with', 'rounds', 'MB a token', 'attention, MB', 'full / it: bytes', 'full / it: attention'],
    ...(found.ablation ?? []).flatMap(({ of, rows }) =>
      SHOWN.flatMap((context) => rows.filter((r) => r.context === context)).map((r) => {
        const full = rows.find((o) => o.policy === 'full' && o.context === r.context);
        return [
          String(r.context),
          String(r.kept),
          of,
          r.policy === of ? 'all of it' : r.policy,
          String(r.rounds),
          megabytes(allBytes(r)),
          megabytes(r.attentionBytes),
          r === full ? '' : times(allBytes(full) / allBytes(r)),
          r === full ? '' : times(full.attentionBytes / r.attentionBytes),
        ];
      }),
    ),
  ]);

/** Bytes of a token by policy and context, of rows under one budget. */
function growth(rows) {
  const contexts = each(rows, 'context'),
    bytes = (policy, context) => allBytes(rows.find((r) => r.policy === policy && r.context === context));
  return table([
    ['policy', "T'", ...contexts.map((t) => `MB at T = ${t}`), `${contexts[0]} to 4096`],
    ...each(rows, 'policy').map((policy) => [
      policy,
      String(rows.find((r) => r.policy === policy).kept),
      ...contexts.map((t) => megabytes(bytes(policy, t))),
      contexts.includes(4096) ? percent(bytes(policy, 4096) / bytes(policy, contexts[0]) - 1) : '',
    ]),
  ]);
}

/** Bytes of whole answers: a column a policy, the one that is taken in bold. */
function choices(rows) {
  const names = [
    'full',
    ...each(rows, 'policy')
      .filter((name) => name !== 'full')
      .toSorted(),
  ];
  return table([
    ['T', 'answer', ...names],
    ...each(rows, 'context').flatMap((context) =>
      each(rows, 'answer').map((answer) => [
        String(context),
        String(answer),
        ...names.map((policy) => {
          const row = rows.find((r) => r.context === context && r.answer === answer && r.policy === policy),
            text = row ? `${(row.bytes / 1e9).toFixed(2)} GB` : '-';
          return row?.taken ? `**${text}**` : text;
        }),
      ]),
    ),
  ]);
}

/** SPU's full cache at a context, where a run has it. */
const peerAt = (points, context) => points.find((p) => p.task === 'decode' && p.weights === 'public' && p.context === context)?.figures.peer;

function goals(found, points) {
  const row = found.policies.find((r) => r.policy === BUDGET && r.context === T);
  if (!row) return undefined;
  const { full } = figures(found, row),
    peer = peerAt(points, T),
    grown = (context) => found.growth?.find((r) => r.policy === `${BUDGET}-fixed` && r.context === context),
    growing = grown(512) && grown(4096) && allBytes(grown(4096)) / allBytes(grown(512)) - 1,
    line = (what, goal, got, met) => (got === undefined ? [] : [[what, goal, got, met ? 'met' : '**missed**']]);
  const peerRatio = peer && peer.bytes / allBytes(row),
    attention = full && full.attentionBytes / row.attentionBytes;
  return table([
    [`\`${BUDGET}\`, T = ${T}`, 'goal', 'measured', ''],
    ...line("SPU's full cache / ours, all bytes of a token", `at least ${GOALS.bytes}x`, peer && times(peerRatio), peerRatio >= GOALS.bytes),
    ...line('our full cache / ours, attention bytes', `at least ${GOALS.attention}x`, full && `${attention.toFixed(2)}x`, attention >= GOALS.attention),
    ...line('rounds a layer', `at most ${GOALS.rounds}`, (row.rounds / row.layers).toFixed(1), row.rounds <= GOALS.rounds * row.layers),
    ...line(
      'bytes of a token under one attended budget, T = 512 to 4096',
      `less than ${percent(GOALS.growth)}`,
      growing === undefined ? undefined : percent(growing),
      growing < GOALS.growth,
    ),
  ]);
}

/** Blocks of the page; none without rows. */
export function policySection(found, points) {
  if (!found) return [];
  const measured = found.rows?.length > 0 ? `Times: three processes on loopback, ${found.machine}, commit ${found.rows[0].commit}. ` : '';
  return [
    '## Cache policies',
    [
      `A token of ${found.policies[0].model} by the Meter, whose figures the parties' equal. T: tokens before static eviction, T' after it. ${measured}`,
      `\`${BUDGET}\` ([file](benchmarks/policies/${BUDGET}.json)) has the budget of \`mpcache-paper\` with our cheapest score and ranking. \`mpcache\` is here what it is for a model without a quality report.`,
    ].join('\n'),
    goals(found, points),
    tokens(found),
    '![Bytes per token by cache policy over T](benchmarks/policies.svg)',
    ...(found.rows?.length > 0 ? ['![Time per token by cache policy over T](benchmarks/policyTimes.svg)'] : []),
    '### Static eviction, paid once',
    'At the end of the prompt, with the representatives of the clusters where scores are `minmax`.',
    evictions(found),
    ...(found.ablation ? ['### Technique by technique', 'Each row has the techniques of the rows above it.', ablations(found)] : []),
    ...(found.growth?.length > 0
      ? [
          '### A fixed budget',
          `What survives at T = ${found.growth[0].context} survives at every T, and as many clusters of it are attended to.`,
          growth(found.growth),
        ]
      : []),
    ...(found.auto
      ? [
          '### What `auto` takes',
          'All bytes of the eviction and an answer of so many tokens, under each policy and, as `-static`, without its selection; in bold the one that is taken. Which of them are good enough is for a quality report to say: weights are random here.',
          choices(found.auto),
        ]
      : []),
  ].filter((block) => block !== undefined);
}

/** By file name; none without rows. */
export function policyCharts(found, points) {
  if (!found) return {};
  const contexts = each(found.policies, 'context'),
    names = each(found.policies, 'policy'),
    at = (rows, name, t) => rows.find((r) => r.policy === name && r.context === t),
    million = (n) => n / 1e6,
    overContexts = (title, unit, ofPeer, of) => {
      const peer = contexts.map((t) => peerAt(points, t)),
        lines = names.map((name, i) => ({ name, colour: POLICY_COLOURS[i % POLICY_COLOURS.length], values: contexts.map((t) => of(name, t)) }));
      return chart(title, unit, contexts, [{ name: 'SPU ABY3, full', colour: COLOURS.peer, values: peer.map((p) => p && ofPeer(p)) }, ...lines], {
        axis: 'cached tokens T, before eviction',
        ends: true,
      });
    };
  return {
    'policies.svg': overContexts(
      'Bytes per token by cache policy, online + dealt',
      'MB per token (log)',
      (peer) => million(peer.bytes),
      (name, t) => million(allBytes(at(found.policies, name, t))),
    ),
    ...(found.rows?.length > 0 && {
      'policyTimes.svg': overContexts(
        'Time per token by cache policy, dealing included',
        'ms per token (log)',
        (peer) => 1000 * peer.s,
        (name, t) => at(found.rows, name, t)?.endToEndMs.median,
      ),
    }),
  };
}

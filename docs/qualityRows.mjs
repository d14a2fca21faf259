/** The part of docs/BENCHMARKS.md on what policies cost in quality: tables and Pareto charts of what `cachet eval --policy .. --json` wrote, a run a model. */
import { COLOURS, scatter } from './charts.mjs';
import { megabytes, table } from './tables.mjs';

/** Of contents of files: a run, or a list of them. A policy is given whole there. */
export const qualityRuns = (contents) => contents.flatMap((c) => [c, ...Object.values(c).flat()]).filter((c) => c?.policies?.some?.((r) => r.policy?.name));

const bytesOf = (r) => r.cost.onlineBytes + r.cost.dealtBytes,
  percent = (v, digits = 1) => (v === null || v === undefined ? '-' : `${(100 * v).toFixed(digits)} %`),
  ofPaper = (r) => /paper/.test(r.policy.name),
  isFull = (r) => !r.policy.static && !r.policy.dynamic;

const rowsOf = (run) =>
  table([
    ['policy', 'attended', 'KL, nats', 'perplexity', 'same top token', 'answers', 'lost', 'recall', 'overlap', 'MB a token'],
    ...run.policies.map((r) => [
      r.policy.name,
      percent(r.attended),
      r.divergence === null ? '-' : r.divergence.toPrecision(2),
      r.perplexity ? `${r.perplexity.change < 0 ? '' : '+'}${percent(r.perplexity.change, 2)}` : '-',
      percent(r.top1Agreement),
      r.questions > 0 ? `${r.answered} of ${r.questions}` : '-',
      r.questions > 0 ? `${r.lost} of ${r.answeredFull}` : '-',
      percent(r.recall),
      percent(r.overlap),
      megabytes(bytesOf(r)),
    ]),
  ]);

const chartOf = (run) => `quality-${run.model.replaceAll(/[^A-Za-z0-9]+/g, '-').toLowerCase()}-${Math.max(...run.promptTokens)}.svg`,
  drawn = (run) => run.policies.filter((r) => r.divergence > 0);

/** Blocks of the page; none without runs. */
export function qualitySection(runs) {
  if (runs.length === 0) return [];
  return [
    '## Quality of cache policies',
    [
      "Against the model's own full cache: Kullback-Leibler divergence and perplexity over continuations, answers to generated questions, and of those that full cache answers the ones that are lost.",
      "Attended: tokens that a token attends to, of all. Recall: full attention's mass on them. Overlap: of a layer's choice with that of the layer before. Bytes by the Meter at the longest prompt.",
    ].join('\n'),
    ...runs.flatMap((run) => [
      `### ${run.model}, prompts of ${run.promptTokens.join(', ')} tokens, facts of seed ${run.seed}`,
      rowsOf(run),
      ...(drawn(run).length > 0 ? [`![Divergence over bytes per token, ${run.model}](benchmarks/${chartOf(run)})`] : []),
    ]),
  ];
}

/** By file name: bytes of a token against divergence. */
export const qualityCharts = (runs) =>
  Object.fromEntries(
    runs
      .filter((run) => drawn(run).length > 0)
      .map((run) => {
        const full = run.policies.find(isFull),
          title = `${run.model}, prompts of up to ${Math.max(...run.promptTokens)} tokens: divergence over bytes per token${full ? ` (full cache: ${megabytes(bytesOf(full))} MB, 0 nats)` : ''}`,
          points = (rows) => rows.map((r) => ({ name: r.policy.name, x: bytesOf(r) / 1e6, y: r.divergence }));
        return [
          chartOf(run),
          scatter(title, 'MB per token', 'KL, nats (log)', [
            { name: 'budgets and scores of the paper', colour: COLOURS.peer, points: points(drawn(run).filter(ofPaper)) },
            { name: 'ours', colour: COLOURS.all, points: points(drawn(run).filter((r) => !ofPaper(r))) },
          ]),
        ];
      }),
  );

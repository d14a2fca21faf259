/** The quality of policies as a table, a row a policy. */
import type { PolicyQuality } from '../protocols/quality.ts';
import { bytes, percent, table } from './terminal.ts';

export const qualityTable = (rows: readonly PolicyQuality[]): string =>
  table([['policy', 'attended', 'recall', 'overlap', 'perplexity', 'KL', 'same top', 'answers', 'lost', 'a token', 'ranked wrongly'], ...rows.map(cells)]);

const cells = (r: PolicyQuality): string[] => [
  r.policy.name,
  percent(r.attended),
  percent(r.recall),
  r.overlap === null ? '' : percent(r.overlap),
  r.perplexity ? `${r.perplexity.policy.toFixed(3)} (${r.perplexity.change >= 0 ? '+' : ''}${percent(r.perplexity.change)})` : '',
  r.divergence === null ? '' : r.divergence.toExponential(2),
  r.top1Agreement === null ? '' : percent(r.top1Agreement),
  r.questions > 0 ? `${r.answered} of ${r.questions}` : '',
  r.questions > 0 ? `${r.lost} of ${r.answeredFull}` : '',
  bytes(r.cost.onlineBytes + r.cost.dealtBytes),
  r.rankings > 0 ? `${r.outside} of ${r.rankings}` : '',
];

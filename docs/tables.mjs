/** Cells and tables of the documentation's generated parts. */

export const table = (rows) => [rows[0], rows[0].map(() => '---'), ...rows.slice(1)].map((r) => `| ${r.join(' | ')} |`).join('\n');
export const megabytes = (n) => (n === undefined ? '-' : `${(n / 1e6).toFixed(n < 1e8 ? 1 : 0)}`);
export const ms = (n) => (n === undefined ? '-' : n.toFixed(0));
export const times = (n) => (n === undefined ? '-' : `${n.toFixed(1)}x`);

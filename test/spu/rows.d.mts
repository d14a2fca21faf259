/** Types of rows.mjs for tests. */
export class BenchmarkError extends Error {}
export function parseOurs(text: string): Record<string, unknown>;
export function parsePeer(text: string): Record<string, unknown>;
export function median(numbers: readonly number[]): number;
interface Figures {
  peer?: { s: number; bytes: number; messages: number };
  ours?: Record<string, number | boolean>;
  ratios?: { ready: number; all: number; bytes: number; online: number };
}
export function compare(point: object): Figures;
export function goals(
  point: object,
  figures: Figures,
): { measure: string; least: number | undefined; most: number | undefined; stretch: number | undefined; got: number; met: boolean }[];
export function parseOperators(text: string): Record<string, unknown>[];
interface Gather {
  gather?: { time: number; bytes: number };
}
export function compareOperators(operators: object): Gather & { ours: object[]; peer: object[] };
export function operatorGoals(figures: Gather): { measure: string; least: number; got: number; met: boolean }[];

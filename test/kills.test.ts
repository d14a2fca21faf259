/** A few random kills in every run; `npm run test:kills -- --count 200` for many. */
import { execFile } from 'node:child_process';
import { expect, it } from 'vitest';

it('12 random kills leave no process, socket, temporary file or hang', { timeout: 200_000 }, async () => {
  const { stdout, stderr } = await new Promise<{ stdout: string; stderr: string }>((resolve) =>
    execFile(process.execPath, ['test/kills.mjs', '--count', '12', '--json'], (_, out, err) => resolve({ stdout: out, stderr: err })),
  );
  const result = JSON.parse(stdout) as { count: number; violations: string[]; tally: Record<string, number> };
  expect(result.violations, stderr).toEqual([]);
  expect(Object.entries(result.tally).reduce((n, [key, m]) => n + (key.startsWith('client ') ? m : 0), 0)).toBe(12);
});

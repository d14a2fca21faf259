/** A few random kills in every run; `npm run test:kills -- --count 200` and `npm run test:kills:store` for many. */
import { execFile } from 'node:child_process';
import { expect, it } from 'vitest';

interface Result {
  readonly violations: string[];
  readonly tally: Readonly<Record<string, number>>;
}

async function kills(script: string, count: number): Promise<void> {
  const { stdout, stderr } = await new Promise<{ stdout: string; stderr: string }>((resolve) =>
    execFile(process.execPath, [`test/${script}`, '--count', String(count), '--json'], (_, out, err) => resolve({ stdout: out, stderr: err })),
  );
  const result = JSON.parse(stdout) as Result;
  expect(result.violations, stderr).toEqual([]);
  expect(Object.entries(result.tally).reduce((n, [key, m]) => n + (key.startsWith('client ') ? m : 0), 0)).toBe(count);
}

it('12 random kills leave no process, socket, temporary file or hang', { timeout: 200_000 }, () => kills('kills.mjs', 12));
it('6 random kills around a store: no unit is used twice, none is lost', { timeout: 200_000 }, () => kills('storeKills.mjs', 6));

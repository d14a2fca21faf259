/** Parties whose engines compute on two threads: the golden answer, whoever deals; what sessions leave behind. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { generate } from '../client/generate.ts';
import type { PrivateSession } from '../client/session.ts';
import { Trio } from '../party/launch.ts';
import { reach } from '../party/reach.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  TOKENS = 3,
  MAX_STOP_MS = 4000,
  SETTLE_MS = 500,
  { promptIds, continuationIds } = golden().find((c) => c.promptIds.length > 60 && c.continuationIds.length >= TOKENS)!;

let trio: Trio;
beforeAll(async () => void (trio = await Trio.start('tiny-notes', { threads: 2 })));
afterAll(() => trio.stop());

async function answer(dealer: 'server' | 'client'): Promise<number[]> {
  const ids: number[] = [];
  let session: PrivateSession | undefined;
  for await (const id of generate({
    artefact,
    promptIds,
    maxTokens: TOKENS,
    ...reach(trio.config, artefact, dealer, new AbortController().signal),
    onSession: (s) => (session = s),
  }))
    ids.push(id);
  if (dealer === 'server') expect((await trio.ended(session!.id)).map((e) => e.error)).toEqual([undefined, undefined, undefined]);
  return ids;
}

/** System threads of each party. */
const threads = (): number[] => Object.values(trio.pids).map((pid) => Number(/^Threads:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]));

it('answer token for token, with the helper and with the client as dealer', async () => {
  expect(await answer('server')).toEqual(continuationIds.slice(0, TOKENS));
  expect(await answer('client')).toEqual(continuationIds.slice(0, TOKENS));
});

it.skipIf(process.platform !== 'linux')('a session leaves its threads to the next one', async () => {
  await answer('server');
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const before = threads();
  for (let i = 0; i < 2; i++) await answer('server');
  await expect.poll(threads, { timeout: 10 * SETTLE_MS }).toEqual(before);
});

it('parties end when they are told to, in the middle of a session too', async () => {
  const running = answer('server').catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const start = performance.now();
  await trio.stop();
  expect(performance.now() - start).toBeLessThan(MAX_STOP_MS);
  await running;
});

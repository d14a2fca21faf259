/** The package as a program imports it: `cachet/client` and `cachet/node` by their names, from the build, with typed events. */
import { execFile } from 'node:child_process';
import { describe, expect, it } from 'vitest';

const PROGRAM = `
  import { ask, CachetError } from 'cachet/client';
  import { readModelArtefact, readTokenizer, reach, Trio } from 'cachet/node';
  const artefact = await readModelArtefact('tiny-notes'),
    tokenizer = await readTokenizer('tiny-notes'),
    trio = await Trio.start('tiny-notes'),
    signal = new AbortController().signal,
    events = [];
  const prompt = tokenizer.chat([{ role: 'system', content: "Nina's pin is 4711. Tom lives in Oslo." }, { role: 'user', content: "What is Nina's pin?" }], true);
  try {
    for await (const event of ask({ artefact, tokenizer, prompt, maxTokens: 8, ...reach(trio.config, artefact, 'server', signal) })) events.push(event);
    const again = ask({ artefact, tokenizer, prompt: '', maxTokens: 8, ...reach(trio.config, artefact, 'server', signal) });
    await again.next().catch((error) => events.push({ type: error instanceof CachetError ? error.code : 'foreign' }));
  } finally {
    await trio.stop();
  }
  console.log(JSON.stringify(events));
`;

describe('the package', () => {
  it('answers a program that imports it', async () => {
    const stdout = await new Promise<string>((resolve, reject) =>
      execFile(process.execPath, ['--input-type=module', '-e', PROGRAM], { timeout: 60_000 }, (error, out) => (error ? reject(error) : resolve(out))),
    );
    const events = JSON.parse(stdout) as { type: string; text?: string; answer?: { text: string } }[],
      types = events.map((e) => e.type);
    expect(types.slice(0, 3)).toEqual(['connected', 'sent', 'prefilled']);
    expect(types.slice(-2)).toEqual(['answer', 'usage']);
    const answer = events.find((e) => e.type === 'answer')!.answer!.text;
    expect(answer.trim()).toBe('4711.');
    expect(
      events
        .filter((e) => e.type === 'token')
        .map((e) => e.text)
        .join(''),
    ).toBe(answer);
  });
});

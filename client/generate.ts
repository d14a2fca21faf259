/** From a prompt to a streamed answer: tokens, the private session, sampling, text. */
import { CachetError } from '../protocols/errors.ts';
import { logitsOf } from './head.ts';
import { sampler, type Sampling } from './sampling.ts';
import { PrivateSession, type SessionOptions } from './session.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface GenerateOptions extends Omit<SessionOptions, 'promptTokens'> {
  /** Token ids of the whole prompt, beginning with the artefact's public prefix. */
  readonly promptIds: readonly number[];
  readonly sampling?: Sampling;
  /** Called when the session is agreed, before the prompt is sent. */
  readonly onSession?: (session: PrivateSession) => void;
}

/**
 * Yields token ids as they come, the end-of-sequence token included, which ends the stream. The session is closed however the loop ends.
 * @throws CachetError 'usage' for a prompt without the model's public prefix; what PrivateSession throws.
 */
export async function* generate(o: GenerateOptions): AsyncGenerator<number, void, void> {
  const { artefact, promptIds } = o,
    choose = sampler(o.sampling),
    prefix = artefact.prefixIds.length;
  if (!artefact.prefixIds.every((id, i) => promptIds[i] === id))
    throw new CachetError({
      code: 'usage',
      what: "prompt does not begin with the model's public prefix",
      expected: `token ids ${artefact.prefixIds.join(' ')}`,
      got: 'another beginning',
      hint: 'promptIds adds it',
    });
  const session = await PrivateSession.open({ ...o, promptTokens: promptIds.length - prefix });
  try {
    o.onSession?.(session);
    let ids = promptIds.slice(prefix);
    for (let n = 0; n < o.maxTokens; n++) {
      const id = choose(logitsOf(artefact, await session.step(ids)));
      yield id;
      if (artefact.shape.eosIds.includes(id)) return;
      ids = [id];
    }
  } finally {
    await session.stop();
  }
}

/** A prompt's token ids: the public prefix is added unless the text already begins with it. */
export function promptIds(artefact: SessionOptions['artefact'], tokenizer: Tokenizer, text: string): number[] {
  const ids = tokenizer.encode(text),
    { prefixIds } = artefact;
  return prefixIds.every((id, i) => ids[i] === id) ? ids : [...prefixIds, ...ids];
}

/** Turns token ids into text piece by piece: holds back until a character is whole. */
export class TextStream {
  private readonly tokenizer: Tokenizer;
  private readonly ids: number[] = [];
  private shown = 0;

  constructor(tokenizer: Tokenizer) {
    this.tokenizer = tokenizer;
  }

  push(id: number): string {
    this.ids.push(id);
    const text = this.tokenizer.decode(this.ids);
    if (text.endsWith('\ufffd')) return '';
    const piece = text.slice(this.shown);
    this.shown = text.length;
    return piece;
  }
}

/** From private text to streamed answers: tokens, the private session, sampling, text; one turn, or several over one KV cache. */
import { CachetError } from '../protocols/errors.ts';
import { chooser } from './head.ts';
import type { Sampling } from './sampling.ts';
import { PrivateSession, type SessionOptions } from './session.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface ConversationOptions extends SessionOptions {
  readonly sampling?: Sampling;
}

/**
 * Turns over one session: the keys and values of all earlier turns stay at the evaluators, only a turn's own tokens are sent.
 * @throws what PrivateSession throws.
 */
export class Conversation {
  readonly session: PrivateSession;
  private readonly o: ConversationOptions;
  private readonly choose: (result: Float64Array) => number;
  /** The answer's last token, which the evaluators have not seen yet. */
  private pending: number | undefined;
  /** A turn has been asked. */
  begun = false;

  static async open(o: ConversationOptions): Promise<Conversation> {
    const choose = chooser(o.artefact, o.sampling);
    return new Conversation(o, await PrivateSession.open(o), choose);
  }

  private constructor(o: ConversationOptions, session: PrivateSession, choose: (result: Float64Array) => number) {
    this.o = o;
    this.session = session;
    this.choose = choose;
  }

  /** Tokens of question and answer together that a further turn may have. */
  get room(): number {
    return Math.max(0, this.session.room - (this.pending === undefined ? 0 : 1) + 1);
  }

  /**
   * Yields the answer's token ids as they come, the end-of-sequence token included, which ends it. The first turn's lengths are those of the session.
   * @throws CachetError 'limit' if the session has no room for the turn.
   */
  async *ask(ids: readonly number[], maxTokens: number): AsyncGenerator<number, void, void> {
    const { artefact } = this.o,
      tokens = this.pending === undefined ? ids : [this.pending, ...ids];
    if (this.begun) this.session.turn({ tokens: tokens.length, answer: maxTokens });
    this.begun = true;
    let result = await this.session.prompt(tokens);
    for (let n = 1; ; n++) {
      const id = this.choose(result);
      this.pending = id;
      yield id;
      if (artefact.shape.eosIds.includes(id) || n >= maxTokens) return;
      result = await this.session.step([id]);
    }
  }

  stop(): Promise<void> {
    return this.session.stop();
  }
}

export interface GenerateOptions extends Omit<ConversationOptions, 'promptTokens' | 'context'> {
  /** Token ids of the whole prompt, beginning with the artefact's public prefix. */
  readonly promptIds: readonly number[];
}

/**
 * One turn: yields token ids as they come. The session is closed however the loop ends.
 * @throws CachetError 'usage' for a prompt without the model's public prefix; what PrivateSession throws.
 */
export async function* generate(o: GenerateOptions): AsyncGenerator<number, void, void> {
  const ids = privateIds(o.artefact, o.promptIds),
    conversation = await Conversation.open({ ...o, promptTokens: ids.length });
  try {
    yield* conversation.ask(ids, o.maxTokens);
  } finally {
    await conversation.stop();
  }
}

/** A prompt's token ids: the public prefix is added unless the text already begins with it. */
export function promptIds(artefact: SessionOptions['artefact'], tokenizer: Tokenizer, text: string): number[] {
  const ids = tokenizer.encode(text),
    { prefixIds } = artefact;
  return prefixIds.every((id, i) => ids[i] === id) ? ids : [...prefixIds, ...ids];
}

/** What is private of a prompt: all but the public prefix. @throws CachetError 'usage' for a prompt without it. */
export function privateIds(artefact: SessionOptions['artefact'], ids: readonly number[]): readonly number[] {
  const { prefixIds } = artefact;
  if (!prefixIds.every((id, i) => ids[i] === id))
    throw new CachetError({
      code: 'usage',
      what: "prompt does not begin with the model's public prefix",
      expected: `token ids ${prefixIds.join(' ')}`,
      got: 'another beginning',
      hint: 'promptIds adds it',
    });
  return ids.slice(prefixIds.length);
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

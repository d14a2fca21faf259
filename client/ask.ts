/**
 * Questions and answers as events: the library's front door. `ask` is one private question; a `Chat` keeps its session, so that a further question
 * costs its own tokens alone.
 */
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import { Conversation, privateIds, promptIds, TextStream, type ConversationOptions } from './generate.ts';
import type { StepReport } from './session.ts';
import type { Message, Tokenizer } from './tokenizer.ts';

export interface Answer {
  readonly ids: readonly number[];
  readonly text: string;
  /** Session id, hex of the first 8 bytes. */
  readonly session: string;
  /** Tokens that were sent for it: the question's, with the last one of the answer before. */
  readonly sentTokens: number;
  /** Of its steps: the question's batches, then one a token. */
  readonly reports: readonly StepReport[];
  /** From sending the question to the first token, ms. */
  readonly prefillMs: number;
  /** Mean time from token to token as the client sees it, ms; undefined for a single token. */
  readonly tokenMs: number | undefined;
  readonly clientBytes: { readonly sent: number; readonly received: number };
}

export type AskEvent =
  /** All parties agree on the session; nothing private has been sent. */
  | { readonly type: 'connected'; readonly session: string }
  /** The question is on its way. */
  | { readonly type: 'sent'; readonly tokens: number }
  /** The question has been read: the first token follows. */
  | { readonly type: 'prefilled'; readonly tokens: number; readonly ms: number }
  /** `text` may be empty: a character can take several tokens. */
  | { readonly type: 'token'; readonly id: number; readonly text: string }
  | { readonly type: 'answer'; readonly answer: Answer };

export interface AskOptions extends Omit<ConversationOptions, 'promptTokens' | 'context'> {
  readonly tokenizer: Tokenizer;
  /** The whole prompt, special tokens written out; or its token ids, beginning with the model's public prefix. */
  readonly prompt: string | readonly number[];
}

/** One private question. The session is closed however the loop ends. @throws what PrivateSession throws. */
export async function* ask(o: AskOptions): AsyncGenerator<AskEvent, void, void> {
  const ids = privateIds(o.artefact, typeof o.prompt === 'string' ? promptIds(o.artefact, o.tokenizer, o.prompt) : o.prompt),
    conversation = await Conversation.open({ ...o, promptTokens: ids.length });
  try {
    yield { type: 'connected', session: conversation.session.id };
    yield* answerTurn(o, conversation, ids);
  } finally {
    await conversation.stop();
  }
}

export interface ChatOptions extends Omit<ConversationOptions, 'promptTokens' | 'context'> {
  readonly tokenizer: Tokenizer;
  /** What all questions are about: the first message. */
  readonly note?: string;
  /** Slots for all questions and answers, the note included. @default the model's positions */
  readonly context?: number;
}

/** Several questions over one session. The session is opened by the first question; `maxTokens` is each answer's allowance. */
export class Chat {
  private readonly o: ChatOptions;
  private readonly messages: Message[];
  private conversation: Conversation | undefined;
  private ended = true;

  constructor(o: ChatOptions) {
    this.o = o;
    this.messages = o.note === undefined ? [] : [{ role: 'system', content: o.note.trim() }];
  }

  /** Tokens of question and answer that a further turn may have; undefined before the first. */
  get room(): number | undefined {
    return this.conversation?.room;
  }

  /** @throws CachetError 'limit' if no room is left: the conversation stays usable for a shorter question; what PrivateSession throws. */
  async *ask(question: string): AsyncGenerator<AskEvent, void, void> {
    const { artefact, tokenizer } = this.o;
    if (question.trim() === '') throw new CachetError({ code: 'usage', what: 'empty question', expected: 'text', got: 'nothing' });
    const before = this.messages.length > 0 && this.conversation ? tokenizer.chat(this.messages) : '',
      asked: Message[] = [...this.messages, { role: 'user', content: question.trim() }],
      text = tokenizer.chat(asked, true).slice(before.length);
    let ids: readonly number[];
    if (this.conversation) ids = [...(this.ended ? [] : artefact.shape.eosIds.slice(0, 1)), ...tokenizer.encode(text)];
    else {
      ids = privateIds(artefact, promptIds(artefact, tokenizer, text));
      const context = this.o.context ?? artefact.shape.maxPositions - artefact.prefixIds.length;
      this.conversation = await Conversation.open({ ...this.o, promptTokens: ids.length, context });
      yield { type: 'connected', session: this.conversation.session.id };
    }
    for await (const event of answerTurn(this.o, this.conversation, ids)) {
      if (event.type === 'answer') {
        this.messages.splice(0, Infinity, ...asked, { role: 'assistant', content: event.answer.text.trim() });
        this.ended = artefact.shape.eosIds.includes(event.answer.ids.at(-1)!);
      }
      yield event;
    }
  }

  async stop(): Promise<void> {
    await this.conversation?.stop();
  }
}

async function* answerTurn(
  o: { readonly artefact: Artefact; readonly tokenizer: Tokenizer; readonly maxTokens: number },
  conversation: Conversation,
  question: readonly number[],
): AsyncGenerator<AskEvent, void, void> {
  const { session } = conversation,
    stream = new TextStream(o.tokenizer),
    steps = session.reports.length,
    bytesBefore = session.clientBytes,
    sentTokens = question.length + (conversation.begun ? 1 : 0),
    ids: number[] = [],
    times = [performance.now()];
  let text = '';
  yield { type: 'sent', tokens: sentTokens };
  for await (const id of conversation.ask(question, o.maxTokens)) {
    times.push(performance.now());
    ids.push(id);
    if (ids.length === 1) yield { type: 'prefilled', tokens: sentTokens, ms: times[1]! - times[0]! };
    const piece = o.artefact.shape.eosIds.includes(id) ? '' : stream.push(id);
    text += piece;
    yield { type: 'token', id, text: piece };
  }
  await session.reported();
  const { sent, received } = session.clientBytes;
  yield {
    type: 'answer',
    answer: {
      ids,
      text,
      session: session.id,
      sentTokens,
      reports: session.reports.slice(steps),
      prefillMs: times[1]! - times[0]!,
      tokenMs: times.length > 2 ? (times.at(-1)! - times[1]!) / (times.length - 2) : undefined,
      clientBytes: { sent: sent - bytesBefore.sent, received: received - bytesBefore.received },
    },
  };
}

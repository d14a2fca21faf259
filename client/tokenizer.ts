/** Text to token ids and back, by @huggingface/tokenizers; conversations to text, by the model's chat template. */
import { Tokenizer as HuggingFace } from '@huggingface/tokenizers';
import { Template } from '@huggingface/jinja';
import { CachetError } from '../protocols/errors.ts';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export class Tokenizer {
  private readonly inner: HuggingFace;
  private readonly template: Template | undefined;
  private readonly specials: { readonly bos_token: string; readonly eos_token: string };

  /** The parsed `tokenizer.json` and `tokenizer_config.json`. @throws CachetError 'model' if they cannot be used. */
  constructor(json: object, config: object = {}) {
    try {
      const { chat_template: template, bos_token: bos, eos_token: eos } = config as Record<string, unknown>;
      this.inner = new HuggingFace(json, config);
      const chosen = templateText(template);
      this.template = chosen === undefined ? undefined : new Template(chosen);
      this.specials = { bos_token: tokenText(bos), eos_token: tokenText(eos) };
    } catch (cause) {
      throw new CachetError({
        code: 'model',
        step: 'tokenizer.json',
        what: 'unusable tokenizer',
        expected: 'a Hugging Face tokenizer',
        got: (cause as Error).message,
        cause,
      });
    }
  }

  /** Whether the model has a chat template. */
  get hasTemplate(): boolean {
    return this.template !== undefined;
  }

  encode(text: string): number[] {
    return [...this.inner.encode(text, { add_special_tokens: false }).ids];
  }

  /** Messages as the model's chat template writes them, special tokens in words; `open` asks for an answer. Without a template: lines. */
  chat(messages: readonly Message[], open = false): string {
    if (!this.template) return messages.map((m) => `${m.content}\n`).join('');
    return this.template.render({ messages: [...messages], add_generation_prompt: open, ...this.specials });
  }

  decode(ids: readonly number[], skipSpecialTokens = true): string {
    return ids.length === 0 ? '' : this.inner.decode([...ids], { skip_special_tokens: skipSpecialTokens });
  }
}

/** Special tokens are text, or { content: text }. */
const tokenText = (token: unknown): string => (typeof token === 'string' ? token : ((token as { content?: string } | undefined)?.content ?? ''));

/** A template, or a list of named ones, of which `default` is for conversations. */
const templateText = (template: unknown): string | undefined =>
  typeof template === 'string'
    ? template
    : Array.isArray(template)
      ? (template as { name?: string; template?: string }[]).find((t) => t.name === 'default')?.template
      : undefined;

/** Text to token ids and back, by @huggingface/tokenizers. */
import { Tokenizer as HuggingFace } from '@huggingface/tokenizers';
import { CachetError } from '../protocols/errors.ts';

export class Tokenizer {
  private readonly inner: HuggingFace;

  /** The parsed `tokenizer.json` and `tokenizer_config.json`. @throws CachetError 'model' if they cannot be used. */
  constructor(json: object, config: object = {}) {
    try {
      this.inner = new HuggingFace(json, config);
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

  encode(text: string): number[] {
    return [...this.inner.encode(text, { add_special_tokens: false }).ids];
  }

  decode(ids: readonly number[], skipSpecialTokens = true): string {
    return ids.length === 0 ? '' : this.inner.decode([...ids], { skip_special_tokens: skipSpecialTokens });
  }
}

/** The tokenizer in a GGUF file's metadata, as the `tokenizer.json` and `tokenizer_config.json` of a Hugging Face folder. */
import { CachetError } from '../errors.ts';
import type { Gguf } from './gguf.ts';

/** Byte-level characters are made after splitting. */
const byteLevel = (splits: boolean): object => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: splits });
const split = (...patterns: readonly string[]): object => ({
  type: 'Sequence',
  pretokenizers: [...patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })), byteLevel(false)],
});
/** Words with contractions in any case; numbers of so many digits. */
const words = (digits: string): string =>
  "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]" +
  `|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

interface PreTokenizer {
  readonly normalizer: object | null;
  readonly splitting: object;
  /** A word that is a token stays whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
}

/** `tokenizer.ggml.pre`: how text is cut into words, which merges do not cross. `default` is what llama.cpp does where a file says nothing else. */
const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  'gpt-2': { normalizer: null, splitting: byteLevel(true), ignoreMerges: false },
  smollm: {
    normalizer: null,
    splitting: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)] },
    ignoreMerges: false,
  },
  'llama-bpe': { normalizer: null, splitting: split(words('\\p{N}{1,3}')), ignoreMerges: true },
  qwen2: { normalizer: { type: 'NFC' }, splitting: split(words('\\p{N}')), ignoreMerges: false },
  default: {
    normalizer: null,
    splitting: split(
      '[\\p{P}\\$\\+<=>\\^~\\|]+',
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)",
      '\\p{N}+',
      '[0-9][0-9][0-9]',
    ),
    ignoreMerges: false,
  },
};

/** `tokenizer.ggml.token_type` of tokens that are matched in the text before it is cut: control tokens and ones added by the model's user. */
const CONTROL = 3,
  USER_DEFINED = 4;

/** Both files, parsed. @throws CachetError 'model' naming the metadata that is missing or unsupported. */
export function ggufTokenizer({ metadata }: Gguf): { readonly json: object; readonly config: object } {
  const get = (key: string): unknown => metadata.get(`tokenizer.${key}`);
  const bad = (key: string, expected: string, got: unknown): CachetError =>
    new CachetError({ code: 'model', step: `GGUF, tokenizer.${key}`, what: 'unsupported tokenizer', expected, got: String(got ?? 'none') });
  if (get('ggml.model') !== 'gpt2') throw bad('ggml.model', 'gpt2 (byte-level BPE)', get('ggml.model'));
  const name = get('ggml.pre') ?? 'default',
    pre = typeof name === 'string' && Object.hasOwn(PRE_TOKENIZERS, name) ? PRE_TOKENIZERS[name] : undefined;
  if (!pre) throw bad('ggml.pre', Object.keys(PRE_TOKENIZERS).join(', '), name);
  const list = (key: string, type: 'string' | 'number'): readonly unknown[] => {
    const value = get(key);
    if (!Array.isArray(value) || value.some((v) => typeof v !== type)) throw bad(key, `a list of ${type}s`, typeof value);
    return value;
  };
  const tokens = list('ggml.tokens', 'string') as readonly string[],
    merges = list('ggml.merges', 'string') as readonly string[],
    types = get('ggml.token_type') === undefined ? [] : (list('ggml.token_type', 'number') as readonly number[]);
  const text = (key: string): string | undefined => {
    const id = get(`ggml.${key}_token_id`);
    return typeof id === 'number' ? tokens[id] : undefined;
  };
  return {
    json: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: tokens.flatMap((content, id) =>
        types[id] === CONTROL || types[id] === USER_DEFINED
          ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: types[id] === CONTROL }]
          : [],
      ),
      normalizer: pre.normalizer,
      pre_tokenizer: pre.splitting,
      post_processor: null,
      decoder: byteLevel(true),
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: pre.ignoreMerges,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges,
      },
    },
    config: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      add_bos_token: get('ggml.add_bos_token') === true,
      bos_token: text('bos'),
      eos_token: text('eos'),
      chat_template: get('chat_template'),
    },
  };
}

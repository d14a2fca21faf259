/** The client's plain parts: tokenizer, sampling, streamed text, plain model. */
import { describe, expect, it } from 'vitest';
import { promptIds, TextStream } from '../client/generate.ts';
import { openModel, readTokenizer } from '../client/node.ts';
import { sampler } from '../client/sampling.ts';
import { PlainModel } from '../protocols/models/plain.ts';
import { readSafetensors, writeSafetensors } from '../protocols/models/safetensors.ts';
import { readConfig } from '../protocols/models/config.ts';
import { golden, tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes();

describe('tokenizer', async () => {
  const tokenizer = await readTokenizer('tiny-notes');
  it('gives the golden prompts ids, with and without the public prefix written out', () => {
    for (const c of golden()) {
      expect(promptIds(artefact, tokenizer, c.prompt)).toEqual(c.promptIds);
      expect(promptIds(artefact, tokenizer, c.prompt.replace('<|bos|>', ''))).toEqual(c.promptIds);
    }
  });
  it('streams text that adds up to the whole', () => {
    for (const c of golden()) {
      const stream = new TextStream(tokenizer);
      expect(c.continuationIds.map((id) => stream.push(id)).join('')).toBe(tokenizer.decode(c.continuationIds));
    }
    const stream = new TextStream(tokenizer),
      ids = tokenizer.encode(' naïve €5');
    const pieces = ids.map((id) => stream.push(id));
    expect(pieces.join('')).toBe(' naïve €5');
    expect(pieces.some((p) => p.includes('\ufffd'))).toBe(false);
  });
});

describe('sampling', () => {
  const logits = Float64Array.of(1, 3, 2, -4, 2.5);
  it('greedy takes the best', () => expect(sampler()(logits)).toBe(1));
  it('is repeatable with a seed, and follows the distribution', () => {
    const draw = (seed: number) => {
      const choose = sampler({ temperature: 1, seed });
      return Array.from({ length: 4000 }, () => choose(logits));
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    const total = logits.reduce((s, v) => s + Math.exp(v), 0);
    logits.forEach((v, id) => expect(Math.abs(draw(7).filter((x) => x === id).length / 4000 - Math.exp(v) / total)).toBeLessThan(0.03));
  });
  it('top-k and top-p keep the best only', () => {
    const set = (s: Parameters<typeof sampler>[0]) => {
      const choose = sampler({ temperature: 2, seed: 1, ...s });
      return [...new Set(Array.from({ length: 500 }, () => choose(logits)))].sort();
    };
    expect(set({ topK: 2 })).toEqual([1, 4]);
    expect(set({ topP: 0.3 })).toEqual([1]);
    expect(set({})).toEqual([0, 1, 2, 3, 4]);
  });
  it('without a seed draws from the cryptographic generator', () => {
    const choose = sampler({ temperature: 5 });
    expect(new Set(Array.from({ length: 300 }, () => choose(logits))).size).toBeGreaterThan(2);
  });
  it.each([[{ temperature: -1 }], [{ temperature: NaN }], [{ topK: 1.5 }], [{ topP: 0 }], [{ topP: 1.1 }], [{ seed: 0.5 }]])('refuses %j', (s) =>
    expect(() => sampler(s)).toThrow(/bad /),
  );
});

describe('models', () => {
  it('the model in the clear gives the golden tokens', async () => {
    const model = await openModel('tiny-notes'),
      c = golden()[2]!,
      plain = new PlainModel(model.weights());
    expect(model.shape).toEqual(artefact.shape);
    let logits = new Float64Array();
    for (const id of c.promptIds) logits = plain.next(id) as Float64Array<ArrayBuffer>;
    for (const [id, v] of c.firstStepTop5) expect(Math.abs(logits[id]! - v)).toBeLessThan(1e-3);
    for (const id of c.continuationIds) {
      expect(logits.indexOf(Math.max(...logits))).toBe(id);
      logits = plain.next(id) as Float64Array<ArrayBuffer>;
    }
  });
  it('safetensors: writes what it reads, converts half precision, refuses corrupt files', () => {
    const bytes = writeSafetensors(
        [
          new Map([
            ['b', { dtype: 'F32', shape: [2], data: Float32Array.of(1.5, -2) }],
            ['a', { dtype: 'I64', shape: [1], data: BigInt64Array.of(-7n) }],
          ]),
        ],
        { k: 'v' },
      ),
      back = readSafetensors(bytes);
    expect([back.metadata['k'], ...back.float32('b'), back.int64('a')[0]]).toEqual(['v', 1.5, -2, -7n]);
    for (const spoiled of [bytes.subarray(0, 4), bytes.subarray(0, bytes.length - 1), bytes.map((v, i) => (i === 9 ? 0 : v))])
      expect(() => readSafetensors(spoiled)).toThrow(/corrupt safetensors/);
    expect(() => back.float32('a')).toThrow(/unsupported type; expected F32 or F16 or BF16; got I64/);
    const raw = (dtype: string, words: number[]) => {
      const header = new TextEncoder().encode(JSON.stringify({ x: { dtype, shape: [words.length], data_offsets: [0, 2 * words.length] } })),
        out = new Uint8Array(8 + header.length + 2 * words.length);
      new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
      out.set(header, 8);
      out.set(new Uint8Array(Uint16Array.from(words).buffer), 8 + header.length);
      return [...readSafetensors(out).float32('x')];
    };
    expect(raw('F16', [0x3c00, 0xc000, 0x0001, 0x7c00, 0x8000])).toEqual([1, -2, 2 ** -24, Infinity, -0]);
    expect(raw('BF16', [0x3f80, 0xc040])).toEqual([1, -3]);
  });
  it.each([
    [{ model_type: 'mamba' }, 'model_type'],
    [{ hidden_act: 'gelu' }, 'hidden_act'],
    [{ rope_scaling: { type: 'x' } }, 'rope_scaling'],
    [{ hidden_size: 164 }, 'hidden_size'],
    [{ num_key_value_heads: 4 }, 'num_key_value_heads'],
  ])('config.json: refuses %j by name', (change, field) => {
    const good = {
      model_type: 'llama',
      hidden_size: 160,
      intermediate_size: 384,
      num_hidden_layers: 6,
      num_attention_heads: 6,
      num_key_value_heads: 3,
      head_dim: 32,
      vocab_size: 1024,
      max_position_embeddings: 1024,
      rms_norm_eps: 1e-5,
      hidden_act: 'silu',
    };
    expect(readConfig(good).heads).toBe(6);
    expect(() => readConfig({ ...good, ...change })).toThrow(new RegExp(field));
  });
});

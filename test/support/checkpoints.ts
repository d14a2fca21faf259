/** Checkpoints made by tests: GGUF files with every tensor type, Hugging Face folders; and weights by a pattern. */
import type { Biases, ModelShape } from '../../protocols/models/config.ts';
import { assemble, type ModelWeights, type Role } from '../../protocols/models/weights.ts';

export interface NamedTensor {
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** The pattern of test/vectors/models.py. */
export function patternWeights(shape: ModelShape, biases: Biases, roles: readonly Role[]): ModelWeights {
  return assemble(shape, biases, (role, dimensions, layer) => {
    const salt = (roles.indexOf(role) + 29 * (layer ?? 0)) * 101,
      gain = role === 'inputNorm' || role === 'postNorm' || role === 'finalNorm';
    return Float32Array.from({ length: dimensions.reduce((a, b) => a * b) }, (_, i) => {
      const x = (((i * i * 31 + i * 17 + salt) % 257) - 128) / 256;
      return gain ? 1 + x / 2 : x;
    });
  });
}

// ---- names ------------------------------------------------------------------------------------------------------------------------------

const LLAMA: Partial<Record<Role, string>> = {
  inputNorm: 'input_layernorm.weight',
  postNorm: 'post_attention_layernorm.weight',
  ...Object.fromEntries(
    (['q', 'k', 'v', 'o'] as const).flatMap((r) => [
      [r, `self_attn.${r}_proj.weight`],
      [`${r}Bias`, `self_attn.${r}_proj.bias`],
    ]),
  ),
  ...Object.fromEntries(
    (['gate', 'up', 'down'] as const).flatMap((r) => [
      [r, `mlp.${r}_proj.weight`],
      [`${r}Bias`, `mlp.${r}_proj.bias`],
    ]),
  ),
};
const GPT2: Partial<Record<Role, string>> = {
  inputNorm: 'ln_1.weight',
  inputNormBias: 'ln_1.bias',
  o: 'attn.c_proj.weight',
  oBias: 'attn.c_proj.bias',
  postNorm: 'ln_2.weight',
  postNormBias: 'ln_2.bias',
  up: 'mlp.c_fc.weight',
  upBias: 'mlp.c_fc.bias',
  down: 'mlp.c_proj.weight',
  downBias: 'mlp.c_proj.bias',
};
const GGUF: Partial<Record<Role, string>> = {
  inputNorm: 'attn_norm.weight',
  inputNormBias: 'attn_norm.bias',
  postNorm: 'ffn_norm.weight',
  postNormBias: 'ffn_norm.bias',
  ...Object.fromEntries(
    (
      [
        ['q', 'attn_q'],
        ['k', 'attn_k'],
        ['v', 'attn_v'],
        ['o', 'attn_output'],
        ['gate', 'ffn_gate'],
        ['up', 'ffn_up'],
        ['down', 'ffn_down'],
      ] as const
    ).flatMap(([role, name]) => [
      [role, `${name}.weight`],
      [`${role}Bias`, `${name}.bias`],
    ]),
  ),
};

const at = (x: Float32Array, rows: number): number => x.length / rows;
const transposed = (x: Float32Array, rows: number): Float32Array => {
  const cols = at(x, rows);
  return Float32Array.from(x, (_, i) => x[(i % rows) * cols + Math.floor(i / rows)]!);
};
const joined = (...parts: readonly Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((p) => [...p]));

/** As `transformers` names and orders them. */
export function huggingFaceTensors(w: ModelWeights, prefix = ''): NamedTensor[] {
  const { width, vocab, architecture, maxPositions } = w.shape,
    gpt2 = architecture === 'gpt2',
    out: NamedTensor[] = [];
  const add = (name: string, data: Float32Array | undefined, ...shape: number[]): void => void (data && out.push({ name, shape, data }));
  w.layers.forEach((l, i) => {
    const rows: Partial<Record<Role, number>> = { q: l.q.length / width, k: l.k.length / width, v: l.v.length / width, o: width, down: width };
    for (const [role, name] of Object.entries(gpt2 ? GPT2 : LLAMA) as [keyof typeof l, string][]) {
      const data = l[role],
        out_ = rows[role] ?? w.shape.inner,
        vector = role.includes('Norm') || role.includes('Bias');
      if (!data) continue;
      if (!gpt2) add(`model.layers.${i}.${name}`, data, ...(vector ? [data.length] : [out_, at(data, out_)]));
      else if (vector) add(`${prefix}h.${i}.${name}`, data, data.length);
      else add(`${prefix}h.${i}.${name}`, transposed(data, out_), at(data, out_), out_);
    }
    if (!gpt2) return;
    add(`${prefix}h.${i}.attn.c_attn.weight`, transposed(joined(l.q, l.k, l.v), 3 * width), width, 3 * width);
    add(`${prefix}h.${i}.attn.c_attn.bias`, joined(l.qBias!, l.kBias!, l.vBias!), 3 * width);
  });
  add(gpt2 ? `${prefix}wte.weight` : 'model.embed_tokens.weight', w.embed, vocab, width);
  add(`${prefix}wpe.weight`, w.positions, maxPositions, width);
  add(gpt2 ? `${prefix}ln_f.weight` : 'model.norm.weight', w.finalNorm, width);
  add(`${prefix}ln_f.bias`, w.finalNormBias, width);
  if (!w.shape.tied) add('lm_head.weight', w.head, vocab, width);
  return out;
}

/** As llama.cpp names and orders them: for Llama, rows of q and k as interleaved rotation wants them. */
export function ggufTensors(w: ModelWeights): NamedTensor[] {
  const { width, vocab, architecture, maxPositions, headDim } = w.shape,
    out: NamedTensor[] = [];
  const add = (name: string, data: Float32Array | undefined, ...shape: number[]): void => void (data && out.push({ name, shape, data }));
  const interleaved = (x: Float32Array, cols: number): Float32Array =>
    Float32Array.from(x, (_, i) => {
      const row = Math.floor(i / cols),
        within = row % headDim;
      return x[(row - within + (within % 2) * (headDim / 2) + (within >> 1)) * cols + (i % cols)]!;
    });
  w.layers.forEach((l, i) => {
    for (const [role, name] of Object.entries(GGUF) as [keyof typeof l, string][]) {
      const data = l[role];
      if (!data || (architecture === 'gpt2' && /^[qkv]/.test(role))) continue;
      const vector = role.includes('Norm') || role.includes('Bias'),
        cols = vector ? 1 : role === 'o' ? w.shape.heads * headDim : role === 'down' ? w.shape.inner : width,
        stored = architecture === 'llama' && /^[qk]/.test(role) ? interleaved(data, cols) : data;
      add(`blk.${i}.${name}`, stored, ...(vector ? [data.length] : [data.length / cols, cols]));
    }
    if (architecture !== 'gpt2') return;
    add(`blk.${i}.attn_qkv.weight`, joined(l.q, l.k, l.v), 3 * width, width);
    add(`blk.${i}.attn_qkv.bias`, joined(l.qBias!, l.kBias!, l.vBias!), 3 * width);
  });
  add('token_embd.weight', w.embed, vocab, width);
  add('position_embd.weight', w.positions, maxPositions, width);
  add('output_norm.weight', w.finalNorm, width);
  add('output_norm.bias', w.finalNormBias, width);
  if (!w.shape.tied) add('output.weight', w.head, vocab, width);
  return out;
}

/** Metadata of a GGUF file for the shape. */
export const ggufMetadata = (s: ModelShape): Record<string, Value> => {
  const key = (name: string): string => `${s.architecture}.${name}`;
  return {
    'general.architecture': s.architecture,
    [key('block_count')]: s.layers,
    [key('embedding_length')]: s.width,
    [key('feed_forward_length')]: s.inner,
    [key('context_length')]: s.maxPositions,
    [key('attention.head_count')]: s.heads,
    [key('attention.head_count_kv')]: s.kvHeads,
    [key(s.norm === 'rms' ? 'attention.layer_norm_rms_epsilon' : 'attention.layer_norm_epsilon')]: { float: s.eps },
    ...(s.rope && {
      [key('rope.freq_base')]: { float: s.rope.theta },
      [key('rope.dimension_count')]: s.headDim,
      [key('attention.key_length')]: s.headDim,
      [key('attention.value_length')]: s.headDim,
    }),
  };
};

// ---- GGUF -------------------------------------------------------------------------------------------------------------------------------

/** Numbers are u32, lists of numbers i32. */
export type Value = string | number | boolean | { readonly float: number } | readonly string[] | readonly number[];

/** A GGUF file, version 3; tensors of the type that `typeOf` gives. */
export function writeGguf(metadata: Record<string, Value>, tensors: readonly NamedTensor[], typeOf: (t: NamedTensor) => string = () => 'F32'): Uint8Array {
  const parts: Uint8Array[] = [];
  let size = 0;
  const put = (b: Uint8Array): void => void (parts.push(b), (size += b.length));
  const number = (bytes: number, set: (d: DataView) => void): void => {
    const b = new Uint8Array(bytes);
    set(new DataView(b.buffer));
    put(b);
  };
  const u32 = (v: number): void => number(4, (d) => d.setUint32(0, v, true)),
    u64 = (v: number): void => number(8, (d) => d.setBigUint64(0, BigInt(v), true)),
    string = (s: string): void => {
      const b = new TextEncoder().encode(s);
      u64(b.length);
      put(b);
    };
  put(new TextEncoder().encode('GGUF'));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, v] of Object.entries(metadata)) {
    string(key);
    if (typeof v === 'string') (u32(8), string(v));
    else if (typeof v === 'number') (u32(4), u32(v));
    else if (typeof v === 'boolean') (u32(7), put(Uint8Array.of(Number(v))));
    else if ('float' in v) (u32(6), number(4, (d) => d.setFloat32(0, v.float, true)));
    else {
      u32(9);
      u32(typeof v[0] === 'number' ? 5 : 8);
      u64(v.length);
      for (const x of v) typeof x === 'number' ? number(4, (d) => d.setInt32(0, x, true)) : string(x);
    }
  }
  let offset = 0;
  const datas = tensors.map((t) => {
    const type = typeOf(t),
      data = ENCODERS[type]!.encode(t.data);
    string(t.name);
    u32(t.shape.length);
    for (const n of t.shape.toReversed()) u64(n);
    u32(ENCODERS[type]!.number);
    u64(offset);
    offset += Math.ceil(data.length / 32) * 32;
    return data;
  });
  put(new Uint8Array(-size & 31));
  for (const d of datas) (put(d), put(new Uint8Array(-d.length & 31)));
  const out = new Uint8Array(size);
  let to = 0;
  for (const p of parts) (out.set(p, to), (to += p.length));
  return out;
}

/** Truncates a normal number to half precision. */
function half(v: number): number {
  const bits = new Uint32Array(Float32Array.of(v).buffer)[0]!,
    exponent = ((bits >> 23) & 255) - 112;
  return exponent <= 0 ? 0 : ((bits >> 16) & 0x8000) | (exponent << 10) | ((bits >> 13) & 1023);
}
const largest = (x: Float32Array): number => x.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-3);
const clamp = (v: number, low: number, high: number): number => Math.max(low, Math.min(high, Math.round(v)));

/** Block after block. */
const blocks =
  (block: number, bytes: number, encode: (x: Float32Array, out: DataView) => void) =>
  (x: Float32Array): Uint8Array => {
    const out = new Uint8Array((x.length / block) * bytes);
    for (let b = 0; b < x.length / block; b++) encode(x.subarray(b * block, (b + 1) * block), new DataView(out.buffer, b * bytes, bytes));
    return out;
  };
const nibbles = (x: Float32Array, out: DataView, from: number, level: (v: number) => number): void => {
  for (let j = 0; j < 16; j++) out.setUint8(from + j, level(x[j]!) | (level(x[j + 16]!) << 4));
};

/** Simple quantisers; `step`: how far off a number may be, of the block's largest. */
export const ENCODERS: Readonly<Record<string, { readonly number: number; readonly step: number; encode(x: Float32Array): Uint8Array }>> = {
  F32: { number: 0, step: 0, encode: (x) => new Uint8Array(Float32Array.from(x).buffer) },
  F16: { number: 1, step: 2 ** -10, encode: (x) => new Uint8Array(Uint16Array.from(x, half).buffer) },
  BF16: { number: 30, step: 2 ** -7, encode: (x) => new Uint8Array(Uint16Array.from(new Uint32Array(Float32Array.from(x).buffer), (v) => v >>> 16).buffer) },
  Q8_0: {
    number: 8,
    step: 1 / 120,
    encode: blocks(32, 34, (x, out) => {
      const d = largest(x) / 127;
      out.setUint16(0, half(d), true);
      x.forEach((v, j) => out.setInt8(2 + j, clamp(v / d, -127, 127)));
    }),
  },
  Q4_0: {
    number: 2,
    step: 1 / 7,
    encode: blocks(32, 18, (x, out) => {
      const d = largest(x) / 7;
      out.setUint16(0, half(d), true);
      nibbles(x, out, 2, (v) => clamp(v / d + 8, 0, 15));
    }),
  },
  Q4_1: {
    number: 3,
    step: 1 / 7,
    encode: blocks(32, 20, (x, out) => {
      const low = x.reduce((a, b) => Math.min(a, b)),
        d = (x.reduce((a, b) => Math.max(a, b)) - low) / 15 || 1e-3;
      out.setUint16(0, half(d), true);
      out.setUint16(2, half(low), true);
      nibbles(x, out, 4, (v) => clamp((v - low) / d, 0, 15));
    }),
  },
  Q4_K: {
    number: 12,
    step: 1 / 5,
    encode: blocks(256, 144, (x, out) => {
      // All mins are the same share of the largest; scales differ by group.
      const top = largest(x),
        groups = Array.from({ length: 8 }, (_, g) => x.subarray(g * 32, g * 32 + 32)),
        d = (2 * top) / 15 / 63,
        scales = groups.map((v) => clamp((largest(v) * 2) / 15 / d + 1, 1, 63)),
        mins = groups.map((v) => clamp((largest(v) / top) * 63, 1, 63));
      out.setUint16(0, half(d), true);
      out.setUint16(2, half(top / 63), true);
      for (let g = 0; g < 4; g++) {
        out.setUint8(4 + g, scales[g]! | ((scales[g + 4]! >> 4) << 6));
        out.setUint8(8 + g, mins[g]! | ((mins[g + 4]! >> 4) << 6));
        out.setUint8(12 + g, (scales[g + 4]! & 15) | ((mins[g + 4]! & 15) << 4));
      }
      const level = (i: number): number => clamp((x[i]! + (top * mins[i >> 5]!) / 63) / (d * scales[i >> 5]!), 0, 15);
      for (let i = 0; i < 128; i++) {
        const from = (i >> 5) * 64 + (i & 31);
        out.setUint8(16 + i, level(from) | (level(from + 32) << 4));
      }
    }),
  },
  Q6_K: {
    number: 14,
    step: 1 / 20,
    encode: blocks(256, 210, (x, out) => {
      const d = largest(x) / 31 / 127;
      out.setUint16(208, half(d), true);
      const scales = Array.from({ length: 16 }, (_, g) => clamp(largest(x.subarray(g * 16, g * 16 + 16)) / 31 / d + 1, 1, 127));
      scales.forEach((s, g) => out.setInt8(192 + g, s));
      x.forEach((v, i) => {
        const level = clamp(v / (d * scales[i >> 4]!), -32, 31) + 32,
          part = i >> 7,
          row = (i >> 5) & 3,
          low = part * 64 + (row & 1) * 32 + (i & 31),
          high = 128 + part * 32 + (i & 31);
        out.setUint8(low, out.getUint8(low) | ((level & 15) << (row >> 1 ? 4 : 0)));
        out.setUint8(high, out.getUint8(high) | ((level >> 4) << (2 * row)));
      });
    }),
  },
};

/** A Llama's weights in float32, from a Hugging Face checkpoint; and its plain forward pass, which answers are compared with. */
import { CachetError } from '../errors.ts';
import type { ModelShape } from './config.ts';
import type { Safetensors } from './safetensors.ts';
import type { LayerWeights, ModelWeights } from './weights.ts';

/** @throws CachetError 'model' naming the tensor that is missing or of another shape. */
export function readLlama(shape: ModelShape, tensors: Safetensors): ModelWeights {
  const get = (name: string, ...expected: number[]): Float32Array => {
    const data = tensors.float32(name),
      got = tensors.shape(name);
    if (got.join() !== expected.join())
      throw new CachetError({
        code: 'model',
        step: name,
        what: 'wrong tensor shape',
        expected: expected.join(' x '),
        got: got.join(' x '),
        hint: 'check that config.json belongs to the checkpoint',
      });
    if (data.some((v) => !Number.isFinite(v)))
      throw new CachetError({ code: 'model', step: name, what: 'corrupt weights', expected: 'finite numbers', got: 'NaN or infinity' });
    return data;
  };
  const { width, inner, vocab } = shape,
    q = shape.heads * shape.headDim,
    kv = shape.kvHeads * shape.headDim;
  const layers = Array.from({ length: shape.layers }, (_, i): LayerWeights => {
    const at = (name: string): string => `model.layers.${i}.${name}.weight`;
    return {
      inputNorm: get(at('input_layernorm'), width),
      q: get(at('self_attn.q_proj'), q, width),
      k: get(at('self_attn.k_proj'), kv, width),
      v: get(at('self_attn.v_proj'), kv, width),
      o: get(at('self_attn.o_proj'), width, q),
      postNorm: get(at('post_attention_layernorm'), width),
      gate: get(at('mlp.gate_proj'), inner, width),
      up: get(at('mlp.up_proj'), inner, width),
      down: get(at('mlp.down_proj'), width, inner),
    };
  });
  const embed = get('model.embed_tokens.weight', vocab, width);
  return { shape, layers, embed, finalNorm: get('model.norm.weight', width), head: shape.tied ? embed : get('lm_head.weight', vocab, width) };
}

/** RMSNorm with gain. */
export function rmsNorm(x: Float64Array, gain: Float32Array, eps: number): Float64Array {
  const scale = 1 / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length + eps);
  return x.map((v, i) => v * scale * gain[i]!);
}

/** y = W x, W [out, in]. */
export function product(w: Float32Array, x: Float64Array): Float64Array {
  const y = new Float64Array(w.length / x.length);
  for (let r = 0, at = 0; r < y.length; r++) {
    let sum = 0;
    for (let c = 0; c < x.length; c++) sum += w[at++]! * x[c]!;
    y[r] = sum;
  }
  return y;
}

/** The model in the clear, token by token, in float64: written from the definition, sharing nothing with the protocol's programs. */
export class PlainLlama {
  private readonly w: ModelWeights;
  private readonly keys: Float64Array[][];
  private readonly values: Float64Array[][];
  private position = 0;

  constructor(w: ModelWeights) {
    this.w = w;
    this.keys = w.layers.map(() => []);
    this.values = w.layers.map(() => []);
  }

  /** Feeds one token; returns the logits of the next. */
  next(id: number): Float64Array {
    const { shape, layers, embed, finalNorm, head } = this.w,
      { width, heads, kvHeads, headDim, eps } = shape;
    let x: Float64Array = Float64Array.from(embed.subarray(id * width, (id + 1) * width));
    layers.forEach((l, i) => {
      const h = rmsNorm(x, l.inputNorm, eps),
        q = this.rotate(product(l.q, h));
      this.keys[i]!.push(this.rotate(product(l.k, h)));
      this.values[i]!.push(product(l.v, h));
      const mixed = new Float64Array(heads * headDim);
      for (let n = 0; n < heads; n++) {
        const from = Math.floor((n * kvHeads) / heads) * headDim;
        const logits = this.keys[i]!.map((k) => {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += q[n * headDim + d]! * k[from + d]!;
          return sum / Math.sqrt(headDim);
        });
        const top = Math.max(...logits),
          p = logits.map((z) => Math.exp(z - top)),
          total = p.reduce((a, b) => a + b, 0);
        this.values[i]!.forEach((v, t) => {
          for (let d = 0; d < headDim; d++) mixed[n * headDim + d]! += (p[t]! / total) * v[from + d]!;
        });
      }
      x = add(x, product(l.o, mixed));
      const g = rmsNorm(x, l.postNorm, eps),
        gate = product(l.gate!, g),
        up = product(l.up, g);
      x = add(
        x,
        product(
          l.down,
          gate.map((v, j) => (v / (1 + Math.exp(-v))) * up[j]!),
        ),
      );
    });
    this.position++;
    return product(head, rmsNorm(x, finalNorm, eps));
  }

  private rotate(x: Float64Array): Float64Array {
    const { headDim, rope } = this.w.shape,
      half = headDim / 2,
      y = new Float64Array(x.length);
    for (let at = 0; at < x.length; at += headDim)
      for (let j = 0; j < half; j++) {
        const angle = this.position * rope!.theta ** (-j / half),
          c = Math.cos(angle),
          s = Math.sin(angle),
          a = x[at + j]!,
          b = x[at + j + half]!;
        y[at + j] = a * c - b * s;
        y[at + j + half] = b * c + a * s;
      }
    return y;
  }
}

const add = (a: Float64Array, b: Float64Array): Float64Array => a.map((v, i) => v + b[i]!);

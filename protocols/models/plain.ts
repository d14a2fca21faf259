/** A model in the clear, token by token, in float64: written from the definition, sharing nothing with the protocol's programs; answers are compared with it. */
import { CachetError } from '../errors.ts';
import { ACTIVATIONS } from './activations.ts';
import { ropeFrequencies } from './rope.ts';
import type { LayerWeights, ModelWeights } from './weights.ts';

/** RMSNorm with gain. */
export function rmsNorm(x: Float64Array, gain: Float32Array, eps: number): Float64Array {
  const scale = 1 / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length + eps);
  return x.map((v, i) => v * scale * gain[i]!);
}

/** LayerNorm with gain and bias. */
export function layerNorm(x: Float64Array, gain: Float32Array, bias: Float32Array, eps: number): Float64Array {
  const mean = x.reduce((s, v) => s + v, 0) / x.length,
    scale = 1 / Math.sqrt(x.reduce((s, v) => s + (v - mean) ** 2, 0) / x.length + eps);
  return x.map((v, i) => (v - mean) * scale * gain[i]! + bias[i]!);
}

/** y = W x, W [out, in]; four rows at a time, each summed from left to right. */
export function product(w: Float32Array, x: Float64Array): Float64Array {
  const inner = x.length,
    y = new Float64Array(w.length / inner);
  let r = 0;
  for (; r + 4 <= y.length; r += 4) {
    let a = 0,
      b = 0,
      c = 0,
      d = 0;
    for (let j = 0, at = r * inner; j < inner; j++, at++) {
      const v = x[j]!;
      a += w[at]! * v;
      b += w[at + inner]! * v;
      c += w[at + 2 * inner]! * v;
      d += w[at + 3 * inner]! * v;
    }
    y[r] = a;
    y[r + 1] = b;
    y[r + 2] = c;
    y[r + 3] = d;
  }
  for (; r < y.length; r++) for (let j = 0; j < inner; j++) y[r]! += w[r * inner + j]! * x[j]!;
  return y;
}

/** What the model would answer without any protocol. */
export class PlainModel {
  private readonly w: ModelWeights;
  private readonly frequencies: Float64Array | undefined;
  /** Per layer, position after position: kvHeads * headDim numbers. */
  private readonly keys: Float64Array[][];
  private readonly values: Float64Array[][];
  private position = 0;

  constructor(w: ModelWeights) {
    this.w = w;
    this.frequencies = w.shape.rope ? ropeFrequencies(w.shape.rope, w.shape.headDim) : undefined;
    this.keys = w.layers.map(() => []);
    this.values = w.layers.map(() => []);
  }

  /** Feeds one token; returns the logits of the next. @throws CachetError 'limit' after the last learned position. */
  next(id: number): Float64Array {
    const { shape, layers, head, finalNorm, finalNormBias } = this.w;
    let x = this.embed(id);
    layers.forEach((l, i) => {
      x = add(x, this.attention(l, i, this.norm(x, l.inputNorm, l.inputNormBias)));
      x = add(x, this.mlp(l, this.norm(x, l.postNorm, l.postNormBias)));
    });
    this.position++;
    return product(head, shape.norm === 'rms' ? rmsNorm(x, finalNorm, shape.eps) : layerNorm(x, finalNorm, finalNormBias!, shape.eps));
  }

  private embed(id: number): Float64Array {
    const { shape, embed, positions } = this.w,
      row = (table: Float32Array, at: number): Float64Array => Float64Array.from(table.subarray(at * shape.width, (at + 1) * shape.width));
    if (!positions) return row(embed, id);
    if (this.position >= shape.maxPositions)
      throw new CachetError({
        code: 'limit',
        what: 'text too long for the model',
        expected: `at most ${shape.maxPositions} tokens`,
        got: String(this.position + 1),
      });
    return add(row(embed, id), row(positions, this.position));
  }

  private norm(x: Float64Array, gain: Float32Array, bias: Float32Array | undefined): Float64Array {
    const { norm, eps } = this.w.shape;
    return norm === 'rms' ? rmsNorm(x, gain, eps) : layerNorm(x, gain, bias!, eps);
  }

  private attention(l: LayerWeights, layer: number, h: Float64Array): Float64Array {
    const { heads, kvHeads, headDim } = this.w.shape,
      keys = this.keys[layer]!,
      values = this.values[layer]!,
      q = this.rotate(affine(l.q, h, l.qBias));
    keys.push(this.rotate(affine(l.k, h, l.kBias)));
    values.push(affine(l.v, h, l.vBias));
    const mixed = new Float64Array(heads * headDim);
    for (let n = 0; n < heads; n++) {
      const from = Math.floor((n * kvHeads) / heads) * headDim;
      const logits = keys.map((k) => {
        let sum = 0;
        for (let d = 0; d < headDim; d++) sum += q[n * headDim + d]! * k[from + d]!;
        return sum / Math.sqrt(headDim);
      });
      const top = logits.reduce((a, b) => Math.max(a, b)),
        p = logits.map((z) => Math.exp(z - top)),
        total = p.reduce((a, b) => a + b);
      values.forEach((v, t) => {
        for (let d = 0; d < headDim; d++) mixed[n * headDim + d]! += (p[t]! / total) * v[from + d]!;
      });
    }
    return affine(l.o, mixed, l.oBias);
  }

  private mlp(l: LayerWeights, h: Float64Array): Float64Array {
    const f = ACTIVATIONS[this.w.shape.activation],
      up = affine(l.up, h, l.upBias),
      gate = l.gate && affine(l.gate, h, l.gateBias);
    return affine(l.down, gate ? gate.map((v, j) => f(v) * up[j]!) : up.map((v) => f(v)), l.downBias);
  }

  /** Half rotation: numbers j and j + headDim / 2 of each head are a pair. */
  private rotate(x: Float64Array): Float64Array {
    if (!this.frequencies) return x;
    const { headDim } = this.w.shape,
      half = headDim / 2,
      y = new Float64Array(x.length);
    for (let j = 0; j < half; j++) {
      const c = Math.cos(this.position * this.frequencies[j]!),
        s = Math.sin(this.position * this.frequencies[j]!);
      for (let at = j; at < x.length; at += headDim) {
        y[at] = x[at]! * c - x[at + half]! * s;
        y[at + half] = x[at + half]! * c + x[at]! * s;
      }
    }
    return y;
  }
}

const affine = (w: Float32Array, x: Float64Array, bias: Float32Array | undefined): Float64Array => (bias ? add(product(w, x), bias) : product(w, x));

const add = (a: Float64Array, b: Float64Array | Float32Array): Float64Array => a.map((v, i) => v + b[i]!);

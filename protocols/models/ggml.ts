/**
 * Tensor types of ggml, dequantised as llama.cpp defines them (ggml-quants.c, `dequantize_row_*`): a block of numbers shares scales in half precision. Products of
 * scales and levels are exact in float64 and in float32, so one rounding to float32 at the end gives the same bits as the C code.
 */
import { bfloat16, float16 } from './float16.ts';

export interface GgmlType {
  readonly name: string;
  /** Numbers a block. */
  readonly block: number;
  /** Bytes a block. */
  readonly bytes: number;
  /** Writes a block's numbers at `out[to..]`, from the bytes at `at`. */
  decode(data: Uint8Array, at: number, out: Float32Array, to: number): void;
}

const word = (data: Uint8Array, at: number): number => data[at]! | (data[at + 1]! << 8);
const half = (data: Uint8Array, at: number): number => float16(word(data, at));
const signed = (byte: number): number => (byte << 24) >> 24;

/** Types that are read, by their number in a GGUF file. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map<number, GgmlType>([
  [0, { name: 'F32', block: 1, bytes: 4, decode: float32 }],
  [1, { name: 'F16', block: 1, bytes: 2, decode: (data, at, out, to) => void (out[to] = half(data, at)) }],
  [30, { name: 'BF16', block: 1, bytes: 2, decode: (data, at, out, to) => void (out[to] = bfloat16(word(data, at))) }],
  [8, { name: 'Q8_0', block: 32, bytes: 34, decode: q8_0 }],
  // Adding -0 changes nothing, not even the sign of a zero.
  [2, { name: 'Q4_0', block: 32, bytes: 18, decode: (data, at, out, to) => nibbles(data, at + 2, out, to, half(data, at), 8, -0) }],
  [3, { name: 'Q4_1', block: 32, bytes: 20, decode: (data, at, out, to) => nibbles(data, at + 4, out, to, half(data, at), 0, half(data, at + 2)) }],
  [12, { name: 'Q4_K', block: 256, bytes: 144, decode: q4K }],
  [14, { name: 'Q6_K', block: 256, bytes: 210, decode: q6K }],
]);

/** Names of the types that are not read, for error texts. */
export const OTHER_TYPES: Readonly<Record<number, string>> = {
  6: 'Q5_0',
  7: 'Q5_1',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  13: 'Q5_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
};

/** `count` numbers of the type from `bytes`; count a multiple of the block. */
export function decodeGgml(type: GgmlType, bytes: Uint8Array, count: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  for (let to = 0, at = 0; to < count; to += type.block, at += type.bytes) type.decode(bytes, at, out, to);
  return out;
}

const bits = new Uint32Array(1),
  real = new Float32Array(bits.buffer);

function float32(data: Uint8Array, at: number, out: Float32Array, to: number): void {
  bits[0] = word(data, at) | (word(data, at + 2) << 16);
  out[to] = real[0]!;
}

/** d q: a scale, 32 signed bytes. */
function q8_0(data: Uint8Array, at: number, out: Float32Array, to: number): void {
  const d = half(data, at);
  for (let j = 0; j < 32; j++) out[to + j] = d * signed(data[at + 2 + j]!);
}

/** d (q - zero) + m of 32 four-bit levels: low nibbles are the first sixteen numbers. */
function nibbles(data: Uint8Array, at: number, out: Float32Array, to: number, d: number, zero: number, m: number): void {
  for (let j = 0; j < 16; j++) {
    const pair = data[at + j]!;
    out[to + j] = d * ((pair & 15) - zero) + m;
    out[to + 16 + j] = d * ((pair >> 4) - zero) + m;
  }
}

/** Eight groups of 32: d scale q - dMin min, scale and min of six bits each, packed in twelve bytes; the upper two bits of groups 4 to 7 sit in the first eight. */
function q4K(data: Uint8Array, at: number, out: Float32Array, to: number): void {
  const d = half(data, at),
    dMin = half(data, at + 2),
    packed = (j: number): number => data[at + 4 + j]!;
  for (let g = 0; g < 8; g++) {
    const scale = g < 4 ? packed(g) & 63 : (packed(g + 4) & 15) | ((packed(g - 4) >> 6) << 4),
      min = g < 4 ? packed(g + 4) & 63 : (packed(g + 4) >> 4) | ((packed(g) >> 6) << 4),
      levels = at + 16 + (g >> 1) * 32,
      shift = (g & 1) * 4;
    for (let j = 0; j < 32; j++) out[to + g * 32 + j] = d * scale * ((data[levels + j]! >> shift) & 15) - dMin * min;
  }
}

/** Sixteen groups of 16: d scale (q - 32), q of six bits: four low ones in the first 128 bytes, two high ones in the next 64, then signed scales, then d. */
function q6K(data: Uint8Array, at: number, out: Float32Array, to: number): void {
  const d = half(data, at + 208);
  for (let i = 0; i < 256; i++) {
    const part = i >> 7,
      row = (i >> 5) & 3,
      j = i & 31;
    const low = (data[at + part * 64 + (row & 1) * 32 + j]! >> (row >> 1 ? 4 : 0)) & 15,
      high = (data[at + 128 + part * 32 + j]! >> (2 * row)) & 3;
    out[to + i] = d * signed(data[at + 192 + (i >> 4)]!) * ((low | (high << 4)) - 32);
  }
}

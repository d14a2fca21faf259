/** The safetensors format: u64 length of a JSON header, the header, the tensors' bytes. Reading converts F16 and BF16 to float32. */
import { CachetError } from '../errors.ts';

export interface TensorData {
  readonly dtype: 'F32' | 'I16' | 'I32' | 'I64';
  readonly shape: readonly number[];
  readonly data: Float32Array | Int16Array | Int32Array | BigInt64Array;
}

export interface Safetensors {
  readonly metadata: Readonly<Record<string, string>>;
  readonly names: readonly string[];
  shape(name: string): readonly number[];
  /** Copies, aligned and with a buffer of their own. @throws CachetError 'model' for a missing tensor or another type. */
  float32(name: string): Float32Array<ArrayBuffer>;
  int16(name: string): Int16Array<ArrayBuffer>;
  int32(name: string): Int32Array<ArrayBuffer>;
  int64(name: string): BigInt64Array<ArrayBuffer>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** What weights may be stored as. */
export const WEIGHT_TYPES = ['F32', 'F16', 'BF16'] as const;

const BYTES: Readonly<Record<string, number>> = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, U8: 1, I8: 1, BOOL: 1 };

/** @throws CachetError 'model' for a truncated or malformed file, before anything is read from it. */
export function readSafetensors(bytes: Uint8Array): Safetensors {
  const corrupt = (got: string): CachetError =>
    new CachetError({
      code: 'model',
      what: 'corrupt safetensors file',
      expected: 'a header and as many bytes as it says',
      got,
      hint: 'download or prepare the file again',
    });
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    length = bytes.length < 8 ? NaN : Number(view.getBigUint64(0, true));
  if (!(length <= bytes.length - 8)) throw corrupt(`${bytes.length} bytes`);
  let header: Record<string, Entry>;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array(bytes.subarray(8, 8 + length)))) as Record<string, Entry>;
  } catch {
    throw corrupt('a header that is not JSON');
  }
  const { __metadata__: metadata, ...entries } = header as Record<string, Entry> & { __metadata__?: Record<string, string> };
  const start = 8 + length;
  for (const [name, e] of Object.entries(entries)) {
    const size = BYTES[e.dtype],
      [from, to] = e.data_offsets ?? [0, -1];
    if (size === undefined || !Array.isArray(e.shape) || from < 0 || to - from !== e.shape.reduce((a, b) => a * b, size) || start + to > bytes.length)
      throw corrupt(`tensor ${name} outside the file or of an unknown type`);
  }
  const get = (name: string, ...types: string[]): { entry: Entry; data: ArrayBuffer } => {
    const entry = entries[name];
    if (!entry) throw new CachetError({ code: 'model', step: name, what: 'tensor missing', expected: types.join(' or '), got: 'none' });
    if (!types.includes(entry.dtype))
      throw new CachetError({ code: 'model', step: name, what: 'tensor of an unsupported type', expected: types.join(' or '), got: entry.dtype });
    return { entry, data: new Uint8Array(bytes.subarray(start + entry.data_offsets[0], start + entry.data_offsets[1])).buffer };
  };
  return {
    metadata: metadata ?? {},
    names: Object.keys(entries),
    shape: (name) => get(name, ...Object.keys(BYTES)).entry.shape,
    float32(name) {
      const { entry, data } = get(name, ...WEIGHT_TYPES);
      if (entry.dtype === 'F32') return new Float32Array(data);
      return Float32Array.from(new Uint16Array(data), entry.dtype === 'F16' ? float16 : bfloat16);
    },
    int16: (name) => new Int16Array(get(name, 'I16').data),
    int32: (name) => new Int32Array(get(name, 'I32').data),
    int64: (name) => new BigInt64Array(get(name, 'I64').data),
  };
}

/** Deterministic: groups one after another, in a group tensors by falling element size, then by name; the data starts at a multiple of 8. */
export function writeSafetensors(groups: readonly ReadonlyMap<string, TensorData>[], metadata: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  const sorted = groups.flatMap((tensors) => [...tensors].sort(([a, x], [b, y]) => BYTES[y.dtype]! - BYTES[x.dtype]! || (a < b ? -1 : 1)));
  const header: Record<string, unknown> = { __metadata__: metadata };
  let at = 0;
  for (const [name, t] of sorted) header[name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, (at += t.data.byteLength)] };
  const text = new TextEncoder().encode(JSON.stringify(header)),
    length = Math.ceil(text.length / 8) * 8,
    out = new Uint8Array(8 + length + at);
  new DataView(out.buffer).setBigUint64(0, BigInt(length), true);
  out.fill(32, 8, 8 + length);
  out.set(text, 8);
  at = 8 + length;
  for (const [, t] of sorted) {
    out.set(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength), at);
    at += t.data.byteLength;
  }
  return out;
}

const word = new Uint32Array(1),
  real = new Float32Array(word.buffer);

function bfloat16(v: number): number {
  word[0] = v << 16;
  return real[0]!;
}

function float16(v: number): number {
  const exponent = (v >> 10) & 31,
    fraction = v & 1023,
    sign = v & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

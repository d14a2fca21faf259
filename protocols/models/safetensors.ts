/** The safetensors format: u64 length of a JSON header, the header, the tensors' bytes. Reading converts F16 and BF16 to float32. */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex } from '@noble/hashes/utils.js';
import { z } from 'zod';
import { CachetError } from '../errors.ts';
import { bfloat16, float16 } from './float16.ts';
import { bytesSource, type ByteSource, type TensorSource } from './source.ts';

export interface TensorData {
  readonly dtype: 'F32' | 'I16' | 'I32' | 'I64';
  readonly shape: readonly number[];
  readonly data: Float32Array | Int16Array | Int32Array | BigInt64Array;
}

export interface Safetensors extends TensorSource {
  readonly metadata: Readonly<Record<string, string>>;
  /** Where the tensors' bytes begin in the file. */
  readonly start: number;
  /** Of the tensor's first byte in the file. */
  offset(name: string): number;
  /** A tensor's bytes as they are stored, into as many of `target`. */
  copy(name: string, target: Uint8Array): void;
  /** Copies, aligned and with a buffer of their own. @throws CachetError 'model' for a missing tensor or another type. */
  int16(name: string): Int16Array<ArrayBuffer>;
  int32(name: string): Int32Array<ArrayBuffer>;
  int64(name: string): BigInt64Array<ArrayBuffer>;
}

const natural = z.number().int().nonnegative();
const headerSchema = z
  .object({ __metadata__: z.record(z.string(), z.string()).default({}) })
  .catchall(z.object({ dtype: z.string(), shape: z.array(natural), data_offsets: z.tuple([natural, natural]) }));

/** Name of a sharded checkpoint's index. */
export const SHARD_INDEX = 'model.safetensors.index.json';

/** What weights may be stored as. */
export const WEIGHT_TYPES = ['F32', 'F16', 'BF16'] as const;

const BYTES: Readonly<Record<string, number>> = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, U8: 1, I8: 1, BOOL: 1 };

/** @throws CachetError 'model' for a truncated or malformed file, before any tensor is read from it. */
export function readSafetensors(file: Uint8Array | ByteSource): Safetensors {
  const source = file instanceof Uint8Array ? bytesSource(file) : file;
  const corrupt = (got: string): CachetError =>
    new CachetError({
      code: 'model',
      what: 'corrupt safetensors file',
      expected: 'a header and as many bytes as it says',
      got,
      hint: 'download or prepare the file again',
    });
  const length = source.size < 8 ? NaN : Number(new DataView(source.read(0, 8).buffer).getBigUint64(0, true));
  if (!(length <= source.size - 8)) throw corrupt(`${source.size} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(source.read(8, 8 + length)));
  } catch {
    throw corrupt('a header that is not JSON');
  }
  const parsed = headerSchema.safeParse(json);
  if (!parsed.success) throw corrupt(`a header with a bad entry ${parsed.error.issues[0]!.path.join('.')}`);
  const { __metadata__: metadata, ...rest } = parsed.data,
    entries = new Map(Object.entries(rest)),
    start = 8 + length;
  for (const [name, e] of entries) {
    const size = BYTES[e.dtype],
      [from, to] = e.data_offsets;
    // Of a type that is not known here the size is not either; it is refused by name when it is read.
    if (to < from || start + to > source.size || (size !== undefined && to - from !== e.shape.reduce((a, b) => a * b, size)))
      throw corrupt(`tensor ${name} outside the file, or of another size than its shape's`);
  }
  const find = (name: string) => {
    const entry = entries.get(name);
    if (!entry) throw new CachetError({ code: 'model', step: name, what: 'tensor missing', expected: 'one of this name', got: 'none' });
    return entry;
  };
  const get = (name: string, ...types: readonly string[]) => {
    const entry = find(name);
    if (!types.includes(entry.dtype))
      throw new CachetError({ code: 'model', step: name, what: 'tensor of an unsupported type', expected: types.join(' or '), got: entry.dtype });
    return { ...entry, data: (): ArrayBuffer => source.read(start + entry.data_offsets[0], start + entry.data_offsets[1]).buffer };
  };
  return {
    metadata,
    start,
    names: [...entries.keys()],
    shape: (name) => find(name).shape,
    offset: (name) => start + find(name).data_offsets[0],
    copy: (name, target) => source.readInto(target, start + find(name).data_offsets[0]),
    float32(name) {
      const { dtype, data } = get(name, ...WEIGHT_TYPES);
      if (dtype === 'F32') return new Float32Array(data());
      const words = new Uint16Array(data()),
        decode = dtype === 'F16' ? float16 : bfloat16,
        out = new Float32Array(words.length);
      for (let i = 0; i < words.length; i++) out[i] = decode(words[i]!);
      return out;
    },
    int16: (name) => new Int16Array(get(name, 'I16').data()),
    int32: (name) => new Int32Array(get(name, 'I32').data()),
    int64: (name) => new BigInt64Array(get(name, 'I64').data()),
  };
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** A checkpoint in several files: the parsed `model.safetensors.index.json`, and how to open a file of its folder. @throws CachetError 'model' for a bad index. */
export function readShards(index: unknown, open: (file: string) => ByteSource): TensorSource {
  const parsed = indexSchema.safeParse(index);
  if (!parsed.success)
    throw new CachetError({
      code: 'model',
      step: SHARD_INDEX,
      what: 'bad index',
      expected: 'weight_map: tensor name to file',
      got: parsed.error.issues[0]!.message,
    });
  const files = new Map(Object.entries(parsed.data.weight_map)),
    shards = new Map<string, Safetensors>();
  for (const file of new Set(files.values())) {
    if (!/^[^/\\]+$/.test(file))
      throw new CachetError({ code: 'model', step: SHARD_INDEX, what: 'bad index', expected: 'files of the same folder', got: file });
    shards.set(file, readSafetensors(open(file)));
  }
  const shardOf = (name: string): Safetensors => {
    const shard = shards.get(files.get(name) ?? '');
    if (!shard) throw new CachetError({ code: 'model', step: name, what: 'tensor missing', expected: `an entry in ${SHARD_INDEX}`, got: 'none' });
    return shard;
  };
  return { names: [...files.keys()], shape: (name) => shardOf(name).shape(name), float32: (name) => shardOf(name).float32(name) };
}

type TensorGroups = readonly ReadonlyMap<string, TensorData>[];

/** In the order of the file: groups one after another, in a group tensors by falling element size, then by name. */
const inOrder = (groups: TensorGroups): (readonly [string, TensorData])[] =>
  groups.flatMap((tensors) => [...tensors].sort(([a, x], [b, y]) => BYTES[y.dtype]! - BYTES[x.dtype]! || (a < b ? -1 : 1)));

const bytesOf = ({ data }: TensorData): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** SHA-256 of the tensors' bytes as `writeSafetensors` puts them into the file, hex. */
export function digestOfTensors(groups: TensorGroups): string {
  const hash = sha256.create();
  for (const [, t] of inOrder(groups)) hash.update(bytesOf(t));
  return bytesToHex(hash.digest());
}

/** Deterministic: groups one after another, in a group tensors by falling element size, then by name; the data starts at a multiple of 8. */
export function writeSafetensors(groups: TensorGroups, metadata: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  const sorted = inOrder(groups);
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
    out.set(bytesOf(t), at);
    at += t.data.byteLength;
  }
  return out;
}

/**
 * The GGUF container, versions 2 and 3, little-endian: metadata, then tensor descriptions, then aligned tensor data.
 *
 * A parser of our own, since `@huggingface/gguf` works on URLs and paths, asynchronously, reads headers alone, and does not check that the file holds what its
 * header promises; here everything is read by ranges from local bytes and checked before it is used. Numbers are dequantised in `ggml.ts`.
 */
import { CachetError } from '../errors.ts';
import { decodeGgml, GGML_TYPES, OTHER_TYPES } from './ggml.ts';
import type { ByteSource, TensorSource } from './source.ts';

export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

export interface Gguf extends TensorSource {
  readonly metadata: ReadonlyMap<string, GgufValue>;
}

interface Entry {
  /** Outermost first; the file has them innermost first. */
  readonly shape: readonly number[];
  readonly type: number;
  /** From the start of the file. */
  readonly offset: number;
}

/** Names of what is read, for lists and error texts. */
export const GGUF_TENSOR_TYPES: readonly string[] = [...GGML_TYPES.values()].map((t) => t.name);

/** @throws CachetError 'model' for a truncated, malformed or foreign file, before any tensor is read from it. */
export function readGguf(source: ByteSource): Gguf {
  const cursor = new Cursor(source);
  if (source.size < 24 || cursor.u32() !== 0x46554747) throw corrupt('the magic GGUF', source.size < 24 ? `${source.size} bytes` : 'another file');
  const version = cursor.u32();
  if (version !== 2 && version !== 3) throw corrupt('version 2 or 3, little-endian', version > 0xffff ? 'a big-endian file' : `version ${version}`);
  const tensorCount = cursor.count(24),
    metadataCount = cursor.count(13);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < metadataCount; i++) metadata.set(cursor.string(), cursor.value(cursor.u32()));
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || !(alignment > 0)) throw corrupt('a positive general.alignment', String(alignment));
  const found = Array.from({ length: tensorCount }, () => {
    const name = cursor.string(),
      dimensions = cursor.u32();
    if (dimensions > 4) throw corrupt(`tensor ${name} of at most 4 dimensions`, String(dimensions));
    const shape = Array.from({ length: dimensions }, () => cursor.u64()).reverse();
    return { name, shape, type: cursor.u32(), offset: cursor.u64() };
  });
  const start = Math.ceil(cursor.position / alignment) * alignment;
  const entries = new Map<string, Entry>();
  for (const { name, shape, type, offset } of found) {
    const known = GGML_TYPES.get(type),
      bytes = known ? bytesOf(shape, known) : 0;
    if (entries.has(name)) throw corrupt('each tensor once', `${name} twice`);
    if (!Number.isInteger(bytes)) throw corrupt(`rows of tensor ${name} in whole blocks of ${known!.block}`, shape.join(' x '));
    if (start + offset + bytes > source.size) throw corrupt(`tensor ${name} within the file`, `a file that ends after ${source.size} bytes`);
    entries.set(name, { shape, type, offset: start + offset });
  }
  const get = (name: string): Entry => {
    const entry = entries.get(name);
    if (!entry) throw new CachetError({ code: 'model', step: name, what: 'tensor missing', expected: 'one of this name', got: 'none' });
    return entry;
  };
  return {
    metadata,
    names: [...entries.keys()],
    shape: (name) => get(name).shape,
    float32(name) {
      const entry = get(name),
        type = GGML_TYPES.get(entry.type);
      if (!type)
        throw new CachetError({
          code: 'model',
          step: name,
          what: 'tensor of an unsupported type',
          expected: GGUF_TENSOR_TYPES.join(' or '),
          got: OTHER_TYPES[entry.type] ?? `ggml type ${entry.type}`,
          hint: 'a file quantised as one of these',
        });
      const count = entry.shape.reduce((a, b) => a * b, 1),
        bytes = source.read(entry.offset, entry.offset + bytesOf(entry.shape, type));
      return decodeGgml(type, bytes, count);
    },
  };
}

/** Not an integer where a row is no whole number of blocks. */
const bytesOf = (shape: readonly number[], type: { readonly block: number; readonly bytes: number }): number =>
  (shape.at(-1) ?? 1) % type.block === 0 ? (shape.reduce((a, b) => a * b, 1) / type.block) * type.bytes : NaN;

const corrupt = (expected: string, got: string): CachetError =>
  new CachetError({ code: 'model', what: 'corrupt GGUF file', expected, got, hint: 'download the file again' });

/** Bytes of a value of metadata, by its type; 8 is text, 9 an array. */
const VALUE_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const WINDOW = 2 ** 20;

/** Reads forward through a window of the file. */
class Cursor {
  position = 0;
  private readonly source: ByteSource;
  private window: DataView<ArrayBuffer> = new DataView(new ArrayBuffer(0));
  private windowAt = 0;
  private readonly text = new TextDecoder('utf-8', { fatal: true });

  constructor(source: ByteSource) {
    this.source = source;
  }

  u32(): number {
    const at = this.take(4);
    return this.window.getUint32(at, true);
  }

  /** @throws CachetError for what a number cannot hold. */
  u64(): number {
    const at = this.take(8),
      v = Number(this.window.getBigUint64(at, true));
    if (!Number.isSafeInteger(v)) throw corrupt('sizes within the file', 'a huge one');
    return v;
  }

  /** A number of items of at least so many bytes, which the rest of the file must have room for. */
  count(bytes: number): number {
    const n = this.u64();
    if (n * bytes > this.source.size - this.position) throw corrupt(`${n} items at byte ${this.position}`, `a file that ends after ${this.source.size} bytes`);
    return n;
  }

  string(): string {
    const length = this.count(1),
      at = this.take(length);
    try {
      return this.text.decode(new Uint8Array(this.window.buffer, at, length));
    } catch {
      throw corrupt('text in UTF-8', `other bytes before ${this.position}`);
    }
  }

  value(type: number, depth = 0): GgufValue {
    const bytes = VALUE_BYTES[type];
    if (bytes === undefined || depth > 4) throw corrupt('a type of metadata from 0 to 12', String(type));
    if (type === 8) return this.string();
    if (type === 9) {
      const of = this.u32(),
        n = this.count(VALUE_BYTES[of] ?? 1);
      return Array.from({ length: n }, () => this.value(of, depth + 1));
    }
    const at = this.take(bytes),
      w = this.window;
    switch (type) {
      case 0:
        return w.getUint8(at);
      case 1:
        return w.getInt8(at);
      case 2:
        return w.getUint16(at, true);
      case 3:
        return w.getInt16(at, true);
      case 4:
        return w.getUint32(at, true);
      case 5:
        return w.getInt32(at, true);
      case 6:
        return w.getFloat32(at, true);
      case 7:
        return w.getUint8(at) !== 0;
      case 12:
        return w.getFloat64(at, true);
      default: {
        const v = type === 10 ? w.getBigUint64(at, true) : w.getBigInt64(at, true);
        return Number.isSafeInteger(Number(v)) ? Number(v) : v;
      }
    }
  }

  /** Moves past `n` bytes; returns where they are in the window, which may be another one than before. */
  private take(n: number): number {
    const { position, source } = this;
    if (position + n > source.size) throw corrupt(`${n} bytes at ${position}`, `a file that ends after ${source.size} bytes`);
    if (position + n > this.windowAt + this.window.byteLength) {
      this.windowAt = position;
      this.window = new DataView(source.read(position, Math.min(source.size, position + Math.max(n, WINDOW))).buffer);
    }
    this.position += n;
    return position - this.windowAt;
  }
}

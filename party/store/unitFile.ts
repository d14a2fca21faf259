/**
 * One party's half of a stored unit: the dealt material of one session, as a file. A header of HEADER bytes, then sealed chunks: length, tag, ciphertext.
 *
 *   0  magic and version    16  party, index    24  store id (16)    40  unit id (32)    72  artefact's digest (32)    104  prompt tokens, tokens
 *   112  protocol version, 0    120  SHA-256 of the cache policy (32)    152  sender's X25519 key (32)    184  body's bytes (u64)    192  body's SHA-256 (32)
 *   224  SHA-256 of all before (32)
 *
 * Chunks are AES-256-GCM under a key of this file alone: HKDF of X25519 between a fresh key and the party's, salted with the unit's id. The nonce is the
 * chunk's number, the associated data the header up to offset 184. The first chunk holds the unit's keys, each further one a frame of the dealt stream (flags,
 * running hash, payload), the last one nothing but the flag that it is the last. Hashes tell damage without a key; what is used is authenticated.
 */
import { createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import type { DesyncHash } from '../../protocols/engines/effects.ts';
import { CachetError } from '../../protocols/errors.ts';
import { MAX_FRAME_PAYLOAD } from '../../protocols/frames.ts';
import { KeyExchange, type UnitKeys } from '../../protocols/handshake.ts';
import { canonicalPolicy, type Policy } from '../../protocols/policy.ts';
import { PROTOCOL_VERSION } from '../../protocols/session.ts';
import { partyOf, type Manifest } from './folder.ts';

const MAGIC = 'cachet unit 2\n\0\0';
const HEADER = 256;
/** Offsets of the policy's hash, the sender's key, the body's bytes and hash, the header's hash. */
const POLICY = 120,
  SENDER = 152,
  SEALED = 184,
  BODY_HASH = 192,
  HASHED = 224;
/** Before a chunk's ciphertext: its length, its tag. */
const PREFIX = 20;
/** Before a chunk's payload: flags, hash. */
const FRAMING = 9;
const FLAG = { step: 1, final: 2 } as const;

/** Public facts of a unit's file. */
export interface UnitHeader {
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** Of the cache policy, hex: `policyDigest`. */
  readonly policy: string;
  readonly party: 0 | 1;
  readonly index: number;
  readonly store: Uint8Array;
  readonly id: Uint8Array;
  /** Of the artefact, hex. */
  readonly artefact: string;
}

interface ReadHeader extends UnitHeader {
  readonly senderKey: Uint8Array;
  readonly bodyBytes: number;
  readonly bodyHash: Uint8Array;
  /** The chunks' associated data. */
  readonly sealed: Uint8Array;
}

/** A frame of the dealt stream; `hash` where it ends a step. */
export interface StoredFrame {
  readonly payload: Uint8Array;
  readonly hash: DesyncHash;
  readonly last: boolean;
}

/** In what a unit differs from what its store says of it, undefined where it does not: what is wrong, expected, got. */
export function misfit(h: UnitHeader, manifest: Manifest, index: number): readonly [what: string, expected: string, got: string] | undefined {
  const store = Buffer.from(h.store).toString('hex'),
    lengths = (of: Pick<UnitHeader, 'promptTokens' | 'maxTokens'>): string => `${of.promptTokens} and ${of.maxTokens}`;
  if (store !== manifest.store) return ['unit of another store', manifest.store.slice(0, 16), store.slice(0, 16)];
  if (h.party !== partyOf(manifest.role)) return ['unit of another party', manifest.role, `p${h.party}`];
  if (h.index !== index) return ['unit under another name', `unit ${index}`, `unit ${h.index}`];
  if (h.artefact !== manifest.artefact) return ['unit of another model', manifest.artefact.slice(0, 16), h.artefact.slice(0, 16)];
  if (lengths(h) !== lengths(manifest)) return ['unit of other lengths', lengths(manifest), lengths(h)];
  if (h.policy !== policyDigest(manifest.policy)) return ['unit of another cache policy', `that of the store, ${manifest.policy.name}`, 'another'];
  return undefined;
}

/** SHA-256 of a policy's canonical text, hex. */
export const policyDigest = (policy: Policy): string => createHash('sha256').update(canonicalPolicy(policy)).digest('hex');

const sealingKey = (exchange: KeyExchange, other: Uint8Array, id: Uint8Array): Uint8Array => exchange.derive(other, id)('store/unit');

function nonce(chunk: number): Uint8Array {
  const bytes = new Uint8Array(12);
  new DataView(bytes.buffer).setUint32(0, chunk, true);
  return bytes;
}

const damaged = (what: string, path: string, expected: string, got: string): CachetError =>
  new CachetError({ code: 'store', step: path, what, expected, got, hint: 'cachet store verify; damaged units are removed by cachet store prune' });

// ---- writing ----------------------------------------------------------------------------------------------------------------------------

/** Seals a unit's half into a new file; chunks are encrypted at once and written one after another. */
export class UnitWriter {
  private readonly file: FileHandle;
  private readonly header: Uint8Array;
  private readonly key: Uint8Array;
  private readonly hash = createHash('sha256');
  private chunks = 0;
  private bodyBytes = 0;
  private writing: Promise<void> = Promise.resolve();
  private failed = false;
  /** Bytes that wait to be written. */
  waiting = 0;
  /** Called once with what the disk says. */
  onError: ((cause: Error) => void) | undefined;

  /** `recipient`: the party's public key. @throws what the file system throws. */
  static async create(path: string, header: UnitHeader, recipient: Uint8Array, keys: UnitKeys): Promise<UnitWriter> {
    return new UnitWriter(await open(path, 'wx', 0o600), header, recipient, keys);
  }

  private constructor(file: FileHandle, h: UnitHeader, recipient: Uint8Array, keys: UnitKeys) {
    const exchange = new KeyExchange(),
      bytes = new Uint8Array(HEADER),
      view = new DataView(bytes.buffer);
    bytes.set(new TextEncoder().encode(MAGIC));
    view.setUint32(16, h.party, true);
    view.setUint32(20, h.index, true);
    bytes.set(h.store, 24);
    bytes.set(h.id, 40);
    bytes.set(Buffer.from(h.artefact, 'hex'), 72);
    view.setUint32(104, h.promptTokens, true);
    view.setUint32(108, h.maxTokens, true);
    view.setUint32(112, PROTOCOL_VERSION, true);
    bytes.set(Buffer.from(h.policy, 'hex'), POLICY);
    bytes.set(exchange.publicKey, SENDER);
    this.file = file;
    this.header = bytes;
    this.key = sealingKey(exchange, recipient, h.id);
    this.chunk(0, { low: 0, high: 0 }, Buffer.concat([keys.mask, keys.dealt, keys.root]));
  }

  /** The bytes are copied before this returns. `hash` where the frame ends a step. */
  frame(payload: Uint8Array, hash: DesyncHash | undefined): void {
    this.chunk(hash ? FLAG.step : 0, hash ?? { low: 0, high: 0 }, payload);
  }

  /** On the disk, whole, when it resolves. @throws what the disk says. */
  async finish(): Promise<void> {
    this.chunk(FLAG.final, { low: 0, high: 0 }, new Uint8Array());
    await this.writing;
    const { header } = this,
      view = new DataView(header.buffer);
    view.setBigUint64(SEALED, BigInt(this.bodyBytes), true);
    header.set(this.hash.digest(), BODY_HASH);
    header.set(createHash('sha256').update(header.subarray(0, HASHED)).digest(), HASHED);
    await this.file.write(header, 0, HEADER, 0);
    await this.file.sync();
    await this.file.close();
  }

  /** Gives the file up. */
  async abandon(): Promise<void> {
    this.failed = true;
    await this.writing.catch(() => undefined);
    await this.file.close().catch(() => undefined);
  }

  get bytes(): number {
    return HEADER + this.bodyBytes;
  }

  private chunk(flags: number, hash: DesyncHash, payload: Uint8Array): void {
    if (this.failed) return;
    const cipher = createCipheriv('aes-256-gcm', this.key, nonce(this.chunks++)),
      framing = new Uint8Array(FRAMING),
      prefix = Buffer.alloc(PREFIX);
    framing[0] = flags;
    new DataView(framing.buffer).setInt32(1, hash.low, true);
    new DataView(framing.buffer).setInt32(5, hash.high, true);
    cipher.setAAD(this.header.subarray(0, SEALED));
    const parts = [cipher.update(framing), cipher.update(payload), cipher.final()];
    prefix.writeUInt32LE(FRAMING + payload.length);
    prefix.set(cipher.getAuthTag(), 4);
    const body = Buffer.concat([prefix, ...parts]),
      at = HEADER + this.bodyBytes;
    this.bodyBytes += body.length;
    this.waiting += body.length;
    this.hash.update(body);
    this.writing = this.writing.then(async () => {
      if (this.failed) return;
      for (let done = 0; done < body.length;) done += (await this.file.write(body, done, body.length - done, at + done)).bytesWritten;
      this.waiting -= body.length;
    });
    this.writing.catch((cause: Error) => {
      if (this.failed) return;
      this.failed = true;
      this.onError?.(cause);
    });
  }
}

// ---- reading ----------------------------------------------------------------------------------------------------------------------------

/** A unit's half, read chunk after chunk. */
export class UnitReader {
  readonly header: UnitHeader;
  private readonly path: string;
  private readonly h: ReadHeader;
  private readonly file: FileHandle;
  private key: Uint8Array | undefined;
  private at = HEADER;
  private chunks = 0;
  /** The next chunk's length, and its tag; read with the chunk before. */
  private next: Buffer | undefined;

  /** Checks the header and the file's length. @throws CachetError 'store' naming what is wrong with the file. */
  static async open(path: string): Promise<UnitReader> {
    let file: FileHandle;
    try {
      file = await open(path, 'r');
    } catch (cause) {
      throw damaged('unit cannot be read', path, 'a readable file', (cause as NodeJS.ErrnoException).code ?? 'an error');
    }
    try {
      const bytes = new Uint8Array(HEADER),
        { bytesRead } = await file.read(bytes, 0, HEADER, 0);
      return new UnitReader(path, file, parseHeader(path, bytes.subarray(0, bytesRead), (await file.stat()).size));
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  private constructor(path: string, file: FileHandle, h: ReadHeader) {
    this.path = path;
    this.file = file;
    this.h = h;
    this.header = h;
  }

  get bytes(): number {
    return HEADER + this.h.bodyBytes;
  }

  /** The whole body against the hash in the header: damage, not malice. @throws CachetError 'store'. */
  async verify(): Promise<void> {
    const hash = createHash('sha256'),
      buffer = new Uint8Array(1 << 20);
    for (let at = HEADER; at < this.bytes;) {
      const { bytesRead } = await this.file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
    if (!hash.digest().equals(this.h.bodyHash)) throw damaged('damaged unit', this.path, 'a body of the hash in its header', 'another hash');
  }

  /** The unit's keys; frames follow. `exchange`: the party's own key. @throws CachetError 'store' for a file that was sealed for another key. */
  async unseal(exchange: KeyExchange): Promise<UnitKeys> {
    this.key = sealingKey(exchange, this.h.senderKey, this.h.id);
    const { payload } = await this.chunk('the key of this party (storeKey in the configuration)');
    return { mask: payload.slice(0, 32), dealt: payload.slice(32, 64), root: payload.slice(64, 96) };
  }

  /** Payload bytes of the next frame; undefined before `unseal`. */
  get nextBytes(): number | undefined {
    return this.next && this.next.readUInt32LE() - FRAMING;
  }

  /** The next frame; undefined at the end. @throws CachetError 'store' for a chunk that is not what the dealer wrote. */
  async frame(): Promise<StoredFrame | undefined> {
    const { flags, hash, payload } = await this.chunk('what the dealer wrote');
    if ((flags & FLAG.final) !== 0) return undefined;
    return { payload, hash, last: (flags & FLAG.step) !== 0 };
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private async chunk(expected: string): Promise<{ flags: number; hash: DesyncHash; payload: Uint8Array }> {
    const prefix = this.next ?? (await this.read(PREFIX)),
      length = prefix.readUInt32LE();
    if (length < FRAMING || length > FRAMING + MAX_FRAME_PAYLOAD)
      throw damaged('damaged unit', this.path, `chunks of at most ${FRAMING + MAX_FRAME_PAYLOAD} bytes`, String(length));
    const final = this.at + length >= this.bytes,
      body = await this.read(length + (final ? 0 : PREFIX)),
      decipher = createDecipheriv('aes-256-gcm', this.key!, nonce(this.chunks++));
    decipher.setAAD(this.h.sealed);
    decipher.setAuthTag(prefix.subarray(4, PREFIX));
    let plain: Buffer;
    try {
      plain = decipher.update(body.subarray(0, length));
      decipher.final();
    } catch {
      throw damaged('unit not authentic', this.path, expected, `another chunk ${this.chunks - 1}`);
    }
    if (final !== ((plain[0]! & FLAG.final) !== 0)) throw damaged('unit not authentic', this.path, 'its last chunk at its end', 'another order');
    this.next = final ? undefined : body.subarray(length);
    return { flags: plain[0]!, hash: { low: plain.readInt32LE(1), high: plain.readInt32LE(5) }, payload: plain.subarray(FRAMING) };
  }

  private async read(n: number): Promise<Buffer> {
    const out = Buffer.allocUnsafeSlow(n);
    for (let done = 0; done < n;) {
      const { bytesRead } = await this.file.read(out, done, n - done, this.at + done);
      if (bytesRead === 0) throw damaged('truncated unit', this.path, `${this.bytes} bytes`, String(this.at + done));
      done += bytesRead;
    }
    this.at += n;
    return out;
  }
}

function parseHeader(path: string, bytes: Uint8Array, size: number): ReadHeader {
  const magic = Buffer.from(bytes.subarray(0, 16)).toString('latin1');
  if (bytes.length < HEADER) throw damaged('truncated unit', path, `a header of ${HEADER} bytes`, `${bytes.length} bytes`);
  if (magic !== MAGIC)
    throw damaged(
      magic.startsWith('cachet unit') ? 'unit of another version' : 'not a unit of a store',
      path,
      'a file of cachet deal, version 2',
      'another header',
    );
  if (!createHash('sha256').update(bytes.subarray(0, HASHED)).digest().equals(bytes.subarray(HASHED, HEADER)))
    throw damaged('damaged unit', path, 'a header of the hash at its end', 'another hash');
  const view = new DataView(bytes.buffer),
    bodyBytes = Number(view.getBigUint64(SEALED, true)),
    version = view.getUint32(112, true);
  if (version !== PROTOCOL_VERSION) throw damaged('unit of another protocol version', path, `version ${PROTOCOL_VERSION}`, `version ${version}`);
  if (size !== HEADER + bodyBytes)
    throw damaged(size < HEADER + bodyBytes ? 'truncated unit' : 'unit with more behind it', path, `${HEADER + bodyBytes} bytes`, `${size} bytes`);
  return {
    party: view.getUint32(16, true) === 0 ? 0 : 1,
    index: view.getUint32(20, true),
    store: bytes.slice(24, 40),
    id: bytes.slice(40, 72),
    artefact: Buffer.from(bytes.subarray(72, 104)).toString('hex'),
    promptTokens: view.getUint32(104, true),
    maxTokens: view.getUint32(108, true),
    policy: Buffer.from(bytes.subarray(POLICY, SENDER)).toString('hex'),
    senderKey: bytes.slice(SENDER, SEALED),
    bodyBytes,
    bodyHash: bytes.slice(BODY_HASH, HASHED),
    sealed: bytes.slice(0, SEALED),
  };
}

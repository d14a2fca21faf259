/**
 * Dealing ahead: the helper's session with two files in the evaluators' place. A unit becomes visible once both its halves are on the disk; what a killed
 * dealer leaves are parts, removed when the next one begins. Indexes are counted durably before a unit is begun, so none is ever given twice.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Link } from '../../client/link.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import { CachetError } from '../../protocols/errors.ts';
import type { FrameKind } from '../../protocols/frames.ts';
import { dealUnitKeys, type Control } from '../../protocols/handshake.ts';
import { policyDifference } from '../../protocols/policy.ts';
import { checkSpec, PROTOCOL_VERSION, specOfUnit, weightsOf, type SessionSpec, type UnitTerms } from '../../protocols/session.ts';
import type { BulkThread } from '../bulk/thread.ts';
import { engineSpace } from '../engine.ts';
import { HelperSession, type DealtTo } from '../helperSession.ts';
import {
  cannotWrite,
  ensureKey,
  EVALUATORS,
  FILES,
  newManifest,
  partsIn,
  partyOf,
  readDealer,
  syncFolder,
  unitName,
  unitsIn,
  writeRecord,
  type DealerManifest,
} from './folder.ts';
import type { TraceRows } from '../trace/recorder.ts';
import { policyDigest, UnitWriter } from './unitFile.ts';

/** What the dealer's engine may have made and not yet written, MiB. */
const AHEAD_MIB = 16;
const LOCK = 'dealing';

/** A unit's file in an evaluator's place. */
class FileLink implements DealtTo {
  readonly peer: string;
  onControl: Link['onControl'];
  onEnd: Link['onEnd'];
  private readonly writer: UnitWriter;
  private readonly path: string;
  private readonly onBytes: (bytes: number) => void;

  constructor(writer: UnitWriter, peer: string, path: string, onBytes: (bytes: number) => void) {
    this.writer = writer;
    this.peer = peer;
    this.path = path;
    this.onBytes = onBytes;
    writer.onError = (cause) => this.onEnd?.(cannotWrite(path, cause), false);
  }

  get waiting(): number {
    return this.writer.waiting;
  }

  /** All that there is may come. */
  begin(): void {
    this.onControl?.({ type: 'credit', limit: Number.MAX_SAFE_INTEGER });
  }

  send(_: FrameKind, payload: Uint8Array, hash?: Parameters<Link['send']>[2]): void {
    this.writer.frame(payload, hash);
    this.onBytes(payload.length);
  }

  control(message: Control): void {
    if (message.type !== 'turnDealt') return;
    this.writer.finish().then(
      () => this.onEnd?.(new CachetError({ code: 'aborted', what: 'unit dealt' }), true),
      (cause: unknown) => this.onEnd?.(cannotWrite(this.path, cause), false),
    );
  }

  close(): void {
    this.onEnd = undefined;
  }

  fail(): void {
    this.onEnd = undefined;
  }
}

export interface DealtUnit {
  readonly index: number;
  /** Bytes of both halves on the disk. */
  readonly bytes: number;
  /** In all, and the engine's time for each step. */
  readonly ms: number;
  readonly stepMs: readonly number[];
}

export interface DealAheadOptions {
  readonly dir: string;
  readonly artefact: Artefact;
  readonly terms: UnitTerms;
  readonly kernels: string;
  readonly threads: number;
  /** What computes bulk work. @default the kernels */
  readonly bulk?: BulkThread | undefined;
  /** The evaluators' public keys, hex. @default keys that are made in the store */
  readonly keys: readonly [string | undefined, string | undefined];
}

/** The session that a unit is for. */
const specFor = (artefact: Artefact, terms: UnitTerms): SessionSpec =>
  specOfUnit({ version: PROTOCOL_VERSION, artefact: artefact.digest, weights: weightsOf(artefact), dealer: 'store', context: 1, filled: 0, ...terms }, terms);

/** The dealer's end of a store: begins one, or goes on with it. */
export class DealerStore {
  private readonly o: DealAheadOptions;
  private manifest: DealerManifest;

  /**
   * @throws CachetError 'usage' for a store of another model, another policy or other lengths, or one that another process deals into; 'limit' for lengths that the model has
   * no room for.
   */
  constructor(o: DealAheadOptions) {
    const { dir, artefact, terms, keys } = o;
    checkSpec(artefact, specFor(artefact, terms));
    this.o = o;
    try {
      for (const role of EVALUATORS) mkdirSync(join(dir, role), { recursive: true });
    } catch (cause) {
      throw cannotWrite(dir, cause);
    }
    this.lock();
    try {
      if (existsSync(join(dir, FILES.dealer))) this.manifest = readDealer(dir);
      else {
        const own = EVALUATORS.map((role, i) => keys[i] ?? ensureKey(join(dir, `${role}.key`))) as [string, string],
          common = newManifest(artefact.digest, terms);
        for (const role of EVALUATORS) writeRecord(join(dir, role, FILES.manifest), { ...common, role });
        this.manifest = { ...common, next: 0, keys: own };
        writeRecord(join(dir, FILES.dealer), this.manifest);
      }
      this.requireSame();
      for (const role of EVALUATORS) for (const part of partsIn(join(dir, role))) rmSync(join(dir, role, part));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Deals one unit; `onBytes` is told of dealt bytes as they are made. @throws CachetError 'aborted', 'config' where the disk does not take it. */
  async deal(o: {
    readonly onBytes: (bytes: number) => void;
    readonly signal: AbortSignal;
    readonly onTrace?: ((rows: TraceRows) => void) | undefined;
  }): Promise<DealtUnit> {
    const { onBytes, signal, onTrace } = o,
      { dir, artefact, terms, kernels, threads, bulk } = this.o,
      started = performance.now(),
      { next: index, store, keys } = this.manifest,
      id = new Uint8Array(randomBytes(32)),
      made = dealUnitKeys(id, (n) => new Uint8Array(randomBytes(n))),
      spec = specFor(artefact, terms),
      paths = EVALUATORS.map((role) => join(dir, role, unitName(index)));
    this.manifest = { ...this.manifest, next: index + 1 };
    writeRecord(join(dir, FILES.dealer), this.manifest);
    const writers: UnitWriter[] = [];
    try {
      for (const [i, role] of EVALUATORS.entries())
        writers.push(
          await UnitWriter.create(
            `${paths[i]}${FILES.part}`,
            {
              party: partyOf(role),
              index,
              store: new Uint8Array(Buffer.from(store, 'hex')),
              id,
              artefact: artefact.digest,
              promptTokens: terms.promptTokens,
              maxTokens: terms.maxTokens,
              policy: policyDigest(terms.policy),
            },
            new Uint8Array(Buffer.from(keys[i]!, 'hex')),
            made.halves[i]!,
          ).catch((cause: unknown) => {
            throw cannotWrite(paths[i]!, cause);
          }),
        );
      const links = writers.map((writer, i) => new FileLink(writer, EVALUATORS[i]!, paths[i]!, onBytes)) as [FileLink, FileLink];
      const stepMs = await new Promise<readonly number[]>((resolve, reject) => {
        const session = new HelperSession({
          artefact,
          spec,
          kernels,
          bulk,
          space: engineSpace('helper', artefact, spec, AHEAD_MIB, { threads, bulk: bulk !== undefined }),
          keys: made.dealer,
          links,
          onTrace,
          onEnd: (error) => {
            signal.removeEventListener('abort', stop);
            if (error) reject(error);
            else resolve(session.stepMs);
          },
        });
        const stop = (): void => session.abort(new CachetError({ code: 'aborted', what: 'interrupted' }));
        signal.addEventListener('abort', stop, { once: true });
        if (signal.aborted) stop();
        for (const link of links) link.begin();
      });
      for (const path of paths) renameSync(`${path}${FILES.part}`, path);
      for (const role of EVALUATORS) syncFolder(join(dir, role));
      return { index, bytes: writers[0]!.bytes + writers[1]!.bytes, ms: performance.now() - started, stepMs: [...stepMs] };
    } catch (error) {
      for (const writer of writers) await writer.abandon();
      for (const path of paths) rmSync(`${path}${FILES.part}`, { force: true });
      throw error;
    }
  }

  /** Units of the store that are there, at the evaluator that has fewer. */
  get units(): number {
    return Math.min(...EVALUATORS.map((role) => unitsIn(join(this.o.dir, role)).length));
  }

  close(): void {
    rmSync(join(this.o.dir, LOCK), { force: true });
  }

  private requireSame(): void {
    const { artefact, terms, keys } = this.o,
      m = this.manifest,
      differ = (what: string, expected: string, got: string): never => {
        throw new CachetError({ code: 'usage', step: this.o.dir, what: `store of ${what}`, expected, got, hint: 'another --out' });
      };
    if (m.artefact !== artefact.digest) differ('another model', `artefact ${m.artefact.slice(0, 16)}`, artefact.digest.slice(0, 16));
    if (m.promptTokens !== terms.promptTokens || m.maxTokens !== terms.maxTokens)
      differ('other lengths', `--prefill ${m.promptTokens} --tokens ${m.maxTokens}`, `${terms.promptTokens} and ${terms.maxTokens}`);
    const other = policyDifference(m.policy, terms.policy);
    if (other) differ('another cache policy', `--policy ${m.policy.name}, field ${other.field}: ${other.expected}`, `${terms.policy.name}: ${other.got}`);
    keys.forEach((key, i) => {
      if (key !== undefined && key !== m.keys[i]) differ('other keys', `${EVALUATORS[i]}'s of the first time`, 'another');
    });
  }

  /** One dealer at a time; a lock whose process is gone does not count. */
  private lock(): void {
    const path = join(this.o.dir, LOCK);
    for (let attempt = 0; ; attempt++)
      try {
        const file = openSync(path, 'wx', 0o600);
        writeSync(file, String(process.pid));
        return closeSync(file);
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cannotWrite(path, cause);
        const pid = Number(readFileSync(path, 'utf8'));
        if (attempt > 0 || alive(pid))
          throw new CachetError({
            code: 'usage',
            step: this.o.dir,
            what: 'store that somebody deals into',
            expected: 'one dealer at a time',
            got: `process ${pid}`,
          });
        rmSync(path, { force: true });
      }
  }
}

/** Whether a dealer is at work in a store. */
export function dealing(dir: string): boolean {
  const path = join(dir, LOCK);
  return existsSync(path) && alive(Number(readFileSync(path, 'utf8')));
}

function alive(pid: number): boolean {
  try {
    if (pid > 0) process.kill(pid, 0);
    return pid > 0;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

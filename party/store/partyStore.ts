/**
 * An evaluator's store: which unit is next, and its use, once. Before anything of a unit is used its mark is durable in the ledger, which is kept out of the
 * store's folder; the file's name is gone before it is read, so that it ends with the session, however that ends. Every mark puts a new token into ledger
 * and folder: a folder that was copied or restored has another one. Units up to the ledger's mark are passed over after a restart.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync, unlinkSync } from 'node:fs';
import { join, resolve, sep } from 'node:path';
import { CachetError } from '../../protocols/errors.ts';
import type { KeyExchange, UnitKeys } from '../../protocols/handshake.ts';
import type { UnitTerms } from '../../protocols/session.ts';
import type { Ledger } from '../ledger.ts';
import { FILES, ledgerId, readKey, readManifest, unitName, unitsIn, writeDurably, type EvaluatorRole, type Manifest } from './folder.ts';
import { misfit, UnitReader } from './unitFile.ts';

/** A unit that is this session's. */
export interface ClaimedUnit {
  readonly index: number;
  readonly id: Uint8Array;
  readonly keys: UnitKeys;
  readonly reader: UnitReader;
}

export class PartyStore {
  readonly id: Uint8Array;
  readonly terms: UnitTerms;
  private readonly folder: string;
  private readonly manifest: Manifest;
  private readonly ledger: Ledger;
  private readonly key: KeyExchange;
  /** Nothing below was given away by this process, or may be. */
  private readonly first: number;
  private given = -1;

  /**
   * `dir`: the store, with this party's folder in it. @throws CachetError 'store' for one that is damaged, of another model, version or party, or not the
   * folder that the ledger knows; 'config' without a ledger outside of it.
   */
  constructor(o: { dir: string; role: EvaluatorRole; artefact: string; ledger: Ledger; ledgerPath: string | undefined; key: string | undefined }) {
    const folder = join(o.dir, o.role),
      manifest = readManifest(folder);
    if (o.ledgerPath === undefined || `${resolve(o.ledgerPath)}`.startsWith(`${resolve(o.dir)}${sep}`))
      throw new CachetError({
        code: 'config',
        party: o.role,
        what: 'store without a ledger of its own',
        expected: 'a ledger outside of the store, which no copy of it brings along',
        got: o.ledgerPath ?? 'none',
        hint: '"ledger" in the configuration, or --ledger FILE',
      });
    this.folder = folder;
    this.manifest = manifest;
    this.ledger = o.ledger;
    this.id = new Uint8Array(Buffer.from(manifest.store, 'hex'));
    this.terms = { promptTokens: manifest.promptTokens, maxTokens: manifest.maxTokens, policy: manifest.policy };
    if (manifest.role !== o.role) throw this.foreign('store of another party', o.role, manifest.role);
    if (manifest.artefact !== o.artefact)
      throw this.foreign('store of another model', `artefact ${o.artefact.slice(0, 16)}`, `artefact ${manifest.artefact.slice(0, 16)}`);
    this.key = readKey(o.key ?? join(o.dir, `${o.role}.key`));
    this.own();
    this.first = this.ledger.store(ledgerId(manifest)).mark + 1;
  }

  /** The first unit from `from` on that this party has not used. @throws CachetError 'store' if there is none. */
  next(from = 0): number {
    const low = Math.max(from, this.first, this.given + 1),
      units = unitsIn(this.folder),
      index = units.find((i) => i >= low);
    if (index === undefined)
      throw new CachetError({
        code: 'store',
        party: this.manifest.role,
        what: 'store exhausted',
        expected: `unit ${low} or a later one`,
        got: units.length === 0 ? 'none' : `${units.length} used or passed over`,
        hint: 'cachet deal with the same --out deals more',
      });
    return index;
  }

  /** Takes a unit for a session; it is used up however this ends. @throws CachetError 'store' for one that was used, is not there, or is not this store's. */
  async claim(index: number): Promise<ClaimedUnit> {
    const { ledger, manifest } = this,
      token = randomBytes(16).toString('hex'),
      path = join(this.folder, unitName(index));
    this.own();
    if (index < this.first) throw this.foreign(`unit ${index} passed over`, `unit ${this.first} or a later one, by the ledger`, 'one that may have been used');
    ledger.useUnit(ledgerId(manifest), index, token);
    this.given = Math.max(this.given, index);
    writeDurably(join(this.folder, FILES.owner), `${token}\n`);
    const reader = await UnitReader.open(path);
    try {
      // Whoever removes the name has the unit: of two processes only one does.
      unlinkSync(path);
      const { header } = reader,
        wrong = misfit(header, manifest, index);
      if (wrong) throw this.foreign(...wrong);
      return { index, id: header.id, keys: await reader.unseal(this.key), reader };
    } catch (error) {
      await reader.close();
      throw error instanceof CachetError ? error : this.foreign(`unit ${index} is gone`, 'its file', (error as NodeJS.ErrnoException).code ?? 'an error');
    }
  }

  /** Removes units that the ledger passes over. */
  tidy(): void {
    for (const index of unitsIn(this.folder)) if (index < this.first) rmSync(join(this.folder, unitName(index)), { force: true });
  }

  /** Ledger and folder know each other: by the latest token, or the one before. A store that neither knows becomes this ledger's. */
  private own(): void {
    const store = ledgerId(this.manifest),
      path = join(this.folder, FILES.owner),
      { tokens, mark } = this.ledger.store(store),
      token = existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined;
    if (token === undefined && tokens.length === 0) {
      const fresh = randomBytes(16).toString('hex');
      this.ledger.adopt(store, fresh);
      return writeDurably(path, `${fresh}\n`);
    }
    if (token !== undefined && tokens.includes(token)) return;
    // A crash between the ledger's first line and the folder's.
    if (token === undefined && mark < 0) return writeDurably(path, `${tokens[0]!}\n`);
    if (tokens.length === 0) throw this.foreign('store of another ledger', 'the ledger that has used it', 'one that does not know it');
    throw this.foreign('store copied or restored', 'the folder that its ledger has used', 'an earlier or another one');
  }

  private foreign(what: string, expected: string, got: string): CachetError {
    return new CachetError({ code: 'store', party: this.manifest.role, step: this.folder, what, expected, got, hint: 'a store is used once: deal a new one' });
  }
}

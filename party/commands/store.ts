/** `cachet store`: what a store holds, whether it is whole, what may go; keys of evaluators. */
import { existsSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { CachetError } from '../../protocols/errors.ts';
import { Ledger } from '../ledger.ts';
import { dealing } from '../store/dealing.ts';
import { ensureKey, EVALUATORS, ledgerId, partsIn, readManifest, unitName, unitsIn, type EvaluatorRole, type Manifest } from '../store/folder.ts';
import { misfit, UnitReader } from '../store/unitFile.ts';
import { bytes, Progress, table } from '../terminal.ts';

/** A party's part of a store. */
interface Part {
  readonly role: EvaluatorRole;
  readonly folder: string;
  readonly manifest: Manifest;
  readonly units: readonly number[];
}

function partsOf(dir: string): Part[] {
  const parts = EVALUATORS.filter((role) => existsSync(join(dir, role))).map((role): Part => {
    const folder = join(dir, role);
    return { role, folder, manifest: readManifest(folder), units: unitsIn(folder) };
  });
  if (parts.length > 0) return parts;
  throw new CachetError({
    code: 'store',
    what: 'no store',
    expected: `${join(dir, 'p0')} or ${join(dir, 'p1')}`,
    got: 'neither',
    hint: 'cachet deal --out DIR',
  });
}

/** Opens a unit and compares it with its store; `whole`: the body's hash as well. @throws CachetError 'store' saying what is wrong. */
async function check({ folder, manifest }: Part, index: number, whole: boolean): Promise<void> {
  const path = join(folder, unitName(index)),
    reader = await UnitReader.open(path);
  try {
    const wrong = misfit(reader.header, manifest, index);
    if (wrong) throw new CachetError({ code: 'store', step: path, what: wrong[0], expected: wrong[1], got: wrong[2], hint: 'cachet store prune removes it' });
    if (whole) await reader.verify();
  } finally {
    await reader.close();
  }
}

const list = new Command('ls')
  .description('What a store holds.')
  .argument('<dir>', 'the store')
  .option('--ledger <file>', "an evaluator's ledger: units that it has used or passed over")
  .option('--json', 'as JSON on stdout')
  .action((dir: string, o: { ledger?: string; json?: boolean }) => {
    const ledger = new Ledger(o.ledger),
      rows = partsOf(dir).map(({ role, folder, manifest, units }) => {
        const { mark } = ledger.store(ledgerId(manifest));
        return {
          role,
          store: manifest.store,
          promptTokens: manifest.promptTokens,
          maxTokens: manifest.maxTokens,
          policy: manifest.policy.name,
          units: units.filter((i) => i > mark).length,
          first: units.find((i) => i > mark) ?? null,
          passedOver: units.filter((i) => i <= mark).length,
          bytes: units.reduce((n, i) => n + statSync(join(folder, unitName(i))).size, 0),
        };
      });
    ledger.close();
    if (o.json) return void console.log(JSON.stringify(rows));
    console.log(
      table([
        ['party', 'store', 'prompt', 'answer', 'policy', 'units', 'first', 'passed over', 'bytes'],
        ...rows.map((r) => [
          r.role,
          r.store.slice(0, 16),
          String(r.promptTokens),
          String(r.maxTokens),
          r.policy,
          String(r.units),
          r.first === null ? '-' : String(r.first),
          String(r.passedOver),
          bytes(r.bytes),
        ]),
      ]),
    );
  });

const verify = new Command('verify')
  .description('Check every unit of a store: header, length, hash, and that both parts have the same ones where both are here.')
  .argument('<dir>', 'the store')
  .option('--json', 'as JSON on stdout')
  .action(async (dir: string, o: { json?: boolean }) => {
    const parts = partsOf(dir),
      progress = new Progress({ silent: o.json === true }),
      wrong: CachetError[] = [];
    let checked = 0;
    for (const part of parts)
      for (const index of part.units) {
        progress.update(`${part.role}, unit ${index}`);
        checked++;
        try {
          await check(part, index, true);
        } catch (error) {
          if (!(error instanceof CachetError)) throw error;
          wrong.push(error);
        }
      }
    progress.update('');
    if (o.json) console.log(JSON.stringify({ checked, wrong: wrong.map((e) => e.message) }));
    else {
      for (const error of wrong) console.log(error.message);
      console.log(`${checked - wrong.length} of ${checked} units are whole`);
    }
    if (wrong.length > 0) process.exitCode = 1;
  });

const prune = new Command('prune')
  .description('Remove what is of no use: damaged units, what a killed dealer left, and by a ledger what is passed over.')
  .argument('<dir>', 'the store')
  .option('--ledger <file>', "an evaluator's ledger: units up to its mark go")
  .option('--json', 'as JSON on stdout')
  .action(async (dir: string, o: { ledger?: string; json?: boolean }) => {
    const ledger = new Ledger(o.ledger),
      busy = dealing(dir),
      removed: string[] = [];
    let freed = 0;
    for (const part of partsOf(dir)) {
      const { mark } = ledger.store(ledgerId(part.manifest)),
        bad: string[] = busy ? [] : partsIn(part.folder);
      for (const index of part.units) {
        const good = await check(part, index, true).then(
          () => true,
          (error: unknown) => {
            if (error instanceof CachetError) return false;
            throw error;
          },
        );
        if (index <= mark || !good) bad.push(unitName(index));
      }
      for (const name of bad) {
        const path = join(part.folder, name);
        freed += statSync(path).size;
        rmSync(path);
        removed.push(path);
      }
    }
    ledger.close();
    if (o.json) return void console.log(JSON.stringify({ removed, bytes: freed }));
    for (const path of removed) console.log(`removed ${path}`);
    console.log(`${removed.length} files, ${bytes(freed)}`);
  });

const key = new Command('key')
  .description("Make an evaluator's key, unless it is there, and print its public key for cachet deal.")
  .argument('<file>', 'the key: keep it at the evaluator, with its ledger')
  .option('--json', 'as JSON on stdout')
  .action((path: string, o: { json?: boolean }) => {
    const publicKey = ensureKey(path);
    console.log(o.json ? JSON.stringify({ file: path, publicKey }) : publicKey);
  });

export const storeCommand = new Command('store')
  .description('Stores of material dealt ahead: list, verify, prune; keys of evaluators.')
  .addCommand(list)
  .addCommand(verify)
  .addCommand(prune)
  .addCommand(key);

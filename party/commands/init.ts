/** `cachet init`: configurations for the machines of a deployment, and what to run where. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { EMBEDDED_MODEL } from '../../client/node.ts';
import { CachetError } from '../../protocols/errors.ts';
import { checkConfig, type PartyRole } from '../config.ts';
import { writeAtomically } from '../files.ts';
import { hostPort } from './options.ts';

interface Options {
  out: string;
  model: string;
  p0: string;
  p1: string;
  helperAt: string;
  two?: boolean;
  insecure?: boolean;
  force?: boolean;
  json?: boolean;
}

export const initCommand = new Command('init')
  .description('Write configurations for the parties and their clients, and say what to run where.')
  .option('--out <dir>', 'folder to write to', '.')
  .option('--model <dir>', 'model folder, or the embedded model', EMBEDDED_MODEL)
  .addOption(new Option('--p0 <host:port>', 'where evaluator P0 is').argParser(hostPort).default('127.0.0.1:7700'))
  .addOption(new Option('--p1 <host:port>', 'where evaluator P1 is').argParser(hostPort).default('127.0.0.1:7701'))
  .addOption(new Option('--helper-at <host:port>', 'where the helper is').argParser(hostPort).default('127.0.0.1:7702').conflicts('two'))
  .option('--two', 'no helper: clients deal for themselves')
  .option('--insecure', 'allow machines other than this one: links have no TLS yet')
  .option('--force', 'overwrite files that exist')
  .option('--json', 'what was written as JSON on stdout')
  .addHelpText(
    'after',
    `
Copy each party's file to its machine. Its ledger, the file of what it has used
up, is kept in the folder that the configuration is in: "ledger", "store" and
"storeKey" in a configuration are seen from there, as flags from the folder that
the command runs in.`,
  )
  .action(async (o: Options) => {
    const roles: PartyRole[] = o.two ? ['p0', 'p1'] : ['helper', 'p0', 'p1'],
      at: Readonly<Record<PartyRole, string>> = { p0: o.p0, p1: o.p1, helper: o.helperAt };
    const shared = {
      model: o.model,
      ...Object.fromEntries(['p0', 'p1', 'helper'].filter((r) => roles.includes(r as PartyRole)).map((r) => [r, `ws://${at[r as PartyRole]}`])),
      ...(o.insecure ? { insecure: true } : {}),
    };
    checkConfig(shared, 'options', { p0: '--p0', p1: '--p1', helper: '--helper-at' });
    const files = [
      ...roles.map((role) => ({ role, path: join(o.out, `${role}.json`), content: { ...shared, ledger: `${role}.ledger` } })),
      { role: 'client' as const, path: join(o.out, 'client.json'), content: shared },
    ];
    const there = files.find((f) => existsSync(f.path));
    if (there && !o.force)
      throw new CachetError({ code: 'config', what: 'file exists', expected: `${there.path} free`, got: 'a file', hint: '--force, or another --out' });
    for (const f of files) await writeAtomically(f.path, `${JSON.stringify(f.content, null, 2)}\n`);
    const run = files.map((f) =>
      f.role === 'client'
        ? `cachet ask --config ${f.path}${o.two ? ' --helper client' : ''} --question "..."`
        : `cachet party --role ${f.role} --config ${f.path}`,
    );
    if (o.json) return void console.log(JSON.stringify({ files: files.map(({ role, path }) => ({ role, path })), run }));
    console.log(`wrote ${files.map((f) => f.path).join(', ')}\n\nRun, each on its machine:\n${run.map((line) => `  ${line}`).join('\n')}`);
    if (o.insecure) console.log('\nINSECURE: whoever can read or change the network between the parties can read\nsessions. Use a network that you trust.');
    console.log('\nCheck with: cachet doctor --config FILE');
  });

/** Party processes on loopback, three or (where the client deals) two, for the demo, benchmarks and tests: real processes of the command line, on free ports. */
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { packageRoot } from '../client/node.ts';
import { CachetError } from '../protocols/errors.ts';
import { checkConfig, flagOf, type Config, type ConfigField, type PartyRole } from './config.ts';
import type { LogLine } from './log.ts';

/** Each before those that connect to it. */
const ORDER: readonly PartyRole[] = ['helper', 'p0', 'p1'];

export interface TrioOptions extends Partial<Config> {
  /** Models that differ from the configuration's: parts of a private one. */
  readonly models?: Readonly<Partial<Record<PartyRole, string>>>;
  /** Other fields that differ at one party. */
  readonly own?: Readonly<Partial<Record<PartyRole, Partial<Config>>>>;
  /** Without 'helper' the client deals. @default all three */
  readonly roles?: readonly PartyRole[];
  /** The address that the others are told, for one at which a party listens: something may stand between. */
  readonly between?: (role: PartyRole, address: string) => Promise<string>;
  /** A trace file that the caller has begun. */
  readonly trace?: string;
}

/** A line of a party's log. */
export interface TrioEvent {
  readonly role: PartyRole;
  readonly event: LogLine['event'];
  readonly session?: string;
  readonly error?: string;
  readonly url?: string;
  readonly unit?: number;
  /** Bytes resident at most; processor time during the session; the helper's time for a step. */
  readonly memory?: number;
  readonly cpuMs?: number;
  readonly stepMs?: number;
  readonly traffic?: Extract<LogLine, { event: 'end' }>['traffic'];
}

export class Trio {
  readonly config: Config;
  readonly events: TrioEvent[] = [];
  private readonly children: Map<PartyRole, ChildProcess>;
  private readonly trace: string | undefined;
  private readonly own: NonNullable<TrioOptions['own']>;
  private readonly listeners = new Set<() => void>();

  /** @throws CachetError 'link' if a process does not come up. */
  static async start(
    model: string,
    { roles = ORDER, between = (_, address) => Promise.resolve(address), trace, models = {}, own = {}, ...options }: TrioOptions = {},
  ): Promise<Trio> {
    const addresses = Object.fromEntries(roles.map((role) => [role, 'ws://127.0.0.1:0'])),
      config = checkConfig({ model, ...addresses, ...options }, 'options');
    const of = (role: PartyRole): Partial<Config> => ({ ...(models[role] !== undefined && { model: models[role] }), ...own[role] }),
      trio = new Trio(config, trace, Object.fromEntries(ORDER.map((role) => [role, of(role)])));
    try {
      // Each listens on a free port; those who connect to it are started after it.
      for (const role of ORDER) if (roles.includes(role)) config[role] = await between(role, await trio.launch(role));
      return trio;
    } catch (error) {
      await trio.stop();
      throw error;
    }
  }

  private constructor(config: Config, trace: string | undefined, own: NonNullable<TrioOptions['own']>) {
    this.own = own;
    this.trace = trace;
    this.config = config;
    this.children = new Map();
  }

  private async launch(role: PartyRole): Promise<string> {
    const program = join(packageRoot(), 'dist', 'party', 'cli.js'),
      trace = this.trace === undefined ? [] : ['--trace', this.trace, '--trace-shared'];
    // Flags, not a file: nothing is left behind. The pipe on stdin ends with this process, however it ends, and the party with it.
    const flags = Object.entries({ ...this.config, ...this.own[role] }).flatMap(([field, value]) =>
      value === false ? [] : value === true ? [flagOf(field as ConfigField)] : [flagOf(field as ConfigField), String(value)],
    );
    const child = spawn(process.execPath, [program, 'party', '--role', role, ...flags, '--json', '--until-stdin-ends', ...trace], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.children.set(role, child);
    let complaint = '';
    child.stderr.on('data', (data: Buffer) => (complaint += data.toString()));
    return new Promise((resolve, reject) => {
      child.once('exit', (code) => {
        this.push({ role, event: 'end', error: `process ended with status ${code}${complaint ? `: ${complaint.trim()}` : ''}` });
        reject(new CachetError({ code: 'link', party: role, what: 'process did not start', got: complaint.trim() || `status ${code}` }));
      });
      createInterface({ input: child.stdout }).on('line', (line) => {
        const event = JSON.parse(line) as TrioEvent;
        if (event.event === 'listening') resolve(event.url!);
        this.push({ ...event, role });
      });
    });
  }

  private push(event: TrioEvent): void {
    this.events.push(event);
    for (const listener of this.listeners) listener();
  }

  /** Process ids, by role. */
  get pids(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.children].map(([role, child]) => [role, child.pid!]));
  }

  /** Waits until all have ended a session; returns their events. */
  async ended(session: string, timeoutMs = 60_000): Promise<TrioEvent[]> {
    const found = () => this.events.filter((e) => e.event === 'end' && e.session === session);
    if (found().length < this.children.size)
      await new Promise<void>((resolve) => {
        const check = (): void => {
          if (found().length >= this.children.size) finish();
        };
        const finish = (): void => {
          clearTimeout(timer);
          this.listeners.delete(check);
          resolve();
        };
        const timer = setTimeout(finish, timeoutMs);
        this.listeners.add(check);
      });
    return found();
  }

  async stop(): Promise<void> {
    await Promise.all(
      [...this.children.values()].map((child) => {
        if (child.exitCode !== null || child.signalCode !== null) return undefined;
        const gone = new Promise((resolve) => child.once('exit', resolve)),
          timer = setTimeout(() => child.kill('SIGKILL'), 5000);
        child.kill('SIGTERM');
        return gone.finally(() => clearTimeout(timer));
      }),
    );
  }
}

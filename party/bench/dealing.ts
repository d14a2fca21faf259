/**
 * What dealing a token costs beside what an evaluator computes for it: engines alone, by kind of correlation and with each backend; then real processes, by their
 * processor time. And what bounds the dealer: the pseudorandom bytes that it must draw, the products that it must form.
 */
import { PrivateSession } from '../../client/session.ts';
import { BULK_KINDS, runInPlace, type BulkJob, type BulkKind } from '../../kernels/bulk.ts';
import { createKernels } from '../../kernels/registry.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import type { BulkRunner } from '../../protocols/engines/effects.ts';
import { BulkThread, bulkRunner } from '../bulk/thread.ts';
import type { BackendName } from '../config.ts';
import { Trio, type TrioEvent } from '../launch.ts';
import { reach } from '../reach.ts';
import { median } from '../terminal.ts';
import { dealAlone, runAlone, type AloneRun, type Timed } from './alone.ts';

/** Kinds of correlation, in the order of reports. */
export const CORRELATIONS = ['keys', 'expTable', 'fourier', 'truth tables', 'products', 'masks'] as const;
export type Correlation = (typeof CORRELATIONS)[number];

/** Gates by what is dealt for them; others have masks alone, drawn or combined. */
const GATES: Readonly<Record<string, Correlation>> = {
  spline: 'keys',
  onehot: 'keys',
  expTable: 'expTable',
  fourier: 'fourier',
  lookup: 'truth tables',
  less: 'truth tables',
  bucket: 'truth tables',
  mul: 'products',
  mul3: 'products',
};

/** One kind of a token's bulk work on a backend, sending to and from its device included. */
export interface BackendCost {
  readonly backend: string;
  readonly device: string;
  readonly kind: BulkKind;
  /** Jobs of a token, and lists in which they come. */
  readonly jobs: number;
  readonly lists: number;
  readonly ms: number;
}

export interface DealingRow {
  readonly task: 'dealing';
  readonly model: string;
  /** Cached tokens. */
  readonly context: number;
  readonly weights: 'open';
  /** Dealt to both evaluators, headers included. */
  readonly dealtBytes: number;
  /** Engines alone, ms a token, best of several. */
  readonly dealMs: number;
  readonly dealMsOf: Readonly<Record<Correlation, number>>;
  readonly evaluateMs: { readonly p0: number; readonly p1: number };
  /** What the engine alone deals in a second: tokens' material, bytes. */
  readonly tokensPerSecond: number;
  readonly bytesPerSecond: number;
  /** Dealing over the mean of both evaluators. */
  readonly ratio: number;
  /** What the dealer needs at least, ms a token: bytes of the pseudorandom streams at their rate alone. */
  readonly streams: { readonly bytes: number; readonly ms: number };
  /** Processor time of each process for a token, ms: sockets, sealing of frames and waits' switches included. null: not measured. */
  readonly cpuMs: { readonly helper: number; readonly p0: number; readonly p1: number } | null;
  readonly cpuRatio: number | null;
  readonly backends: readonly (BackendCost | { readonly backend: string; readonly reason: string })[];
}

/** Times that all engines run a few tokens; of each gate the best counts, so that a busy machine does not decide. */
const RUNS = 3;
/** Tokens by which two sessions differ whose processor time is compared. */
const MORE_TOKENS = 8;

/** @throws CachetError what a session throws; 'limit' for a context that the model has no room for. */
export async function benchDealing(o: {
  readonly model: string;
  readonly artefact: Artefact;
  readonly context: number;
  readonly backends: readonly string[];
  /** Pairs of sessions of real processes; 0: engines alone. */
  readonly reps: number;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}): Promise<DealingRow> {
  const { model, artefact, context } = o,
    setting = { artefact, backend: 'wasm', context };
  const runs = Array.from({ length: RUNS }, (_, i) => {
    o.onProgress(`engines alone, ${i + 1} of ${RUNS}`);
    return runAlone(setting);
  });
  const { cost, drawn } = runs.at(-1)!,
    [dealer, ...evaluators] = [(r: AloneRun) => r.dealer, (r: AloneRun) => r.evaluators[0], (r: AloneRun) => r.evaluators[1]].map((of) =>
      bestOf(runs.map(of)),
    ) as [ReadonlyMap<string, Timed>, ReadonlyMap<string, Timed>, ReadonlyMap<string, Timed>],
    sum = (times: ReadonlyMap<string, Timed>): number => [...times.values()].reduce((ms, t) => ms + t.ms, 0),
    [dealMs, p0, p1] = [dealer, ...evaluators].map(sum) as [number, number, number],
    of = new Map<Correlation, number>(CORRELATIONS.map((c) => [c, 0]));
  for (const [gate, { ms }] of dealer) {
    const kind = GATES[gate] ?? 'masks';
    of.set(kind, of.get(kind)! + ms);
  }
  const backends: DealingRow['backends'][number][] = [];
  for (const name of o.backends) {
    o.onProgress(`dealing with ${name}`);
    backends.push(...(await backendCosts(name, setting)));
  }
  const cpu = o.reps > 0 ? await processorTime(o) : null;
  return {
    task: 'dealing',
    model,
    context,
    weights: 'open',
    dealtBytes: cost.dealtBytes,
    dealMs,
    dealMsOf: Object.fromEntries(of) as Record<Correlation, number>,
    evaluateMs: { p0, p1 },
    tokensPerSecond: 1e3 / dealMs,
    bytesPerSecond: (1e3 * cost.dealtBytes) / dealMs,
    ratio: (2 * dealMs) / (p0 + p1),
    streams: drawn,
    cpuMs: cpu,
    cpuRatio: cpu && (2 * cpu.helper) / (cpu.p0 + cpu.p1),
    backends,
  };
}

/** By gate, the least time. */
function bestOf(runs: readonly ReadonlyMap<string, Timed>[]): ReadonlyMap<string, Timed> {
  return new Map([...runs[0]!].map(([gate, timed]) => [gate, { ...timed, ms: Math.min(...runs.map((r) => r.get(gate)!.ms)) }]));
}

/** A backend's time for the bulk jobs of a token, kind by kind: the best token. `wasm`: the kernels in place. */
async function backendCosts(
  name: string,
  setting: Parameters<typeof runAlone>[0],
): Promise<readonly (BackendCost | { readonly backend: string; readonly reason: string })[]> {
  const thread =
    name === 'wasm' ? undefined : await BulkThread.open(name as Exclude<BackendName, 'wasm'>, () => undefined).catch((error: unknown) => error as Error);
  if (thread instanceof Error) return [{ backend: name, reason: thread.message }];
  let now = new Map<BulkKind, Omit<BackendCost, 'backend' | 'device'>>(),
    steps = 0;
  const best = new Map<BulkKind, Omit<BackendCost, 'backend' | 'device'>>(),
    failure: { reason?: string } = {};
  let close = (): void => undefined;
  dealAlone(
    setting,
    (memory): BulkRunner => {
      const kernels = createKernels('wasm', memory),
        remote = thread && bulkRunner(thread.serve(memory), new Int32Array(new SharedArrayBuffer(4))),
        run = (jobs: readonly BulkJob[]): void => {
          if (!remote) runInPlace(kernels, jobs);
          else if (!remote.run(jobs)) {
            failure.reason = 'its device failed on the way';
            runInPlace(kernels, jobs);
          }
        };
      close = () => remote?.close();
      const kinds = thread?.kinds ?? BULK_KINDS;
      return {
        kinds,
        run(jobs) {
          for (const kind of kinds) {
            const mine = jobs.filter((j) => j.kind === kind),
              start = performance.now();
            if (mine.length === 0) continue;
            run(mine);
            const { jobs: n, lists, ms } = now.get(kind) ?? { jobs: 0, lists: 0, ms: 0 };
            now.set(kind, { kind, jobs: n + mine.length, lists: lists + 1, ms: ms + performance.now() - start });
          }
          return true;
        },
      };
    },
    () => {
      // The first step fills the cache, if there is anything to fill, or is the first token.
      if (steps++ > 0) for (const [kind, cost] of now) if (cost.ms < (best.get(kind)?.ms ?? Infinity)) best.set(kind, cost);
      now = new Map();
    },
  );
  close();
  await thread?.close();
  if (failure.reason !== undefined) return [{ backend: name, reason: failure.reason }];
  return [...best.values()].map((cost) => ({ backend: name, device: thread?.device ?? 'one core', ...cost }));
}

/** Processor time a token of each process: of sessions that differ in their tokens alone, the median of the differences. */
async function processorTime({ model, artefact, context, reps, signal, onProgress }: Parameters<typeof benchDealing>[0]): Promise<DealingRow['cpuMs']> {
  const trio = await Trio.start(model, { benchmark: true }),
    times: Record<'helper' | 'p0' | 'p1', number[]> = { helper: [], p0: [], p1: [] };
  const run = async (tokens: number): Promise<readonly TrioEvent[]> => {
    const session = await PrivateSession.open({
      ...reach(trio.config, artefact, 'server', signal),
      artefact,
      promptTokens: 1,
      maxTokens: tokens,
      filled: Math.max(0, context - artefact.prefixIds.length),
    });
    for (let i = 0; i < tokens; i++) await session.step([5 + ((i * 37) % (artefact.shape.vocab - 5))]);
    await session.stop();
    return trio.ended(session.id);
  };
  try {
    onProgress('processes: warming up');
    await run(2);
    for (let rep = 1; rep <= reps; rep++) {
      onProgress(`processes: ${rep} of ${reps}`);
      const few = await run(1),
        more = await run(1 + MORE_TOKENS);
      for (const role of ['helper', 'p0', 'p1'] as const) {
        const cpuOf = (events: readonly TrioEvent[]): number => events.find((e) => e.role === role)!.cpuMs!;
        times[role].push((cpuOf(more) - cpuOf(few)) / MORE_TOKENS);
      }
    }
  } finally {
    await trio.stop();
  }
  return { helper: median(times.helper), p0: median(times.p0), p1: median(times.p1) };
}

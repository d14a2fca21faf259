/** Rates of the dealer's bulk work by backend and kind, beside the wasm kernels' in the same run; backends take turns, so that a busy machine is fair. */
import { runInPlace, type BulkKind } from '../../kernels/bulk.ts';
import { createKernels } from '../../kernels/registry.ts';
import { BULK_BACKENDS, openBackend } from '../bulk/backends.ts';
import { inexactKinds, timeOf, trials } from '../bulk/trial.ts';

export interface BackendRow {
  readonly backend: string;
  readonly device: string;
  readonly kind: BulkKind;
  readonly name: string;
  /** Upload and download included. */
  readonly rate: number;
  readonly unit: string;
  /** Rate over the wasm kernels', on one core. */
  readonly ratio: number;
}
/** A backend that was not measured, and why. */
export interface AbsentBackend {
  readonly backend: string;
  readonly reason: string;
}

/** Runs of each backend in each of so many turns; the best counts. */
const RUNS = 4,
  TURNS = 3;

/** Measures the named backends; rows come a backend after another. */
export async function benchBackends(names: readonly string[], onRow: (row: BackendRow | AbsentBackend) => void): Promise<(BackendRow | AbsentBackend)[]> {
  const rows: (BackendRow | AbsentBackend)[] = [],
    push = (row: BackendRow | AbsentBackend): void => {
      rows.push(row);
      onRow(row);
    };
  for (const name of names.filter((n) => n !== 'wasm')) {
    const backend = await openBackend(name).catch((error: unknown) => error as Error);
    if (backend instanceof Error) {
      push({ backend: name, reason: backend.message });
      continue;
    }
    const wrong = await inexactKinds(backend),
      { memory, trials: all } = trials(),
      k = createKernels('wasm', memory);
    if (wrong.length > 0) push({ backend: name, reason: `not exact in ${wrong.join(', ')} on ${backend.device}` });
    else
      for (const { kind, name: shape, unit, work, jobs } of all.filter((t) => backend.kinds.includes(t.kind))) {
        let own = Infinity,
          its = Infinity;
        for (let turn = 0; turn < TURNS; turn++) {
          own = Math.min(own, await timeOf(RUNS, () => runInPlace(k, jobs)));
          its = Math.min(its, await timeOf(RUNS, () => backend.run(memory, jobs)));
        }
        push({ backend: name, device: backend.device, kind, name: shape, rate: work / its / 1e6, unit, ratio: own / its });
      }
    await backend.close();
  }
  if (names.includes('wasm')) {
    const { memory, trials: all } = trials(),
      k = createKernels('wasm', memory);
    for (const { kind, name, unit, work, jobs } of all)
      push({ backend: 'wasm', device: 'one core', kind, name, rate: work / (await timeOf(RUNS * TURNS, () => runInPlace(k, jobs))) / 1e6, unit, ratio: 1 });
  }
  return rows;
}

/** What `--backend` of the command takes. */
export const MEASURED: readonly string[] = ['wasm', ...BULK_BACKENDS];

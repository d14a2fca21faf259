/** A store's row: what a unit takes on the disk and to deal, by kind of correlation; what a session over it takes with no dealer beside. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PrivateSession } from '../../client/session.ts';
import type { Artefact } from '../../protocols/artefact.ts';
import type { UnitTerms } from '../../protocols/session.ts';
import { openBulk } from '../bulk/thread.ts';
import type { BackendName } from '../config.ts';
import { Trio } from '../launch.ts';
import { reach } from '../reach.ts';
import { DealerStore, type DealtUnit } from '../store/dealing.ts';
import { median } from '../terminal.ts';
import { recordsOf } from '../trace/records.ts';

export interface StoreRow extends Omit<UnitTerms, 'policy'> {
  readonly task: 'store';
  /** Its name. */
  readonly policy: string;
  readonly model: string;
  readonly kernels: string;
  /** What computed the dealer's bulk work. */
  readonly backend: string;
  /** Of the dealer's engine, and of each evaluator's. */
  readonly threads: number;
  /** Both evaluators' halves on the disk; a token: of the prompt or decoded. */
  readonly bytesPerUnit: number;
  readonly bytesPerToken: number;
  /** Writing included; the engine's time for the prompt and for a token; null: units without further tokens. */
  readonly dealMs: { readonly unit: number; readonly prefill: number; readonly token: number | null };
  /** Tokens' material a second, of the prompt and of the answer, and bytes a second: onto the disk. */
  readonly tokensPerSecond: number;
  readonly bytesPerSecond: number;
  /** The engine's time for a unit, by kind of correlation; with a backend a kind's bulk work counts where its list was computed. */
  readonly dealMsOf: Readonly<Record<string, number>>;
  /** By the clock at the client. */
  readonly onlineMs: { readonly prefill: number; readonly token: number | null };
}

/** The first unit warms the dealer up and is traced; the first session warms the evaluators up. */
export async function benchStore(o: {
  model: string;
  artefact: Artefact;
  terms: UnitTerms;
  kernels: 'wasm' | 'reference';
  backend: BackendName;
  threads: number;
  reps: number;
  signal: AbortSignal;
  onProgress: (text: string) => void;
}): Promise<StoreRow> {
  const { artefact, terms, kernels, threads, signal } = o,
    folder = mkdtempSync(join(tmpdir(), 'cachet-bench-')),
    dir = join(folder, 'store'),
    dealMsOf: Record<string, number> = {},
    units: DealtUnit[] = [],
    online: { prefill: number; tokens: number[] }[] = [],
    bulk = await openBulk(o.backend, () => undefined);
  try {
    const store = new DealerStore({ dir, artefact, terms, kernels, threads, bulk, keys: [undefined, undefined] });
    try {
      for (let i = 0; i <= o.reps; i++) {
        o.onProgress(`dealing unit ${i + 1} of ${o.reps + 1}`);
        const unit = await store.deal({
          signal,
          onBytes: () => undefined,
          onTrace:
            i > 0
              ? undefined
              : (rows) => {
                  for (const r of recordsOf(rows, 'helper', '')) if (r.kind === 'gate' && r.dealtBytes > 0) dealMsOf[r.name] = (dealMsOf[r.name] ?? 0) + r.ms;
                },
        });
        if (i > 0) units.push(unit);
      }
    } finally {
      store.close();
    }
    const trio = await Trio.start(o.model, { roles: ['p0', 'p1'], store: dir, ledger: join(folder, 'ledger'), threads });
    try {
      for (let i = 0; i <= o.reps; i++) {
        o.onProgress(`session ${i + 1} of ${o.reps + 1}`);
        const session = await PrivateSession.open({ ...reach(trio.config, artefact, 'store', signal), artefact, ...terms }),
          times: number[] = [];
        for (let step = 0; step < terms.maxTokens; step++) {
          const ids = Array.from({ length: step === 0 ? terms.promptTokens : 1 }, (_, t) => 5 + ((t * 37) % (artefact.shape.vocab - 5))),
            start = performance.now();
          await session.step(ids);
          times.push(performance.now() - start);
        }
        await session.stop();
        await trio.ended(session.id);
        if (i > 0) online.push({ prefill: times[0]!, tokens: times.slice(1) });
      }
    } finally {
      await trio.stop();
    }
  } finally {
    await bulk?.close();
    rmSync(folder, { recursive: true });
  }
  const medianOrNull = (values: readonly number[]): number | null => (values.length > 0 ? median(values) : null),
    bytesPerUnit = median(units.map((u) => u.bytes)),
    tokens = terms.promptTokens + terms.maxTokens - 1,
    unitMs = median(units.map((u) => u.ms));
  return {
    task: 'store',
    model: artefact.name,
    promptTokens: terms.promptTokens,
    maxTokens: terms.maxTokens,
    policy: terms.policy.name,
    kernels,
    backend: bulk?.name ?? 'wasm',
    threads,
    bytesPerUnit,
    bytesPerToken: bytesPerUnit / tokens,
    dealMs: {
      unit: unitMs,
      prefill: median(units.map((u) => u.stepMs[0]!)),
      token: medianOrNull(units.flatMap((u) => u.stepMs.slice(1))),
    },
    tokensPerSecond: (1e3 * tokens) / unitMs,
    bytesPerSecond: (1e3 * bytesPerUnit) / unitMs,
    dealMsOf,
    onlineMs: { prefill: median(online.map((s) => s.prefill)), token: medianOrNull(online.flatMap((s) => s.tokens)) },
  };
}

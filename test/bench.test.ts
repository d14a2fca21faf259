/** `cachet bench decode` and `prefill` through real processes: a row's fields, costs as predicted; filled sessions are refused elsewhere. */
import { execFile } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { PrivateSession } from '../client/session.ts';
import type { DealingRow } from '../party/bench/dealing.ts';
import type { StoreRow } from '../party/bench/store.ts';
import type { StepsRow } from '../party/bench/steps.ts';
import { Trio } from '../party/launch.ts';
import { connect } from '../party/sockets.ts';
import { meterSession, tokenCost } from '../protocols/cost.ts';
import { benchGates } from '../party/bench/gates.ts';
import { benchOperators } from '../party/bench/operators.ts';
import { tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes();

const bench = (...args: string[]) =>
  new Promise<{ stdout: string; stderr: string }>((resolve) =>
    execFile(process.execPath, ['dist/party/cli.js', 'bench', ...args], (_, stdout, stderr) => resolve({ stdout, stderr })),
  );

const rowsOf = async (...args: string[]): Promise<StepsRow[]> => (JSON.parse((await bench(...args, '--json')).stdout) as { rows: StepsRow[] }).rows;

describe('cachet bench', () => {
  it('decode: times of a token at the context, costs as the Meter predicts', async () => {
    const [row] = await rowsOf('decode', '--context', '40', '--tokens', '2', '--reps', '1', '--ahead-mib', '8'),
      { rounds, onlineBytes, dealtBytes, parts } = tokenCost(artefact, 40 - artefact.prefixIds.length);
    expect(row).toMatchObject({ task: 'decode', model: 'tiny-notes', policy: 'full', weights: 'open', context: 40, parties: 3, net: 'loopback' });
    expect(row).toMatchObject({ rounds, onlineBytes, dealtBytes, predicted: { rounds, onlineBytes, dealtBytes }, attentionBytes: parts.get('attention') });
    for (const { min, median, max } of [row!.onlineMs!, row!.endToEndMs]) {
      expect(min).toBeGreaterThan(1);
      expect(median).toBeGreaterThanOrEqual(min);
      expect(max).toBeGreaterThanOrEqual(median);
    }
    expect(row!.dealMs).toBeGreaterThan(1);
    for (const mib of Object.values(row!.peakRssMiB)) expect(mib).toBeGreaterThan(50);
  });

  it('decode over what an eviction leaves whose material is more than may wait at a party', async () => {
    const [row] = await rowsOf('decode', '--policy', 'aggressive', '--context', '600', '--tokens', '2', '--reps', '1', '--ahead-mib', '8');
    expect(row).toMatchObject({ policy: 'aggressive', context: 600, kept: 241, predicted: { rounds: row!.rounds, dealtBytes: row!.dealtBytes } });
    expect(row!.eviction!.bytes).toBeGreaterThan(3 * (8 << 20));
    expect(row!.onlineMs).not.toBeNull();
  });

  it('operators: rounds and bytes of each alone', () => {
    const [heads, dim, clusters, k, size] = [2, 8, 4, 2, 8],
      rows = benchOperators({ heads, dim, tokens: clusters * size, size, chosen: 9 }, 2),
      pairs = (clusters * (clusters - 1)) / 2;
    expect(rows.map((r) => [r.operator, r.rounds])).toEqual([
      ['similarity', 1],
      ['top-k', 3],
      ['gather and scatter', 2],
      ['gather of keys', 1],
    ]);
    // Payloads, a header of 32 bytes for each frame; dealt to P0 and P1.
    expect(rows[0]).toMatchObject({ onlineBytes: 2 * (32 + 4 * heads * clusters), dealtBytes: 64 + 4 * heads * clusters });
    expect(rows[1]!.dealtBytes).toBe(64 + heads * (9 * pairs + 2 * clusters * (17 + 16)));
    expect(rows[2]).toMatchObject({ onlineBytes: 2 * (64 + 4 * heads * size * (k + clusters)), dealtBytes: 64 + 4 * heads * size * (k + clusters) });
    for (const { ms } of rows) expect(ms.median).toBeGreaterThan(0);
  });

  it('store: what a unit takes, and a session over it', async () => {
    const { stdout } = await bench('store', '--prefill', '4', '--tokens', '2', '--reps', '1', '--json'),
      [row] = (JSON.parse(stdout) as { rows: StoreRow[] }).rows,
      { dealtBytes } = meterSession(artefact, { promptTokens: 4, maxTokens: 2, dealer: 'store' });
    expect(row).toMatchObject({
      task: 'store',
      model: 'tiny-notes',
      promptTokens: 4,
      maxTokens: 2,
      policy: 'full',
      kernels: 'wasm',
      backend: 'wasm',
      threads: 1,
    });
    expect(row!.bytesPerUnit / dealtBytes).toBeCloseTo(1, 2);
    expect(row!.bytesPerToken).toBe(row!.bytesPerUnit / 5);
    expect(row!.bytesPerSecond / row!.tokensPerSecond).toBeCloseTo(row!.bytesPerToken, 3);
    for (const ms of [row!.dealMs.unit, row!.dealMs.prefill, row!.dealMs.token!, row!.onlineMs.prefill, row!.onlineMs.token!]) expect(ms).toBeGreaterThan(1);
    expect(Object.keys(row!.dealMsOf)).toEqual(expect.arrayContaining(['expTable', 'fourier', 'spline', 'mul', 'widen', 'lookup', 'bucket']));
  });

  it('dealing: by kind of correlation and backend, beside the evaluators and in real processes', async () => {
    const { stdout } = await bench('dealing', '--context', '40', '--backend', 'wasm', '--reps', '1', '--json'),
      [row] = (JSON.parse(stdout) as { rows: DealingRow[] }).rows,
      // The last of five tokens.
      { dealtBytes } = tokenCost(artefact, 40 - artefact.prefixIds.length + 4);
    expect(row).toMatchObject({ task: 'dealing', model: 'tiny-notes', context: 40, weights: 'open', dealtBytes });
    const parts = Object.values(row!.dealMsOf);
    for (const part of parts) expect(part).toBeGreaterThan(0);
    expect(parts.reduce((a, b) => a + b)).toBeCloseTo(row!.dealMs, 6);
    expect(row!.ratio).toBeCloseTo((2 * row!.dealMs) / (row!.evaluateMs.p0 + row!.evaluateMs.p1), 6);
    // P1's halves of the dealt values, with 8 bytes for up to 8, and both halves of the masks.
    expect(row!.streams.bytes).toBeGreaterThan(dealtBytes / 2);
    for (const ms of Object.values(row!.cpuMs!)) expect(ms).toBeGreaterThan(1);
    const layers = artefact.shape.layers;
    expect(row!.backends.map((b) => ('kind' in b ? [b.kind, b.jobs / layers] : b))).toEqual([
      ['gemm', 2],
      ['exp', expect.any(Number)],
      ['fourier', expect.any(Number)],
      ['keys', expect.any(Number)],
    ]);
  });

  it('prefill: with the preprocessing ready only where it may wait', async () => {
    const rows = await rowsOf('prefill', '--tokens', '4 60', '--reps', '1', '--ahead-mib', '16');
    expect(rows.map((r) => [r.context, r.onlineMs !== null, r.rounds])).toEqual([
      [4, true, 102],
      [60, false, 102],
    ]);
    for (const { rounds, onlineBytes, dealtBytes, predicted } of rows) expect({ rounds, onlineBytes, dealtBytes }).toEqual(predicted);
  });

  it('ops: the gates of a token, each with the bytes that the Meter says', () => {
    const rows = benchGates(artefact, 'wasm', 30, { memoryGBs: 10, gmacs: 2, prgGBs: 3 }),
      // The last of five tokens.
      { gates } = tokenCost(artefact, 30 - artefact.prefixIds.length + 4);
    expect(new Map(rows.filter((r) => r.bytes > 0).map((r) => [r.gate, [r.calls, Math.round(r.bytes * r.elements)]]))).toEqual(
      new Map(
        rows.flatMap((r) =>
          gates.has(r.gate) && r.bytes > 0 ? [[r.gate, [gates.get(r.gate)!.calls, gates.get(r.gate)!.online + gates.get(r.gate)!.dealt]]] : [],
        ),
      ),
    );
    expect(rows.filter((r) => r.bytes > 0)).toHaveLength([...gates.values()].filter((g) => g.online + g.dealt > 0).length);
    for (const row of rows) for (const ns of [row.dealNs, row.evaluateNs, row.limitNs]) expect(ns).toBeGreaterThan(0);
  });

  it('says in one line that the model has no such context', async () => {
    expect((await bench('decode', '--context', '1024')).stderr).toMatch(
      /^cachet: .*too long for the model; expected at most 1024 positions; got 1 public \+ 1023 filled/,
    );
  });

  it('needs parties that are set up for it', async () => {
    const trio = await Trio.start('tiny-notes');
    try {
      const session = PrivateSession.open({ artefact, promptTokens: 1, maxTokens: 1, filled: 8, connect: (role) => connect(trio.config[role], role, 10_000) });
      await expect(session).rejects.toThrow(/p[01]: session over a filled cache; expected tokens in every slot; got 8 random ones; try: "benchmark": true/);
    } finally {
      await trio.stop();
    }
  });
});

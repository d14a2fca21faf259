/**
 * One suite for all kernel backends: each row runs the same call on two memories with the same random contents, one with the reference and one with the
 * backend; afterwards both memories must be equal, byte for byte. Then: published vectors, what DPF keys and packing must satisfy.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { ADD, dpfKeyBytes, packedBytes, SET, SUB, type Kernels } from '../kernels/kernels.ts';
import { Arena, reserveMemory, u64, u8 } from '../kernels/memory.ts';
import { backends } from '../kernels/registry.ts';
import { chacha8 } from '../kernels/reference/keyed.ts';
import { selfTest } from '../kernels/selfTest.ts';
import { threadedKernels } from '../kernels/threads.ts';
import { wasmKernels } from '../kernels/wasm/index.ts';
import { KernelThreads } from '../party/kernelThreads.ts';
import { expTables } from '../protocols/gates/expTable.ts';
import { fitFourier } from '../protocols/gates/fourier.ts';

const LOW = 1 << 16,
  SIZE = 1 << 19;
/** Kernels whose calls, however small, are shared with a second thread; it gets its part, since this one lets 0.1 ms pass before each of its own. */
const shared = reserveMemory(2 * LOW + SIZE + LOW),
  threads = new KernelThreads({
    memory: shared,
    kernels: 'wasm',
    threads: 2,
    onError: (cause) => {
      throw cause;
    },
  });
afterAll(() => threads.stop());
const patient = (k: Kernels): Kernels => {
  const never = new Int32Array(new SharedArrayBuffer(4)),
    slow = ([name, f]: [string, unknown]): [string, unknown] => [
      name,
      SHARED.includes(name) ? (...a: unknown[]) => (Atomics.wait(never, 0, 0, 0.1), (f as (...a: unknown[]) => unknown)(...a)) : f,
    ];
  return Object.fromEntries(Object.entries(k).map(slow)) as unknown as Kernels;
};
const SHARED = [
  'gemmI16',
  'gemmRing',
  'scores',
  'mix',
  'prg',
  'dpfGenerate',
  'expDeal',
  'expEvaluate',
  'fourierDeal',
  'fourierEvaluate',
  'fourierEvaluateWide',
];
/** The backends, both forms between which one of them chooses, and two threads. */
const tested: typeof backends = {
  ...backends,
  'wasm in limbs': (m) => wasmKernels(m, 0, 'limbs'),
  'wasm in lanes': (m) => wasmKernels(m, 0, 'lanes'),
  'wasm on 2 threads': (m) => threadedKernels(patient(wasmKernels(m)), 2, 1),
};
/** Regions of 32 KiB: destinations, sources, scratch. */
const D = LOW,
  A = LOW + (1 << 16),
  B = A + (1 << 16),
  C = B + (1 << 16),
  E = C + (1 << 16),
  SCRATCH = E + (1 << 16);

function random(seed: number): () => number {
  let s = seed;
  return () => {
    s = (s + 0x6d2b79f5) | 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

function place(name: string, seed: number): Kernels {
  const memory = name.endsWith('threads') ? shared : reserveMemory(LOW + SIZE + LOW),
    words = new Uint32Array(memory.buffer, LOW, SIZE / 4),
    next = random(seed);
  for (let i = 0; i < words.length; i++) words[i] = next();
  return tested[name]!(memory);
}

const lengths = (k: Kernels, list: number[]) => new Uint32Array(k.memory.buffer, E, list.length).set(list);
const exp = { inputScale: 12, low: -100 * 4096, domainBits: 19, cellsLog2: 3, outputScale: 22, shifts: [0, 5] };
const silu = fitFourier({ name: 'silu', inputScale: 12, periodBits: 16, terms: 6, edge: 5, bits: 56, drop: 0 });
const placeTable = (k: Kernels, table: ArrayBufferView) =>
  u8(k.memory, C, table.byteLength).set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
/** Values and weights whose products are as large as they get, of either sign, and digits at their bounds. */
const EXTREMES = [
  -1n,
  1n << 63n,
  (1n << 63n) - 1n,
  0x7fff_7fff_7fff_7fffn,
  -0x8000_8000_8000_8000n,
  0x7ff_7ff_7ffn,
  0x800_800_800n,
  (1n << 31n) - 1n,
  1n << 9n,
];
const extreme = (k: Kernels, x: bigint, w: number): void => {
  u64(k.memory, A, 8192).fill(BigInt.asUintN(64, x));
  new Int16Array(k.memory.buffer, B, 32768).fill(w);
};
/** 1000 products, more than any 32-bit sum may hold, at the narrowest and widest ring of every number of limbs. */
const gemmOfAllSteps = (k: Kernels, n: number): void =>
  [1, 32, 33, 44, 45, 52, 56, 57, 64].forEach((bits, i) => {
    k.gemmI16(D + 1024 * i, A, B, 1, 1000, n % 17, bits);
    k.reduce(D + 1024 * i, D + 1024 * i, bits, n % 17);
  });
/** Ordinary float32 values instead of random bits. */
const floats = (k: Kernels, at: number, n: number): void => {
  const words = new Int32Array(k.memory.buffer, at, n).slice();
  new Float32Array(k.memory.buffer, at, n).set(Float32Array.from(words, (v) => v / 2 ** 28));
};
const clean88 = (k: Kernels, hi: number, n: number) => k.reduce(hi, hi, 24, n);

/** Rows: name of the kernel, what to call. Odd sizes on purpose; `n` takes each of SIZES. */
const SIZES = [1, 2, 7, 33, 64];
const rows: [string, (k: Kernels, n: number) => unknown][] = [
  ['copy', (k, n) => k.copy(D, A, n)],
  ['fill', (k, n) => (k.fill(D, -3, n), k.fill(D + 8 * n, 2 ** 52, n))],
  ['add', (k, n) => k.add(D, A, B, n)],
  ['add', (k, n) => k.add(A, A, B, n)],
  ['sub', (k, n) => k.sub(D, A, B, n)],
  ['xor', (k, n) => k.xor(D, A, B, n)],
  ['addScalar', (k, n) => k.addScalar(D, A, -(2 ** 62), n)],
  ...[SET, ADD, SUB].flatMap((mode): typeof rows => [
    ['mulScalar', (k, n) => k.mulScalar(D, A, -12345678901, n, mode)],
    ['hadamard', (k, n) => k.hadamard(D, A, B, n, mode)],
    ['scaleRows', (k, n) => k.scaleRows(D, A, B, 3, n, mode)],
    ['dotRows', (k, n) => k.dotRows(D, A, B, 3, n, mode)],
    ['segmentSpread', (k, n) => (lengths(k, [3, 0, n, 1]), k.segmentSpread(D, A, E, 4, 2 ** 25, mode))],
    ['scores', (k, n) => k.scores(D, A, B, 3, 4, 2, (n % 13) + 1, 5, 11, 64, mode)],
    ['mix', (k, n) => k.mix(D, A, B, 3, 4, 2, (n % 13) + 1, 5, 11, mode)],
    ['scores', (k, n) => (k.scores(D, A, B, 3, 4, 2, (n % 13) + 1, 5, 11, 32, mode), k.reduce(D, D, 32, 4 * 21))],
    // More keys than a tile holds, queries that begin within one.
    ['scores', (k, n) => (k.scores(D, A, B, 16, 4, 2, 64, n, 80, 32, mode), k.reduce(D, D, 32, 4 * (16 * n + 136)))],
    ['scores', (k, n) => k.scores(D, A, B, 5, 2, 1, 66, n, 70, 64, mode)],
    ['scores', (k, n) => k.scores(D, A, B, 5, 2, 1, 16, n, 70, 64, mode, 50)],
    ['mix', (k, n) => k.mix(D, A, B, 5, 4, 2, 8, n, 70, mode, 50)],
    ['mix', (k, n) => k.mix(D, A, B, 16, 4, 2, 66, n, 80, mode)],
    ['mix', (k, n) => k.mix(D, A, B, 1, 2, 1, 64, n, 100, mode)],
    ['gemmRing', (k, n) => (k.gemmRing(D, A, B, 1 + (n % 3), 8 * ((n % 9) + 1), n, 32, mode), k.reduce(D, D, 32, (1 + (n % 3)) * n))],
    ['gemmRing', (k, n) => k.gemmRing(D, A, B, 1 + (n % 3), 8 * ((n % 9) + 1), n, 64, mode)],
    ['gemmRing', (k, n) => k.gemmRing(D, A, B, 3, 16, n, 64, mode, 70)],
  ]),
  ['reduce', (k, n) => (k.reduce(D, A, 13, n), k.reduce(D + 8 * n, A, 64, n), k.reduce(D + 16 * n, A, 1, n))],
  ['shiftRight', (k, n) => (k.shiftRight(D, A, 52, 17, n), k.shiftRight(D + 8 * n, A, 64, 63, n), k.shiftRight(D + 16 * n, A, 20, 0, n))],
  ['copyRows', (k, n) => (k.copyRows(D, n + 3, A, n, 4, n), k.copyRows(E, 5, A, 2, n, 1))],
  ['segmentSum', (k, n) => (lengths(k, [3, 0, n, 1]), k.segmentSum(D, A, E, 4))],
  ...Array.from({ length: 64 }, (_, i): (typeof rows)[number] => [
    'gemmI16',
    (k, n) => (k.gemmI16(D, A, B, 1 + (n % 3), 8 * ((n % 9) + 1), n, i + 1), k.reduce(D, D, i + 1, (1 + (n % 3)) * n)),
  ]),
  ...EXTREMES.flatMap((x) => [-32768, 32767].map((w): (typeof rows)[number] => ['gemmI16', (k, n) => (extreme(k, x, w), gemmOfAllSteps(k, n))])),
  ['gemmI16', (k, n) => (k.gemmI16(D, A, C, 1, 5000, 3, 64), k.gemmI16(D + 64, A, C, 3, 5000, 3, 64), k.gemmI16(D + 256, A, C, 40, 328, n, 64))],
  ['gemmI16', (k, n) => k.gemmI16(D, A, C, 3, 328, n, 64, 70)],
  ['gemmF32', (k, n) => (floats(k, A, 4096), floats(k, B, 4096), k.gemmF32(D, A, B, 1 + (n % 3), 8 * ((n % 9) + 1), n))],
  ['addTails', (k) => k.addTails(D, A, 3, 2, 6, 2)],
  ['rope', (k, n) => k.rope(D, A, 2 * n + 8, B, B + 256, 1, 3, 2, 4)],
  ...[1, 5, 8, 13, 22, 32, 44, 52, 56, 63, 64].flatMap((bits): typeof rows => [
    ['pack', (k, n) => (k.reduce(A, A, bits, n), k.pack(D, A, bits, n))],
    ['pack', (k, n) => k.pack(D, A, bits, n)],
    ['unpack', (k, n) => k.unpack(D, A, bits, n)],
    ['subPack', (k, n) => k.subPack(D, A, B, bits, n)],
  ]),
  ...[8, 24, 32].flatMap((bits): typeof rows => [
    ['subWide', (k, n) => (k.reduce(B, B, bits, n), k.reduce(E, E, bits, n), k.subWide(A, B, C, E, bits, n))],
    ['subPackWide', (k, n) => k.subPackWide(D, A, B, C, bits, n)],
    ['unpackWide', (k, n) => k.unpackWide(D, E, A, bits, n)],
    ['signWords', (k, n) => k.signWords(D, A, bits, n)],
  ]),
  ['prg', (k, n) => (k.prg(D, A, 7, 3, 0, 64, n), k.prg(D + 8 * n, A, 7, 3, 29, 24, n), k.prg(D + 16 * n, A, 7, 3, 2 ** 35 + 5, 1, n))],
  ['splinePayload', (k, n) => k.splinePayload(D, E, A, 17, 9, 3, n)],
  ...(
    [
      [1, 1, 1],
      [2, 3, 4],
      [5, 1, 3],
      [7, 20, 3],
      [6, 64, 1],
      [9, 17, 4],
      [12, 40, 5],
      [24, 2, 9],
    ] as const
  ).flatMap(([bits, span, words]): typeof rows => [
    [
      'dpfGenerate and dpfEvaluate',
      (k, n) => {
        const count = Math.min(n, 9);
        k.reduce(A, A, bits, count);
        k.dpfGenerate(D, B, B + 16 * count, A, C, count, bits, words, E, 5, 6, 1);
        for (const party of [0, 1])
          k.dpfEvaluate(SCRATCH - 32768 + party * 16384, D, B + 16 * count * party, party, A + 1024, span, count, bits, words, E, 5, 6, 1, SCRATCH);
      },
    ],
  ]),
  ...(
    [
      [1, 12, 6, 5, 17],
      [2, 17, 7, 0, 128],
      [3, 17, 7, 120, 8],
      [4, 20, 5, 3, 20],
      // More nodes than one group of keys may have.
      [1, 17, 9, 50, 300],
    ] as const
  ).map(([words, domainBits, keyBits, first, cells]): (typeof rows)[number] => [
    'splineEvaluate',
    (k, n) => {
      const count = cells < 300 ? Math.min(n, 9) : n === 33 ? 9 : 0;
      k.splinePayload(D, D + 8 * count, A, domainBits, domainBits - keyBits, words, count);
      k.dpfGenerate(C, B, B + 16 * count, D, D + 8 * count, count, keyBits, words, E, 0, 2, 0);
      for (const party of [0, 1])
        k.splineEvaluate(
          D + 32768 + 8 * count * party,
          A + 1024,
          C,
          B + 16 * count * party,
          party,
          count,
          domainBits,
          keyBits,
          first,
          cells,
          E + 64,
          words,
          E,
          0,
          2,
          0,
          SCRATCH,
        );
    },
  ]),
  ['expDeal', (k, n) => (placeTable(k, expTables(exp)), k.expDeal(D, A, 19, 3, C, n))],
  ...[0, 1].map((party): (typeof rows)[number] => [
    'expEvaluate',
    (k, n) => (placeTable(k, expTables(exp)), clean88(k, E, 8 * n), k.expEvaluate(D, B, A, E, party, 19, 3, C, party, 30, n)),
  ]),
  ['fourierDeal', (k, n) => (placeTable(k, silu.tables), k.fourierDeal(D, A, 16, 6, C, n))],
  ['fourierEvaluate', (k, n) => (placeTable(k, silu.tables), k.fourierEvaluate(D, A, B, 16, 6, C, n))],
  ...[0, 1].map((party): (typeof rows)[number] => [
    'fourierEvaluateWide',
    (k, n) => (placeTable(k, silu.tables), k.reduce(E, E, 8, 12 * n), k.fourierEvaluateWide(D, A, B, E, party, 16, 6, C, 13, n)),
  ]),
  ['oneHot64', (k, n) => k.oneHot64(D, A, n)],
  ['suffix64', (k, n) => k.suffix64(D, A, B, n)],
  ['parities', (k, n) => (lengths(k, [3, n, 1]), k.parities(D, A, E, 3, 0, 64, B, 4, 1))],
  ['parities', (k, n) => (lengths(k, [3, n, 1]), k.parities(D, A, E, 3, 11, 5, B, 4, 1))],
  ['pairDifferences', (k, n) => (k.pairDifferences(D, A, 2, n % 40), k.pairDifferences(E, B, n % 3, 9))],
  ['pairSums', (k, n) => (k.pairSums(D, A, 2, 1 + (n % 13)), k.pairSums(E, B, 3, 5))],
  [
    'tableRotate',
    (k, n) => (
      k.tableRotate(D, A, B, 8, 0, n),
      k.tableRotate(D + 32 * n, A, B, 8, 1, n),
      k.tableRotate(E, A, B, 6, 1, n),
      k.tableRotate(E + 8 * n, A, B, 6, 0, n)
    ),
  ],
  ['tableLookup', (k, n) => k.tableLookup(D, A, B, 8, n)],
  ['lookupPermute', (k, n) => (k.lookupPermute(D, A, B, 6, 0, n), k.lookupPermute(E, A, B, 4, 1, n))],
  ['lookupPick', (k, n) => k.lookupPick(D, A, B, 3, n)],
];

const visible = (k: Kernels) => {
  // Scratch is the backend's own.
  const all = Buffer.from(u8(k.memory, LOW, SCRATCH - LOW));
  return all;
};

describe.each(Object.keys(tested).filter((b) => b !== 'reference'))('backend %s', (backend) => {
  rows.forEach(([name, call], i) =>
    it(`${name} (row ${i})`, () => {
      for (const n of SIZES) {
        const expected = place('reference', i * 100 + n),
          got = place(backend, i * 100 + n);
        const a = call(expected, n),
          b = call(got, n);
        expect(b).toEqual(a);
        expect(visible(got).equals(visible(expected)), `${name}, n = ${n}`).toBe(true);
      }
    }),
  );
  it('implements the whole interface, and every kernel has a row', () => {
    const k = place(backend, 1),
      missing = Object.entries(place('reference', 1)).filter(([key, v]) => typeof v !== typeof k[key as keyof Kernels]);
    expect(missing).toEqual([]);
    const names = rows.map(([name]) => name).join(' ');
    for (const [key, v] of Object.entries(k)) if (typeof v === 'function' && key !== 'dpfScratchBytes') expect(names.split(/ and | /), key).toContain(key);
  });
});

describe.each(Object.keys(backends))('%s: what must hold', (backend) => {
  it('ChaCha8 stream equals the published vector (zero key, 64-bit block counter, zero nonce)', () => {
    const k = place(backend, 1);
    u8(k.memory, A, 32).fill(0);
    k.prg(D, A, 0, 0, 0, 64, 8);
    expect(Buffer.from(u8(k.memory, D, 64)).toString('hex')).toBe(
      '3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e984ce172b9216f419f445367456d5619314a42a3da86b001387bfdb80e0cfe42',
    );
  });
  it('the packer refuses bits above n: offending elements are counted and written as zero', () => {
    for (const bits of [1, 7, 22, 52, 63]) {
      const k = place(backend, 5),
        n = 40,
        values = u64(k.memory, A, n);
      k.reduce(A, A, bits, n);
      values[3] = 1n << BigInt(bits);
      values[39] = (1n << 64n) - 1n;
      expect(k.pack(D, A, bits, n)).toBe(2);
      const bytes = packedBytes(bits, n);
      u8(k.memory, D + bytes, 16).fill(0);
      k.unpack(E, D, bits, n);
      const back = u64(k.memory, E, n);
      for (let i = 0; i < n; i++) expect(back[i]).toBe(i === 3 || i === 39 ? 0n : values[i]);
    }
  });
  it('packing writes exactly its bytes', () => {
    for (const bits of [1, 9, 33, 64])
      for (const n of [1, 8, 13]) {
        const k = place(backend, 6),
          before = Buffer.from(u8(k.memory, D, 256));
        k.reduce(A, A, bits, n);
        k.pack(D, A, bits, n);
        expect(
          Buffer.from(u8(k.memory, D, 256))
            .subarray(packedBytes(bits, n))
            .equals(before.subarray(packedBytes(bits, n))),
        ).toBe(true);
      }
  });
  it('DPF leaves add up to the payload at the point and to zero elsewhere', () => {
    const k = place(backend, 7),
      arena = new Arena(k.memory, SCRATCH, LOW + SIZE - SCRATCH);
    for (const [bits, words] of [
      [1, 2],
      [4, 3],
      [8, 5],
    ] as const) {
      const mark = arena.mark(),
        count = 3,
        span = 2 ** bits,
        size = count * span * words;
      const keys = arena.alloc(count * dpfKeyBytes(bits, words)),
        from = arena.alloc(8 * count),
        shares = [arena.alloc(8 * size), arena.alloc(8 * size)],
        scratch = arena.alloc(k.dpfScratchBytes(span, words));
      k.reduce(A, A, bits, count);
      k.dpfGenerate(keys, B, B + 64, A, C, count, bits, words, E, 0, 9, 0);
      k.reduce(from, A + 512, bits, count);
      for (const party of [0, 1]) k.dpfEvaluate(shares[party]!, keys, B + 64 * party, party, from, span, count, bits, words, E, 0, 9, 0, scratch);
      k.add(shares[0]!, shares[0]!, shares[1]!, size);
      for (let i = 0; i < count; i++)
        for (let j = 0; j < span; j++) {
          const at = (Number(u64(k.memory, from, count)[i]!) + j) % span === Number(u64(k.memory, A, count)[i]!);
          for (let w = 0; w < words; w++)
            expect(u64(k.memory, shares[0]!, size)[(i * span + j) * words + w]).toBe(at ? u64(k.memory, C, count * words)[i * words + w] : 0n);
        }
      arena.release(mark);
    }
  });
});

describe('threads', () => {
  it('compute what the caller leaves, and everything is computed without them', async () => {
    const k = place('wasm', 3),
      never = new Int32Array(new SharedArrayBuffer(4));
    let own = 0;
    const counted = threadedKernels({ ...wasmKernels(shared), gemmI16: () => (own++, Atomics.wait(never, 0, 0, 2)) }, 2, 1);
    // A machine that is busy may keep the thread from running for as long as a call takes, not for ever.
    await expect.poll(() => ((own = 0), counted.gemmI16(D, A, B, 1, 8, 64, 64), own), { timeout: 20_000 }).toBeLessThan(4);
    const alone = threadedKernels({ ...k, gemmI16: () => own++ }, 2, 1);
    own = 0;
    alone.gemmI16(D, A, B, 1, 8, 64, 64);
    expect(own).toBe(4);
  });
  it('are left alone by small calls', () => {
    let columns = 0;
    const k = threadedKernels({ ...wasmKernels(shared), gemmI16: (_d, _x, _w, _r, _i, cols) => (columns = cols) }, 2);
    k.gemmI16(D, A, B, 1, 768, 512, 64);
    expect(columns).toBe(512);
  });
});

it('the self-test tells exactness and what was chosen', () => {
  expect(selfTest('reference')).toEqual({ exact: true, choices: '' });
  const wasm = selfTest('wasm');
  expect(wasm.exact).toBe(true);
  expect(wasm.choices).toMatch(/^gemmI16 in (limbs|lanes)$/);
});

describe('reference', () => {
  it('quarter rounds are those of ChaCha: eight rounds change every word', () => {
    const zero = chacha8(Array.from({ length: 16 }, () => 0)),
      one = chacha8(Array.from({ length: 16 }, (_, i) => (i === 12 ? 1 : 0)));
    expect(zero.every((v) => v === 0)).toBe(true);
    expect(one.every((v, i) => v !== zero[i])).toBe(true);
  });
});

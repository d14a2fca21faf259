/**
 * Kernels on several threads over one shared memory. Whoever computes on the memory (the caller) cuts a large call into chunks of columns, heads or
 * elements; threads that serve the memory and the caller claim chunks one by one, and the caller returns when all are done. A thread that is not there
 * (still starting, kept from running, already gone) claims nothing and holds nobody up. Nothing of a chunk depends on who computes it.
 */
import { dpfKeyBytes, type Kernels } from './kernels.ts';
import { KernelError, workingSpace } from './memory.ts';

/** A kernel whose calls are cut: argument number `count` says how many columns, heads or elements there are. */
interface Split {
  readonly name: keyof Kernels;
  readonly count: number;
  /** How many of them stay together. */
  readonly unit: (a: readonly number[]) => number;
  /** What each argument grows by from one of them to the next; the rest does not. */
  readonly steps: (a: readonly number[]) => readonly number[];
  /** About how long one of them takes, ns. */
  readonly ns: (a: readonly number[]) => number;
  /** An argument that may be left out, and what it stands for. */
  readonly stride?: readonly [argument: number, value: (a: readonly number[]) => number];
}

/** Bytes of a head's packed rows, in `scores` and `mix`. */
const rowBytes = (queries: number, past: number): number => 8 * (queries * past + (queries * (queries + 1)) / 2);
const one = (): number => 1;

const SPLITS: readonly Split[] = [
  {
    name: 'gemmI16',
    count: 5,
    unit: () => 4,
    steps: ([, , , , inner]) => [8, 0, 2 * inner!],
    ns: ([, , , rows, inner]) => 0.12 * rows! * inner!,
    stride: [7, (a) => a[5]!],
  },
  {
    name: 'gemmRing',
    count: 5,
    unit: () => 4,
    steps: ([, , , , inner, , bits]) => [8, 0, (bits! / 8) * inner!],
    ns: ([, , , rows, inner, , bits]) => 0.005 * bits! * rows! * inner!,
    stride: [8, (a) => a[5]!],
  },
  {
    name: 'scores',
    count: 4,
    unit: (a) => a[5]!,
    steps: ([, , , queries, , group, dim, past, capacity]) => [rowBytes(queries!, past!), 8 * dim!, (8 * capacity! * dim!) / group!],
    ns: ([, , , queries, , , dim, past]) => (0.16 * dim! * rowBytes(queries!, past!)) / 8,
    stride: [11, (a) => a[4]! * a[6]!],
  },
  {
    name: 'mix',
    count: 4,
    unit: (a) => a[5]!,
    steps: ([, , , queries, , group, dim, past, capacity]) => [8 * dim!, rowBytes(queries!, past!), (8 * capacity! * dim!) / group!],
    ns: ([, , , queries, , , dim, past]) => (0.5 * dim! * rowBytes(queries!, past!)) / 8,
    stride: [10, (a) => a[4]! * a[6]!],
  },
  { name: 'prg', count: 6, unit: () => 32, steps: () => [8, 0, 0, 0, 1], ns: () => 2.5 },
  {
    name: 'dpfGenerate',
    count: 5,
    unit: () => 4,
    steps: ([, , , , , , bits, words]) => [dpfKeyBytes(bits!, words!), 16, 16, 8, 8 * words!, 0, 0, 0, 0, 1],
    ns: ([, , , , , , bits, words]) => 40 * (bits! + words!),
  },
  { name: 'expDeal', count: 5, unit: one, steps: (a) => [8 << a[3]!, 8], ns: (a) => 2 << a[3]! },
  { name: 'expEvaluate', count: 10, unit: one, steps: (a) => [8, 8, 8 << a[6]!, 8 << a[6]!], ns: (a) => 9 << a[6]! },
  { name: 'fourierDeal', count: 5, unit: one, steps: (a) => [16 * a[3]!, 8], ns: (a) => 5 * a[3]! },
  { name: 'fourierEvaluate', count: 6, unit: one, steps: (a) => [8, 8, 16 * a[4]!], ns: (a) => 9 * a[4]! },
  { name: 'fourierEvaluateWide', count: 9, unit: one, steps: (a) => [8, 8, 16 * a[6]!, 16 * a[6]!], ns: (a) => 13 * a[6]! },
];

/** A chunk takes so long at least, ns: below two of them a call gained nothing with a thread that had to be woken first, which takes 25 to 50 us. */
const GRAIN_NS = 30_000;
/** Chunks of a call for each thread at most: threads do not run evenly, but every chunk of a `gemmI16` splits the rows of x again (a column's 10 products). */
const CHUNKS = 2;
/** Looks at a counter before a thread sleeps on it, about 20 us: rounds of a token have several large calls in a row. */
const SPIN = 10_000;
/** How long the caller waits for a chunk that another thread has claimed. */
const WAIT_MS = 1000,
  WAITS = 30;

// A job lies in thread 1's page, before its working space. TICKET: number of the job << 9 | chunks that nobody has claimed << 1 | whether the threads are to
// end: one word, so that a claim is one compare-and-exchange. The rest is written before the ticket, and read by those who have claimed.
const TICKET = 0,
  DONE = 1,
  KERNEL = 2,
  ARGUMENTS = 3,
  CHUNKS_OF_JOB = 4,
  COUNT = 5,
  UNIT = 6,
  WORDS = 7,
  MAX_ARGUMENTS = 16;

type Kernel = (...a: readonly number[]) => void;

const wordsOf = (memory: WebAssembly.Memory): Int32Array => new Int32Array(memory.buffer, workingSpace(memory, 1), WORDS);

class Job {
  private readonly words: Int32Array;
  private readonly values: Float64Array;
  private readonly steps: Float64Array;
  private readonly functions: readonly Kernel[];

  constructor(kernels: Kernels) {
    const { memory } = kernels,
      { buffer } = memory,
      at = workingSpace(memory, 1);
    this.words = wordsOf(memory);
    this.values = new Float64Array(buffer, at + 64, MAX_ARGUMENTS);
    this.steps = new Float64Array(buffer, at + 64 + 8 * MAX_ARGUMENTS, MAX_ARGUMENTS);
    this.functions = SPLITS.map(({ name }) => kernels[name] as Kernel);
  }

  /** Computes the call together with whoever serves the memory. @throws KernelError if a thread that claimed a chunk does not answer. */
  run(kernel: number, a: readonly number[], chunks: number): void {
    const { words } = this,
      { count, unit, steps } = SPLITS[kernel]!;
    this.values.set(a);
    this.steps.fill(0);
    this.steps.set(steps(a));
    words[KERNEL] = kernel;
    words[ARGUMENTS] = a.length;
    words[CHUNKS_OF_JOB] = chunks;
    words[COUNT] = a[count]!;
    words[UNIT] = unit(a);
    Atomics.store(words, DONE, 0);
    Atomics.add(words, TICKET, (1 << 9) | (chunks << 1));
    Atomics.notify(words, TICKET);
    while (this.claim());
    for (let waits = 0; ;) {
      const done = spin(words, DONE, (v) => v === chunks);
      if (done === chunks) return;
      if (Atomics.wait(words, DONE, done, WAIT_MS) === 'timed-out' && ++waits === WAITS)
        throw new KernelError(`kernel thread does not answer: expected its part within ${(WAITS * WAIT_MS) / 1000} s, got nothing; try: threads 1`);
    }
  }

  /** Computes chunks until the threads are to end. */
  serve(): void {
    for (;;) {
      while (this.claim());
      const ticket = spin(this.words, TICKET, (v) => (v & 0x1ff) !== 0);
      if ((ticket & 1) !== 0) return;
      if ((ticket & 0x1fe) === 0) Atomics.wait(this.words, TICKET, ticket);
    }
  }

  /** Computes one chunk, if there is one. */
  private claim(): boolean {
    const { words } = this,
      ticket = Atomics.load(words, TICKET),
      left = (ticket >> 1) & 0xff;
    if (left === 0) return false;
    if (Atomics.compareExchange(words, TICKET, ticket, ticket - 2) !== ticket) return true;
    const kernel = words[KERNEL]!,
      unit = words[UNIT]!,
      units = Math.ceil(words[COUNT]! / unit),
      chunks = words[CHUNKS_OF_JOB]!,
      from = unit * Math.floor((units * (left - 1)) / chunks),
      to = Math.min(unit * Math.floor((units * left) / chunks), words[COUNT]!),
      a = Array.from(this.values.subarray(0, words[ARGUMENTS]), (v, i) => v + from * this.steps[i]!);
    a[SPLITS[kernel]!.count] = to - from;
    this.functions[kernel]!(...a);
    Atomics.add(words, DONE, 1);
    Atomics.notify(words, DONE);
    return true;
  }
}

/** The word's value once it satisfies the condition, or after a short while. */
function spin(words: Int32Array, index: number, enough: (value: number) => boolean): number {
  let value = Atomics.load(words, index);
  for (let i = 0; i < SPIN && !enough(value); i++) value = Atomics.load(words, index);
  return value;
}

/**
 * The same kernels, with large calls shared among the caller and the threads that serve the memory; for one caller at a time. Only where the memory
 * has `threads` - 1 pages at its end that nobody else uses. `grainNs`: what a chunk takes at least, above 0. @throws KernelError in a call whose chunk was lost.
 */
export function threadedKernels(kernels: Kernels, threads: number, grainNs = GRAIN_NS): Kernels {
  if (threads === 1) return kernels;
  const job = new Job(kernels),
    most = Math.min(CHUNKS * threads, 255);
  const shared = SPLITS.map(({ name, count, unit, ns, stride }, i) => {
    const alone = kernels[name] as Kernel;
    return [
      name,
      (...a: number[]): void => {
        const chunks = Math.floor(Math.min(most, Math.ceil(a[count]! / unit(a)), (ns(a) * a[count]!) / grainNs));
        if (chunks < 2) return alone(...a);
        if (stride) a[stride[0]] ??= stride[1](a);
        job.run(i, a, chunks);
      },
    ] as const;
  });
  return { ...kernels, ...Object.fromEntries(shared) };
}

/** Serves a memory on this thread, by kernels with its own working space: returns after `endThreads`. */
export const serveKernels = (kernels: Kernels): void => new Job(kernels).serve();

/** Lets the threads that serve a memory end, each once it finds no chunk; a call that runs is completed by its caller. */
export function endThreads(memory: WebAssembly.Memory): void {
  const words = wordsOf(memory);
  Atomics.or(words, TICKET, 1);
  Atomics.notify(words, TICKET);
}

/** One reserved memory per engine: shared, as large as it will ever be (growing detaches all views); only touched pages become resident. */

export class KernelError extends Error {
  override readonly name = 'KernelError';
  readonly code = 'limit';
}

const PAGE = 65536;

/** The low end of a memory: the kernels' own working space. */
export const WORKING_BYTES = PAGE;

/** Address of a thread's working space: thread 0 has the low end of the memory, thread t the t-th page from its upper end. */
export const workingSpace = (memory: WebAssembly.Memory, thread: number): number => (thread === 0 ? 0 : memory.buffer.byteLength - thread * WORKING_BYTES);

/** @throws KernelError if the size exceeds what wasm32 addresses or the system grants. */
export function reserveMemory(bytes: number): WebAssembly.Memory {
  const pages = Math.ceil(bytes / PAGE);
  if (pages > 65536) throw new KernelError(`memory too large: expected at most 4 GiB, got ${(bytes / 2 ** 30).toFixed(1)} GiB; try: a shorter prompt`);
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

/** Bump allocator over a range of a memory, 16-byte aligned. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  private next: number;
  private readonly end: number;
  private top = 0;

  constructor(memory: WebAssembly.Memory, start: number, bytes: number) {
    this.memory = memory;
    this.next = (start + 15) & ~15;
    if (this.next < 0) this.next += 2 ** 32;
    this.end = start + bytes;
    this.top = this.next;
  }

  /** @throws KernelError when the arena is full. */
  alloc(bytes: number): number {
    const at = this.next,
      next = at + Math.ceil(bytes / 16) * 16;
    if (next > this.end)
      throw new KernelError(`engine memory exhausted: expected at most ${this.end - at} bytes more, got a request for ${bytes}; try: a shorter prompt`);
    this.next = next;
    if (next > this.top) this.top = next;
    return at;
  }

  mark(): number {
    return this.next;
  }

  release(mark: number): void {
    this.next = mark;
  }

  /** Highest address ever in use. */
  get highWater(): number {
    return this.top;
  }
}

export const u64 = (memory: WebAssembly.Memory, pointer: number, n: number): BigUint64Array => new BigUint64Array(memory.buffer, pointer, n);
export const u8 = (memory: WebAssembly.Memory, pointer: number, n: number): Uint8Array => new Uint8Array(memory.buffer, pointer, n);

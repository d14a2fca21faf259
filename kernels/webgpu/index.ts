/**
 * The WebGPU backend: a list of jobs is one upload of what they read (each region once), one dispatch a job, one download of their results. Exact on every
 * adapter: WGSL's 32-bit integers wrap, and no float is used.
 */
import { BULK_KINDS, inputsOf, keyElements, placeResults, resultsOf, type BulkBackend, type BulkJob } from '../bulk.ts';
import { KernelError } from '../memory.ts';
import { SHADERS } from './shaders.ts';

type Shader = keyof typeof SHADERS;
interface Dispatch {
  readonly shader: Shader;
  readonly parameters: readonly number[];
  readonly groups: readonly [x: number, y: number, z: number];
}

/** Numbers of the WebGPU standard: the names exist in a browser's global scope alone. */
const USAGE = { mapRead: 0x1, copySource: 0x4, copyTarget: 0x8, storage: 0x80 } as const,
  COMPUTE = 0x4,
  READ = 0x1;

/** Rows from which the tiled product is the better one. */
const TILE_ROWS = 8,
  TILE = 16;
/** Elements of a row up to which a thread adds it up alone. */
const SHORT_ROW = 256;
/** Bytes between two jobs' parameters: a binding's offset is a multiple of it on every device. */
const SLOT = 256;
/** Groups of 64 threads in a line (shaders.ts, lane), and in any dimension at most. */
const LINE = 32_768,
  MAX_GROUPS = 65_535;
/** Bytes of a binding that every device allows; a list that needs more is cut. */
const MAX_BYTES = 128 << 20;

/** Whether an adapter computes on the CPU. */
const isEmulated = (info: GPUAdapterInfo): boolean =>
  info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|software/i.test(`${info.architecture} ${info.description}`);

/** @throws KernelError where there is no adapter, with what to try. */
export async function openWebgpu(gpu: GPU): Promise<BulkBackend> {
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new KernelError('no WebGPU adapter: expected a GPU with its driver (Vulkan, Metal, D3D12), got none; try: the driver, or --backend wasm');
  const device = await adapter.requestDevice(),
    layout = device.createBindGroupLayout({
      entries: [
        { binding: 0, visibility: COMPUTE, buffer: { type: 'read-only-storage' } },
        { binding: 1, visibility: COMPUTE, buffer: { type: 'storage' } },
        { binding: 2, visibility: COMPUTE, buffer: { type: 'read-only-storage', hasDynamicOffset: true } },
      ],
    }),
    pipelines = new Map<Shader, GPUComputePipeline>();
  let lost: string | undefined;
  void device.lost.then(({ reason }) => (lost = reason || 'lost'));

  const pipelineOf = (shader: Shader): GPUComputePipeline => {
    const known = pipelines.get(shader);
    if (known) return known;
    const made = device.createComputePipeline({
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ code: SHADERS[shader] }), entryPoint: 'main' },
    });
    pipelines.set(shader, made);
    return made;
  };
  /** Buffers are kept and grow. */
  const buffers = new Map<string, GPUBuffer>();
  const buffer = (name: string, bytes: number, usage: number): GPUBuffer => {
    const known = buffers.get(name);
    if (known && known.size >= bytes) return known;
    known?.destroy();
    const made = device.createBuffer({ size: Math.max(1 << 16, 2 ** Math.ceil(Math.log2(bytes))), usage });
    buffers.set(name, made);
    return made;
  };

  const runPart = async (memory: WebAssembly.Memory, jobs: readonly BulkJob[]): Promise<void> => {
    const { upload, offsetOf } = gather(memory, jobs),
      starts: number[] = [];
    let size = 0;
    for (const job of jobs) {
      starts.push(size);
      size += 8 * resultsOf(job);
    }
    if (size === 0) return;
    const dispatches = jobs.map((job, i) => dispatchOf(job, starts[i]! / 4, offsetOf)),
      slots = new Uint32Array((SLOT / 4) * jobs.length);
    dispatches.forEach((d, i) => slots.set(d.parameters, (SLOT / 4) * i));
    const source = buffer('source', upload.length, USAGE.storage | USAGE.copyTarget),
      result = buffer('result', size, USAGE.storage | USAGE.copySource),
      parameters = buffer('parameters', slots.byteLength, USAGE.storage | USAGE.copyTarget),
      download = buffer('download', size, USAGE.mapRead | USAGE.copyTarget);
    device.queue.writeBuffer(source, 0, upload);
    device.queue.writeBuffer(parameters, 0, slots);
    const group = device.createBindGroup({
      layout,
      entries: [
        { binding: 0, resource: { buffer: source } },
        { binding: 1, resource: { buffer: result } },
        { binding: 2, resource: { buffer: parameters, size: SLOT } },
      ],
    });
    device.pushErrorScope('validation');
    const encoder = device.createCommandEncoder(),
      pass = encoder.beginComputePass();
    dispatches.forEach((d, i) => {
      pass.setPipeline(pipelineOf(d.shader));
      pass.setBindGroup(0, group, [SLOT * i]);
      pass.dispatchWorkgroups(...d.groups);
    });
    pass.end();
    encoder.copyBufferToBuffer(result, 0, download, 0, size);
    device.queue.submit([encoder.finish()]);
    const [invalid, mapped] = await Promise.allSettled([device.popErrorScope(), download.mapAsync(READ, 0, size)]),
      valid = invalid.status === 'fulfilled' && invalid.value === null;
    if (!valid || mapped.status === 'rejected')
      throw new KernelError(`WebGPU device failed: expected results, got ${lost === undefined ? 'an error' : `a device ${lost}`}; try: --backend wasm`);
    const results = new Uint8Array(download.getMappedRange(0, size));
    jobs.forEach((job, i) => placeResults(memory, job, results.subarray(starts[i], starts[i]! + 8 * resultsOf(job))));
    download.unmap();
  };

  const emulated = isEmulated(adapter.info);
  return {
    name: 'webgpu',
    device: `${adapter.info.description || adapter.info.device || adapter.info.vendor || 'adapter'}${emulated ? ' (on the CPU)' : ''}`,
    emulated,
    kinds: BULK_KINDS,
    async run(memory, jobs) {
      for (const part of parts(jobs)) await runPart(memory, part);
    },
    async close() {
      for (const b of buffers.values()) b.destroy();
      device.destroy();
      await device.lost;
    },
  };
}

/** Consecutive jobs that fit into a device's bindings together. */
function* parts(jobs: readonly BulkJob[]): Generator<readonly BulkJob[]> {
  let part: BulkJob[] = [],
    read = 0,
    written = 0;
  for (const job of jobs) {
    const reads = inputsOf(job).reduce((sum, { bytes }) => sum + bytes + 8, 0),
      writes = 8 * resultsOf(job);
    if (Math.max(reads, writes) > MAX_BYTES) throw new KernelError(`job too large: expected at most ${MAX_BYTES} bytes, got ${Math.max(reads, writes)}`);
    if (part.length > 0 && (read + reads > MAX_BYTES || written + writes > MAX_BYTES)) {
      yield part;
      part = [];
      read = written = 0;
    }
    part.push(job);
    read += reads;
    written += writes;
  }
  if (part.length > 0) yield part;
}

/** What the jobs read, each region once, from its lowest byte that is a multiple of four. `offsetOf`: in 32-bit words. */
function gather(
  memory: WebAssembly.Memory,
  jobs: readonly BulkJob[],
): { readonly upload: Uint8Array<ArrayBuffer>; readonly offsetOf: (pointer: number) => number } {
  const lengths = new Map<number, number>();
  for (const { pointer, bytes } of jobs.flatMap(inputsOf)) lengths.set(pointer, Math.max(lengths.get(pointer) ?? 0, (bytes + 7) & ~7));
  const offsets = new Map<number, number>();
  let size = 0;
  for (const [pointer, bytes] of lengths) {
    offsets.set(pointer, size / 4);
    size += bytes;
  }
  const upload = new Uint8Array(Math.max(size, 8));
  for (const [pointer, bytes] of lengths)
    upload.set(new Uint8Array(memory.buffer, pointer, Math.min(bytes, memory.buffer.byteLength - pointer)), 4 * offsets.get(pointer)!);
  return { upload, offsetOf: (pointer) => offsets.get(pointer)! };
}

/** A job's program and parameters, as shaders.ts reads them. `to`: where its results begin, in 32-bit words. */
function dispatchOf(j: BulkJob, to: number, offsetOf: (pointer: number) => number): Dispatch {
  const lines = (threads: number): Dispatch['groups'] => {
    const groups = Math.ceil(threads / 64);
    return [Math.min(groups, LINE), Math.ceil(groups / LINE), 1];
  };
  switch (j.kind) {
    case 'gemm': {
      const { batch, rows, inner, cols } = j,
        strides = j.transposed ? [1, cols] : [inner, 1],
        parameters = [to, offsetOf(j.x), offsetOf(j.y), batch, rows, inner, cols, j.xBatch, j.xRow, j.yBatch, ...strides, j.bits <= 32 ? 1 : 0, j.yBits / 32];
      const [shader, groups]: [Shader, Dispatch['groups']] =
        rows >= TILE_ROWS
          ? ['tile', [Math.ceil(cols / TILE), Math.ceil(rows / TILE), batch]]
          : j.transposed || inner <= SHORT_ROW
            ? ['column', [Math.ceil(cols / 64), batch * rows, 1]]
            : ['row', [cols, batch * rows, 1]];
      if (Math.max(...groups) > MAX_GROUPS) throw new KernelError(`job too large: expected at most ${MAX_GROUPS} columns or rows, got ${Math.max(...groups)}`);
      return { shader, parameters, groups };
    }
    case 'prg': {
      const skip = j.first % 8,
        block = (j.first - skip) / 8,
        blocks = Math.ceil((skip + j.n) / 8),
        mask = (1n << BigInt(j.bits)) - 1n;
      const parameters = [
        to,
        offsetOf(j.key),
        j.gate,
        j.sub,
        block % 2 ** 32,
        Math.floor(block / 2 ** 32),
        skip,
        Number(mask & 0xffffffffn),
        Number(mask >> 32n),
        j.n,
        blocks,
      ];
      return { shader: 'prg', parameters, groups: lines(blocks) };
    }
    case 'exp': {
      const threads = j.n << j.cellsLog2;
      if (j.domainBits > 31) throw new KernelError(`domain too large: expected at most 31 bits, got ${j.domainBits}`);
      return {
        shader: 'exp',
        parameters: [to, offsetOf(j.r), offsetOf(j.tables), j.domainBits, j.domainBits - j.cellsLog2, j.cellsLog2, threads],
        groups: lines(threads),
      };
    }
    case 'fourier':
      return { shader: 'fourier', parameters: [to, offsetOf(j.r), offsetOf(j.tables), j.periodBits, j.terms, j.n * j.terms], groups: lines(j.n * j.terms) };
    case 'keys':
      if (j.bits > 32) throw new KernelError(`key too deep: expected at most 32 bits, got ${j.bits}`);
      return {
        shader: 'keys',
        parameters: [
          to,
          ...[j.roots0, j.roots1, j.points, j.payload].map(offsetOf),
          j.bits,
          j.words,
          offsetOf(j.tweak),
          j.index,
          j.gate,
          j.n,
          2 * keyElements(j),
        ],
        groups: lines(j.n),
      };
    case 'table': {
      const words = (j.n * 2 ** j.bits) / 32;
      return { shader: 'table', parameters: [to, offsetOf(j.r), offsetOf(j.table), j.bits, j.xor ? 1 : 0, words], groups: lines(words) };
    }
  }
}

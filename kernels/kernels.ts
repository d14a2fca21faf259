/**
 * The kernel backend interface: everything that Cachet computes on bulk data, as flat functions over one memory.
 *
 * A *pointer* is a byte offset into `memory.buffer`, 8-byte aligned unless it names packed bytes. `u64[n]` is n little-endian
 * 64-bit ring elements. All arithmetic is modulo 2^64; a ring Z_2^n with n < 64 keeps its elements in u64 with arbitrary upper bits
 * until `reduce`, `shiftRight` or `pack` (an element is *reduced* when the bits above n are zero). Scalars are JavaScript numbers that
 * are exact integers of magnitude below 2^63. `mode` is SET (dst = v), ADD (dst += v) or SUB (dst -= v). No function allocates,
 * blocks or branches on secret values; destinations may equal a source of the same length, and may not overlap it otherwise.
 *
 * Every backend implements all of it and passes test/kernels.test.ts against `reference`.
 */

export const SET = 0,
  ADD = 1,
  SUB = -1;

/** Random parities per bucket of `parities`; a program may use fewer of them. */
export const TAU = 8;

export interface Kernels {
  readonly name: string;
  /** What the backend chose on this machine by measuring; empty where there is no choice. */
  readonly choices: string;
  readonly memory: WebAssembly.Memory;

  // ---- ring arithmetic on u64[n] ------------------------------------------------------------------------------------
  copy(dst: number, a: number, n: number): void;
  fill(dst: number, scalar: number, n: number): void;
  add(dst: number, a: number, b: number, n: number): void;
  sub(dst: number, a: number, b: number, n: number): void;
  xor(dst: number, a: number, b: number, n: number): void;
  /** dst = a + scalar */
  addScalar(dst: number, a: number, scalar: number, n: number): void;
  /** dst (mode)= a * scalar */
  mulScalar(dst: number, a: number, scalar: number, n: number, mode: number): void;
  /** dst = a mod 2^bits, 1 <= bits <= 64 */
  reduce(dst: number, a: number, bits: number, n: number): void;
  /** dst = (a mod 2^bits) >> shift, logical; 0 <= shift < bits */
  shiftRight(dst: number, a: number, bits: number, shift: number, n: number): void;
  /** Copies rows of `cols` elements; strides in elements. */
  copyRows(dst: number, dstStride: number, src: number, srcStride: number, rows: number, cols: number): void;
  /** dst[s] = sum of the s-th of `segments` consecutive runs of src; lengths is u32[segments]. */
  segmentSum(dst: number, src: number, lengths: number, segments: number): void;
  /** Each element of the s-th run of dst (mode)= a[s] * scalar. */
  segmentSpread(dst: number, a: number, lengths: number, segments: number, scalar: number, mode: number): void;

  // ---- linear and bilinear maps --------------------------------------------------------------------------------------
  /**
   * dst[r, c] = sum_i x[r, i] * w[c, i]; x u64[rows, inner], w int16[cols, inner] (sign-extended), dst u64[rows, cols]. inner % 8 == 0.
   * Only the low `bits` bits of the result are needed, 1 <= bits <= 64 (the rest is arbitrary): fewer are faster, in steps at 32, 44, 56.
   * `stride`: elements from one row of dst to the next, where these columns are some of it. @default cols
   */
  gemmI16(dst: number, x: number, w: number, rows: number, inner: number, cols: number, bits: number, stride?: number): void;
  /**
   * The same in float32: x f32[rows, inner], w f32[cols, inner], dst f32[rows, cols]. inner % 8 == 0. Every operation rounds to float32: eight partial
   * sums s_j, j = i mod 8, each in the order of i; with t_j = s_j + s_(j + 4) the result is (t_0 + t_1) + (t_2 + t_3).
   */
  gemmF32(dst: number, x: number, w: number, rows: number, inner: number, cols: number): void;
  /**
   * dst[r, c] (mode)= sum_i x[r, i] * w[c, i] over Z_2^bits, bits 32 or 64, which is also the size of w's elements: x u64[rows, inner], w u32 or
   * u64[cols, inner], dst u64[rows, cols] (upper bits arbitrary). inner % 8 == 0. `stride` as for gemmI16.
   */
  gemmRing(dst: number, x: number, w: number, rows: number, inner: number, cols: number, bits: number, mode: number, stride?: number): void;
  /** dst[i] (mode)= a[i] * b[i] */
  hadamard(dst: number, a: number, b: number, n: number, mode: number): void;
  /** dst[r, c] (mode)= a[r, c] * s[r] */
  scaleRows(dst: number, a: number, s: number, rows: number, cols: number, mode: number): void;
  /** dst[r] (mode)= sum_c a[r, c] * b[r, c] */
  dotRows(dst: number, a: number, b: number, rows: number, cols: number, mode: number): void;
  /**
   * Causal attention logits, packed. q u64[queries, heads, dim]; k u64[heads / group, capacity, dim]; query i sees keys 0 .. past + i, so its
   * row has past + i + 1 entries; dst holds, for each head, the rows of all queries one after another:
   * row(h, i) starts at h * S + i * past + i (i + 1) / 2 with S = queries * past + queries (queries + 1) / 2.
   * dst[row(h, i) + t] (mode)= q[i, h] . k[h / group, t]. Only the low `bits` bits of the result are needed (the rest is arbitrary).
   * `stride`: elements from one query to the next, where these heads are some of it. @default heads * dim
   */
  scores(
    dst: number,
    q: number,
    k: number,
    queries: number,
    heads: number,
    group: number,
    dim: number,
    past: number,
    capacity: number,
    bits: number,
    mode: number,
    stride?: number,
  ): void;
  /** Packed rows p (as in `scores`) times values: dst u64[queries, heads, dim]; dst[i, h] (mode)= sum_t p[row(h, i) + t] * v[h / group, t]; `stride` as there. */
  mix(
    dst: number,
    p: number,
    v: number,
    queries: number,
    heads: number,
    group: number,
    dim: number,
    past: number,
    capacity: number,
    mode: number,
    stride?: number,
  ): void;
  /** Adds packed rows over the keys from `skip` on to the tails of full packed rows: dst rows have past + i + 1 entries, src rows past - skip + i + 1. */
  addTails(dst: number, src: number, queries: number, heads: number, past: number, skip: number): void;
  /**
   * Rotary embedding, half rotation as in HF: src u64[rows, srcStride] with the heads at the start of each row, dst u64[rows, heads, dim];
   * cos, sin int32[capacity, dim / 2]; row i is at position position0 + i.
   * dst[.., j] = x[j] c[j] - x[j + dim/2] s[j];  dst[.., j + dim/2] = x[j + dim/2] c[j] + x[j] s[j].
   */
  rope(dst: number, src: number, srcStride: number, cos: number, sin: number, position0: number, rows: number, heads: number, dim: number): void;

  // ---- packing --------------------------------------------------------------------------------------------------------
  /**
   * Packs u64[n] to n * ceil(bits / 8) bytes, little-endian; bits == 1: eight elements a byte, lowest bit first, ceil(n / 8) bytes.
   * Returns the number of elements with a bit set at or above `bits` (the caller must treat any as fatal; such bits are never written:
   * an offending element is packed as zero).
   */
  pack(dst: number, src: number, bits: number, n: number): number;
  unpack(dst: number, src: number, bits: number, n: number): void;
  /** a - b mod 2^bits, packed to ceil(bits / 8) bytes each, also where bits == 1. */
  subPack(dst: number, a: number, b: number, bits: number, n: number): void;
  // Elements of 64 + hiBits bits (hiBits <= 32, a multiple of 8) as lo u64[n], hi u64[n]; packed to 8 + hiBits / 8 bytes each.
  /** (lo, hi) = (lo, hi) - (lo0, hi0) mod 2^(64 + hiBits). */
  subWide(lo: number, hi: number, lo0: number, hi0: number, hiBits: number, n: number): void;
  /** a - (lo0, hi0) mod 2^(64 + hiBits), packed: a i64[n], sign-extended; hi0 packed to hiBits / 8 bytes each. */
  subPackWide(dst: number, a: number, lo0: number, hi0: number, hiBits: number, n: number): void;
  unpackWide(lo: number, hi: number, src: number, hiBits: number, n: number): void;
  /** hi[i] = 2^hiBits - 1 where a[i] is negative as a two's complement number, 0 elsewhere: the upper part of a sign extension. */
  signWords(hi: number, a: number, hiBits: number, n: number): void;

  // ---- pseudorandom streams: ChaCha8, 32-byte key, nonce (gate, sub), block counter -----------------------------------
  /**
   * dst[i] = element (first + i) of the stream, mod 2^bits. Element e is bytes 8 (e mod 8) .. of ChaCha8 block floor(e / 8).
   * State words: 0-3 "expand 32-byte k"; 4-11 key; 12, 13 block counter low, high; 14 gate; 15 sub.
   */
  prg(dst: number, key: number, gate: number, sub: number, first: number, bits: number, n: number): void;

  // ---- distributed point functions -----------------------------------------------------------------------------------
  // Boyle-Gilboa-Ishai 2016 with vector payload in Z_2^64, early-terminated by one level: the last level's block gives both children's payloads.
  // Node PRG: ChaCha8 in its 128-bit-key form: words 0-3 "expand 16-byte k"; 4-7 the node's seed; 8-11 public session tweak; 12 level (from the
  // root: 0, 1, ..) | block << 16; 13 index of the key (keyIndex0 + its place in the call); 14 gate; 15 sub.
  // Inner levels (0 .. bits - 2): left seed = words 0-3, right seed = words 4-7, left control bit = word 8 & 1, right = word 9 & 1.
  // Last level (bits - 1): stream of 2 * words u64 (8 a block): child c's payload element e is u64 number c * words + e.
  // Key bytes: (bits - 1) * 17 (16 bytes of seed correction, then one byte: bit 0 left control correction, bit 1 right) + 2 * words * 8
  // (payload corrections of the left, then of the right child). At the last level party p's leaf is (-1)^p (G + t CW), t its control bit; roots
  // have t = party. Depth bits >= 1; points are bits-bit, most significant bit first.
  /** roots0, roots1: u64[count, 2] (seeds of P0, P1); points u64[count]; payload u64[count, words]; keys: count * dpfKeyBytes. */
  dpfGenerate(
    keys: number,
    roots0: number,
    roots1: number,
    points: number,
    payload: number,
    count: number,
    bits: number,
    words: number,
    tweak: number,
    keyIndex0: number,
    gate: number,
    sub: number,
  ): void;
  /** dst u64[count, span, words]: each key at the points from[i], from[i] + 1, .. (mod 2^bits), span <= 2^bits. */
  dpfEvaluate(
    dst: number,
    keys: number,
    roots: number,
    party: number,
    from: number,
    span: number,
    count: number,
    bits: number,
    words: number,
    tweak: number,
    keyIndex0: number,
    gate: number,
    sub: number,
    scratch: number,
  ): void;
  /** Bytes of scratch that `dpfEvaluate` and `splineEvaluate` need for a span of points. */
  dpfScratchBytes(span: number, words: number): number;

  // ---- gates' inner loops ----------------------------------------------------------------------------------------------
  /** points[i] = R >> low, payload[i] = (1, L, .., L^(words - 1)) with R = r[i] mod 2^domainBits, L = R mod 2^low. */
  splinePayload(points: number, payload: number, r: number, domainBits: number, low: number, words: number, n: number): void;
  /**
   * dst[i] += this party's share of sum_d c[cell, d] (Ml - Rl)^d over the one cell that M and R select, 0 if that cell is not among
   * firstCell .. firstCell + cells - 1. M = m[i] mod 2^domainBits; low = domainBits - keyBits; mu = M >> low; Ml = M mod 2^low; the key of element i
   * (point R >> low, payload Rl^b) is read at the points mu - cell; coefficients i64[cells, words]. words = degree + 1 <= 4.
   */
  splineEvaluate(
    dst: number,
    m: number,
    keys: number,
    roots: number,
    party: number,
    n: number,
    domainBits: number,
    keyBits: number,
    firstCell: number,
    cells: number,
    coefficients: number,
    words: number,
    tweak: number,
    keyIndex0: number,
    gate: number,
    sub: number,
    scratch: number,
  ): void;

  // expTable. tables is what `expTables` of protocols/gates/expTable.ts lays out, all u64 entries:
  //   [0, 256):   mask low   round(2^22 e^(-i / 2^scale))                for the low 8 bits of rho
  //   [256, 512): mask high  round(2^41 e^(-256 i / 2^scale))            for rho >> 8 (cellBits <= 16)
  //   [512, 768): public low round(2^20 e^(i / 2^scale));  [768, 1024): public high round(2^20 e^(256 i / 2^scale)), at most 2^43.1
  //   [1024, ..): per shift, 2^cellsLog2 pairs (mantissa < 2^20, right shift): g = round_half_up(e^Ml * mantissa / 2^shift), 0 if shift > 63,
  //               with e^Ml = (high * low + 2^19) >> 20.
  /** dst u64[n, 2^cellsLog2]: for each r (mod 2^domainBits; c = its top cellsLog2 bits, rho the rest) E = (high * low + 2^28) >> 29 (scale 34) at [i, c],
   *  0 in the other cells. */
  expDeal(dst: number, r: number, domainBits: number, cellsLog2: number, tables: number, n: number): void;
  /** dst[i] = party's share: y = sum_a g[(mu - a) mod 2^cellsLog2] E[i, a] mod 2^88; party 0: low 64 bits of y >> shift; party 1: minus (2^88 - y mod 2^88) >> shift. */
  expEvaluate(
    dst: number,
    m: number,
    lo: number,
    hi: number,
    party: number,
    domainBits: number,
    cellsLog2: number,
    tables: number,
    shiftIndex: number,
    shift: number,
    n: number,
  ): void;

  // fourier. tables: u64 (signed) entries, with H = 2^(periodBits - 8): cos high [0, H), sin high [H, 2 H): round(2^30 cos(2 pi 256 i / 2^periodBits)), ..;
  // cos low [2 H, 2 H + 256), sin low [2 H + 256, 2 H + 512): round(2^30 cos(2 pi i / 2^periodBits)); then coefficients round(a_k 2^24), k = 1 .. terms.
  // Angle a = k * x mod 2^periodBits (9 .. 19), high = a >> 8, low = a & 255; cos a = ch cl - sh sl, sin a = sh cl + ch sl at scale 60 (signed).
  /** dst[i, 0 .. terms) = round_half_up(cos(k r) at scale 18), dst[i, terms .. 2 terms) = sin; two's complement in u64. */
  fourierDeal(dst: number, r: number, periodBits: number, terms: number, tables: number, n: number): void;
  /** dst[i] += sum_k pc_k corr[i, k] + ps_k corr[i, terms + k] with pc_k = round_half_up(a_k * (cos(k m) >> 30 half up) / 2^40) (scale 14), ps_k likewise. */
  fourierEvaluate(dst: number, m: number, corr: number, periodBits: number, terms: number, tables: number, n: number): void;
  /** The same sum y over 72-bit elements (lo, hi), shifted: dst[i] += low 64 bits of y >> drop (party 0), -= (2^72 - y mod 2^72) >> drop (party 1); drop <= 32. */
  fourierEvaluateWide(
    dst: number,
    m: number,
    lo: number,
    hi: number,
    party: number,
    periodBits: number,
    terms: number,
    tables: number,
    drop: number,
    n: number,
  ): void;

  // Boolean: XOR-shared bits.
  /** dst[i] = 1 << (r[i] mod 64) as u64 */
  oneHot64(dst: number, r: number, n: number): void;
  /** t: (share of) oneHot64(r); dst[i] bit b = XOR over v in b .. 63 of bit ((m[i] - v) mod 64) of t[i]: with m = x + r it says x mod 64 >= b. */
  suffix64(dst: number, m: number, t: number, n: number): void;
  /**
   * Random parities of 64-bit words. words u64[sum of lengths], in runs of lengths u32[rows]; coins: u64 number 8 i + t of the stream (coinKey, gate, sub)
   * belongs to word i. dst u64[rows, count], 8-bit elements: bit t of dst[row, b] = XOR over the row's i of bit first + b of (words[i] & coin[i, t]).
   */
  parities(dst: number, words: number, lengths: number, rows: number, first: number, count: number, coinKey: number, gate: number, sub: number): void;
  /** All pairs a < b of each row's `count` elements, in lexicographic order: dst u64[rows, count (count - 1) / 2] = src[a] - src[b]. */
  pairDifferences(dst: number, src: number, rows: number, count: number): void;
  /** The transposed map: dst u64[rows, count] = sum of src over the pairs of which the element is the first, less the sum over those of which it is the second. */
  pairSums(dst: number, src: number, rows: number, count: number): void;
  /** Rotated truth tables, bit-packed lowest first, 2^bits / 8 bytes each (bits >= 6): entry m = table bit (m - r) (xor = 0) or (m ^ r) (xor = 1). */
  tableRotate(dst: number, table: number, r: number, bits: number, xor: number, n: number): void;
  /** dst[i] = bit m[i] mod 2^bits of the i-th table */
  tableLookup(dst: number, tables: number, m: number, bits: number, n: number): void;
  /** dst u64[n, 2^bits] = entry (m - r[i]) mod 2^bits (xor = 0) or m ^ r[i] (xor = 1) of table u8[2^bits] at m. */
  lookupPermute(dst: number, table: number, r: number, bits: number, xor: number, n: number): void;
  /** dst[i] = tables[i, m[i] mod 2^bits] */
  lookupPick(dst: number, tables: number, m: number, bits: number, n: number): void;
}

/** Bytes that `pack` writes. */
export const packedBytes = (bits: number, n: number): number => (bits === 1 ? Math.ceil(n / 8) : n * Math.ceil(bits / 8));
/** Bytes of one DPF key's correction words. */
export const dpfKeyBytes = (bits: number, words: number): number => (bits - 1) * 17 + 16 * words;

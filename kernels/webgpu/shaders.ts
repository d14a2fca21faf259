/**
 * The WGSL of the WebGPU backend. An element of Z_2^64 is a vec2<u32>, low word first. `p` are the job's parameters, in the order in which index.ts writes
 * them; offsets into `source` and `result` are in 32-bit words.
 */
const COMMON = /* wgsl */ `
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(0) @binding(2) var<storage, read> p: array<u32>;

fn element(at: u32) -> vec2u { return vec2u(source[at], source[at + 1u]); }
fn put(at: u32, v: vec2u) { result[at] = v.x; result[at + 1u] = v.y; }

fn add(a: vec2u, b: vec2u) -> vec2u {
  let low = a.x + b.x;
  return vec2u(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn negate(a: vec2u) -> vec2u { return add(~a, vec2u(1u, 0u)); }
/** The product of two words, from halves. */
fn wide(a: u32, b: u32) -> vec2u {
  let al = a & 0xffffu; let ah = a >> 16u; let bl = b & 0xffffu; let bh = b >> 16u;
  let ll = al * bl; let lh = al * bh; let hl = ah * bl;
  let middle = (ll >> 16u) + (lh & 0xffffu) + (hl & 0xffffu);
  return vec2u((ll & 0xffffu) | (middle << 16u), ah * bh + (lh >> 16u) + (hl >> 16u) + (middle >> 16u));
}
fn product(a: vec2u, b: vec2u) -> vec2u {
  let w = wide(a.x, b.x);
  return vec2u(w.x, w.y + a.x * b.y + a.y * b.x);
}
/** Workgroups of 64 lie in lines of 32768. */
fn lane(group: vec3u, local: u32) -> u32 { return (group.y * 32768u + group.x) * 64u + local; }
`;

/** p: result, x, y; batch, rows, inner, cols; strides of x: batch, row; of y: batch, column, inner; 1 if 32 bits are enough; words of an element of y. */
const GEMM = /* wgsl */ `
fn multiplyAdd(sum: vec2u, a: vec2u, b: vec2u) -> vec2u {
  if (p[12] == 1u) { return vec2u(sum.x + a.x * b.x, 0u); }
  return add(sum, product(a, b));
}
fn xAt(b: u32, r: u32, i: u32) -> vec2u { return element(p[1] + 2u * (b * p[7] + r * p[8] + i)); }
fn yAt(b: u32, c: u32, i: u32) -> vec2u {
  let at = p[2] + p[13] * (b * p[9] + c * p[10] + i * p[11]);
  if (p[13] == 1u) { return vec2u(source[at], 0u); }
  return element(at);
}
`;

const ROW = /* wgsl */ `
var<workgroup> part: array<vec2u, 64>;
/** Few rows, y [cols, inner]: a workgroup an output, its threads along the row. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let b = group.y / p[4]; let r = group.y % p[4];
  var sum = vec2u(0u);
  for (var i = local; i < p[5]; i += 64u) { sum = multiplyAdd(sum, xAt(b, r, i), yAt(b, group.x, i)); }
  part[local] = sum;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (local < half) { part[local] = add(part[local], part[local + half]); }
    workgroupBarrier();
  }
  if (local == 0u) { put(p[0] + 2u * (group.y * p[6] + group.x), part[0]); }
}`;

const COLUMN = /* wgsl */ `
/** Few rows, y [inner, cols], or short ones: a thread an output; in the former case neighbours read neighbours. */
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p[6]) { return; }
  let b = id.y / p[4]; let r = id.y % p[4];
  var sum = vec2u(0u);
  for (var i = 0u; i < p[5]; i++) { sum = multiplyAdd(sum, xAt(b, r, i), yAt(b, id.x, i)); }
  put(p[0] + 2u * (id.y * p[6] + id.x), sum);
}`;

const TILE = /* wgsl */ `
var<workgroup> xs: array<array<vec2u, 16>, 16>;
var<workgroup> ys: array<array<vec2u, 16>, 16>;
/** Many rows: a workgroup a tile of 16 x 16 outputs. */
@compute @workgroup_size(16, 16) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let b = group.z; let c = group.x * 16u + local.x; let r = group.y * 16u + local.y;
  let row = min(r, p[4] - 1u); let column = min(group.x * 16u + local.y, p[6] - 1u);
  var sum = vec2u(0u);
  for (var start = 0u; start < p[5]; start += 16u) {
    let i = start + local.x;
    var x = vec2u(0u); var y = vec2u(0u);
    if (i < p[5]) { x = xAt(b, row, i); y = yAt(b, column, i); }
    xs[local.y][local.x] = x;
    ys[local.y][local.x] = y;
    workgroupBarrier();
    for (var k = 0u; k < 16u; k++) { sum = multiplyAdd(sum, xs[local.y][k], ys[local.x][k]); }
    workgroupBarrier();
  }
  if (r < p[4] && c < p[6]) { put(p[0] + 2u * ((b * p[4] + r) * p[6] + c), sum); }
}`;

const CHACHA = /* wgsl */ `
fn turn(v: u32, bits: u32) -> u32 { return (v << bits) | (v >> (32u - bits)); }
fn quarter(s: ptr<function, array<u32, 16>>, a: u32, b: u32, c: u32, d: u32) {
  (*s)[a] += (*s)[b]; (*s)[d] = turn((*s)[d] ^ (*s)[a], 16u);
  (*s)[c] += (*s)[d]; (*s)[b] = turn((*s)[b] ^ (*s)[c], 12u);
  (*s)[a] += (*s)[b]; (*s)[d] = turn((*s)[d] ^ (*s)[a], 8u);
  (*s)[c] += (*s)[d]; (*s)[b] = turn((*s)[b] ^ (*s)[c], 7u);
}
fn permute(s: ptr<function, array<u32, 16>>) {
  for (var round = 0u; round < 4u; round++) {
    quarter(s, 0u, 4u, 8u, 12u); quarter(s, 1u, 5u, 9u, 13u); quarter(s, 2u, 6u, 10u, 14u); quarter(s, 3u, 7u, 11u, 15u);
    quarter(s, 0u, 5u, 10u, 15u); quarter(s, 1u, 6u, 11u, 12u); quarter(s, 2u, 7u, 8u, 13u); quarter(s, 3u, 4u, 9u, 14u);
  }
}
`;

/** p: result, key, gate, sub; first block, low and high; elements of it before the first; mask, low and high; elements; blocks. */
const PRG = /* wgsl */ `
/** A thread a block of ChaCha8. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let block = lane(group, local);
  if (block >= p[10]) { return; }
  let counter = add(vec2u(p[4], p[5]), vec2u(block, 0u));
  var start = array<u32, 16>(0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, 0u, counter.x, counter.y, p[2], p[3]);
  for (var i = 0u; i < 8u; i++) { start[4u + i] = source[p[1] + i]; }
  var s = start;
  permute(&s);
  for (var e = 0u; e < 8u; e++) {
    let at = block * 8u + e;
    if (at < p[6] || at - p[6] >= p[9]) { continue; }
    put(p[0] + 2u * (at - p[6]), vec2u(s[2u * e] + start[2u * e], s[2u * e + 1u] + start[2u * e + 1u]) & vec2u(p[7], p[8]));
  }
}`;

/** p: result, r, tables; bits of the domain, of a cell; log2 of the cells; threads. */
const EXP = /* wgsl */ `
/** A thread a cell: 2^34 e^-rho in the mask's cell, 0 in the others. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let at = lane(group, local);
  if (at >= p[6]) { return; }
  let r = source[p[1] + 2u * (at >> p[5])] & ((1u << p[3]) - 1u);
  var v = vec2u(0u);
  if (r >> p[4] == (at & ((1u << p[5]) - 1u))) {
    let rho = r & ((1u << p[4]) - 1u);
    v = add(product(element(p[2] + 2u * (256u + (rho >> 8u))), element(p[2] + 2u * (rho & 255u))), vec2u(1u << 28u, 0u));
    v = vec2u((v.x >> 29u) | (v.y << 3u), v.y >> 29u);
  }
  put(p[0] + 2u * at, v);
}`;

/** p: result, r, tables; bits of the period; terms; threads. */
const FOURIER = /* wgsl */ `
/** v / 2^42, half up, signed. */
fn scaled(v: vec2u) -> vec2u {
  let high = bitcast<i32>(add(v, vec2u(0u, 1u << 9u)).y);
  return vec2u(bitcast<u32>(high >> 10u), bitcast<u32>(high >> 31u));
}
/** A thread a multiple of an angle. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let at = lane(group, local);
  if (at >= p[5]) { return; }
  let i = at / p[4]; let k = at % p[4]; let highs = 1u << (p[3] - 8u);
  let angle = (source[p[1] + 2u * i] * (k + 1u)) & ((1u << p[3]) - 1u);
  let high = p[2] + 2u * (angle >> 8u); let low = p[2] + 2u * (2u * highs + (angle & 255u));
  let ch = element(high); let sh = element(high + 2u * highs); let cl = element(low); let sl = element(low + 512u);
  put(p[0] + 2u * (2u * i * p[4] + k), scaled(add(product(ch, cl), negate(product(sh, sl)))));
  put(p[0] + 2u * ((2u * i + 1u) * p[4] + k), scaled(add(product(sh, cl), product(ch, sl))));
}`;

/** p: result, r, table; bits of an index; 1 for exclusive or; threads. */
const TABLE = /* wgsl */ `
fn exchange(v: u32, by: u32, mask: u32) -> u32 { return ((v >> by) & mask) | ((v & mask) << by); }
/** A thread 32 entries of a rotated truth table. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let at = lane(group, local);
  if (at >= p[5]) { return; }
  let words = 1u << (p[3] - 5u); let last = (1u << p[3]) - 1u; let word = at & (words - 1u);
  let r = source[p[1] + 2u * (at >> (p[3] - 5u))] & last;
  var v: u32;
  if (p[4] == 1u) {
    v = source[p[2] + (word ^ (r >> 5u))];
    if ((r & 1u) != 0u) { v = exchange(v, 1u, 0x55555555u); }
    if ((r & 2u) != 0u) { v = exchange(v, 2u, 0x33333333u); }
    if ((r & 4u) != 0u) { v = exchange(v, 4u, 0x0f0f0f0fu); }
    if ((r & 8u) != 0u) { v = exchange(v, 8u, 0x00ff00ffu); }
    if ((r & 16u) != 0u) { v = exchange(v, 16u, 0x0000ffffu); }
  } else {
    let first = (word * 32u - r) & last; let bits = first & 31u;
    v = source[p[2] + (first >> 5u)] >> bits;
    if (bits != 0u) { v |= source[p[2] + (((first >> 5u) + 1u) & (words - 1u))] << (32u - bits); }
  }
  result[p[0] + at] = v;
}`;

/** p: result, roots of P0, of P1, points, payload; bits, words; tweak, index of the first key, gate; keys; 32-bit words of a key's place. */
const KEYS = /* wgsl */ `
fn expand(seed: vec4u, level: u32, index: u32) -> array<u32, 16> {
  var start = array<u32, 16>(0x61707865u, 0x3120646eu, 0x79622d36u, 0x6b206574u, seed.x, seed.y, seed.z, seed.w, 0u, 0u, 0u, 0u, level, index, p[9], 0u);
  for (var i = 0u; i < 4u; i++) { start[8u + i] = source[p[7] + i]; }
  var s = start;
  permute(&s);
  for (var i = 0u; i < 16u; i++) { s[i] += start[i]; }
  return s;
}
fn seedAt(at: u32) -> vec4u { return vec4u(source[at], source[at + 1u], source[at + 2u], source[at + 3u]); }
fn child(block: array<u32, 16>, side: u32) -> vec4u {
  if (side == 0u) { return vec4u(block[0], block[1], block[2], block[3]); }
  return vec4u(block[4], block[5], block[6], block[7]);
}
/** Bytes of a key's place, which is 0 before: a word at a byte, its upper bytes 0 beyond the key. */
fn putAt(first: u32, byte: u32, v: u32) {
  let at = first + (byte >> 2u); let shift = (byte & 3u) * 8u;
  result[at] |= v << shift;
  if (shift > 0u && (v >> (32u - shift)) != 0u) { result[at + 1u] |= v >> (32u - shift); }
}
/** A thread a key: both parties' nodes on the way to the point. */
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let i = lane(group, local);
  if (i >= p[10]) { return; }
  let first = p[0] + i * p[11]; let bits = p[5]; let words = p[6]; let index = p[8] + i;
  let point = source[p[3] + 2u * i];
  for (var w = 0u; w < p[11]; w++) { result[first + w] = 0u; }
  var a = seedAt(p[1] + 4u * i); var b = seedAt(p[2] + 4u * i);
  var ta = 0u; var tb = 1u;
  for (var level = 0u; level + 1u < bits; level++) {
    let keep = (point >> (bits - 1u - level)) & 1u;
    let x = expand(a, level, index); let y = expand(b, level, index);
    let correction = child(x, 1u - keep) ^ child(y, 1u - keep);
    let left = (x[8] ^ y[8] ^ keep ^ 1u) & 1u; let right = (x[9] ^ y[9] ^ keep) & 1u;
    let kept = select(left, right, keep == 1u);
    for (var w = 0u; w < 4u; w++) { putAt(first, 17u * level + 4u * w, correction[w]); }
    putAt(first, 17u * level + 16u, left | (right << 1u));
    a = child(x, keep) ^ (correction * ta); b = child(y, keep) ^ (correction * tb);
    ta = (select(x[8], x[9], keep == 1u) & 1u) ^ (ta & kept);
    tb = (select(y[8], y[9], keep == 1u) & 1u) ^ (tb & kept);
  }
  for (var block = 0u; block * 8u < 2u * words; block++) {
    var x = expand(a, (bits - 1u) | (block << 16u), index); var y = expand(b, (bits - 1u) | (block << 16u), index);
    for (var e = 0u; e < 8u; e++) {
      let at = block * 8u + e;
      if (at >= 2u * words) { break; }
      var v = add(negate(vec2u(x[2u * e], x[2u * e + 1u])), vec2u(y[2u * e], y[2u * e + 1u]));
      if (at / words == (point & 1u)) { v = add(v, element(p[4] + 2u * (i * words + at % words))); }
      if (tb == 1u) { v = negate(v); }
      putAt(first, 17u * (bits - 1u) + 8u * at, v.x);
      putAt(first, 17u * (bits - 1u) + 8u * at + 4u, v.y);
    }
  }
}`;

/** Programs by name; each has one entry point, `main`. */
export const SHADERS = {
  row: COMMON + GEMM + ROW,
  column: COMMON + GEMM + COLUMN,
  tile: COMMON + GEMM + TILE,
  prg: COMMON + CHACHA + PRG,
  exp: COMMON + EXP,
  fourier: COMMON + FOURIER,
  table: COMMON + TABLE,
  keys: COMMON + CHACHA + KEYS,
} as const;

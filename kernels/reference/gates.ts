/** The gates' inner loops: the plain reference. */
import { TAU, type Kernels } from '../kernels.ts';
import { streamElements } from './keyed.ts';
import { maskOf, View } from './ring.ts';

type GateKernels = Pick<
  Kernels,
  | 'expDeal'
  | 'expEvaluate'
  | 'fourierDeal'
  | 'fourierEvaluate'
  | 'fourierEvaluateWide'
  | 'oneHot64'
  | 'suffix64'
  | 'parities'
  | 'pairDifferences'
  | 'pairSums'
  | 'tableRotate'
  | 'tableLookup'
  | 'lookupPermute'
  | 'lookupPick'
>;

export function gateKernels(memory: WebAssembly.Memory): GateKernels {
  const { u64, i64, u32, u8 } = new View(memory);
  const angles = (tables: number, periodBits: number, angle: bigint): { cos: bigint; sin: bigint } => {
    const highs = 2 ** (periodBits - 8),
      t = i64(tables, 2 * highs + 512),
      h = Number(angle >> 8n),
      l = 2 * highs + Number(angle & 255n),
      ch = t[h]!,
      sh = t[highs + h]!,
      cl = t[l]!,
      sl = t[256 + l]!;
    return { cos: ch * cl - sh * sl, sin: sh * cl + ch * sl };
  };
  /** Public factors of element M: cosines, then sines, at scale 14. */
  const factors = (tables: number, periodBits: number, terms: number, M: bigint): bigint[] => {
    const first = 2 ** (periodBits - 7) + 512,
      a = i64(tables, first + terms).subarray(first),
      angle = Array.from(a, (_, k) => angles(tables, periodBits, (M * BigInt(k + 1)) & maskOf(periodBits)));
    return [...angle.map((v, k) => round(a[k]! * round(v.cos, 30n), 40n)), ...angle.map((v, k) => round(a[k]! * round(v.sin, 30n), 40n))];
  };
  const round = (v: bigint, shift: bigint): bigint => (v + (1n << (shift - 1n))) >> shift;
  const bit = (pointer: number, i: number): bigint => BigInt((u8(pointer + (i >> 3), 1)[0]! >> (i & 7)) & 1);
  return {
    expDeal(dst, r, domainBits, cellsLog2, tables, n) {
      const cells = 2 ** cellsLog2,
        t = u64(tables, 512);
      u64(dst, n * cells).fill(0n);
      for (let i = 0; i < n; i++) {
        const R = u64(r, n)[i]! & maskOf(domainBits),
          rho = R & maskOf(domainBits - cellsLog2),
          at = i * cells + Number(R >> BigInt(domainBits - cellsLog2));
        u64(dst, n * cells)[at] = round(t[256 + Number(rho >> 8n)]! * t[Number(rho & 255n)]!, 29n);
      }
    },
    expEvaluate(dst, m, lo, hi, party, domainBits, cellsLog2, tables, shiftIndex, shift, n) {
      const cells = 2 ** cellsLog2,
        t = u64(tables, 1024 + 2 * cells * (shiftIndex + 1));
      for (let i = 0; i < n; i++) {
        const M = u64(m, n)[i]! & maskOf(domainBits),
          mu = Number(M >> BigInt(domainBits - cellsLog2)),
          ml = M & maskOf(domainBits - cellsLog2);
        const e = round(t[768 + Number(ml >> 8n)]! * t[512 + Number(ml & 255n)]!, 20n);
        let y = 0n;
        for (let a = 0; a < cells; a++) {
          const f = 1024 + 2 * (shiftIndex * cells + ((mu - a + cells) % cells)),
            s = t[f + 1]!,
            g = s > 63n ? 0n : round(e * t[f]!, s);
          y += g * ((u64(hi, n * cells)[i * cells + a]! << 64n) | u64(lo, n * cells)[i * cells + a]!);
        }
        u64(dst, n)[i] = BigInt.asUintN(64, party === 0 ? BigInt.asUintN(88, y) >> BigInt(shift) : -(BigInt.asUintN(88, -y) >> BigInt(shift)));
      }
    },
    fourierDeal(dst, r, periodBits, terms, tables, n) {
      for (let i = 0; i < n; i++)
        for (let k = 1; k <= terms; k++) {
          const { cos, sin } = angles(tables, periodBits, (u64(r, n)[i]! * BigInt(k)) & maskOf(periodBits)),
            out = i64(dst + 16 * terms * i, 2 * terms);
          out[k - 1] = round(cos, 42n);
          out[terms + k - 1] = round(sin, 42n);
        }
    },
    fourierEvaluate(dst, m, corr, periodBits, terms, tables, n) {
      for (let i = 0; i < n; i++) {
        const c = u64(corr + 16 * terms * i, 2 * terms);
        u64(dst, n)[i] = BigInt.asUintN(
          64,
          factors(tables, periodBits, terms, u64(m, n)[i]!).reduce((sum, f, j) => sum + f * c[j]!, u64(dst, n)[i]!),
        );
      }
    },
    fourierEvaluateWide(dst, m, lo, hi, party, periodBits, terms, tables, drop, n) {
      for (let i = 0; i < n; i++) {
        const low = u64(lo + 16 * terms * i, 2 * terms),
          high = u64(hi + 16 * terms * i, 2 * terms),
          y = factors(tables, periodBits, terms, u64(m, n)[i]!).reduce((sum, f, j) => sum + f * ((high[j]! << 64n) | low[j]!), 0n);
        u64(dst, n)[i] = BigInt.asUintN(
          64,
          u64(dst, n)[i]! + (party === 0 ? BigInt.asUintN(72, y) >> BigInt(drop) : -(BigInt.asUintN(72, -y) >> BigInt(drop))),
        );
      }
    },
    oneHot64(dst, r, n) {
      for (let i = 0; i < n; i++) u64(dst, n)[i] = 1n << (u64(r, n)[i]! & 63n);
    },
    suffix64(dst, m, t, n) {
      for (let i = 0; i < n; i++) {
        let word = 0n,
          parity = 0n;
        for (let b = 63; b >= 0; b--) {
          parity ^= (u64(t, n)[i]! >> BigInt.asUintN(6, u64(m, n)[i]! - BigInt(b))) & 1n;
          word |= parity << BigInt(b);
        }
        u64(dst, n)[i] = word;
      }
    },
    parities(dst, words, lengths, rows, first, count, coinKey, gate, sub) {
      const total = u32(lengths, rows).reduce((a, b) => a + b, 0),
        all = u64(words, total).slice(),
        out = u64(dst, rows * count),
        coins = Array.from({ length: total }, (_, i) => streamElements(memory, coinKey, gate, sub, 8 * i, TAU));
      let at = 0;
      u32(lengths, rows).forEach((n, row) => {
        const sums = Array.from({ length: TAU }, () => 0n);
        for (let i = 0; i < n; i++, at++) for (let t = 0; t < TAU; t++) sums[t]! ^= all[at]! & coins[at]![t]!;
        for (let b = 0; b < count; b++) out[count * row + b] = sums.reduce((v, s, t) => v | (((s >> BigInt(first + b)) & 1n) << BigInt(t)), 0n);
      });
    },
    pairDifferences(dst, src, rows, count) {
      const x = u64(src, rows * count).slice(),
        out = u64(dst, (rows * count * (count - 1)) / 2);
      let at = 0;
      for (let r = 0; r < rows; r++) for (let a = 0; a < count; a++) for (let b = a + 1; b < count; b++) out[at++] = x[r * count + a]! - x[r * count + b]!;
    },
    pairSums(dst, src, rows, count) {
      const x = u64(src, (rows * count * (count - 1)) / 2).slice(),
        out = u64(dst, rows * count);
      out.fill(0n);
      let at = 0;
      for (let r = 0; r < rows; r++)
        for (let a = 0; a < count; a++)
          for (let b = a + 1; b < count; b++, at++) {
            out[r * count + a]! += x[at]!;
            out[r * count + b]! -= x[at]!;
          }
    },
    tableRotate(dst, table, r, bits, xor, n) {
      for (let i = 0; i < n; i++) {
        const R = Number(u64(r, n)[i]! & maskOf(bits)),
          out = u8(dst + (i * 2 ** bits) / 8, 2 ** bits / 8);
        out.fill(0);
        for (let m = 0; m < 2 ** bits; m++) out[m >> 3]! |= Number(bit(table, xor ? m ^ R : (m - R + 2 ** bits) % 2 ** bits)) << (m & 7);
      }
    },
    tableLookup(dst, tables, m, bits, n) {
      for (let i = 0; i < n; i++) u64(dst, n)[i] = bit(tables + (i * 2 ** bits) / 8, Number(u64(m, n)[i]! & maskOf(bits)));
    },
    lookupPermute(dst, table, r, bits, xor, n) {
      const entries = 2 ** bits;
      for (let i = 0; i < n; i++) {
        const R = Number(u64(r, n)[i]! & maskOf(bits));
        for (let m = 0; m < entries; m++) u64(dst, n * entries)[i * entries + m] = BigInt(u8(table, entries)[xor ? m ^ R : (m - R + entries) % entries]!);
      }
    },
    lookupPick(dst, tables, m, bits, n) {
      for (let i = 0; i < n; i++) u64(dst, n)[i] = u64(tables, n << bits)[(i << bits) + Number(u64(m, n)[i]! & maskOf(bits))]!;
    },
  };
}

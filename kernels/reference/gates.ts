/** The gates' inner loops: the plain reference. */
import { TAU, type Kernels } from '../kernels.ts';
import { maskOf, View } from './ring.ts';

type GateKernels = Pick<
  Kernels,
  'expDeal' | 'expEvaluate' | 'fourierDeal' | 'fourierEvaluate' | 'oneHot64' | 'suffix64' | 'parities' | 'tableRotate' | 'tableLookup'
>;

export function gateKernels(memory: WebAssembly.Memory, prg: Kernels['prg']): GateKernels {
  const { u64, i64, u32, u8 } = new View(memory);
  const angles = (tables: number, angle: bigint): { cos: bigint; sin: bigint } => {
    const t = i64(tables, 1536),
      h = Number(angle >> 8n),
      l = Number(angle & 255n),
      ch = t[h]!,
      sh = t[512 + h]!,
      cl = t[1024 + l]!,
      sl = t[1280 + l]!;
    return { cos: ch * cl - sh * sl, sin: sh * cl + ch * sl };
  };
  const round = (v: bigint, shift: bigint): bigint => (v + (1n << (shift - 1n))) >> shift;
  const bit = (pointer: number, i: number): bigint => BigInt((u8(pointer + (i >> 3), 1)[0]! >> (i & 7)) & 1);
  return {
    expDeal(lo, hi, r, domainBits, cellsLog2, tables, n) {
      const cells = 2 ** cellsLog2,
        t = u64(tables, 512);
      for (let i = 0; i < n; i++) {
        const R = u64(r, n)[i]! & maskOf(domainBits),
          rho = R & maskOf(domainBits - cellsLog2),
          at = i * cells + Number(R >> BigInt(domainBits - cellsLog2));
        const v = ((u64(hi, n * cells)[at]! << 64n) | u64(lo, n * cells)[at]!) + round(t[256 + Number(rho >> 8n)]! * t[Number(rho & 255n)]!, 29n);
        u64(lo, n * cells)[at] = BigInt.asUintN(64, v);
        u64(hi, n * cells)[at] = BigInt.asUintN(88, v) >> 64n;
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
          const { cos, sin } = angles(tables, (u64(r, n)[i]! * BigInt(k)) & maskOf(periodBits)),
            out = i64(dst + 16 * terms * i, 2 * terms);
          out[k - 1] = round(cos, 42n);
          out[terms + k - 1] = round(sin, 42n);
        }
    },
    fourierEvaluate(dst, m, corr, periodBits, terms, tables, n) {
      for (let i = 0; i < n; i++) {
        let sum = u64(dst, n)[i]!;
        for (let k = 1; k <= terms; k++) {
          const { cos, sin } = angles(tables, (u64(m, n)[i]! * BigInt(k)) & maskOf(periodBits)),
            a = i64(tables, 1536 + terms)[1535 + k]!,
            c = u64(corr + 16 * terms * i, 2 * terms);
          sum += round(a * round(cos, 30n), 40n) * c[k - 1]! + round(a * round(sin, 30n), 40n) * c[terms + k - 1]!;
        }
        u64(dst, n)[i] = BigInt.asUintN(64, sum);
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
    parities(dst, words, lengths, rows, coinKey, gate, sub) {
      const total = u32(lengths, rows).reduce((a, b) => a + b, 0),
        all = u64(words, total),
        out = u64(dst, rows * 64);
      let at = 0;
      u32(lengths, rows).forEach((n, row) => {
        const sums = Array.from({ length: TAU }, () => 0n);
        for (let i = 0; i < n; i++, at++) {
          // The coins pass through the row's own result, which is written last.
          prg(dst + 512 * row, coinKey, gate, sub, 8 * at, 64, TAU);
          for (let t = 0; t < TAU; t++) sums[t]! ^= all[at]! & out[64 * row + t]!;
        }
        for (let b = 0; b < 64; b++) out[64 * row + b] = sums.reduce((v, s, t) => v | (((s >> BigInt(b)) & 1n) << BigInt(t)), 0n);
      });
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
  };
}

// Single elements and pairs of them: storing by mode, masks, scalars.

// @ts-ignore: decorator
@inline
export function put(dst: usize, v: v128, mode: i32): void {
  if (mode == 0) v128.store(dst, v);
  else if (mode > 0) v128.store(dst, i64x2.add(v128.load(dst), v));
  else v128.store(dst, i64x2.sub(v128.load(dst), v));
}

// @ts-ignore: decorator
@inline
export function putOne(dst: usize, v: u64, mode: i32): void {
  if (mode == 0) store<u64>(dst, v);
  else if (mode > 0) store<u64>(dst, load<u64>(dst) + v);
  else store<u64>(dst, load<u64>(dst) - v);
}

// @ts-ignore: decorator
@inline
export function maskOf(bits: i32): u64 {
  return bits >= 64 ? ~(<u64>0) : ((<u64>1) << (<u64>bits)) - 1;
}

// @ts-ignore: decorator
@inline
export function toInteger(scalar: f64): u64 {
  return scalar < 0 ? <u64>-<i64>-scalar : <u64>scalar;
}


/** Half-precision floats to numbers, exactly. */

const word = new Uint32Array(1),
  real = new Float32Array(word.buffer);

/** bfloat16, given its 16 bits. */
export function bfloat16(v: number): number {
  word[0] = v << 16;
  return real[0]!;
}

/** IEEE binary16, given its 16 bits. */
export function float16(v: number): number {
  const exponent = (v >> 10) & 31,
    fraction = v & 1023;
  if (exponent === 31) return fraction ? NaN : v & 0x8000 ? -Infinity : Infinity;
  if (exponent === 0) return (v & 0x8000 ? -1 : 1) * fraction * 2 ** -24;
  word[0] = ((v & 0x8000) << 16) | ((exponent + 112) << 23) | (fraction << 13);
  return real[0]!;
}

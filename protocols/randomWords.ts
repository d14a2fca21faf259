/** n integers mod 2^64 from the cryptographic generator, as shares and their masks need them. */
export function randomWords(n: number): BigInt64Array<ArrayBuffer> {
  // The generator gives at most 65536 bytes a call.
  const out = new BigInt64Array(n);
  for (let at = 0; at < out.byteLength; at += 65536) crypto.getRandomValues(new Uint8Array(out.buffer, at, Math.min(65536, out.byteLength - at)));
  return out;
}

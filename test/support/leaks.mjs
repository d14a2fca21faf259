/** Looks for secrets in text that anybody may read: words, lists of token ids, runs of key material in the usual spellings. */

/** A session's id is public: 16 random hex digits, one in 2 000 of them decimal throughout. */
export const withoutSessionIds = (text) => text.replaceAll(/(?<=\bsession(?:\\?":\s?\\?"| ))[0-9a-f]{16}\b/g, ' ');

/** What was found, each with the reason; a run of 16 bytes in hex, base64 or decimal is one whatever it is, and an integer that no count or time is as long as. */
export function leaks(text, s) {
  const found = [];
  let rest = withoutSessionIds(text);
  for (const allowed of s.allowed ?? []) rest = rest.replaceAll(allowed, ' ');
  for (const word of s.words) if (new RegExp(`\\b${word}\\b`).test(rest)) found.push(`word ${word}`);
  for (let i = 0; i + 4 <= s.ids.length; i++)
    if (new RegExp(`(?<!\\d)${s.ids.slice(i, i + 4).join('[^0-9A-Za-z]{1,3}')}(?!\\d)`).test(rest)) found.push(`token ids from ${i}`);
  for (const key of s.keys)
    for (let i = 0; i + 8 <= key.length; i++) {
      const part = Buffer.from(key.subarray(i, i + 8));
      // The last base64 digits depend on what follows.
      for (const spelling of [part.toString('hex'), part.toString('base64').slice(0, 10), part.join(','), part.join(' '), part.toString('latin1')])
        if (rest.includes(spelling)) found.push(`key from byte ${i}`);
    }
  if (/(?<![0-9A-Za-z])(?:[0-9a-f]{32,}|[0-9A-F]{32,})/.test(rest)) found.push('16 bytes in hex');
  for (const [run] of rest.matchAll(/[A-Za-z0-9+/_-]{22,}/g)) if (/[a-z]/.test(run) && /[A-Z]/.test(run) && /[0-9]/.test(run)) found.push('16 bytes in base64');
  if (/(?:\d{1,3}[, ]+){15}\d{1,3}/.test(rest)) found.push('16 bytes in decimal');
  // Not the digits behind a point; a Chrome event's time is in microseconds since 1970.
  if (/(?<![\d.]|"ts":)\d{15,}/.test(rest)) found.push('long decimal');
  if (/"Buffer"|(?:\\?"\d+\\?":\d{1,3},){7}/.test(rest)) found.push('a buffer');
  return found;
}

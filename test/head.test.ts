/** The client's head: float32 logits against float64, one memory an artefact, one result buffer. */
import { describe, expect, it } from 'vitest';
import { logitsOf } from '../client/head.ts';
import { sampler } from '../client/sampling.ts';
import { product, rmsNorm } from '../protocols/models/plain.ts';
import { clientTensors } from '../protocols/artefact.ts';
import { tinyNotes } from './support/tinyNotes.ts';

const artefact = tinyNotes(),
  { width, eps } = artefact.shape,
  { head, finalNorm } = clientTensors(artefact),
  vocab = head.length / width;
const hidden = (seed: number): Float64Array => Float64Array.from({ length: width }, (_, i) => 20 * Math.sin(seed + i * i));

describe('head', () => {
  it('is within its bound of the product in float64, and chooses the same token', () => {
    for (let seed = 1; seed <= 5; seed++) {
      const x = rmsNorm(hidden(seed), finalNorm, eps),
        expected = product(head, x),
        size = product(
          head.map((v) => Math.abs(v)),
          x.map((v) => Math.abs(v)),
        ),
        logits = logitsOf(artefact, hidden(seed));
      expect(logits.length).toBe(vocab);
      // One more unit for rounding the input to float32.
      for (let i = 0; i < vocab; i++) expect(Math.abs(logits[i]! - expected[i]!)).toBeLessThanOrEqual((width / 8 + 5) * 2 ** -24 * size[i]!);
      expect(sampler()(logits)).toBe(sampler()(expected));
    }
  });
  it('gives the same buffer for every token, another one for another artefact', () => {
    const first = logitsOf(artefact, hidden(1)),
      kept = first.slice();
    expect(logitsOf(artefact, hidden(2))).toBe(first);
    expect(first).not.toEqual(kept);
    expect(logitsOf({ ...artefact }, hidden(1))).toEqual(kept);
  });
  it('sampling with reused buffers repeats itself', () => {
    const draw = (): number[] => {
      const choose = sampler({ temperature: 0.8, topK: 20, topP: 0.9, seed: 3 });
      return Array.from({ length: 10 }, (_, i) => choose(logitsOf(artefact, hidden(i))));
    };
    expect(draw()).toEqual(draw());
  });
});

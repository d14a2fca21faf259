/** The embedded model for tests: artefact, golden cases, embeddings and logits as the client computes them. */
import { readFileSync } from 'node:fs';
import { clientTensors, readArtefact, type Artefact } from '../../protocols/artefact.ts';
import { embedTokens } from '../../protocols/models/embedding.ts';

export interface GoldenCase {
  readonly prompt: string;
  readonly promptIds: readonly number[];
  readonly continuationIds: readonly number[];
  readonly continuation: string;
  readonly firstStepTop5: readonly (readonly [id: number, logit: number])[];
}

const file = (name: string): Buffer => readFileSync(new URL(`../../protocols/models/tiny-notes/${name}`, import.meta.url));

let artefact: Artefact | undefined;
export const tinyNotes = (): Artefact => (artefact ??= readArtefact(new Uint8Array(file('model.cachet'))));

export const golden = (): GoldenCase[] => (JSON.parse(file('golden.json').toString()) as { cases: GoldenCase[] }).cases;

export const embedding = (a: Artefact, ids: readonly number[]): Float64Array => embedTokens({ shape: a.shape, ...clientTensors(a) }, ids, a.prefixIds.length);

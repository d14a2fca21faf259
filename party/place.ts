/** Where an evaluator's program waits, in the engine's memory: written by the engine's thread, read by the main one when a session ends there. */
import type { Place } from '../protocols/engines/effects.ts';
import { ADDRESS } from './engineMessages.ts';

/** Of a gate's name, what is kept. */
const NAME_BYTES = 16;

export class PlaceCell {
  /** Layer and gate, each one more; 0: nowhere. */
  private readonly numbers: Int32Array;
  private readonly name: Uint8Array;

  constructor(memory: WebAssembly.Memory) {
    this.numbers = new Int32Array(memory.buffer, ADDRESS.place, 2);
    this.name = new Uint8Array(memory.buffer, ADDRESS.place + 8, NAME_BYTES);
  }

  set({ layer, gate, name }: Place): void {
    this.numbers[0] = layer + 1;
    this.numbers[1] = gate + 1;
    for (let i = 0; i < NAME_BYTES; i++) this.name[i] = i < name.length ? name.charCodeAt(i) : 0;
  }

  /** The program has not come to a wait since then. */
  clear(): void {
    this.numbers[0] = 0;
  }

  /** To be put behind a step. */
  toString(): string {
    const [layer, gate] = this.numbers;
    return layer === 0 ? '' : `, layer ${layer! - 1}, gate ${gate! - 1} (${String.fromCharCode(...this.name.filter((c) => c !== 0))})`;
  }
}

/** Meter: runs nothing and adds up cost: rounds and bytes of any model and lengths in milliseconds, equal to the protocol's exactly. */
import type { Gate } from '../gates/gate.ts';
import type { Tensor } from '../tensor.ts';
import type { Program } from './effects.ts';
import { Engine } from './engine.ts';

export class Meter extends Engine {
  override readonly name = 'meter';
  protected override readonly holds = { share: false, wire: false, mask: false, real: false, weights: false, tables: false };
  protected override readonly kernels = undefined;

  protected override allocate(): number {
    return 0;
  }
  override mark(): number {
    return 0;
  }
  override release(): void {}

  override *input(size: number, scale: number, bits = 64): Program<Tensor> {
    return this.tensor({ form: 'share', size, bits, scale, boolean: false });
  }

  override *output(): Program<void> {
    this.gateNumber++;
  }

  protected override *exchange(): Program<void> {}

  protected override run<P>(_: Gate<P>): void {}

  protected override finishStep(): void {}
}

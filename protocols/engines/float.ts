/** Float: the program on float64, without rings or parties: every gate's ideal function. The reference, and the engine that calibrates. */
import type { Gate } from '../gates/gate.ts';
import type { Tensor, WeightWire } from '../tensor.ts';
import type { Program } from './effects.ts';
import { Engine, type SecretSource } from './engine.ts';

export class Float extends Engine {
  override readonly name = 'float';
  protected override readonly holds = { share: false, wire: false, mask: false, real: true, weights: false, tables: false };
  protected override readonly kernels = undefined;
  private readonly next: (size: number) => Float64Array | undefined;
  private readonly emit: (values: Float64Array) => void;

  /** `next` gives the input values of each step, undefined where an answer ends early; `emit` takes its outputs. */
  constructor(o: { next: (size: number) => Float64Array | undefined; emit: (values: Float64Array) => void }) {
    super();
    this.next = o.next;
    this.emit = o.emit;
  }

  protected override allocate(): number {
    return 0;
  }
  override mark(): number {
    return 0;
  }
  override release(): void {}

  override *input(size: number, scale: number, bits = 64): Program<Tensor> {
    return (yield* this.token(size, scale, bits))!;
  }

  override *token(size: number, scale: number, bits = 64): Program<Tensor | undefined> {
    const values = this.next(size);
    if (!values) return undefined;
    const x = this.tensor({ form: 'share', size, bits, scale, boolean: false });
    x.real!.set(values);
    return x;
  }

  override *output(x: Tensor): Program<void> {
    this.gateNumber++;
    this.emit(x.real!);
  }

  override secretMatrix(shape: Pick<WeightWire, 'cols' | 'inner' | 'fraction' | 'bits'>, source: SecretSource): WeightWire {
    return { ...super.secretMatrix(shape, source), array: source.matrix() };
  }

  protected override loadWire(x: Tensor, source: SecretSource): void {
    source.wire().forEach((v, i) => (x.real![i] = Number(v) / 2 ** x.scale));
  }

  protected override *exchange(shares: readonly Tensor[], wires: readonly Tensor[]): Program<void> {
    wires.forEach((w, i) => w.real!.set(shares[i]!.real!));
  }

  protected override run<P>(gate: Gate<P>, params: P, inputs: readonly Tensor[], outputs: readonly Tensor[]): void {
    gate.ideal(
      params,
      inputs.map((x) => x.real!),
      outputs.map((y) => y.real!),
    );
  }

  protected override finishStep(): void {}
}

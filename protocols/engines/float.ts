/** Float: the program on float64, without rings or parties: every gate's ideal function. The reference, and the engine that calibrates. */
import type { Gate } from '../gates/gate.ts';
import type { Tensor, TensorSpec, WeightWire } from '../tensor.ts';
import type { Program } from './effects.ts';
import { Engine, type SecretSource } from './engine.ts';

export class Float extends Engine {
  override readonly name = 'float';
  protected override readonly holds = { share: false, wire: false, mask: false, real: true, weights: false, tables: false };
  protected override readonly kernels = undefined;
  private readonly next: (size: number) => Float64Array | undefined;
  private readonly emit: (values: Float64Array) => void;
  private readonly filling: ((size: number) => Float64Array) | undefined;

  /**
   * `next` gives the input values of each step, undefined where an answer ends early; `emit` takes its outputs. `filling` gives the values that stand in for
   * those of a filled cache, in the order in which programs/filled.ts asks for them.
   */
  constructor(o: { next: (size: number) => Float64Array | undefined; emit: (values: Float64Array) => void; filling?: (size: number) => Float64Array }) {
    super();
    this.next = o.next;
    this.emit = o.emit;
    this.filling = o.filling;
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

  override uniform(spec: Pick<TensorSpec, 'size' | 'bits' | 'scale'>, range: number): Tensor {
    const x = super.uniform(spec, range);
    if (this.filling) x.real!.set(this.filling(x.size));
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

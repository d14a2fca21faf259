export * from './ring';
export { gemmF32, gemmI16Lanes, gemmI16Limbs, gemmRing } from './gemm';
export * from './linear';
export * from './packing';
export * from './prg';
export * from './dpf';
export * from './gates';

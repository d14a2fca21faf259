export * from './ring';
export * from './linear';
export * from './packing';
export * from './prg';
export * from './dpf';
export * from './gates';

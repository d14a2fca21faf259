// Where this instance's working space begins: a page of the memory that no other instance uses while this one computes. The offsets in it are those of
// chacha.ts, dpf.ts, gates.ts, linear.ts and gemm.ts.

// @ts-ignore: decorator
@external('env', 'working')
export declare const working: usize;

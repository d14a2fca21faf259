/** All gates, in the order of the documentation. `open` and the linear maps are part of every engine; `windows` is a composition of `spline`. */
import { and } from './and.ts';
import { b2a } from './b2a.ts';
import { bitMul } from './bitMul.ts';
import { bucket } from './bucket.ts';
import { expTable } from './expTable.ts';
import { fourier } from './fourier.ts';
import { less } from './less.ts';
import { lookup } from './lookup.ts';
import { mod } from './mod.ts';
import { mul } from './mul.ts';
import { mul3 } from './mul3.ts';
import { mulWeights } from './mulWeights.ts';
import { maskShares, narrow } from './narrow.ts';
import { onehot } from './onehot.ts';
import { spline } from './spline.ts';
import { truthTable } from './truthTable.ts';
import { widen } from './widen.ts';

export const gates = {
  narrow,
  maskShares,
  mod,
  widen,
  mul,
  mul3,
  mulWeights,
  expTable,
  fourier,
  spline,
  truthTable,
  lookup,
  less,
  bucket,
  and,
  b2a,
  bitMul,
  onehot,
} as const;

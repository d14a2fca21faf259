/** The client library, for Node and browsers: tokens, sessions, sampling. In Node, client/node.ts adds files. */
export { readArtefact, type Artefact } from '../protocols/artefact.ts';
export { CachetError, type ErrorCode } from '../protocols/errors.ts';
export { generate, promptIds, TextStream, type GenerateOptions } from './generate.ts';
export { Link, type Socket } from './link.ts';
export { sampler, type Sampling } from './sampling.ts';
export { PrivateSession, type Connect, type SessionOptions, type StepReport } from './session.ts';
export { Tokenizer } from './tokenizer.ts';

/** The client library, for Node and browsers: tokens, sessions, sampling. In Node, client/node.ts adds files. */
export { ask, Chat, type Answer, type AskEvent, type AskOptions, type ChatOptions } from './ask.ts';
export { readArtefact, type Artefact } from '../protocols/artefact.ts';
export { CachetError, type ErrorCode } from '../protocols/errors.ts';
export { Conversation, generate, privateIds, promptIds, TextStream, type ConversationOptions, type GenerateOptions } from './generate.ts';
export { Link, type Socket } from './link.ts';
export { sampler, type Sampling } from './sampling.ts';
export { PrivateSession, type Connect, type Deal, type SessionOptions, type StepReport } from './session.ts';
export { Tokenizer, type Message } from './tokenizer.ts';

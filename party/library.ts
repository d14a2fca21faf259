/**
 * The package's Node entry, `cachet/node`: what `cachet/client` needs from a machine: sockets, model folders, the client as dealer, party processes.
 *
 *   import { ask } from 'cachet/client';
 *   import { readConfigFile, readModelArtefact, readTokenizer, reach } from 'cachet/node';
 */
export { readModelArtefact, readTokenizer } from '../client/node.ts';
export { checkConfig, readConfigFile, type Config } from './config.ts';
export { Trio, type TrioOptions } from './launch.ts';
export { reach } from './reach.ts';

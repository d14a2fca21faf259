/** A man in the middle for tests: forwards WebSocket frames between two parties and does to chosen ones what a rule says. */
import { unpack } from 'msgpackr';
import { WebSocket, WebSocketServer } from 'ws';

export interface Passing {
  /** The party whose address this is, and the one that connected to it. */
  readonly server: string;
  readonly connector: string;
  readonly toServer: boolean;
  /** Of protocols/frames.ts. */
  readonly kind: number;
  /** Frames of this kind and direction before it. */
  readonly index: number;
}
/** What goes on instead of a frame; undefined: the frame. */
export type Rule = (frame: Buffer, passing: Passing) => Buffer[] | undefined;

export class Proxy {
  rule: Rule = () => undefined;
  private readonly servers: WebSocketServer[] = [];

  /** Stands before an address; gives the one to be told. */
  readonly between = async (role: string, address: string): Promise<string> => {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
    this.servers.push(server);
    await new Promise((resolve) => server.once('listening', resolve));
    server.on('connection', (near) => this.join(role, near, new WebSocket(address, { perMessageDeflate: false })));
    return `ws://127.0.0.1:${(server.address() as { port: number }).port}`;
  };

  stop(): void {
    for (const server of this.servers) {
      for (const socket of server.clients) socket.terminate();
      server.close();
    }
  }

  private join(server: string, near: WebSocket, far: WebSocket): void {
    let connector = '';
    const waiting: Buffer[] = [],
      counts = new Map<string, number>();
    const pass = (frame: Buffer, toServer: boolean): void => {
      if (connector === '' && toServer) connector = (unpack(frame.subarray(32)) as { role: string }).role;
      const kind = frame[1]!,
        key = `${kind} ${toServer}`,
        index = counts.get(key) ?? 0,
        to = toServer ? far : near;
      counts.set(key, index + 1);
      for (const part of this.rule(frame, { server, connector, toServer, kind, index }) ?? [frame]) if (to.readyState === WebSocket.OPEN) to.send(part);
    };
    near.on('message', (data: Buffer) => (far.readyState === WebSocket.CONNECTING ? waiting.push(data) : pass(data, true)));
    far.on('open', () => waiting.splice(0).forEach((data) => pass(data, true)));
    far.on('message', (data: Buffer) => pass(data, false));
    for (const [a, b] of [
      [near, far],
      [far, near],
    ] as const) {
      a.on('close', (code, reason) => (code >= 1000 && code !== 1005 && code !== 1006 ? b.close(code, reason) : b.terminate()));
      a.on('error', () => b.terminate());
    }
  }
}

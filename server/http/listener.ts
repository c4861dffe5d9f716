/** The HTTP server around an app: time-outs, and an end that lets running requests finish. */
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { DEFAULT_LIMITS, type Limits } from './limits.js';

/** How often node looks for headers that take too long. */
const CONNECTION_CHECK_MS = 5_000;
const SWEEP_MS = 50;

export interface Listener {
  /** With the port that port 0 became. */
  readonly address: { readonly host: string; readonly port: number };
  /** Takes no new connections, and closes those that do nothing. Resolves when the last request has been answered. */
  drain(): Promise<void>;
  /** Cuts what is left. */
  destroy(): void;
}

/** Listens. Rejects with one line when the address can't be had. */
export async function listen(
  app: RequestListener,
  { host, port, limits = DEFAULT_LIMITS }: { host: string; port: number; limits?: Limits },
): Promise<Listener> {
  const server = createServer(
    {
      headersTimeout: limits.headers,
      // Bodies have clocks of their own: an upload may take as long as its size needs (json-body.ts, upload.ts).
      requestTimeout: 0,
      keepAliveTimeout: limits.idleConnection,
      connectionsCheckingInterval: Math.min(CONNECTION_CHECK_MS, limits.headers),
    },
    app,
  );
  server.maxConnections = limits.connections;
  // The route says when it wants the body (json-body.ts `continueBody`): a refused upload is refused before it is sent.
  server.on('checkContinue', app);
  const connections = new Connections(server);
  await bind(server, host, port);
  return {
    address: { host, port: (server.address() as AddressInfo).port },
    drain: () => drain(server, connections),
    destroy: () => server.closeAllConnections(),
  };
}

function bind(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(new Error(bindReason(error, host, port))));
    server.listen({ host, port }, resolve);
  });
}

function bindReason(error: NodeJS.ErrnoException, host: string, port: number): string {
  switch (error.code) {
    case 'EADDRINUSE':
      return `port ${port} on ${host} is in use; stop what uses it, or pass another --port (0: any free one)`;
    case 'EACCES':
      return `not allowed to listen on port ${port} of ${host}; pass a --port above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `${host} is not an address of this machine; check --host`;
    default:
      return `can't listen on ${host}:${port}: ${error.message}`;
  }
}

/**
 * Which connections have a request in progress. Node's own idea of idle leaves out those that never had one, such as browsers open in advance: they would hold
 * up the end.
 */
class Connections {
  private readonly requests = new Map<Socket, number>();

  constructor(server: Server) {
    server.on('connection', (socket) => {
      this.requests.set(socket, 0);
      socket.once('close', () => this.requests.delete(socket));
    });
    const onRequest: RequestListener = (req, res) => {
      this.add(req.socket, 1);
      res.once('close', () => this.add(req.socket, -1));
    };
    server.prependListener('request', onRequest).prependListener('checkContinue', onRequest);
  }

  closeIdle(): void {
    for (const [socket, requests] of this.requests) if (requests === 0) socket.destroySoon();
  }

  private add(socket: Socket, change: number): void {
    const requests = this.requests.get(socket);
    if (requests !== undefined) this.requests.set(socket, requests + change);
  }
}

/** Connections fall idle one by one, as their answers end. */
function drain(server: Server, connections: Connections): Promise<void> {
  return new Promise((resolve) => {
    const sweep = setInterval(() => connections.closeIdle(), SWEEP_MS);
    server.close(() => {
      clearInterval(sweep);
      resolve();
    });
    connections.closeIdle();
  });
}

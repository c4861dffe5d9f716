/** Times and counts that no flag sets. Milliseconds unless the name says otherwise. */
export interface Limits {
  /** A request's headers must be complete by then (slowloris). */
  readonly headers: number;
  /** A JSON body must be complete by then. */
  readonly jsonBody: number;
  /** An upload must bring `uploadBytes` in every such window. */
  readonly uploadWindow: number;
  readonly uploadBytes: number;
  /** How long the rest of a refused upload is still read, so that its client gets to see the answer. */
  readonly linger: number;
  /** How long an idle connection stays open: longer than the 60 s of usual proxies, so that they close first. */
  readonly idleConnection: number;
  readonly connections: number;
  /** A stream's headers are sent by then, even if no event came yet: clients see that the request is taken. */
  readonly flushAfter: number;
  /** A silent stream gets a comment this often, so that proxies don't cut it. */
  readonly keepAlive: number;
  /** A reader that takes nothing for this long is dropped, so that it holds no task in memory. */
  readonly stall: number;
  /** Sequences of one request that are in the engine at once; the rest of a batch follows as these end. */
  readonly sequencesInFlight: number;
}

export const DEFAULT_LIMITS: Limits = {
  headers: 20_000,
  jsonBody: 60_000,
  uploadWindow: 20_000,
  uploadBytes: 64 * 1024,
  linger: 5_000,
  idleConnection: 75_000,
  connections: 4096,
  flushAfter: 500,
  keepAlive: 10_000,
  stall: 60_000,
  sequencesInFlight: 32,
};

/** What the fuzzer throws mutated containers at. */

export interface FuzzInput {
  readonly bytes: Uint8Array;
  /** What was mutated, for the report. */
  readonly history: string;
  /** The valid containers that inputs are made of. */
  readonly corpus: readonly Uint8Array[];
  /** Nothing was made consistent again after the mutation: an accepted input must be one of the corpus. */
  readonly blind: boolean;
}

export interface FuzzTarget {
  /**
   * Takes one input and says how it ended: `accepted`, or the code of the error. Throws a Violation if a promise was broken; any other
   * error counts as one too.
   */
  run(input: FuzzInput): string | Promise<string>;
  close(): Promise<void>;
}

/** What a module of `TARGETS` exports. */
export interface TargetModule {
  makeTarget(): Promise<FuzzTarget>;
}

export class Violation extends Error {}

/** Ends the run: what `npm run fuzz` promises (issue 3). */
export const LIMITS = { memoryGrowthBytes: 64 * 2 ** 20, millisecondsPerInput: 5_000 } as const;

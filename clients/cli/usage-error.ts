/** A command line that can't be run: what was expected, what came. */
export class UsageError extends Error {}

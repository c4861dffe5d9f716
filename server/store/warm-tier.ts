/**
 * Between a container on disk and a compacted copy: the nibbles of tasks that were evicted, in host memory within a budget, least recently
 * evicted first out. A task that comes back from here is compacted without being decoded. A ninth of a compacted copy's bytes each.
 */
import type { Digest } from '../../codec/mask-set.js';
import type { DecodedTask } from './loader.js';

export class WarmTier {
  /** In the order of arrival. */
  private readonly tasks = new Map<Digest, DecodedTask>();
  private held = 0;

  /** @param budgetBytes 0: keeps nothing */
  constructor(
    readonly budgetBytes: number,
    private readonly free: (task: DecodedTask) => void,
  ) {}

  get bytes(): number {
    return this.held;
  }

  /** Digest and bytes of every task. */
  sizes(): [Digest, number][] {
    return [...this.tasks].map(([digest, { bytes }]) => [digest, bytes]);
  }

  has(digest: Digest): boolean {
    return this.tasks.has(digest);
  }

  /** Keeps a task's nibbles, which are the tier's from now on. */
  put(task: DecodedTask): void {
    this.drop(task.digest);
    if (task.bytes > this.budgetBytes) return this.free(task);
    this.tasks.set(task.digest, task);
    this.held += task.bytes;
    for (const digest of this.tasks.keys()) {
      if (this.held <= this.budgetBytes) return;
      this.drop(digest);
    }
  }

  /** Hands a task's nibbles over, if they are here: the caller's to put back or free. */
  take(digest: Digest): DecodedTask | undefined {
    const task = this.tasks.get(digest);
    if (task === undefined) return undefined;
    this.tasks.delete(digest);
    this.held -= task.bytes;
    return task;
  }

  drop(digest: Digest): void {
    const task = this.take(digest);
    if (task) this.free(task);
  }

  clear(): void {
    for (const digest of [...this.tasks.keys()]) this.drop(digest);
  }
}

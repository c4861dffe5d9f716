/**
 * Who may allocate under a byte budget, first come, first served. Room is taken before a task is loaded, so the budget holds at every
 * moment, not only on average: what is resident, what was evicted while leased, and what is being loaded never add up to more.
 */

export interface RoomRequest {
  /** What it needs by now. */
  readonly bytes: () => number;
  /** Called once, with the bytes that were taken for it. */
  readonly grant: (bytes: number) => void;
}

export class Room {
  private taken = 0;
  private serving = false;
  private readonly queue: RoomRequest[] = [];

  /** @param makeRoom is asked to give bytes back through `release` for the first in line; it may not be able to */
  constructor(
    readonly budgetBytes: number,
    private readonly makeRoom: (bytes: number) => void,
  ) {}

  get takenBytes(): number {
    return this.taken;
  }

  /** Requests that wait. */
  get waiting(): number {
    return this.queue.length;
  }

  request(request: RoomRequest): void {
    this.queue.push(request);
    this.reconsider();
  }

  /** Takes a request back; does nothing to one that was granted. */
  withdraw(request: RoomRequest): void {
    const index = this.queue.indexOf(request);
    if (index < 0) return;
    this.queue.splice(index, 1);
    this.reconsider();
  }

  release(bytes: number): void {
    this.taken -= bytes;
    this.reconsider();
  }

  /** Serves whoever can be served now. Not re-entered: what makeRoom gives back is for the first in line. */
  reconsider(): void {
    if (this.serving) return;
    this.serving = true;
    try {
      for (let first = this.queue[0]; first !== undefined; first = this.queue[0]) {
        const bytes = first.bytes();
        if (this.taken + bytes > this.budgetBytes) this.makeRoom(bytes);
        if (this.taken + bytes > this.budgetBytes) return;
        this.queue.shift();
        this.taken += bytes;
        first.grant(bytes);
      }
    } finally {
      this.serving = false;
    }
  }
}

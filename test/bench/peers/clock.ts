/** Milliseconds since some moment, of the wall or of this process's threads. */
import type { Clock } from './protocol.js';

export function milliseconds(clock: Clock): number {
  if (clock === 'wall') return performance.now();
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

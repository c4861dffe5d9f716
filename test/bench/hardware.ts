/** One line that says what a figure was measured on. */
import { cpus, totalmem } from 'node:os';
import { native } from '../../kernels/index.js';

export interface Hardware {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly isa: string;
  readonly threads: number;
  readonly node: string;
}

export function hardware(): Hardware {
  const list = cpus();
  const { isa, threads } = native.info();
  return {
    cpu: list[0]?.model.trim() ?? 'unknown',
    cores: list.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    isa,
    threads,
    node: process.version,
  };
}

export function hardwareLine(machine: Hardware): string {
  return `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.isa} kernels on ${machine.threads} threads, Node ${machine.node}`;
}

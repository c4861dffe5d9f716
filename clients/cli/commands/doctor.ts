/** `maskctl doctor`: what this machine can run, what of CUDA was found, what was refused and why, and what to do about it. */
import { cpus, freemem, totalmem } from 'node:os';
import type { Command } from 'commander';
import type { BackendInfo, CudaProbe, CudaReport } from '../../../kernels/backend-types.js';
import type { GlobalOptions } from '../global-options.js';
import { printFields, printJson, printLine } from '../output.js';
import { packageVersion } from '../package-root.js';

/** What --json prints. */
export interface Examination {
  readonly version: string;
  readonly node: string;
  readonly platform: string;
  readonly cpu: { readonly model: string; readonly cores: number } & Pick<BackendInfo, 'isa' | 'available' | 'threads'>;
  /** `limitBytes`: the container's, null where there is none. */
  readonly memory: { readonly totalBytes: number; readonly freeBytes: number; readonly limitBytes: number | null };
  readonly cuda: Omit<CudaProbe, 'report'> & { readonly report: CudaReport | null };
  /** What `--backend auto` takes. */
  readonly backend: 'cpu' | 'cuda';
  readonly advice: readonly string[];
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .summary('what this machine can run, and what of CUDA was found')
    .description(
      'Say which kernels run here: instruction set, threads, memory; which GPU, driver and libraries were found, what was refused and why, and what to do. Asks no server.',
    )
    .addHelpText('after', EXAMPLES)
    .action(async (_options: object, command: Command) => {
      // Here, because the other commands do without the kernels.
      const { native } = await import('../../../kernels/index.js');
      const examination = examine(native.info(), native.probeCuda());
      if (command.optsWithGlobals<GlobalOptions>().json) printJson(examination);
      else printForPeople(examination);
    });
}

const EXAMPLES = `
Examples:
  $ maskctl doctor
  $ maskctl doctor --json | jq .cuda.reason`;

export function examine({ isa, available, threads }: BackendInfo, { report, ...probe }: CudaProbe): Examination {
  const processors = cpus();
  const limit = process.constrainedMemory?.() ?? 0;
  const cuda = { ...probe, report: report === '' ? null : (JSON.parse(report) as CudaReport) };
  return {
    version: packageVersion(),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpu: { model: processors[0]?.model.trim() ?? 'unknown', cores: processors.length, isa, available, threads },
    memory: {
      totalBytes: totalmem(),
      freeBytes: freemem(),
      limitBytes: limit > 0 && limit < totalmem() ? limit : null,
    },
    cuda,
    backend: cuda.usable ? 'cuda' : 'cpu',
    advice: adviceFor(cuda),
  };
}

/** One line for each thing that could be better, the first thing to do first. */
function adviceFor({ usable, reason, report }: Examination['cuda']): string[] {
  if (!usable) return [`the model runs on the CPU: ${reason}`];
  const part = (name: string): CudaReport['parts'][number] | undefined =>
    report?.parts.find((candidate) => candidate.name === name);
  const [sparse, dense] = [part('cuSPARSELt'), part('cuBLASLt')];
  return [
    ...(sparse?.file
      ? []
      : [
          "prompts of compacted tasks run on our own kernels: pip install 'nvidia-cusparselt-cu13>=0.8.1', or name its folder in MASKSERVE_CUSPARSELT",
        ]),
    ...(dense?.file
      ? []
      : ['dense prompts run on our own kernels: pip install nvidia-cublas, or name its folder in MASKSERVE_CUBLASLT']),
    ...[sparse, dense].flatMap((found) => (found?.warning ? [`${found.name} ${found.version}: ${found.warning}`] : [])),
  ];
}

function printForPeople({ version, node, platform, cpu, memory, cuda, backend, advice }: Examination): void {
  const limit = memory.limitBytes === null ? '' : `, limited to ${gibibytes(memory.limitBytes)}`;
  printFields([
    ['maskserve', `${version}, Node ${node}, ${platform}`],
    ['processor', `${cpu.model}, ${cpu.cores} cores`],
    ['kernels', `${cpu.isa} on ${cpu.threads} threads (this machine runs ${cpu.available.join(', ')})`],
    ['memory', `${gibibytes(memory.totalBytes)}, ${gibibytes(memory.freeBytes)} free${limit}`],
    ['CUDA library', cuda.report ? cuda.file : 'none'],
    ...(cuda.report ? reportFields(cuda.report) : []),
    ['backend', `${backend} (what --backend auto takes)`],
  ]);
  const refused = cuda.report?.parts.flatMap(({ name, refused }) => refused.map((one) => ({ name, ...one }))) ?? [];
  if (refused.length > 0) printLine('\nrefused:');
  for (const { name, at, reason } of refused) printLine(`  ${name} at ${at}: ${reason}`);
  if (advice.length > 0) printLine('\nwhat to do:');
  for (const line of advice) printLine(`  ${line}`);
}

function reportFields({ runtime, architectures, device, overlap, parts }: CudaReport): [string, string][] {
  const gpu = device
    ? `${device.name}, ${device.architecture}, ${gibibytes(device.totalBytes)} (${gibibytes(device.freeBytes)} free), ${device.multiprocessors} multiprocessors`
    : 'none';
  return [
    ['built for', `CUDA ${runtime}, ${architectures.join(', ')}`],
    ['GPU', gpu],
    ...(overlap ? [['overlap', overlap.used ? 'kernels overlap' : `off: ${overlap.reason}`] as [string, string]] : []),
    ...parts.map(({ name, version, file, warning }): [string, string] => [
      name,
      [version ?? 'none', file, warning].filter((text) => text !== null && text !== '').join(', '),
    ]),
  ];
}

function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/**
 * `npm run bench -- [--model DIR]… [--json FILE] [--runs N] [--threads N]`: load time, task switch, prefill and decode speed, dense and masked, on models/tiny and
 * on a random-weight 162 M LLaMA, or on the models named. Prints the hardware first; ratios are of one run.
 *
 * `npm run bench -- kernels [--model DIR] [--json FILE] [--runs N] [--threads N]`: the matrix products of decoding, on a layer of 256 MiB and in the engine on the
 * random-weight model, beside their bars, on one and on all threads, on the best instruction set and on AVX2; and what autotuning makes of short prompts.
 *
 * `npm run bench -- train [--yardstick PYTHON --yardstick-script FILE] [--json FILE] [--runs N] [--threads N]`: training speed and peak memory on models/tiny, beside the
 * PyTorch yardstick's (`maskllm_torch.py`) in alternating runs when a Python with torch is named, there or in MASKSERVE_YARDSTICK and MASKSERVE_YARDSTICK_SCRIPT.
 *
 * `npm run bench -- codec [--prepared DIR --patch FILE…] [--json FILE] [--plot FILE] [--markdown FILE] [--from FILE] [--cpu-time] [--runs N] [--threads N]`: what masks cost in each coder beside zstd, brotli and the
 * published form, where the bytes go, how fast they are coded (`--cpu-time`: by CPU time, where others use the machine), and which bars that reaches; with a prepared base, its general mask and patches of it too. `--plot FILE`: the sizes as a picture, .png or .svg; `--markdown FILE`: as README's table; `--from FILE`: of an earlier run's JSON.
 *
 * `npm run bench -- peers [--smollm2 DIR] [--yardstick PYTHON] [--large] [--layers] [--quick] [--cpu-time] [--model DIR]… [--json FILE] [--runs N] [--threads N]`: the same model in llama.cpp
 * (`npm ci --prefix test/bench/peers`), onnxruntime and PyTorch, side by side, and single layers; SmolLM2 from its folder there or in MASKSERVE_SMOLLM2; `--large`: the 1.1 B
 * shape instead; `--layers`: single layers alone; `--quick`: one round of the 162 M model; `--cpu-time`: one thread, by the CPU time of its process, where others use the machine.
 *
 * `npm run bench -- gpu [--json FILE] [--runs N]`: LLaMA-2-7B's matrices on the GPU, decoding and prefill, a task's bytes, a cold switch, masks decoded on the device, whole answers, and training at 1.1 B beside PyTorch's (a Python with torch: MASKSERVE_YARDSTICK, or python3);
 * one line with the reason where there is no GPU.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { checkPicture, writePicture } from '../../clients/cli/pictures/svg.js';
import { native } from '../../kernels/index.js';
import { TINY } from '../tiny.js';
import { sizePicture } from './codec-picture.js';
import { sizeMarkdown } from './codec-markdown.js';
import { codecTable, measureCodec, type CodecFigures } from './codec.js';
import { gpuTable, measureGpu } from './gpu.js';
import { hardware, hardwareLine, type Hardware } from './hardware.js';
import { kernelTable, measureKernels } from './kernels.js';
import { comparePeers } from './peers/peers.js';
import { LLAMA_162M, writeRandomModel } from './random-model.js';
import { measureServing, type ServingFigures } from './serving.js';
import { measureTraining, trainingTable } from './train.js';
import { findYardstick } from './yardstick.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string', multiple: true },
    json: { type: 'string' },
    runs: { type: 'string' },
    threads: { type: 'string', default: '0' },
    yardstick: { type: 'string' },
    'yardstick-script': { type: 'string' },
    prepared: { type: 'string' },
    patch: { type: 'string', multiple: true },
    plot: { type: 'string' },
    markdown: { type: 'string' },
    from: { type: 'string' },
    smollm2: { type: 'string' },
    large: { type: 'boolean', default: false },
    layers: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    'cpu-time': { type: 'boolean', default: false },
  },
});

const SERVING_RUNS = 5;
const TRAINING_ROUNDS = 3;
const CODEC_RUNS = 7;
const KERNEL_RUNS = 15;
const PEER_RUNS = 5;
const GPU_RUNS = 11;

const [what = 'serving', ...rest] = positionals;
if (rest.length === 0 && what === 'train') benchTraining();
else if (rest.length === 0 && what === 'codec') await benchCodec();
else if (rest.length === 0 && what === 'serving') await benchServing();
else if (rest.length === 0 && what === 'kernels') benchKernels();
else if (rest.length === 0 && what === 'peers') await benchPeers();
else if (rest.length === 0 && what === 'gpu') benchGpu();
else
  fail(
    `expected \`npm run bench\` or \`npm run bench -- train\`, \`codec\`, \`kernels\`, \`peers\` or \`gpu\` but received ${positionals.join(' ')}`,
  );

async function benchServing(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'maskserve-bench-'));
  try {
    const models = values.model ?? [TINY, writtenRandomModel(scratch)];
    const figures: ServingFigures[] = [];
    for (const directory of models) {
      const result = await measureServing(directory, {
        runs: Number(values.runs ?? SERVING_RUNS),
        threads: Number(values.threads),
        scratch,
      });
      if (figures.length === 0) console.log(`hardware: ${hardwareLine(hardware())}`);
      console.log(table(result));
      figures.push(result);
    }
    if (values.json) {
      writeFileSync(values.json, `${JSON.stringify({ hardware: hardware(), models: figures }, null, 2)}\n`);
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function benchTraining(): void {
  const rounds = Number(values.runs ?? TRAINING_ROUNDS);
  if (!(Number.isInteger(rounds) && rounds > 0))
    return fail(`expected --runs to be a whole number from 1 but received ${values.runs}`);
  console.log(`hardware: ${hardwareLine(hardware())}`);
  const training = measureTraining({
    rounds,
    threads: Number(values.threads),
    yardstick: findYardstick(values.yardstick, values['yardstick-script']),
  });
  console.log(trainingTable(training));
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ hardware: hardware(), training }, null, 2)}\n`);
}

async function benchCodec(): Promise<void> {
  const runs = Number(values.runs ?? CODEC_RUNS);
  if (!(Number.isInteger(runs) && runs > 0))
    return fail(`expected --runs to be a whole number from 1 but received ${values.runs}`);
  if ((values.prepared === undefined) !== (values.patch === undefined))
    return fail('expected --prepared DIR and --patch FILE together');
  if (values.plot !== undefined) await checkPicture(values.plot, '--plot', ['png', 'svg']);
  const { machine, codec } = values.from === undefined ? measuredCodec(runs) : earlierCodec(values.from);
  console.log(`hardware: ${hardwareLine(machine)}`);
  console.log(codecTable(codec));
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ hardware: machine, codec }, null, 2)}\n`);
  if (values.markdown !== undefined) writeFileSync(values.markdown, sizeMarkdown(codec.sets));
  if (values.plot !== undefined) await writePicture(values.plot, sizePicture(codec.sets));
}

function measuredCodec(runs: number): { machine: Hardware; codec: CodecFigures } {
  const codec = measureCodec({
    runs,
    threads: Number(values.threads),
    clock: values['cpu-time'] ? 'cpu' : 'wall',
    patches: values.patch ?? [],
    ...(values.prepared === undefined ? {} : { prepared: values.prepared }),
    onSet: (name) => process.stderr.isTTY && process.stderr.write(`${name} …\n`),
  });
  return { machine: hardware(), codec };
}

function earlierCodec(file: string): { machine: Hardware; codec: CodecFigures } {
  const { hardware: machine, codec } = JSON.parse(readFileSync(file, 'utf8')) as {
    hardware: Hardware;
    codec: CodecFigures;
  };
  return { machine, codec };
}

function benchKernels(): void {
  const runs = Number(values.runs ?? KERNEL_RUNS);
  if (!(Number.isInteger(runs) && runs > 0))
    return fail(`expected --runs to be a whole number from 1 but received ${values.runs}`);
  const scratch = mkdtempSync(join(tmpdir(), 'maskserve-bench-'));
  try {
    console.log(`hardware: ${hardwareLine(hardware())}`);
    const model = values.model?.[0] ?? writtenRandomModel(scratch);
    const kernels = measureKernels({ model, threads: Number(values.threads), runs });
    console.log(kernelTable(kernels));
    if (values.json) writeFileSync(values.json, `${JSON.stringify({ hardware: hardware(), kernels }, null, 2)}\n`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function benchPeers(): Promise<void> {
  const runs = Number(values.runs ?? PEER_RUNS);
  if (!(Number.isInteger(runs) && runs > 0))
    return fail(`expected --runs to be a whole number from 1 but received ${values.runs}`);
  const { model: models, large, layers, quick, 'cpu-time': cpuTime } = values;
  const python = values.yardstick ?? process.env['MASKSERVE_YARDSTICK'];
  const smollm2 = values.smollm2 ?? process.env['MASKSERVE_SMOLLM2'];
  console.log(`hardware: ${hardwareLine(hardware())}`);
  try {
    const peers = await comparePeers({
      models,
      large,
      layers,
      quick,
      runs,
      threads: Number(values.threads),
      python,
      smollm2,
      cpuTime,
    });
    if (values.json) writeFileSync(values.json, `${JSON.stringify({ hardware: hardware(), peers }, null, 2)}\n`);
  } catch (error) {
    fail((error as Error).message);
  }
}

/** No GPU is no failure: the machine that has one runs the same command. */
function benchGpu(): void {
  const runs = Number(values.runs ?? GPU_RUNS);
  if (!(Number.isInteger(runs) && runs > 0))
    return fail(`expected --runs to be a whole number from 1 but received ${values.runs}`);
  const { usable, reason } = native.probeCuda();
  if (!usable) return console.log(`nothing measured: ${reason}`);
  console.log(`hardware: ${hardwareLine(hardware())}`);
  const gpu = measureGpu({ runs });
  console.log(gpuTable(gpu));
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ hardware: hardware(), gpu }, null, 2)}\n`);
}

function fail(message: string): void {
  console.error(message);
  process.exitCode = 1;
}

function writtenRandomModel(scratch: string): string {
  const directory = join(scratch, 'random-162m');
  writeRandomModel(directory, LLAMA_162M);
  return directory;
}

function table(figures: ServingFigures): string {
  const { prefill, decode, settings } = figures;
  const row = (name: string, value: string): string => `  ${name.padEnd(46)} ${value}`;
  const rates = (name: string, { dense, masked, ratio }: ServingFigures['prefill']): string =>
    row(name, `dense ${dense.toFixed(1)} · masked ${masked.toFixed(1)} tokens/s · masked/dense ${ratio.toFixed(2)}×`);
  return [
    `\n${figures.model}: ${(figures.parameters / 1e6).toFixed(1)} M parameters, ${(figures.maskedParameters / 1e6).toFixed(1)} M masked`,
    row('load the model', `${figures.loadMs.toFixed(0)} ms`),
    row('mask container', `${figures.containerBytes} bytes, ${figures.bitsPerParameter.toFixed(4)} bit per parameter`),
    row('resident task', `${figures.taskBytes} bytes, ${figures.taskShare.toFixed(4)} of its dense matrices`),
    row(
      'cold switch (container → compacted)',
      `${figures.coldSwitchMs.toFixed(1)} ms: ${((100 * figures.denseCopyMs) / figures.coldSwitchMs).toFixed(0)}% of the speed of copying its dense matrices (${figures.denseCopyMs.toFixed(1)} ms)`,
    ),
    row('warm switch (resident)', `${(figures.warmSwitchMs * 1000).toFixed(1)} µs`),
    rates(`prefill, ${settings.prefillTokens} tokens`, prefill),
    rates(`decode, ${settings.decodeTokens} tokens after ${settings.promptTokens}`, decode),
  ].join('\n');
}

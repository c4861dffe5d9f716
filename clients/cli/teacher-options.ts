/** Whom KL is taken to, on the command line: `train` and `prepare`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { TeacherChoice } from '../../server/trainer/teacher.js';
import { TUNE_DEFAULTS } from '../../server/trainer/defaults.js';
import type { TrainTeacher } from '../sdk/index.js';
import { UsageError } from './usage-error.js';
import { integer, number } from './numbers.js';

export interface TeacherOptions {
  readonly teacher?: string;
  readonly teacherBase?: string;
  readonly tuneTeacher?: true;
  readonly teacherRank?: number;
  readonly teacherSteps?: number;
  readonly teacherLr?: number;
  readonly saveTeacher?: string;
}

/** What only means something beside --tune-teacher. */
const TUNING = ['teacherRank', 'teacherSteps', 'teacherLr', 'saveTeacher'] as const;

export function addTeacherOptions(command: Command): Command {
  const { rank, steps, learningRate } = TUNE_DEFAULTS;
  return command
    .option(
      '--teacher <dir>',
      'take KL to this model of the same shape and tokenizer, in place of the dense one: a fine-tuned Hugging Face directory, or a PEFT LoRA folder',
    )
    .option('--teacher-base <dir>', "the model that the teacher's adapter is for (default: --model)")
    .option(
      '--tune-teacher',
      'first train a low-rank adapter of the dense model on the same text, and take KL to that (batch, sequence and seed are those of the run)',
    )
    .option('--teacher-rank <r>', `rank of that adapter (default: ${rank})`, integer(1, 4096))
    .option('--teacher-steps <n>', `its optimizer steps (default: ${steps})`, integer(1))
    .option('--teacher-lr <rate>', `its peak learning rate (default: ${learningRate})`, number(Number.MIN_VALUE, 1e9))
    .option('--save-teacher <dir>', 'write that adapter as a PEFT folder as well');
}

/** The teacher that was asked for, as a part of the run's options. Throws for options that contradict each other. */
export function teacherOf(options: TeacherOptions & { readonly resume?: string }): {
  readonly teacher?: TeacherChoice;
} {
  const { teacher: directory, tuneTeacher, teacherBase } = options;
  const base = teacherBase === undefined ? {} : { base: teacherBase };
  const idle = TUNING.find((name) => options[name] !== undefined);
  if (!tuneTeacher && idle) throw new UsageError(`expected --tune-teacher beside --${flagOf(idle)}`);
  if (directory !== undefined && tuneTeacher) {
    throw new UsageError('expected either --teacher, one that is there, or --tune-teacher, one that is made first');
  }
  if (directory !== undefined) return { teacher: { kind: 'given', directory, ...base } };
  if (tuneTeacher) return { teacher: tuned(options, base) };
  if (teacherBase !== undefined) throw new UsageError('expected --teacher or --tune-teacher beside --teacher-base');
  return {};
}

/** The teacher that a server is to tune. Throws for what is on this machine's disk: the server opens no path that a client names. */
export function serverTeacherOf(options: TeacherOptions): { readonly tuneTeacher?: TrainTeacher } {
  const { teacher } = teacherOf(options);
  const local = (['teacher', 'teacherBase', 'saveTeacher'] as const).find((name) => options[name] !== undefined);
  if (local) {
    throw new UsageError(
      `expected --local beside --${flagOf(local)}: the server takes KL to its own dense model, or to an adapter of it by --tune-teacher`,
    );
  }
  if (teacher?.kind !== 'tuned') return {};
  const { rank, steps, learningRate } = teacher;
  return { tuneTeacher: { rank, steps, learningRate } };
}

function tuned(
  options: TeacherOptions & { readonly resume?: string },
  base: { readonly base?: string },
): TeacherChoice {
  const { rank, steps, learningRate } = TUNE_DEFAULTS;
  const { teacherRank = rank, teacherSteps = steps, teacherLr = learningRate, saveTeacher: save } = options;
  const chosen = { kind: 'tuned', rank: teacherRank, steps: teacherSteps, learningRate: teacherLr, ...base } as const;
  if (save === undefined) return chosen;
  // a resumed run writes the same adapter again
  if (options.resume === undefined && existsSync(join(save, 'adapter_model.safetensors'))) {
    throw new UsageError(`expected --save-teacher to be a directory without an adapter, but ${save} has one`);
  }
  return { ...chosen, save };
}

function flagOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

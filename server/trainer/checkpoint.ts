/**
 * A run on disk, so that one that was stopped or killed goes on to the same losses, bit for bit: parameters and both moments of AdamW, steps done, where it started, its best
 * mask so far, and all that must be the same again. One safetensors file, replaced whole by rename.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { native, NO_BUFFER, type Handle } from '../../kernels/index.js';
import { writeSafetensors, type TensorToWrite } from '../engine/safetensors-writer.js';
import { CheckpointFile } from './checkpoint-file.js';
import type { CodesByName } from './nibbles.js';
import type { Parameter } from './optimizer.js';

const FILE = 'checkpoint.safetensors';
const KEY = 'maskserve';
/** The field of a run's identity that digests its text. */
const TEXT = 'text';
const F32 = 4;

/** Where a run keeps its state. */
export interface CheckpointOptions {
  readonly directory: string;
  /** Steps between two checkpoints; 0: only when the run is stopped, and at its end. */
  readonly every: number;
  /** Go on from what is there. */
  readonly resume: boolean;
}

/** Field → value, JSON: what a resumed run must agree with. Fields that are objects are compared by their own fields' names. */
export type RunIdentity = Readonly<Record<string, unknown>>;

export interface BestMask {
  readonly step: number;
  /** Average held-out perplexity of its own sources. */
  readonly perplexity: number;
  readonly nibbles: CodesByName;
}

export interface RunState {
  /** Steps done. */
  readonly step: number;
  readonly parameters: readonly Parameter[];
  /** The mask that the run started from. */
  readonly start: CodesByName;
  readonly best?: BestMask;
  /** Numbers that were taken at the start and would be dear to take again. */
  readonly startPerplexities?: readonly number[];
}

interface Head {
  readonly step: number;
  readonly startPerplexities?: readonly number[];
  readonly identity: RunIdentity;
  readonly best?: { readonly step: number; readonly perplexity: number };
}

export class Checkpoint {
  private readonly path: string;

  /** `directory` is made when the first checkpoint is written. */
  constructor(
    readonly directory: string,
    private readonly identity: RunIdentity,
  ) {
    this.path = join(directory, FILE);
  }

  /** Whether an earlier run left its state here. */
  get exists(): boolean {
    return existsSync(this.path);
  }

  /** Durable when it returns; the one before stays until then. */
  save({ step, parameters, start, best, startPerplexities }: RunState): void {
    mkdirSync(this.directory, { recursive: true });
    const head: Head = {
      step,
      identity: this.identity,
      ...(startPerplexities ? { startPerplexities } : {}),
      ...(best ? { best: { step: best.step, perplexity: best.perplexity } } : {}),
    };
    writeSafetensors(
      this.path,
      [
        ...parameters.flatMap(parameterTensors),
        ...maskTensors('start', start),
        ...(best ? maskTensors('best', best.nibbles) : []),
      ],
      { [KEY]: JSON.stringify(head) },
    );
  }

  /** Opens what is saved. Throws one line that names the first field in which this run differs from the saved one. */
  resume(): SavedRun {
    if (!this.exists) throw new Error(`expected a checkpoint in ${this.directory}, but there is none; check --resume`);
    const file = CheckpointFile.open(this.path);
    try {
      const head = JSON.parse(file.metadata[KEY] ?? 'null') as Head | null;
      if (!head) throw new Error(`expected a checkpoint of maskctl at ${this.path}`);
      this.compare(head.identity);
      return new SavedRun(file, head);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  private compare(saved: RunIdentity): void {
    const [then, now] = [flat(saved), flat(this.identity)];
    // other options often mean other text as well: the option is the better answer
    const fields = new Set([...then.keys(), ...now.keys()].filter((field) => field !== TEXT)).add(TEXT);
    for (const field of fields) {
      if (then.get(field) === now.get(field)) continue;
      const [was, is] = [then.get(field) ?? 'not given', now.get(field) ?? 'not given'];
      throw new Error(
        `can't resume from ${this.directory}: ${field} was ${was} and is now ${is}; give the same options and text, or start anew with another --checkpoint directory`,
      );
    }
  }
}

/**
 * The saved run to go on with, if that is asked for. Throws when a state lies there that nobody asked to resume: its work would be
 * overwritten.
 */
export function openSaved(
  checkpoint: Checkpoint | undefined,
  options: CheckpointOptions | undefined,
): SavedRun | undefined {
  if (!checkpoint || !options) return undefined;
  if (options.resume) return checkpoint.resume();
  if (!checkpoint.exists) return undefined;
  throw new Error(
    `${checkpoint.directory} holds the state of an earlier run: go on with it by --resume ${checkpoint.directory}, or delete it to start anew`,
  );
}

/** Where a run keeps the state of the teacher that it tunes first. */
export function teacherDirectory(directory: string): string {
  return join(directory, 'teacher');
}

/** Deletes the state of a run that is over, its teacher's included, and the directory if nothing else is in it. */
export function removeCheckpoint(directory: string): void {
  if (!existsSync(directory)) return;
  if (existsSync(teacherDirectory(directory))) removeCheckpoint(teacherDirectory(directory));
  for (const name of readdirSync(directory)) if (name.startsWith(FILE)) rmSync(join(directory, name));
  if (readdirSync(directory).length === 0) rmSync(directory, { recursive: true });
}

/** A checkpoint that is open for reading. Close it. */
export class SavedRun {
  readonly step: number;
  readonly startPerplexities: readonly number[] | undefined;

  constructor(
    private readonly file: CheckpointFile,
    private readonly head: Head,
  ) {
    this.step = head.step;
    this.startPerplexities = head.startPerplexities;
  }

  /** Fills parameters and moments. */
  restore(parameters: readonly Parameter[]): void {
    for (const parameter of parameters) {
      for (const [prefix, handle] of buffersOf(parameter)) {
        this.file.copyTo(`${prefix}.${parameter.name}`, handle, parameter.count * F32);
      }
    }
  }

  /** The mask that the run started from, for the matrices named. */
  start(names: readonly string[]): CodesByName {
    return this.masks('start', names);
  }

  best(names: readonly string[]): BestMask | undefined {
    const { best } = this.head;
    return best && { ...best, nibbles: this.masks('best', names) };
  }

  close(): void {
    this.file.close();
  }

  private masks(prefix: string, names: readonly string[]): CodesByName {
    return new Map(names.map((name) => [name, this.file.bytes(`${prefix}.${name}`)]));
  }
}

function buffersOf({ values, firstMoments, secondMoments }: Parameter): [string, Handle][] {
  const all: [string, Handle][] = [
    ['values', values],
    ['first', firstMoments],
    ['second', secondMoments],
  ];
  return all.filter(([, handle]) => handle !== NO_BUFFER);
}

function parameterTensors(parameter: Parameter): TensorToWrite[] {
  return buffersOf(parameter).map(([prefix, handle]) => ({
    name: `${prefix}.${parameter.name}`,
    type: 'F32',
    shape: [parameter.count],
    read: (offset, into) => native.read(handle, offset, into),
  }));
}

function maskTensors(prefix: string, nibbles: CodesByName): TensorToWrite[] {
  return [...nibbles].map(([name, bytes]) => ({
    name: `${prefix}.${name}`,
    type: 'U8',
    shape: [bytes.length],
    read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
  }));
}

/** Nested fields by their own names, values as JSON text. */
function flat(identity: RunIdentity): Map<string, string> {
  const fields = new Map<string, string>();
  for (const [field, value] of Object.entries(identity)) {
    if (value === undefined) continue;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      for (const [inner, text] of flat(value as RunIdentity)) fields.set(inner, text);
    } else {
      fields.set(field, JSON.stringify(value));
    }
  }
  return fields;
}

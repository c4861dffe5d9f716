/**
 * What a mask file needs beside itself: its ancestors among other mask files, and the frozen weights of its model. They are found here, or one
 * line says what is needed, what was looked at and what to do.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { Option } from 'commander';
import { type ChainLookup, decodeChain } from '../../codec/chain.js';
import type { Needs, WeightsLookup } from '../../codec/context.js';
import { ContainerReader } from '../../codec/decode.js';
import { CodecError } from '../../codec/errors.js';
import type { Digest, MaskSet } from '../../codec/mask-set.js';
import { baseDigest } from '../../server/engine/base-digest.js';
import { locateTensors } from '../../server/engine/safetensors.js';
import { weightsInFiles } from '../../server/engine/weight-files.js';
import type { ContainerFile } from '../../server/store/open-containers.js';
import { shortDigest } from './output.js';
import { DEFAULT_MODEL } from './package-root.js';

const SUFFIX = '.mask';
const WEIGHT_FILES = ['model.safetensors', 'model.safetensors.index.json'];

/** Where to look, beside the folder of the mask file itself. */
export interface FamilyOptions {
  /** Directory of the model; undefined: the one whose masks/ folder the file lies in, else the default model. */
  readonly model?: string;
  /** File of the parent. */
  readonly parent?: string;
  /** Of a model that is loaded, and that the mask was checked to be for: its files are not read then. */
  readonly weights?: WeightsLookup;
}

/** `whose`: the mask in question, in the words of the help. */
export function parentOption(whose: string): Option {
  return new Option(
    '--parent <file>',
    `the mask that ${whose} is coded against, where it is neither beside it nor in the model's masks/`,
  );
}

/** A mask can't be decoded for want of its parent, or of the weights of its model. */
export class MaskLacks extends Error {}

export class MaskFamily {
  readonly lookup: ChainLookup;
  /** What was asked for and found, nearest first. */
  readonly ancestors: ContainerFile[] = [];
  private readonly model: string;
  private weights: WeightsLookup | undefined;
  private foundBase: Digest | undefined;
  private missing: Digest | undefined;

  /** @param base that the mask is for; @param path of its file, undefined for one that came from elsewhere */
  constructor(
    private readonly base: Digest,
    private readonly path: string | undefined,
    private readonly options: FamilyOptions,
  ) {
    this.weights = options.weights;
    this.model = resolve(options.model ?? (path === undefined ? undefined : modelOf(path)) ?? DEFAULT_MODEL);
    this.lookup = { parent: (content) => this.find(content), weights: (name) => this.weightsOf(name) };
  }

  /** The decoded set of a content digest; undefined if there is none. Throws CodecError as `decodeChain` does. */
  decoded(content: Digest): MaskSet | undefined {
    const bytes = this.find(content);
    return bytes && decodeChain(bytes, this.lookup);
  }

  /** One line for what is missing or wrong in the mask called `name`; other errors stay what they are. */
  explained(name: string, error: unknown): unknown {
    if (!(error instanceof CodecError)) return error;
    switch (error.code) {
      case 'parent-missing':
        return new MaskLacks(
          `${name}: expected its parent, the mask set with the content digest ${this.missing ?? '(unknown)'}, in ${this.folders().join(' or ')}, but it is not there: name its file by --parent, or fetch what needs no parent (maskctl pull TASK --flatten)`,
          { cause: error },
        );
      case 'weights-missing':
        return new MaskLacks(
          `${name}: expected the frozen weights of the base ${this.base}, but looked at ${this.model}, ${this.foundBase === undefined ? 'where there are none' : `whose base is ${this.foundBase}`}: name the model that it belongs to by --model`,
          { cause: error },
        );
      default:
        return new Error(`${name}: ${error.message}`, { cause: error });
    }
  }

  private find(content: Digest): Uint8Array | undefined {
    const file = this.files().find((path) => contentOf(path, path === this.options.parent) === content);
    if (file === undefined) {
      this.missing = content;
      return undefined;
    }
    if (!this.ancestors.some((known) => known.content === content)) this.ancestors.push({ content, path: file });
    return readFileSync(file);
  }

  private files(): string[] {
    const { parent } = this.options;
    return [...(parent === undefined ? [] : [parent]), ...this.folders().flatMap(maskFilesIn)];
  }

  private folders(): string[] {
    const files = [this.path, this.options.parent].filter((file) => file !== undefined);
    return [...new Set([...files.map((file) => dirname(resolve(file))), join(this.model, 'masks')])];
  }

  /** Weights of another base would decode to nonsense: the digest is compared first. */
  private weightsOf(name: string): Uint16Array | undefined {
    if (this.weights === undefined) {
      if (!holdsWeights(this.model)) return undefined;
      this.foundBase ??= baseDigest(locateTensors(this.model));
      if (this.foundBase !== this.base) return undefined;
      this.weights = weightsInFiles(this.model);
    }
    return this.weights(name);
  }
}

/** What decoding a file takes beside it, as --json prints it. */
export interface NeedsJson {
  /** Content digest. */
  readonly parent: Digest | null;
  readonly weights: boolean;
}

export function needsJson({ parent, weights }: Needs): NeedsJson {
  return { parent: parent ?? null, weights };
}

/** The same for people: `its parent general 1bf1a2c3d4e5 and the weights of its model`. `name`: the parent's task or file, if known. */
export function needsText({ parent, weights }: NeedsJson, name?: string): string {
  const called = name === undefined ? '' : `${basename(name, SUFFIX)} `;
  const parts = [
    ...(parent === null ? [] : [`its parent ${called}${shortDigest(parent)}`]),
    ...(weights ? ['the weights of its model'] : []),
  ];
  return parts.length === 0 ? 'nothing else' : parts.join(' and ');
}

function maskFilesIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder).filter((name) => name.endsWith(SUFFIX));
  return names.sort().map((name) => join(folder, name));
}

/** Files that are merely there may be anything; one that was named is a mask file, or the error says what it is. */
function contentOf(path: string, named: boolean): Digest | undefined {
  try {
    const { content, needs } = new ContainerReader(readFileSync(path)).summary;
    // a patch that changes nothing has its parent's content, and can't stand for it
    return needs.parent === content ? undefined : content;
  } catch (error) {
    if (!named) return undefined;
    if (error instanceof CodecError) throw new Error(`${path}: ${error.message}`, { cause: error });
    throw error;
  }
}

/** The model directory that the file's folder belongs to. */
function modelOf(path: string): string | undefined {
  const own = dirname(dirname(resolve(path)));
  return holdsWeights(own) ? own : undefined;
}

function holdsWeights(directory: string): boolean {
  return WEIGHT_FILES.some((file) => existsSync(join(directory, file)));
}

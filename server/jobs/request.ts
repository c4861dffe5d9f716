/** The body of POST /v1/train: its schema, and the order that it makes, every constant filled in. */
import type { SchemaObject } from 'ajv';
import type { ModelInfo } from '../engine/types.js';
import { ServerError } from '../errors.js';
import { bodyParser, optional, show } from '../http/schema.js';
import { checkOwnTaskName } from '../store/task-name.js';
import { DEFAULT_METHOD, maskTrainingDefaults, TUNE_DEFAULTS } from '../trainer/defaults.js';
import type { MaskTrainingSettings, TrainSource } from '../trainer/types.js';
import type { SourceSummary, TrainOrder, TunedTeacherSettings } from './types.js';

/** Sent by a client: null is as good as left out. */
interface TrainBody {
  readonly task: string;
  readonly from?: string | null;
  readonly sources: readonly TrainSource[];
  readonly guards?: readonly TrainSource[] | null;
  readonly settings?: Readonly<Record<string, unknown>> | null;
  readonly force?: boolean | null;
  readonly tuneTeacher?: Readonly<Record<string, unknown>> | null;
}

/** The limits of the model that a request must keep. */
export type ModelLimits = Pick<ModelInfo, 'contextLength' | 'vocabularySize'>;

const POSITIVE: SchemaObject = { type: 'number', exclusiveMinimum: 0, maximum: 1e9, description: 'a positive number' };
const SHARE: SchemaObject = { type: 'number', minimum: 0, maximum: 1, description: 'a number from 0 to 1' };
const BETA: SchemaObject = {
  type: 'number',
  minimum: 0,
  maximum: 0.999999,
  description: 'a number from 0 to 0.999999',
};

/** A row for every constant: one that the trainer gets must be taken here. */
const SETTINGS: Readonly<Record<keyof MaskTrainingSettings, SchemaObject>> = {
  method: choice('ste', 'gumbel'),
  loss: choice('auto', 'lm', 'kl', 'mix'),
  pattern: { type: 'string', enum: ['2:4'], description: '2:4, the pattern that a server serves' },
  prior: choice('magnitude', 'wanda', 'sparsegpt', 'none'),
  refine: integer(0, 1000),
  steps: integer(1, 1e9),
  batch: integer(1, 65536),
  seq: integer(8, 1 << 20),
  seed: integer(0, 2 ** 32 - 1),
  learningRate: POSITIVE,
  travel: POSITIVE,
  warmup: integer(0, 1e9),
  floor: SHARE,
  beta1: BETA,
  beta2: BETA,
  epsilon: POSITIVE,
  relativeEpsilon: number(0, 1e6),
  curvature: number(0, 1e6),
  weightDecay: SHARE,
  clip: number(0, 1e9),
  margin: POSITIVE,
  rate: number(0, 1e6),
  maxBits: number(0, 1),
  guardShare: number(0, 0.9),
  sigma: POSITIVE,
  priorStrength: number(0, 1e6),
  scale: pair(),
  temperature: pair(),
  regularisation: number(0, 1e6),
  keepDense: {
    type: 'array',
    items: {
      type: 'string',
      pattern: '^((first|last):[0-9]+|(model\\.layers\\.)?[0-9]+|model\\.layers\\.[0-9]+\\.[a-z_.]+)$',
      description: 'a layer or matrix such as last:1, 5, model.layers.5 or model.layers.5.mlp.down_proj',
    },
    description: 'an array of layers or matrices such as last:1, 5, model.layers.5 or model.layers.5.mlp.down_proj',
  },
  evaluateEvery: integer(0, 1e9),
  evaluateWindows: integer(1, 1e6),
  separator: { type: 'integer', minimum: 0, description: 'a token id' },
  bos: { type: 'boolean', description: 'true or false' },
};

const TUNING: Readonly<Record<keyof TunedTeacherSettings, SchemaObject>> = {
  rank: integer(1, 4096),
  steps: integer(1, 1e9),
  learningRate: POSITIVE,
};

const SOURCE: SchemaObject = {
  type: 'object',
  required: ['name', 'documents'],
  description: 'an object {"name", "documents"}',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 1000, description: 'a string' },
    documents: {
      type: 'array',
      items: { type: 'string', description: 'a string' },
      minItems: 1,
      description: 'an array of at least one string',
    },
  },
};

export const TRAIN_SCHEMA: SchemaObject = {
  type: 'object',
  required: ['task', 'sources'],
  properties: {
    task: { type: 'string', description: 'the name of the task to publish' },
    from: optional({ type: 'string', description: 'a task whose mask is the start and the parent' }),
    sources: {
      type: 'array',
      items: SOURCE,
      minItems: 1,
      maxItems: 1000,
      description: 'an array of at least one {"name", "documents"}, text to train on',
    },
    guards: optional({
      type: 'array',
      items: SOURCE,
      maxItems: 1000,
      description: 'an array of {"name", "documents"}, held-out text of other domains',
    }),
    settings: optional({
      type: 'object',
      properties: named(SETTINGS),
      description: 'an object of training settings',
    }),
    force: optional({ type: 'boolean', description: 'true or false' }),
    tuneTeacher: optional({
      type: 'object',
      properties: named(TUNING),
      description: 'an object with rank, steps and learningRate, all optional, of an adapter that is tuned first',
    }),
  },
};

const parseBody = bodyParser<TrainBody>(TRAIN_SCHEMA);

/** Throws ServerError invalid_request, invalid_task_name or reserved_task, each naming the field. */
export function orderOf(body: unknown, model: ModelLimits): TrainOrder {
  const { task, from, sources, guards, settings, force, tuneTeacher } = parseBody(body);
  checkOwnTaskName(task);
  refuseUnknown('settings', settings ?? {}, SETTINGS);
  refuseUnknown('tuneTeacher', tuneTeacher ?? {}, TUNING);
  const given: Partial<MaskTrainingSettings> = withoutNulls(settings ?? {});
  const order = {
    task,
    ...(from === undefined || from === null ? {} : { from }),
    sources: sources.map(summary),
    guards: (guards ?? []).map(summary),
    settings: withDefaults(given, typeof from === 'string'),
    force: force ?? false,
    ...(tuneTeacher ? { tuneTeacher: { ...TUNE_DEFAULTS, ...withoutNulls(tuneTeacher) } } : {}),
  };
  checkAgainstModel(order, model);
  if (tuneTeacher && order.settings.loss === 'lm') {
    throw invalid(
      'tuneTeacher',
      'expected the loss kl or mix beside tuneTeacher: the LM loss alone does not ask a teacher',
    );
  }
  return order;
}

/** An order that an earlier version wrote down has a value for constants that came later. One that it leaves out on purpose, the learning rate, stays out. */
export function withAllSettings(order: TrainOrder): TrainOrder {
  const { settings, from } = order;
  const defaults = maskTrainingDefaults(settings.method, from !== undefined);
  const { learningRate } = settings;
  return { ...order, settings: { ...defaults, ...settings, learningRate } };
}

/** The text of a body that `orderOf` has taken. */
export function textOf(body: unknown): { sources: readonly TrainSource[]; guards: readonly TrainSource[] } {
  const { sources, guards } = body as TrainBody;
  return { sources, guards: guards ?? [] };
}

/** A setting that nobody knows is a typing error, which would train something else than was meant. */
function refuseUnknown(where: string, given: Readonly<Record<string, unknown>>, known: object): void {
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(known, name));
  if (unknown === undefined) return;
  const names = Object.keys(known).join(', ');
  throw invalid(`${where}.${unknown}`, `expected one of ${names} in ${where} but received ${show(unknown)}`);
}

/** A travel that was asked for wins over a learning rate that was not. */
function withDefaults(given: Partial<MaskTrainingSettings>, transfer: boolean): MaskTrainingSettings {
  const { learningRate, ...defaults } = maskTrainingDefaults(given.method ?? DEFAULT_METHOD, transfer);
  const byRate = learningRate !== undefined && given.travel === undefined;
  return { ...defaults, ...(byRate ? { learningRate } : {}), ...given };
}

function checkAgainstModel({ from, settings }: TrainOrder, model: ModelLimits): void {
  const { seq, separator, prior, method } = settings;
  if (seq > model.contextLength) {
    throw invalid('settings.seq', `expected at most ${model.contextLength} (the model's context) but received ${seq}`);
  }
  if (separator !== undefined && separator >= model.vocabularySize) {
    throw invalid(
      'settings.separator',
      `expected a token id below ${model.vocabularySize} for settings.separator but received ${separator}`,
    );
  }
  if (from === undefined && prior === 'none' && method !== 'gumbel') {
    throw invalid(
      'settings.prior',
      'expected another prior than "none" for method "ste": its scores have no random start; set method to "gumbel", or name a task in from',
    );
  }
}

function summary({ name, documents }: TrainSource): SourceSummary {
  return { name, documents: documents.length, characters: documents.reduce((sum, text) => sum + text.length, 0) };
}

function withoutNulls(settings: Readonly<Record<string, unknown>>): Readonly<Record<string, never>> {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== null)) as Record<string, never>;
}

/** Each may be left out. */
function named(properties: Readonly<Record<string, SchemaObject>>): Record<string, SchemaObject> {
  return Object.fromEntries(Object.entries(properties).map(([name, schema]) => [name, optional(schema)]));
}

function invalid(param: string, message: string): ServerError {
  return new ServerError('invalid_request', message, { param });
}

function choice(...values: readonly string[]): SchemaObject {
  return { type: 'string', enum: values, description: `one of ${values.join(', ')}` };
}

function integer(minimum: number, maximum: number): SchemaObject {
  return { type: 'integer', minimum, maximum, description: `an integer from ${minimum} to ${maximum}` };
}

function number(minimum: number, maximum: number): SchemaObject {
  return { type: 'number', minimum, maximum, description: `a number from ${minimum} to ${maximum}` };
}

/** First and last value of a linear schedule. */
function pair(): SchemaObject {
  return {
    type: 'array',
    items: POSITIVE,
    minItems: 2,
    maxItems: 2,
    description: 'an array of two positive numbers, first and last',
  };
}

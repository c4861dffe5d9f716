/**
 * Request bodies against JSON Schema. One sentence per mistake, made from the schema's `description`, which is therefore written as what is expected:
 * "an integer from 0 to 20". /openapi.json shows the same schemas.
 */
import { Ajv, type ErrorObject, type SchemaObject, type ValidateFunction } from 'ajv';
import { ServerError } from '../errors.js';

const SHOWN_CHARACTERS = 100;

const ajv = new Ajv({ allowUnionTypes: true, verbose: true });

/**
 * The result returns the body typed, or throws ServerError invalid_request that names the field. The schema is compiled by its first body: compiling
 * all of them is a seventh of what a server's start costs.
 */
export function bodyParser<T>(schema: SchemaObject): (body: unknown) => T {
  let compiled: ValidateFunction<T> | undefined;
  return (body) => {
    const validate = (compiled ??= ajv.compile<T>(schema));
    if (validate(body)) return body;
    throw explain(validate.errors ?? [], body);
  };
}

/** A field that may be left out or null: Python clients send null for every argument they were not given. */
export function optional(schema: SchemaObject): SchemaObject {
  const { type } = schema as { type?: string | string[] };
  if (type === undefined) return { ...schema, anyOf: [...(schema['anyOf'] as SchemaObject[]), { type: 'null' }] };
  const types = Array.isArray(type) ? type : [type];
  return { ...schema, type: [...types, 'null'], ...('enum' in schema ? { enum: [...schema['enum'], null] } : {}) };
}

function explain(errors: readonly ErrorObject[], body: unknown): ServerError {
  const error = outermost(errors);
  if (error.keyword === 'required') {
    const name = String((error.params as { missingProperty: string }).missingProperty);
    const param = [paramOf(error.instancePath), name].filter(Boolean).join('.');
    const properties = (error.parentSchema?.['properties'] ?? {}) as Record<string, SchemaObject>;
    return refuse(param, properties[name]?.['description'], undefined);
  }
  if (error.instancePath === '') {
    return new ServerError('invalid_request', `expected a JSON object as the body but received ${show(body)}`);
  }
  return refuse(paramOf(error.instancePath), error.parentSchema?.['description'], error.data);
}

/** Of the alternatives of an anyOf, all of which failed, the anyOf itself is the one to tell of. */
function outermost(errors: readonly ErrorObject[]): ErrorObject {
  const [first, ...rest] = errors as [ErrorObject, ...ErrorObject[]];
  return rest.reduce((best, error) => (error.instancePath.length <= best.instancePath.length ? error : best), first);
}

function refuse(param: string, description: unknown, received: unknown): ServerError {
  const expected = typeof description === 'string' ? description : 'another value';
  return new ServerError('invalid_request', `expected ${expected} for ${param} but received ${show(received)}`, {
    param,
  });
}

/** JSON pointer → `messages[0].content`. */
function paramOf(instancePath: string): string {
  const parts = instancePath.split('/').slice(1);
  return parts
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce((path, part) => (/^\d+$/.test(part) ? `${path}[${part}]` : path ? `${path}.${part}` : part), '');
}

/** A value as JSON, shortened. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = jsonOf(value);
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text;
}

function jsonOf(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    // JSON.parse reads deeper nesting than JSON.stringify writes.
    return 'a value nested too deeply to show';
  }
}

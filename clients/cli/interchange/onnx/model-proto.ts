/** ONNX messages (onnx/onnx.proto, IR version 8): a graph → the bytes of a ModelProto. Field numbers are that file's. */
import { bytesField, type Encoded, floatField, integerField, message, packedField } from './protobuf.js';

/** What every runtime of the last years reads, and the operator set that goes with it. */
const IR_VERSION = 8;
export const OPSET = 17;

/** TensorProto.DataType */
export const DATA_TYPE = { float: 1, int64: 7 } as const;
/** AttributeProto.AttributeType */
const ATTRIBUTE_TYPE = { float: 1, int: 2, ints: 7 } as const;
/** TensorProto.DataLocation */
const EXTERNAL = 1;

export type DataType = keyof typeof DATA_TYPE;

export interface Attribute {
  readonly float?: number;
  readonly int?: number;
  readonly ints?: readonly number[];
}

export interface OnnxNode {
  readonly type: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

/** A graph input or output; a dimension is a number, or the name of one that varies. */
export interface OnnxValue {
  readonly name: string;
  readonly type: DataType;
  readonly shape: readonly (number | string)[];
}

export interface OnnxConstant {
  readonly name: string;
  readonly type: DataType;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** fp32 numbers in the file beside the model. */
export interface ExternalTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** In bytes. */
  readonly offset: number;
  readonly length: number;
}

export interface OnnxGraph {
  readonly name: string;
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly constants: readonly OnnxConstant[];
  readonly nodes: readonly OnnxNode[];
}

export interface ModelNotes {
  readonly producer: string;
  readonly version: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** `location`: name of the file that holds `external`, in the model's directory. */
export function modelProto(
  graph: OnnxGraph,
  external: readonly ExternalTensor[],
  location: string,
  { producer, version, metadata }: ModelNotes,
): Uint8Array {
  return message(
    integerField(1, IR_VERSION),
    bytesField(2, producer),
    bytesField(3, version),
    bytesField(7, graphProto(graph, external, location)),
    bytesField(8, message(bytesField(1, ''), integerField(2, OPSET))),
    ...Object.entries(metadata).map((entry) => bytesField(14, stringEntry(...entry))),
  );
}

function graphProto(graph: OnnxGraph, external: readonly ExternalTensor[], location: string): Encoded {
  return message(
    ...graph.nodes.map((node) => bytesField(1, nodeProto(node))),
    bytesField(2, graph.name),
    ...graph.constants.map((constant) => bytesField(5, constantProto(constant))),
    ...external.map((tensor) => bytesField(5, externalProto(tensor, location))),
    ...graph.inputs.map((value) => bytesField(11, valueInfoProto(value))),
    ...graph.outputs.map((value) => bytesField(12, valueInfoProto(value))),
  );
}

function nodeProto({ type, name, inputs, outputs, attributes }: OnnxNode): Encoded {
  return message(
    ...inputs.map((input) => bytesField(1, input)),
    ...outputs.map((output) => bytesField(2, output)),
    bytesField(3, name),
    bytesField(4, type),
    ...Object.entries(attributes).map(([key, value]) => bytesField(5, attributeProto(key, value))),
  );
}

function attributeProto(name: string, { float, int, ints }: Attribute): Encoded {
  const fields = [bytesField(1, name)];
  if (float !== undefined) fields.push(floatField(2, float), integerField(20, ATTRIBUTE_TYPE.float));
  if (int !== undefined) fields.push(integerField(3, int), integerField(20, ATTRIBUTE_TYPE.int));
  if (ints !== undefined) fields.push(packedField(8, ints), integerField(20, ATTRIBUTE_TYPE.ints));
  return message(...fields);
}

function constantProto({ name, type, shape, values }: OnnxConstant): Encoded {
  const numbers = type === 'float' ? Float32Array.from(values) : BigInt64Array.from(values, BigInt);
  return message(
    packedField(1, shape),
    integerField(2, DATA_TYPE[type]),
    bytesField(8, name),
    bytesField(9, new Uint8Array(numbers.buffer)), // raw_data is little-endian, as this machine must be
  );
}

function externalProto({ name, shape, offset, length }: ExternalTensor, location: string): Encoded {
  const places = { location, offset: String(offset), length: String(length) };
  return message(
    packedField(1, shape),
    integerField(2, DATA_TYPE.float),
    bytesField(8, name),
    ...Object.entries(places).map((entry) => bytesField(13, stringEntry(...entry))),
    integerField(14, EXTERNAL),
  );
}

function valueInfoProto({ name, type, shape }: OnnxValue): Encoded {
  const dimensions = shape.map((length) =>
    bytesField(1, typeof length === 'number' ? integerField(1, length) : bytesField(2, length)),
  );
  const tensor = message(integerField(1, DATA_TYPE[type]), bytesField(2, message(...dimensions)));
  return message(bytesField(1, name), bytesField(2, bytesField(1, tensor)));
}

function stringEntry(key: string, value: string): Encoded {
  return message(bytesField(1, key), bytesField(2, value));
}

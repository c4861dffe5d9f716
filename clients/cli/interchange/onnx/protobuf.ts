/** The protobuf wire format (protobuf.dev/programming-guides/encoding), as much of it as an ONNX model needs: varints, fixed32, length-delimited. */

/** An encoded field, or a message: its fields one after the other. */
export type Encoded = Uint8Array;

const VARINT = 0;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

/** int64, int32, enum; negative numbers take ten bytes. */
export function integerField(number: number, value: number | bigint): Encoded {
  return Buffer.concat([tag(number, VARINT), varint(value)]);
}

export function floatField(number: number, value: number): Encoded {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([tag(number, FIXED32), bytes]);
}

/** string, bytes, or an embedded message. */
export function bytesField(number: number, value: string | Uint8Array): Encoded {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  return Buffer.concat([tag(number, LENGTH_DELIMITED), varint(bytes.length), bytes]);
}

/** repeated int64 in its packed form. */
export function packedField(number: number, values: readonly number[]): Encoded {
  return bytesField(number, Buffer.concat(values.map(varint)));
}

export function message(...fields: readonly Encoded[]): Encoded {
  return Buffer.concat(fields);
}

function tag(number: number, wireType: number): Buffer {
  return varint((number << 3) | wireType);
}

/** Seven bits a byte, the lowest first; a negative number as its 64-bit two's complement. */
function varint(value: number | bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

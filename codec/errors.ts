/** Every way a container, or a mask set to be put into one, can be wrong: FORMAT.md §10. A test ties this table to that one. */
export const CODEC_ERRORS = {
  'bad-magic': 'does not start with the magic: it is no container',
  'unsupported-version': 'has another format version',
  'header-checksum': 'has a fixed header that differs from its checksum',
  'reserved-bits': 'sets a bit or byte that version 1 reserves',
  'unsupported-pattern': 'has an n:m that is none of 1:4, 2:4, 4:8',
  'length-limit': 'has a count or length outside the limits',
  'wrong-base': "was made for other weights than the reader's",
  truncated: 'ends before the length that its header gives',
  'trailing-bytes': 'goes on after that length',
  'table-checksum': 'has tables that differ from their checksum',
  'table-length': 'has entries that do not fill the tensor table exactly',
  'bad-name': 'names a tensor with an empty, overlong or unprintable name',
  'duplicate-tensor': 'names a tensor twice',
  'unknown-coder': 'uses a coder that the reader does not know',
  'coder-data': 'carries coder data that its coder does not take',
  'bad-shape': 'has rows or cols out of range, cols that m does not divide, or too many groups',
  'chunk-count': 'gives a tensor, or all of them, another number of chunks than the shapes need',
  'chunk-length': 'has a chunk too short or too long for its symbols',
  'payload-length': 'has chunks that do not add up to the payload',
  'chunk-checksum': 'has a chunk that differs from its checksum',
  'symbol-overrun': 'has a chunk that does not end with its last symbol',
  'content-mismatch': "decodes to a set with another content digest than its header's",
  'bad-symbol': 'has a symbol that is not less than P, too few or too many symbols, or a nibble that is no pattern',
  'bad-digest': 'has a digest that is not 64 lower-case hexadecimal digits',
} as const;

export type CodecErrorCode = keyof typeof CODEC_ERRORS;

/** A container or mask set that breaks a rule of FORMAT.md. The message says what was expected, what came, and what to do. */
export class CodecError extends Error {
  constructor(
    readonly code: CodecErrorCode,
    message: string,
  ) {
    super(message);
    this.name = 'CodecError';
  }
}

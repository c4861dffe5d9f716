/** Every way a container, or a mask set to be put into one, can be wrong: FORMAT.md §12. A test ties this table to that one. */
export const CODEC_ERRORS = {
  'bad-magic': 'does not start with the magic: it is no container',
  'unsupported-version': 'has another format version',
  'header-checksum': 'has a fixed header that differs from its checksum',
  'reserved-bits': 'sets a bit or byte that its version reserves',
  'unsupported-pattern': 'has an n:m that is none of 1:4, 2:4, 4:8',
  'length-limit': 'has a count or length outside the limits',
  'wrong-base': "was made for other weights than the reader's",
  truncated: 'ends before the length that its header gives',
  'trailing-bytes': 'goes on after that length',
  'table-checksum': 'has tables that differ from their checksum',
  'table-length': 'has lists that do not fill the tensor table exactly',
  'bad-varint': 'has a varint that is too long, or not as short as possible',
  'unknown-coder': 'uses a coder that the reader does not know',
  'bad-name': 'names a tensor with an empty, overlong or unprintable name, or shares too much',
  'duplicate-tensor': 'names a tensor twice',
  'coder-data': '(version 1) carries coder data that its coder does not take',
  'bad-shape': 'has rows, cols or groups out of range, cols that m does not divide, or another sum',
  'model-table': 'has frequency tables that are not as §5 says',
  'parent-missing': 'needs a parent that the reader does not have',
  'chain-too-deep': 'has too many ancestors',
  'parent-mismatch': 'does not fit the parent that the reader has',
  'patch-count': 'changes more groups than a tensor has',
  'chunk-count': 'has another number of chunks than its tensors need',
  'chunk-length': 'has a chunk too short or too long for its symbols',
  'index-length': 'has a chunk index that is not filled exactly',
  'payload-length': 'has chunks that do not add up to the payload',
  'weights-missing': 'needs weights that the reader does not have',
  'weights-mismatch': 'needs weights of another shape than the reader has',
  'chunk-checksum': 'has a chunk that differs from its checksum',
  'patch-position': 'changes a group beyond its tensor',
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

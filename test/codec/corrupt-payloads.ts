/** Corrupt files: chunks with right checksums that no encoder writes, or not for this set. */
import { encodeMaskSet } from '../../codec/encode.js';
import { AT, indexEntries, seal, setIndex, setModels, setPayload, takeApart } from './container-parts.js';
import { changed, DENSE, PATCH, resealed, SCALED, SET, TABLE, VALID, type CorruptFile } from './corrupt-origins.js';

/** Chunks with right checksums that no encoder writes, or not for this set. */
export function payloads(): CorruptFile[] {
  const overrun = (
    defect: string,
    from: Uint8Array,
    change: (payload: Uint8Array, chunk: number) => unknown,
  ): CorruptFile =>
    resealed('symbol-overrun', defect, (parts) => change(parts.payload, indexEntries(parts)[0]!.bytes), from);
  const longer = (defect: string, from: Uint8Array): CorruptFile =>
    resealed(
      'symbol-overrun',
      defect,
      (parts) => {
        const entries = indexEntries(parts);
        setIndex(
          parts,
          entries.map(({ bytes, checksum }, i) => ({ checksum, bytes: bytes + (i === entries.length - 1 ? 2 : 0) })),
        );
        setPayload(parts, Uint8Array.of(...parts.payload, 0, 0));
      },
      from,
    );
  return [
    overrun('no-end-mark', VALID, (payload, chunk) => (payload[chunk - 1] = 0)),
    overrun('all-zero-chunk', VALID, (payload, chunk) => payload.fill(0, 0, chunk)),
    overrun('state-below-the-least', DENSE, (payload) => payload.fill(0, 2, 4)),
    overrun('state-of-another-end', DENSE, (payload) => (payload[0]! ^= 1)),
    overrun('words-changed', DENSE, (payload, chunk) => (payload[chunk - 40]! ^= 255)),
    overrun('scales-changed', SCALED, (payload) => (payload[1]! ^= 255)),
    longer('word-after-the-end', DENSE),
    longer('word-after-the-end-of-a-patch', PATCH),
    ['patch-position', 'beyond-the-tensor', movedChanges()],
    ['content-mismatch', 'one-symbol-changed', oneSymbolChanged()],
    changed('content-mismatch', 'names-of-tensors-swapped', ({ table }) => {
      table[TABLE.name] = 'k'.charCodeAt(0);
      table[TABLE.second + 3] = 'q'.charCodeAt(0);
    }),
  ];
}

/** All gaps of a patch are 63 units and more: by a gap table that says so. */
function movedChanges(): Uint8Array {
  const parts = takeApart(PATCH);
  const gaps = [...Array.from({ length: 63 }, () => 0), 255];
  setModels(parts, Uint8Array.from([...gaps, 254, 5]));
  return seal(parts);
}

/** Another set under the content digest of this one. */
function oneSymbolChanged(): Uint8Array {
  const [first, second] = [SET.masks[0]!, SET.masks[1]!];
  const symbols = second.symbols.slice();
  symbols[50] = (symbols[50]! + 1) % 6;
  const changedSet = { ...SET, masks: [first, { ...second, symbols }] };
  const other = takeApart(encodeMaskSet(changedSet, { chunkLog2: 12, coder: 'uniform-ac' }));
  other.header.set(VALID.subarray(AT.content, AT.parent), AT.content);
  return seal(other);
}

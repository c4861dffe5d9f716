// The codec's op table of one instruction set: constant data, as table.cpp.

#include "codec_ops.h"

namespace maskserve {
namespace ISA {

extern const ms_codec_ops kCodecOps;
const ms_codec_ops kCodecOps = {
    DecodeMasks,  DecodeCompressed, EncodeMasks,  CountSymbols,    MagnitudeMask, DecodePatches, EncodePatches,
    ApplyChanges, FindChanges,      DecodeScales, DecodeUniformAc, Checksum,      PackSymbols,   UnpackSymbols,
};

}  // namespace ISA
}  // namespace maskserve

// The op table of one instruction set: constant data, so that loading the addon runs no code of it.

#include "ops.h"
#include "sampling.h"

namespace maskserve {
namespace ISA {

extern const ms_ops kOps;
const ms_ops kOps = {
    ReadThrough,
    ToBf16,
    ToF32,
    Embed,
    RmsNorm,
    Rope,
    KvWrite,
    Attention,
    AttendRows,
    SiluMul,
    AddInto,
    AddBias,
    Matmul,
    Matmul24,
    Matmul24Patched,
    MatmulFused,
    Matmul24Fused,
    MatmulMasked,
    Compress24,
    Select24,
    Nibbles24,
    Codes24,
    PatchBytes24,
    BuildPatch24,
    ChangesBytes24,
    BuildChanges24,
    Sample,
    Argmax,
    Logprobs,
    TopLogprobs,
    ScoreMask24,
    SumSquares,
    Gram,
    SparseGpt24,
    Linear,
    LinearBackwardInput,
    LinearBackwardWeight,
    RmsNormBackward,
    RopeBatch,
    AttentionForward,
    AttentionBackward,
    SiluMulBackward,
    LossBackward,
    GumbelMask,
    GumbelMaskBackward,
    ArgmaxPatterns,
    TopTwo,
    MulBf16,
    Select24F32,
    Keep24F32,
    SumOfSquares,
    ScaleBy,
    AdamWStep,
};

}  // namespace ISA
}  // namespace maskserve

// The families of exports: each adds its functions (documented in ../types.ts) to the addon.
#pragma once

#include <node_api.h>

namespace maskserve {

void ExportSetup(napi_env env, napi_value exports);
void ExportBuffers(napi_env env, napi_value exports);
void ExportForward(napi_env env, napi_value exports);
void ExportMatmul(napi_env env, napi_value exports);
void ExportSampling(napi_env env, napi_value exports);
void ExportPrune(napi_env env, napi_value exports);
void ExportCodec(napi_env env, napi_value exports);
void ExportCodecDecoders(napi_env env, napi_value exports);
void ExportBackward(napi_env env, napi_value exports);
void ExportLearning(napi_env env, napi_value exports);
void ExportRecording(napi_env env, napi_value exports);

}  // namespace maskserve

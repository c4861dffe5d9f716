// Registration only. Loaded once for each JavaScript thread.

#include <node_api.h>

#include "bindings.h"
#include "instance.h"

NAPI_MODULE_INIT() {
  if (!maskserve::CreateInstance(env)) return nullptr;
  maskserve::ExportSetup(env, exports);
  maskserve::ExportBuffers(env, exports);
  maskserve::ExportForward(env, exports);
  maskserve::ExportMatmul(env, exports);
  maskserve::ExportSampling(env, exports);
  maskserve::ExportPrune(env, exports);
  maskserve::ExportCodec(env, exports);
  maskserve::ExportCodecDecoders(env, exports);
  maskserve::ExportBackward(env, exports);
  maskserve::ExportLearning(env, exports);
  maskserve::ExportRecording(env, exports);
  return exports;
}

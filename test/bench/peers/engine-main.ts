/** `node engine-main.js '{"kind":…}'`: one engine in a process of its own, asked on standard input (protocol.ts). */
import { type Engine, type Layers, serveLayers, serveModel } from './engine.js';
import type { EngineSettings } from './protocol.js';

const settings = JSON.parse(process.argv[2] ?? '') as EngineSettings;
if (settings.model === undefined) await serveLayers(await openLayers(settings));
else await serveModel(await openModel(settings), settings);

/** Only what the chosen engine needs is loaded. */
async function openModel(of: EngineSettings): Promise<Engine> {
  if (of.kind === 'maskserve') return (await import('./engine-maskserve.js')).openMaskserve(of);
  if (of.kind === 'llama.cpp') return (await import('./engine-llama-cpp.js')).openLlamaCpp(of);
  if (of.kind === 'onnxruntime') return (await import('./engine-onnxruntime.js')).openOnnxRuntime(of);
  throw new Error(`expected an engine that runs in Node but received ${of.kind}`);
}

async function openLayers(of: EngineSettings): Promise<Layers> {
  if (of.kind === 'maskserve') return (await import('./layers-maskserve.js')).openLayers(of);
  if (of.kind === 'onnxruntime') return (await import('./layers-onnxruntime.js')).openLayers(of);
  throw new Error(`expected an engine that multiplies single layers in Node but received ${of.kind}`);
}

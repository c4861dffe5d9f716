/** A loader over a model in native buffers, of the host or of a GPU, and files to load: for a whole test file, which must leave nothing allocated. */
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { native, type BackendName } from '../../../kernels/index.js';
import { createLoader, type Loader } from '../../../server/store/loader.js';
import { nativeModel, type NativeModel } from './native-model.js';
import { digestOf } from './sample-masks.js';
import { temporaryFolder } from './temporary-store.js';

export interface LoaderFixture {
  folder: string;
  model: NativeModel;
  loader: Loader;
  fileOf(bytes: Uint8Array): Promise<string>;
}

/** Its properties are there once tests run, and this thread's ops are then on `backend`. */
export function loaderFixture(backend: BackendName = 'cpu'): LoaderFixture {
  const fixture = {
    fileOf: async (bytes: Uint8Array): Promise<string> => {
      const path = join(fixture.folder, digestOf(bytes));
      await writeFile(path, bytes);
      return path;
    },
  } as LoaderFixture;
  before(async () => {
    fixture.folder = await temporaryFolder();
    native.useBackend(backend);
    fixture.model = nativeModel();
    fixture.loader = createLoader(fixture.model);
  });
  after(async () => {
    await fixture.loader.close();
    fixture.model.dispose();
    await rm(fixture.folder, { recursive: true });
    assert.deepEqual(native.usage(), { buffers: 0, bytes: 0, mappedBytes: 0 });
  });
  return fixture;
}

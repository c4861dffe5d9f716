/**
 * Every target by the name that `--target` takes: a module that exports `makeTarget(): Promise<FuzzTarget>`, which is called in a
 * thread of its own.
 */
export const TARGETS: Readonly<Record<string, URL>> = {
  decoder: new URL('./decoder-target.js', import.meta.url),
  native: new URL('./native-target.js', import.meta.url),
  upload: new URL('./upload-target.js', import.meta.url),
};

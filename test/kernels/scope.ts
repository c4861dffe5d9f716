/** Native buffers that live as long as a test. */
import { native, type Handle } from '../../kernels/index.js';

export class Scope {
  readonly #handles: Handle[] = [];

  /** A buffer holding a copy of `array`, exactly as large. */
  put(array: ArrayBufferView): Handle {
    const handle = this.room(array.byteLength);
    native.write(handle, 0, array);
    return handle;
  }

  /** A zeroed buffer. */
  room(bytes: number): Handle {
    const handle = native.alloc(bytes);
    this.#handles.push(handle);
    return handle;
  }

  floats(handle: Handle, n: number): Float32Array {
    const out = new Float32Array(n);
    native.read(handle, 0, out);
    return out;
  }

  doubles(handle: Handle, n: number): Float64Array {
    const out = new Float64Array(n);
    native.read(handle, 0, out);
    return out;
  }

  words(handle: Handle, n: number): Uint16Array {
    const out = new Uint16Array(n);
    native.read(handle, 0, out);
    return out;
  }

  bytes(handle: Handle, n: number): Uint8Array {
    const out = new Uint8Array(n);
    native.read(handle, 0, out);
    return out;
  }

  close(): void {
    for (const handle of this.#handles.splice(0)) native.free(handle);
  }
}

/** Runs `body` with a scope that is closed whatever happens. */
export function scoped<T>(body: (scope: Scope) => T): T {
  const scope = new Scope();
  try {
    return body(scope);
  } finally {
    scope.close();
  }
}

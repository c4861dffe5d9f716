/** Masks on the server: published under the name of a task, versioned, downloaded as they were uploaded. */
import { badResponse, type Connection } from './connection.js';
import type {
  CallOptions,
  ChangeOptions,
  DownloadOptions,
  Mask,
  MaskBytes,
  MaskDownload,
  MaskVersions,
  PublishedMask,
  PublishOptions,
} from './types.js';

export class Masks {
  constructor(private readonly connection: Connection) {}

  /** Every mask that the key may see, shipped ones included. */
  async list(options: CallOptions = {}): Promise<readonly Mask[]> {
    const { data } = await this.connection.json<{ data: Mask[] }>({ method: 'GET', path: '/v1/masks', ...options });
    return data;
  }

  get(task: string, options: CallOptions = {}): Promise<Mask> {
    return this.connection.json<Mask>({ method: 'GET', path: pathOf(task), ...options });
  }

  /** Publishes a container under a task's name. When this resolves it is on stable storage. */
  put(task: string, body: MaskBytes, options: PublishOptions = {}): Promise<PublishedMask> {
    const { digest, ifAbsent, signal } = options;
    const headers: Record<string, string> = { 'Content-Type': 'application/octet-stream', ...ifMatch(options) };
    if (ifAbsent) headers['If-None-Match'] = '*';
    if (digest !== undefined) headers['Repr-Digest'] = `sha-256=:${base64OfHex(digest)}:`;
    return this.connection.json<PublishedMask>({ method: 'PUT', path: pathOf(task), body, headers, signal });
  }

  /** Opens a container's bytes; `task` may name a version, `french@sha256:…`. */
  async download(task: string, options: DownloadOptions = {}): Promise<MaskDownload> {
    const { from = 0, flatten = false, signal } = options;
    const response = await this.connection.send({
      method: 'GET',
      path: `${pathOf(task)}${flatten ? '?flatten=1' : ''}`,
      headers: { Accept: 'application/octet-stream', ...(from > 0 ? { Range: `bytes=${from}-` } : {}) },
      signal,
    });
    const version = response.headers.get('x-mask-digest');
    const digest = sha256Of(response.headers.get('repr-digest')) ?? (flatten ? undefined : version);
    if (!version || !digest || !response.body || (from > 0 && response.status !== 206)) {
      throw badResponse(response, 'expected the bytes of a mask');
    }
    return { digest, version, bytes: Number(response.headers.get('content-length')), stream: response.body };
  }

  versions(task: string, options: CallOptions = {}): Promise<MaskVersions> {
    return this.connection.json<MaskVersions>({ method: 'GET', path: `${pathOf(task)}/versions`, ...options });
  }

  /** Back to the version before the current one, or to the one named. */
  rollback(task: string, options: ChangeOptions & { readonly to?: string } = {}): Promise<Mask> {
    return this.connection.json<Mask>({
      method: 'POST',
      path: `${pathOf(task)}/rollback`,
      json: options.to === undefined ? {} : { to: options.to },
      headers: ifMatch(options),
      signal: options.signal,
    });
  }

  /** Removes a task and its versions; a shipped task of that name comes back. */
  async remove(task: string, options: ChangeOptions = {}): Promise<void> {
    await this.connection.send({
      method: 'DELETE',
      path: pathOf(task),
      headers: ifMatch(options),
      signal: options.signal,
    });
  }

  /** True if `digest` is what the task stands for now: asks without downloading. */
  async isCurrent(task: string, digest: string, options: CallOptions = {}): Promise<boolean> {
    const response = await this.connection.send({
      method: 'HEAD',
      path: pathOf(task),
      headers: { Accept: 'application/octet-stream', 'If-None-Match': `"${digest}"` },
      ...options,
    });
    return response.status === 304;
  }
}

function pathOf(task: string): string {
  return `/v1/masks/${encodeURIComponent(task)}`;
}

function ifMatch({ ifMatch: digest }: ChangeOptions): Record<string, string> {
  return digest === undefined ? {} : { 'If-Match': `"${digest}"` };
}

/** The hex of a Repr-Digest field's sha-256 (RFC 9530). */
function sha256Of(field: string | null): string | undefined {
  const base64 = /sha-256=:([A-Za-z0-9+/=]+):/.exec(field ?? '')?.[1];
  if (base64 === undefined) return undefined;
  return Array.from(atob(base64), (byte) => byte.charCodeAt(0).toString(16).padStart(2, '0')).join('');
}

function base64OfHex(hex: string): string {
  const bytes = hex.replace(/^sha256:/, '').match(/../g) ?? [];
  return btoa(String.fromCharCode(...bytes.map((byte) => Number.parseInt(byte, 16))));
}

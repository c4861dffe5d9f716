/**
 * What an upload goes through before it may become a blob: received into tmp/ and looked at as it comes, then checked whole in a worker, beside its
 * parent if it needs one, while its bytes go to stable storage.
 */
import type { Readable } from 'node:stream';
import type { Digest } from '../../codec/mask-set.js';
import { ServerError } from '../errors.js';
import { ArrivingContainer } from './arriving-container.js';
import { hashFile, type BlobFiles, type ReceivedBlob } from './blob-files.js';
import type { BlobHeader, MaskRules } from './check-container.js';
import type { ContainerChecker } from './container-checker.js';
import type { Descent } from './descent.js';
import { containerFile } from './open-containers.js';
import type { BlobInfo } from './types.js';

export interface Upload {
  readonly received: ReceivedBlob;
  readonly blob: BlobInfo;
}

export class Intake {
  constructor(
    private readonly rules: MaskRules,
    private readonly blobFiles: BlobFiles,
    private readonly checker: ContainerChecker,
    private readonly descent: Descent,
  ) {}

  /**
   * The caller drops the file. Throws, with nothing left: invalid_mask, wrong_base, parent_unknown, and what BlobFiles.receive throws; a refused
   * stream is left open.
   */
  async take(bytes: Readable, limits: { readonly maxBytes: number; readonly expect?: Digest }): Promise<Upload> {
    const arriving = new ArrivingContainer(this.rules, (content) => void this.descent.parentFor(content));
    const received = await this.blobFiles.receive(bytes, limits, (chunk) => arriving.take(chunk));
    try {
      const header = await this.checkedAndFinished(received);
      return { received, blob: { digest: received.digest, bytes: received.bytes, ...header } };
    } catch (error) {
      await received.file.drop();
      throw error;
    }
  }

  /** Both have ended when this does; what the check says comes first. */
  private async checkedAndFinished(received: ReceivedBlob): Promise<BlobHeader> {
    const [check, finish] = await Promise.allSettled([this.checked(received), received.file.finish()]);
    if (check.status === 'rejected') throw check.reason as Error;
    if (finish.status === 'rejected') throw finish.reason as Error;
    return check.value;
  }

  private async checked({ file }: ReceivedBlob): Promise<BlobHeader> {
    const { checker, descent } = this;
    const first = await checker.check(file.path, 'whole');
    if (!('needsParent' in first)) return first;
    const parent = descent.parentFor(first.needsParent);
    try {
      const again = await checker.check(file.path, 'whole', (await descent.trace(parent.digest)).map(containerFile));
      if (!('needsParent' in again)) return again;
    } catch (error) {
      // The parent may have been deleted under the check: then that is what to say.
      descent.parentFor(first.needsParent);
      throw error;
    }
    throw new Error(`expected the ancestors of ${file.path} to be all that it needs`);
  }
}

/** What the alias of a container would say, read from the container; undefined if it is damaged. */
export async function describeStored(
  digest: Digest,
  blobFiles: BlobFiles,
  checker: ContainerChecker,
): Promise<BlobInfo | undefined> {
  try {
    const path = blobFiles.pathOf(digest);
    const header = await checker.check(path, 'checksums');
    return 'needsParent' in header ? undefined : { digest, bytes: (await hashFile(path)).bytes, ...header };
  } catch (error) {
    if (error instanceof ServerError) return undefined;
    throw error;
  }
}

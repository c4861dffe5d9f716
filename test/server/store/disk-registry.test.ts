import { registryContract } from './registry-contract.js';
import { openTemporaryStore } from './temporary-store.js';

registryContract('disk', openTemporaryStore);

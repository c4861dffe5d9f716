/** /healthz: the process answers. /readyz: it takes requests. /metrics: Prometheus. */
import { Router } from 'express';
import { ServerError } from '../errors.js';
import { methodNotAllowed } from './error-handler.js';
import { authenticate, principalOf } from './keys.js';
import type { Parts } from './parts.js';

/** For every caller, also while the server drains. */
export function healthRouter({ lifecycle, engine }: Parts): Router {
  const router = Router();
  router
    .route('/healthz')
    .get((_req, res) => void res.json({ status: 'ok' }))
    .all(methodNotAllowed('GET, HEAD'));
  router
    .route('/readyz')
    .get((_req, res) => {
      const { running, waiting } = engine.stats();
      const status = lifecycle.draining ? 'draining' : 'ready';
      res.status(lifecycle.draining ? 503 : 200).json({ status, model: engine.model.name, running, waiting });
    })
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

/** With keys, /metrics needs one with the scope metrics: its labels are the names of tasks. */
export function metricsRouter({ keys, metrics }: Parts): Router {
  const router = Router();
  router
    .route('/metrics')
    .get(authenticate(keys), async (_req, res) => {
      if (!principalOf(res).metrics) {
        throw new ServerError('permission_denied', 'this key may not read metrics; it needs the scope metrics');
      }
      const { text, contentType } = await metrics.render();
      res.set('Content-Type', contentType).send(text);
    })
    .all(methodNotAllowed('GET, HEAD'));
  return router;
}

/** Prometheus metrics. A task is a label until there are TASK_LABELS of them; later ones share `other`, so that names from outside can't grow the series. */
import { Counter, Gauge, Histogram, Registry as Series, collectDefaultMetrics } from 'prom-client';
import { DENSE_TASK } from '../store/task-name.js';
import type { Engine } from '../engine/types.js';
import type { TrainingJobs } from '../jobs/types.js';
import type { Registry, Residency } from '../store/types.js';

const PREFIX = 'maskserve_';
export const TASK_LABELS = 100;
const OTHER = 'other';
const TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
/** Further than between tokens: the first one waits for the queue, the load and the prefill. */
const FIRST_TOKEN_SECONDS = [...TOKEN_SECONDS, 5, 10, 30, 60];
/** From a patch of a small model to a compacted copy of a large one. */
const STAGE_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

/** Live native buffers (kernels/types.ts `usage`). */
export interface NativeUsage {
  readonly buffers: number;
  readonly bytes: number;
  readonly mappedBytes: number;
}

export interface MetricsSources {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly residency: Residency;
  readonly nativeUsage?: (() => NativeUsage) | undefined;
  readonly training?: Pick<TrainingJobs, 'stats'> | undefined;
}

/** What the request path reports; everything else is read from its source when /metrics is asked for. */
export class Metrics {
  private readonly series = new Series();
  private readonly labels = new TaskLabels();
  private readonly tokens = this.counter('tokens_total', 'Tokens read and written', ['task', 'kind']);
  private readonly ttft = this.histogram(
    'time_to_first_token_seconds',
    'From request to first token',
    FIRST_TOKEN_SECONDS,
    ['task'],
  );
  private readonly gap = this.histogram('inter_token_seconds', 'Between two pieces of text', TOKEN_SECONDS, ['task']);
  private readonly queued = this.histogram('queue_seconds', 'Sequences: from arrival to start', REQUEST_SECONDS, []);
  private readonly load = this.histogram('task_load_seconds', 'Container to resident task', REQUEST_SECONDS, ['task']);
  private readonly requests = this.counter('http_requests_total', 'Requests answered', ['route', 'method', 'status']);
  private readonly duration = this.histogram('http_request_duration_seconds', 'Whole requests', REQUEST_SECONDS, [
    'route',
  ]);

  constructor(sources: MetricsSources) {
    collectDefaultMetrics({ register: this.series, prefix: PREFIX });
    this.observeEngine(sources.engine);
    this.observeResidency(sources.residency);
    this.observeTiers(sources.residency);
    this.observeTasks(sources.registry, sources.residency);
    if (sources.nativeUsage) this.observeNative(sources.nativeUsage);
    if (sources.training) this.observeTraining(sources.training);
  }

  promptTokens(task: string, count: number): void {
    this.tokens.inc({ task: this.labels.of(task), kind: 'prompt' }, count);
  }

  completionTokens(task: string, count: number): void {
    this.tokens.inc({ task: this.labels.of(task), kind: 'completion' }, count);
  }

  firstToken(task: string, seconds: number): void {
    this.ttft.observe({ task: this.labels.of(task) }, seconds);
  }

  nextToken(task: string, seconds: number): void {
    this.gap.observe({ task: this.labels.of(task) }, seconds);
  }

  queueTime(seconds: number): void {
    this.queued.observe(seconds);
  }

  taskLoaded(task: string, seconds: number): void {
    this.load.observe({ task: this.labels.of(task) }, seconds);
  }

  /** `status` 499: the client went away first. */
  request(route: string, method: string, status: number, seconds: number): void {
    this.requests.inc({ route, method, status: String(status) });
    this.duration.observe({ route }, seconds);
  }

  /** The text exposition format, and its media type. */
  async render(): Promise<{ text: string; contentType: string }> {
    return { text: await this.series.metrics(), contentType: this.series.contentType };
  }

  private observeEngine(engine: Engine): void {
    this.gauge('sequences_running', 'Sequences that take turns', (set) => set({}, engine.stats().running));
    this.gauge('sequences_waiting', 'Sequences in the queue', (set) => set({}, engine.stats().waiting));
    this.gauge('kv_bytes', 'Key-value caches of running sequences', (set) => set({}, engine.stats().kvBytes));
    this.gauge('kv_budget_bytes', 'What --kv-bytes allows', (set) => set({}, engine.stats().kvBudgetBytes));
  }

  private observeResidency(residency: Residency): void {
    const stats = (): ReturnType<Residency['stats']> => residency.stats();
    this.gauge('residency_bytes', 'Resident tasks in the cache', (set) => set({}, stats().residentBytes));
    this.gauge('residency_budget_bytes', 'What --cache-bytes allows', (set) => set({}, stats().budgetBytes));
    this.gauge('residency_leased_outside_bytes', 'Evicted tasks that are still in use', (set) =>
      set({}, stats().leasedOutsideBytes),
    );
    this.mirror('residency_hits_total', 'Requests that found their task resident', () => stats().hits);
    this.mirror('residency_misses_total', 'Requests that had to load their task', () => stats().misses);
    this.mirror('residency_evictions_total', 'Tasks dropped from the cache', () => stats().evictions);
  }

  /** By where a request found its task, and by where a load brought it. */
  private observeTiers(residency: Residency): void {
    const found = (): [string, number][] => Object.entries(residency.stats().found);
    this.mirrorEach('residency_found_total', 'Requests by the tier that their task was in', 'tier', found);
    this.gauge('residency_warm_bytes', 'Decoded masks of evicted tasks', (set) => set({}, residency.stats().warmBytes));
    this.gauge('residency_warm_budget_bytes', 'What --warm-bytes allows', (set) =>
      set({}, residency.stats().warmBudgetBytes),
    );
    const labels: ('from' | 'to')[] = ['from', 'to'];
    const loads = this.counter('residency_loads_total', 'Tasks brought into memory', labels);
    const decode = this.histogram('task_decode_seconds', 'Container to nibbles or changes', STAGE_SECONDS, labels);
    const compact = this.histogram(
      'task_compact_seconds',
      'Nibbles or changes to what kernels run',
      STAGE_SECONDS,
      labels,
    );
    residency.onLoad(({ from, to, decodeMs, compactMs }) => {
      loads.inc({ from, to });
      if (from === 'cold') decode.observe({ from, to }, decodeMs / 1000);
      compact.observe({ from, to }, compactMs / 1000);
    });
  }

  private observeTasks(registry: Registry, residency: Residency): void {
    this.gauge(
      'task_tier',
      'Where a task is: 1 at its tier (cold, warm, loading, patched, resident)',
      async (set) => {
        const { tasks } = residency.stats();
        const records = await registry.list();
        for (const { task, digest } of records.slice(0, TASK_LABELS)) {
          set({ task: this.labels.of(task), tier: tasks.get(digest)?.tier ?? 'cold' }, 1);
        }
      },
      ['task', 'tier'],
    );
    this.gauge('quarantined_masks', 'Stored masks that failed their checks', (set) =>
      set({}, registry.quarantined().size),
    );
  }

  private observeNative(usage: () => NativeUsage): void {
    this.gauge('native_buffers', 'Live native buffers', (set) => set({}, usage().buffers));
    this.gauge('native_bytes', 'Bytes owned by native buffers', (set) => set({}, usage().bytes));
    this.gauge('native_mapped_bytes', 'Bytes of mapped weight files', (set) => set({}, usage().mappedBytes));
  }

  private observeTraining(training: Pick<TrainingJobs, 'stats'>): void {
    this.gauge(
      'train_jobs',
      'Training jobs, those that are over included while they are remembered',
      (set) => {
        for (const [state, count] of Object.entries(training.stats().jobs)) set({ state }, count);
      },
      ['state'],
    );
    this.mirror('train_tokens_total', 'Tokens trained on', () => training.stats().tokens);
  }

  private counter<T extends string>(name: string, help: string, labelNames: T[]): Counter<T> {
    return new Counter({ name: PREFIX + name, help, labelNames, registers: [this.series] });
  }

  private histogram<T extends string>(name: string, help: string, buckets: number[], labelNames: T[]): Histogram<T> {
    return new Histogram({ name: PREFIX + name, help, buckets, labelNames, registers: [this.series] });
  }

  private gauge(
    name: string,
    help: string,
    read: (set: (labels: Record<string, string>, value: number) => void) => void | Promise<void>,
    labelNames: string[] = [],
  ): void {
    new Gauge({
      name: PREFIX + name,
      help,
      labelNames,
      registers: [this.series],
      async collect() {
        this.reset();
        await read((labels, value) => this.set(labels, value));
      },
    });
  }

  /** Counters that somebody else counts, one a label. */
  private mirrorEach(name: string, help: string, label: string, read: () => readonly [string, number][]): void {
    new Counter({
      name: PREFIX + name,
      help,
      labelNames: [label],
      registers: [this.series],
      collect() {
        this.reset();
        for (const [value, count] of read()) this.inc({ [label]: value }, count);
      },
    });
  }

  /** A counter that somebody else counts. */
  private mirror(name: string, help: string, read: () => number): void {
    new Counter({
      name: PREFIX + name,
      help,
      registers: [this.series],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  }
}

/** First come, first labelled; `dense` always. */
class TaskLabels {
  private readonly known = new Set<string>([DENSE_TASK]);

  of(task: string): string {
    if (this.known.has(task)) return task;
    if (this.known.size >= TASK_LABELS) return OTHER;
    this.known.add(task);
    return task;
  }
}

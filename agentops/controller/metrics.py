"""The metrics of controller-runtime and client-go, under their names, per registry.

Importing registers nothing. Children are resolved once per controller: looking labels up costs four
times what counting does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentops.controller.cache import Cache
from agentops.controller.workqueue import WorkQueue
from agentops.telemetry.metrics import Registry
from agentops.values.kinds import Kind

RECONCILE_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5),
    *(1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
)
QUEUE_BUCKETS = tuple(1e-8 * 10**power for power in range(12))
RESULTS = ("success", "error", "requeue", "requeue_after")


class ControllerMetrics:
    """One controller's `controller_runtime_*`."""

    def __init__(self, registry: Registry, name: str) -> None:
        def counter(suffix: str, doc: str) -> Callable[[], None]:
            metric = registry.counter(f"controller_runtime_{suffix}", doc, ("controller",)).labels(name)
            return lambda: metric.inc()

        total = registry.counter(
            "controller_runtime_reconcile_total", "Reconciles per controller and result.", ("controller", "result")
        )
        self._results = {result: total.labels(name, result) for result in RESULTS}
        self.error = counter("reconcile_errors_total", "Reconciles that failed.")
        self.terminal = counter("terminal_reconcile_errors_total", "Reconciles that failed and are not retried.")
        self.panic = counter("reconcile_panics_total", "Reconciles that raised what no reconcile should.")
        self.timeout = counter("reconcile_timeouts_total", "Reconciles ended by the reconcile timeout.")
        self._time = registry.histogram(
            "controller_runtime_reconcile_time_seconds",
            "Length of a reconcile.",
            ("controller",),
            buckets=RECONCILE_BUCKETS,
        ).labels(name)
        self.max_concurrent = registry.gauge(
            "controller_runtime_max_concurrent_reconciles", "Workers of the controller.", ("controller",)
        ).labels(name)
        self.active = registry.gauge(
            "controller_runtime_active_workers", "Workers that reconcile now.", ("controller",)
        ).labels(name)
        self._stale = registry.counter(
            "stale_sync_skips_total", "Reconciles put off because the cache lagged behind own writes.", ("controller",)
        ).labels(name)

    def finished(self, result: str, seconds: float) -> None:
        self._results[result].inc()
        self._time.observe(seconds)

    def stale(self) -> None:
        self._stale.inc()


class QueueMetrics:
    """One queue's `workqueue_*`; implements `workqueue.QueueObserver`."""

    MAX_PRIORITIES = 25

    def __init__(self, registry: Registry, name: str) -> None:
        labels = ("name", "controller")
        self._name = name
        self._depth = registry.gauge("workqueue_depth", "Items that are ready.", (*labels, "priority"))
        self._depths = {"": self._depth.labels(name, name, "")}
        self._beyond: dict[str, int] = {}  # depths of priorities that have no series of their own
        self._adds = registry.counter("workqueue_adds_total", "Items added.", labels).labels(name, name)
        self._retries = registry.counter("workqueue_retries_total", "Items added with a delay.", labels).labels(
            name, name
        )
        self._waits = registry.histogram(
            "workqueue_queue_duration_seconds", "Time from added to taken.", labels, buckets=QUEUE_BUCKETS
        ).labels(name, name)
        self._works = registry.histogram(
            "workqueue_work_duration_seconds", "Time from taken to done.", labels, buckets=QUEUE_BUCKETS
        ).labels(name, name)
        self._unfinished = registry.gauge(
            "workqueue_unfinished_work_seconds", "Seconds of work in progress.", labels
        ).labels(name, name)
        self._longest = registry.gauge(
            "workqueue_longest_running_processor_seconds", "Age of the oldest work in progress.", labels
        ).labels(name, name)

    def watch(self, queue: WorkQueue[object]) -> None:
        """Let the two age gauges be computed when scraped."""
        self._unfinished.set_function(queue.unfinished_s)
        self._longest.set_function(queue.longest_running_s)

    def added(self) -> None:
        self._adds.inc()

    def depth(self, ready: int, priority: str = "") -> None:
        gauge = self._depths.get(priority)
        if gauge is None:
            if len(self._depths) > self.MAX_PRIORITIES:
                self._beyond[priority] = ready
                if not ready:
                    del self._beyond[priority]
                self._rest().set(sum(self._beyond.values()))
                return
            gauge = self._depths[priority] = self._depth.labels(self._name, self._name, priority)
        gauge.set(ready)

    def _rest(self) -> Gauge:
        return self._depth.labels(self._name, self._name, "exceeded_cardinality_limit")

    def taken(self, waited_s: float) -> None:
        self._waits.observe(waited_s)

    def finished(self, worked_s: float) -> None:
        self._works.observe(worked_s)

    def retried(self) -> None:
        self._retries.inc()


def rest_observer(registry: Registry, host: str) -> Callable[[str, str], None]:
    """Counts `rest_client_requests_total`; for `ApiClient(observe=…)`."""
    total = registry.counter("rest_client_requests_total", "Answers of the API server.", ("code", "method", "host"))
    children: dict[tuple[str, str], Callable[[], None]] = {}

    def observe(method: str, code: str) -> None:
        count = children.get((method, code))
        if count is None:
            count = children[method, code] = total.labels(code, method, host).inc
        count()

    return observe


def stale_observer(registry: Registry) -> Callable[[Kind], None]:
    """Counts cached reads that gave up waiting for an own write; for `Cache(on_stale=…)`."""
    total = registry.counter(
        "informer_stale_reads_total",
        "Reads that waited for an own write in vain.",
        ("group", "version", "resource"),
    )
    return lambda kind: total.labels(kind.group, kind.version, kind.plural).inc()


class RestMetrics:
    """Durations and sizes of requests and the repeated ones; for `ApiClient(measure=…)`. Costs, so it is opt-in."""

    def __init__(self, registry: Registry, host: str) -> None:
        self._host = host
        labels = ("verb", "host")
        seconds = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
        sizes = (64, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216)
        self._seconds = registry.histogram(
            "rest_client_request_duration_seconds", "From sent to answered.", labels, buckets=seconds
        )
        self._sent = registry.histogram("rest_client_request_size_bytes", "Bodies sent.", labels, buckets=sizes)
        self._received = registry.histogram(
            "rest_client_response_size_bytes", "Bodies received.", labels, buckets=sizes
        )
        self._limited = registry.histogram(
            "rest_client_rate_limiter_duration_seconds", "Waiting for the client's own limit.", labels, buckets=seconds
        )
        self._retries = registry.counter(
            "rest_client_request_retries_total", "Requests that were repeated.", ("code", "verb", "host")
        )
        self._dns = registry.histogram(
            "rest_client_dns_resolution_duration_seconds", "Looking up names, found or not.", ("host",), buckets=seconds
        )

    def __call__(self, verb: str, code: str, seconds: float, sent: int, received: int, attempt: int) -> None:
        self._seconds.labels(verb, self._host).observe(seconds)
        self._sent.labels(verb, self._host).observe(sent)
        self._received.labels(verb, self._host).observe(received)
        if attempt > 1:
            self._retries.labels(code, verb, self._host).inc()

    def resolved(self, host: str, seconds: float) -> None:
        """A name was looked up."""
        self._dns.labels(host).observe(seconds)

    def limited(self, verb: str, seconds: float) -> None:
        """A request waited this long before it was sent."""
        self._limited.labels(verb, self._host).observe(seconds)


class InformerMetrics:
    """One kind's relists and restarts; implements `reflector.Observer`."""

    def __init__(self, registry: Registry, kind: Kind) -> None:
        labels = ("group", "version", "resource", "reason")
        self._kind = (kind.group, kind.version, kind.plural)
        self._relists = registry.counter("informer_relists_total", "Lists per reason.", labels)
        self._restarts = registry.counter("informer_watch_restarts_total", "Watches opened again per reason.", labels)

        self._failures = registry.counter(
            "informer_callback_failures_total",
            "Handlers, transforms, indices, predicates and maps that raised.",
            ("group", "version", "resource", "callback"),
        )

    def failed(self, callback: str) -> None:
        self._failures.labels(*self._kind, callback).inc()

    def relisted(self, reason: str) -> None:
        self._relists.labels(*self._kind, reason).inc()

    def restarted(self, reason: str) -> None:
        self._restarts.labels(*self._kind, reason).inc()


class CacheCollector(Collector):
    """What the cache holds, computed when scraped."""

    def __init__(self, *caches: Cache) -> None:
        self._caches = list(caches)

    def add(self, cache: Cache) -> None:
        """One more cluster; objects of equal kinds are summed."""
        self._caches.append(cache)

    def collect(self) -> Iterable[Metric]:
        labels = ("group", "version", "resource")
        objects = GaugeMetricFamily("informer_objects", "Objects in the cache.", labels=labels)
        version = GaugeMetricFamily(
            "informer_store_resource_version", "The version the cache has reached.", labels=labels
        )
        age = GaugeMetricFamily(
            "informer_last_event_age_seconds", "Seconds since the server was last heard.", labels=labels
        )
        unfresh = GaugeMetricFamily(
            "informer_unfresh_seconds",
            "Seconds since the cache stopped being kept current, 0 when it is.",
            labels=labels,
        )
        informers = [informer for cache in self._caches for informer in cache.informers]
        for kind in dict.fromkeys(informer.kind for informer in informers):
            parts = [part for i in informers if i.kind == kind for part in i.parts]
            values = (kind.group, kind.version, kind.plural)
            objects.add_metric(values, sum(len(part.store) for part in parts))
            version.add_metric(values, max(part.seen_version for part in parts))
            unfresh.add_metric(values, max(part.stale_s() for part in parts))
            contacts = [contact for part in parts if (contact := part.last_contact_s()) is not None]
            if contacts:
                age.add_metric(values, max(contacts))
        return (objects, version, age, unfresh)

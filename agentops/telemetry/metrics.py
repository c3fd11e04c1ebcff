"""Prometheus metrics on a registry that belongs to whoever made it.

Importing the package registers nothing, so two managers or two test runs in one process never
collide. Asking twice for the same name gives the same metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

_M = TypeVar("_M", bound=MetricWrapperBase)

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every counter that no dashboard reads; Go's client has none


class Registry:
    """One process's, or one test's, metrics."""

    def __init__(self) -> None:
        self.collectors = CollectorRegistry()
        self._metrics: dict[str, MetricWrapperBase] = {}

    def counter(self, name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
        """`name` ends in `_total`, as it is exposed."""
        return self._get(Counter, name, lambda: Counter(name, doc, labels, registry=self.collectors))

    def gauge(self, name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
        return self._get(Gauge, name, lambda: Gauge(name, doc, labels, registry=self.collectors))

    def histogram(
        self, name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS
    ) -> Histogram:
        return self._get(
            Histogram, name, lambda: Histogram(name, doc, labels, buckets=buckets, registry=self.collectors)
        )

    def collect_from(self, collector: Collector) -> None:
        """Add a collector that computes its samples when scraped."""
        self.collectors.register(collector)

    def value(self, name: str, /, **labels: str) -> float | None:
        """A sample's current value, as a scrape would see it; None when there is none."""
        return self.collectors.get_sample_value(name, labels)

    def _get(self, cls: type[_M], name: str, make) -> _M:  # type: ignore[no-untyped-def]
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = make()
        if not isinstance(metric, cls):
            raise TypeError(f"metric {name} is a {type(metric).__name__}, not a {cls.__name__}")
        return metric


def render(registry: Registry) -> tuple[bytes, str]:
    """The body and content type of a `/metrics` answer."""
    return generate_latest(registry.collectors), CONTENT_TYPE_LATEST

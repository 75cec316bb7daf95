"""What /metrics shows, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Measures:
    """Counters of one service.

    Args:
        items: -> items of the index.
        underway: -> searches that have no answer yet.
    """

    def __init__(self, *, items: Callable[[], int], underway: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter("saat_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram("saat_request_seconds", "Seconds a request.", ("route",), registry=self._registry)
        sizes = (1, 2, 4, 8, 16, 32)
        self._batches = Histogram("saat_batch_size", "Queries a batch.", buckets=sizes, registry=self._registry)
        Gauge("saat_items", "Items of the index.", registry=self._registry).set_function(items)
        Gauge("saat_searches_underway", "Searches without an answer yet.", registry=self._registry).set_function(
            underway
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; `route` is a template such as /items/{item_id}, so that there are few of them."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD") else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return everything as text."""
        return generate_latest(self._registry)

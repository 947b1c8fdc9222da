"""What a server counts, for Prometheus: of this process, where several workers serve."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = tuple(2**k for k in range(4, 18))


class Metrics:
    """in_flight: gives the number of requests that wait or are computed."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "pyattn_requests", "Requests by path and status", ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "pyattn_request_seconds", "From headers to answer", ("path",), buckets=_SECONDS, registry=registry
        )
        self._batch_seconds = Histogram(
            "pyattn_batch_seconds", "Computing a batch", buckets=_SECONDS, registry=registry
        )
        self._batch_texts = Histogram(
            "pyattn_batch_texts", "Texts or pairs of a batch", buckets=_TEXTS, registry=registry
        )
        self._batch_tokens = Histogram(
            "pyattn_batch_tokens", "Tokens of a batch; of pairs, an estimate", buckets=_TOKENS, registry=registry
        )
        waiting = Gauge("pyattn_requests_in_flight", "Requests that wait or are computed", registry=registry)
        waiting.set_function(in_flight)
        ProcessCollector(registry=registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        self._batch_seconds.observe(seconds)
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)

    def text(self) -> bytes:
        text: bytes = generate_latest(self._registry)
        return text

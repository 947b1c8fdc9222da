"""Embeddings and rerankers over HTTP: an ASGI application, which `pyattn serve` runs under uvicorn.

Its answers have the bits of `SentenceEncoder.encode` and `Reranker.predict`, whoever shares a batch.
"""

from pyattn._extras import import_extra

for _package in ("starlette", "orjson", "prometheus_client"):
    import_extra(_package, "pyattn.server", group="serve")

from pyattn.server.application import application  # noqa: E402

__all__ = ["application"]

"""The application: its models, its settings, and what stands at which path."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pyattn.models.pretrained import WeightDtypes
from pyattn.server.errors import RequestError
from pyattn.server.service import Service
from pyattn.server.settings import Settings
from pyattn.tasks.reranker import Reranker
from pyattn.tasks.sentence import SentenceEncoder


def application(
    encoder: SentenceEncoder | str | os.PathLike[str] | None = None,
    reranker: Reranker | str | os.PathLike[str] | None = None,
    *,
    dtype: WeightDtypes = "float32",
    **settings: Any,
) -> Starlette:
    """An ASGI application that answers with vectors of texts and scores of documents.

    It computes in one thread of its own, which begins when the server starts it: made before a fork, as
    `gunicorn --preload` does, its weights are shared by all workers. docs/server.md describes requests and answers.

    Args:
        encoder: a `SentenceEncoder`, or what its from_pretrained takes; None: no embeddings.
        reranker: a `Reranker` that gives one score for a pair, or what its from_pretrained takes; None: no /rerank.
        dtype: of the weights of models that are read here, as in from_pretrained.
        max_batch_tokens: requests are computed together up to so many tokens (16384).
        max_concurrent_requests: so many may wait or be computed; others are answered by 429 (512).
        max_client_batch_size: so many texts or documents may stand in a request; more are answered by 413 (32).
        payload_limit: so many bytes a body may have; more are answered by 413 before they are parsed (2,000,000).
        auto_truncate: whether texts beyond the model's length are cut unless a request says truncate: false (True).
        default_prompt_name: of the prompt for requests that name none; None: the encoder's own.
        api_key: requests must send it as Authorization: Bearer; /health and /metrics are open. None: no key.
        served_model_name: what answers call the model; None: the directory's name.
        max_wait_ms: a thread without work waits so long at most for requests that come together (2).
        body_timeout: seconds in which a body must arrive (30).

    Raises:
        TypeError, ValueError: neither encoder nor reranker is given, or one is none, or a setting is wrong; the
            reranker gives several scores for a pair; there is no prompt of that name.
        OSError, ImportError: as from_pretrained.

    Example:
        >>> import pyattn
        >>> from pyattn.server import application
        >>> application()
        Traceback (most recent call last):
        ValueError: application: give an encoder, a reranker or both; there is neither
    """
    checked = _checked_settings(settings)
    if encoder is None and reranker is None:
        raise ValueError("application: give an encoder, a reranker or both; there is neither")
    names = tuple(checked.served_model_name or _name(x) for x in (encoder, reranker))
    if isinstance(encoder, str | os.PathLike):
        encoder = SentenceEncoder.from_pretrained(encoder, dtype=dtype)
    if isinstance(reranker, str | os.PathLike):
        reranker = Reranker.from_pretrained(reranker, dtype=dtype)
    if not isinstance(encoder, SentenceEncoder | None):
        raise TypeError(f"application: encoder must be a SentenceEncoder or a path, not {type(encoder).__name__}")
    if not isinstance(reranker, Reranker | None):
        raise TypeError(f"application: reranker must be a Reranker or a path, not {type(reranker).__name__}")
    if reranker is not None and len(reranker.labels) != 1:
        raise ValueError(f"application: the reranker gives {len(reranker.labels)} scores for a pair; one is needed")
    prompt = checked.default_prompt_name
    if prompt is not None and (encoder is None or prompt not in encoder.prompts):
        known = ", ".join(map(repr, encoder.prompts if encoder is not None else ())) or "none"
        raise ValueError(f"application: there is no prompt {prompt!r} for default_prompt_name; the names are {known}")
    service = Service(encoder, reranker, (names[0], names[1]), checked)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.batcher.stop()

    return Starlette(routes=_routes(service), lifespan=lifespan, exception_handlers={HTTPException: _refused})


def _checked_settings(settings: dict[str, Any]) -> Settings:
    names = Settings.__dataclass_fields__
    unknown = next((name for name in settings if name not in names), None)
    if unknown is not None:
        raise TypeError(f"application: there is no setting {unknown!r}; the names are {', '.join(names)}")
    return Settings(**settings)


def _name(model: Any) -> str:
    """What a model is called: the id on the hub, or the last part of its path."""
    if not isinstance(model, str | os.PathLike):
        return "pyattn"
    path = Path(model)
    return path.resolve().name if path.exists() else os.fspath(model)


def _routes(service: Service) -> list[Route]:
    posts = {
        service.embeddings: ("/v1/embeddings", "/embeddings"),
        service.rerank: ("/rerank", "/v1/rerank", "/v2/rerank"),
    }
    routes = [
        Route(path, service.counted(paths[0], answer, is_bounded=True), methods=["POST"])
        for answer, paths in posts.items()
        for path in paths
    ]
    gets = {"/info": service.info, "/v1/models": service.models}
    routes += [Route(path, service.counted(path, answer), methods=["GET"]) for path, answer in gets.items()]
    open_to_all = {"/health": service.health, "/metrics": service.metrics_text}
    return routes + [
        Route(path, service.counted(path, answer, is_open=True), methods=["GET"])
        for path, answer in open_to_all.items()
    ]


async def _refused(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not, in the words of other errors."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else None
    remedy = {
        404: "nothing is at this path; POST /v1/embeddings and /rerank, GET /health, /info and /metrics are",
        405: f"this path does not take {request.method}",
    }
    message = remedy.get(status, str(error))
    return RequestError(
        status, message, code={404: "not_found", 405: "method_not_allowed"}.get(status), headers=headers
    ).response()

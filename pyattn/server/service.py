"""A server's state: its models, the batcher, and what each request goes through."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pyattn._info import __version__
from pyattn._threads import get_num_threads
from pyattn.server.batcher import Batcher, Task
from pyattn.server.bodies import parsed, read_body
from pyattn.server.embeddings import EmbeddingRequest
from pyattn.server.errors import RequestError, json_response
from pyattn.server.metrics import CONTENT_TYPE, Metrics
from pyattn.server.rerank import RerankRequest
from pyattn.server.settings import Settings
from pyattn.server.tasks import Embedding, EmbeddingOptions, Reranking, RerankOptions
from pyattn.tasks.reranker import Reranker
from pyattn.tasks.sentence import SentenceEncoder

_log = logging.getLogger("pyattn.server")
_GONE = 499  # of a client that has gone: nobody reads it, but metrics count it
_LISTEN_AFTER = 0.05  # seconds until it is listened for: what takes less is not worth it

Answer = Callable[[Request], Awaitable[Response]]


class Service:
    def __init__(
        self,
        encoder: SentenceEncoder | None,
        reranker: Reranker | None,
        names: tuple[str, str],
        settings: Settings,
    ) -> None:
        self.settings, self._names = settings, names
        self._encoder = None if encoder is None else Embedding(encoder)
        self._reranker = None if reranker is None else Reranking(reranker)
        self._width = 0 if encoder is None else encoder.encode([]).shape[1]
        self._in_flight = 0
        self._key = None if settings.api_key is None else settings.api_key.encode()
        self.metrics = Metrics(lambda: self._in_flight)
        self.batcher = Batcher(settings.max_batch_tokens, settings.max_wait_ms / 1e3, self.metrics.batch)

    async def start(self) -> None:
        """Begins the thread, and has it compute once, so that what is made at first use is there."""
        self.batcher.start()
        if self._encoder is not None:
            options = EmbeddingOptions(False, self.settings.default_prompt_name, True, None)
            await self.batcher.submit(self._encoder, options, ["a"]).future
        if self._reranker is not None:
            await self.batcher.submit(self._reranker, RerankOptions(None, True), [("a", "a")]).future

    # --- answers

    async def embeddings(self, request: Request) -> Response:
        if self._encoder is None:
            raise RequestError(404, "this server has no encoder, only a reranker: POST /rerank", code="not_found")
        body = parsed(await read_body(request, self.settings))
        given = EmbeddingRequest(body, self.settings, self._width, self._encoder.encoder.prompts)
        vectors, tokens = await self._computed(request, self._encoder, given.options, given.inputs, "input")
        return given.response(vectors, tokens, self._names[0])

    async def rerank(self, request: Request) -> Response:
        if self._reranker is None:
            raise RequestError(
                404, "this server has no reranker, only an encoder: POST /v1/embeddings", code="not_found"
            )
        given = RerankRequest(parsed(await read_body(request, self.settings)), self.settings)
        scores, _ = await self._computed(request, self._reranker, given.options, given.inputs, "texts")
        return given.response(scores, self._names[1])

    async def health(self, request: Request) -> Response:
        self._check_running()
        return json_response({"status": "ok"})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "owned_by": "pyattn"} for name in self._served()]
        return json_response({"object": "list", "data": data})

    async def info(self, request: Request) -> Response:
        settings = self.settings
        facts: dict[str, Any] = {
            "model_id": self._served()[0],
            "version": __version__,
            "threads": get_num_threads(),
            "max_batch_tokens": settings.max_batch_tokens,
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_client_batch_size": settings.max_client_batch_size,
            "payload_limit": settings.payload_limit,
            "auto_truncate": settings.auto_truncate,
        }
        if self._encoder is not None:
            encoder = self._encoder.encoder
            facts["max_input_length"] = encoder.max_seq_length
            facts["embedding"] = {
                "model_id": self._names[0],
                "dimensions": self._width,
                "max_input_length": encoder.max_seq_length,
                "pooling": encoder.pooling,
                "similarity": encoder.similarity_fn_name,
                "prompt_names": list(encoder.prompts),
                "default_prompt_name": settings.default_prompt_name or encoder.default_prompt_name,
            }
        if self._reranker is not None:
            reranker = self._reranker.reranker
            facts.setdefault("max_input_length", reranker.max_length)
            facts["reranker"] = {
                "model_id": self._names[1],
                "max_input_length": reranker.max_length,
                "activation": reranker.activation,
            }
        return json_response(facts)

    def _served(self) -> list[str]:
        parts = (self._encoder, self._reranker)
        return [name for name, part in zip(self._names, parts, strict=True) if part is not None]

    # --- what they share

    def counted(self, path: str, answer: Answer, *, is_open: bool = False, is_bounded: bool = False) -> Answer:
        """An answer with what surrounds it: the key (unless is_open), the bound on requests, errors, metrics."""

        async def whole(request: Request) -> Response:
            begin = time.perf_counter()
            try:
                if not is_open:
                    self._check_key(request)
                response = await (self._bounded(request, answer) if is_bounded else answer(request))
            except RequestError as error:
                response = error.response()
            except ClientDisconnect:
                response = Response(status_code=_GONE)
            except Exception:
                _log.exception("%s failed", path)
                response = RequestError(500, "the server failed; its log says how").response()
            self.metrics.request(path, response.status_code, time.perf_counter() - begin)
            return response

        return whole

    async def _bounded(self, request: Request, answer: Answer) -> Response:
        self._check_running()
        most = self.settings.max_concurrent_requests
        if self._in_flight >= most:
            message = f"{most} requests are waiting already (max_concurrent_requests); try again later"
            raise RequestError(429, message, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        self._in_flight += 1
        try:
            return await answer(request)
        finally:
            self._in_flight -= 1

    def _check_running(self) -> None:
        if not self.batcher.is_alive:
            raise RequestError(503, "the server is not running: its lifespan has not started, or has ended")

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # In constant time, whatever the given key has in common with the right one
        if not hmac.compare_digest(given.strip().encode("latin-1"), self._key) or scheme.lower() != "bearer":
            message = "wrong API key, or none; send the header Authorization: Bearer KEY"
            raise RequestError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _computed(
        self, request: Request, task: Task, options: Hashable, inputs: list[Any], name: str
    ) -> tuple[Any, int]:
        """The results of inputs, and their tokens; ClientDisconnect where nobody waits for them any more."""
        work = self.batcher.submit(task, options, inputs)
        listeners: list[asyncio.Task[None]] = []

        async def listen() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            work.drop()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(_LISTEN_AFTER, lambda: listeners.append(loop.create_task(listen())))
        try:
            results, tokens = await work.future
        except asyncio.CancelledError:
            if work.is_dropped:
                raise ClientDisconnect from None
            work.drop()
            raise
        except (TypeError, ValueError) as error:  # of what only the model knows: lengths, the vocabulary
            message = str(error).partition(": ")[2] or str(error)
            raise RequestError(400, f"{name}: {message}", name, "invalid_value") from error
        finally:
            timer.cancel()
            for listener in listeners:
                listener.cancel()
        return results, tokens

"""POST /rerank: what it takes, in text-embeddings-inference's words or in Cohere's, and how it answers."""

from typing import Any

import numpy as np
from starlette.responses import Response

from pyattn._checks import Array
from pyattn.server.bodies import Fields, checked_list, checked_text, wrong
from pyattn.server.errors import RequestError, json_response
from pyattn.server.settings import Settings
from pyattn.server.tasks import RerankOptions

_BOTH = ("query", "model", "truncate", "raw_scores")
_KEYS = {"texts": ("texts", "return_text"), "documents": ("documents", "top_n", "return_documents")}
_ACTIVATIONS = {True: "identity", False: "sigmoid"}


class RerankRequest:
    """A request that has been checked."""

    def __init__(self, values: dict[str, Any], settings: Settings) -> None:
        self.is_cohere = "documents" in values
        if self.is_cohere == ("texts" in values):
            found = "both are there" if self.is_cohere else "neither is there"
            raise RequestError(400, f"either texts or documents must be given; {found}", "texts", "invalid_value")
        name = "documents" if self.is_cohere else "texts"
        fields = Fields(values, (*_BOTH, *_KEYS[name]))
        query = checked_text("query", fields.value("query"))
        given = checked_list(name, fields.value(name), settings.max_client_batch_size, "a list of strings")
        self.texts = [_text(f"{name}[{i}]", x, self.is_cohere) for i, x in enumerate(given)]
        self.inputs = [(query, text) for text in self.texts]
        fields.text("model")
        self._most = fields.count("top_n") if self.is_cohere else None
        self._has_text = fields.flag("return_documents" if self.is_cohere else "return_text", False)
        raw = fields.flag("raw_scores", False) if fields.has("raw_scores") else None
        self.options = RerankOptions(
            activation=None if raw is None else _ACTIVATIONS[raw],
            truncate=fields.flag("truncate", settings.auto_truncate),
        )

    def response(self, scores: Array, model: str) -> Response:
        if not np.isfinite(scores).all():
            raise RequestError(500, "the scores have NaN or infinity, which JSON lacks")
        order = np.argsort(-scores, kind="stable").tolist()[: self._most]
        if not self.is_cohere:
            return json_response([self._result(i, "score", scores, "text") for i in order])
        return json_response(
            {"model": model, "results": [self._result(i, "relevance_score", scores, "document") for i in order]}
        )

    def _result(self, index: int, name: str, scores: Array, text: str) -> dict[str, Any]:
        result: dict[str, Any] = {"index": index, name: float(scores[index])}
        if self._has_text:
            result[text] = {"text": self.texts[index]} if self.is_cohere else self.texts[index]
        return result


def _text(name: str, value: Any, is_cohere: bool) -> str:
    """A text, which Cohere's clients may put into an object."""
    if is_cohere and isinstance(value, dict):
        if set(value) != {"text"}:
            raise wrong("documents", f"{name} must be a string, or an object whose only key is text")
        return checked_text(f"{name}.text", value["text"])
    return checked_text(name, value)

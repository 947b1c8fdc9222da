"""POST /v1/embeddings: what it takes, and how it answers."""

import base64
from typing import Any

import numpy as np
from starlette.responses import Response

from pyattn._checks import Array
from pyattn.server.bodies import Fields, checked_list, checked_text, kind, wrong
from pyattn.server.errors import RequestError, json_response
from pyattn.server.settings import Settings
from pyattn.server.tasks import EmbeddingOptions

# prompt_name and truncate are text-embeddings-inference's
_KEYS = ("input", "model", "encoding_format", "dimensions", "user", "prompt_name", "truncate")
_INPUT = "a string, a list of strings, a list of token ids or a list of such lists"


class EmbeddingRequest:
    """A request that has been checked, but for the ids of tokens, which the encoder knows.

    width: of the vectors; prompts: their names.
    """

    def __init__(self, values: dict[str, Any], settings: Settings, width: int, prompts: dict[str, str]) -> None:
        fields = Fields(values, _KEYS)
        self.inputs, is_tokens = _inputs(fields.value("input"), settings.max_client_batch_size)
        self.is_base64 = fields.choice("encoding_format", ("float", "base64")) == "base64"
        for name in ("model", "user"):
            fields.text(name)
        prompt = fields.text("prompt_name")
        if prompt is not None and is_tokens:
            raise wrong("prompt_name", "prompt_name is for texts; token ids are taken as they are, prompts among them")
        if prompt is not None and prompt not in prompts:
            names = ", ".join(map(repr, prompts))
            raise wrong("prompt_name", f"there is no prompt of that name; the names are {names}")
        self.options = EmbeddingOptions(
            is_tokens=is_tokens,
            prompt_name=None if is_tokens else prompt or settings.default_prompt_name,
            truncate=fields.flag("truncate", settings.auto_truncate),
            dimensions=fields.count("dimensions", width),
        )

    def response(self, vectors: Array, tokens: int, model: str) -> Response:
        vectors = np.ascontiguousarray(vectors, "<f4")
        if self.is_base64:
            embeddings: list[Any] = [base64.b64encode(vector).decode("ascii") for vector in vectors]
        elif np.isfinite(vectors).all():
            embeddings = list(vectors)
        else:
            raise RequestError(500, "the vectors have NaN or infinity, which JSON lacks; base64 carries them")
        data = [{"object": "embedding", "index": i, "embedding": x} for i, x in enumerate(embeddings)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": model, "usage": usage})


def _inputs(value: Any, most: int) -> tuple[list[Any], bool]:
    """The inputs of a request, and whether they are token ids."""
    if isinstance(value, str):
        return [checked_text("input", value)], False
    if isinstance(value, list) and value and isinstance(value[0], int):
        return [_ids("input", value)], True
    values = checked_list("input", value, most, _INPUT)
    if isinstance(values[0], list):
        return [_ids(f"input[{i}]", x) for i, x in enumerate(values)], True
    return [checked_text(f"input[{i}]", x) for i, x in enumerate(values)], False


def _ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or set(map(type, value)) != {int}:
        given = "empty" if value == [] else "other" if isinstance(value, list) else kind(value)
        raise wrong("input", f"{name} must be a list of token ids, which are integers; it is {given}")
    return value

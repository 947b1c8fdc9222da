"""Requests that are refused, and how answers say so: OpenAI's error object, whose message tells the remedy."""

from typing import Any

import orjson
from starlette.responses import Response

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: what was seen, and what would be accepted.
        param: the key of the body that is wrong, if it is one.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def response(self) -> Response:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status, self.headers)


def too_large(message: str, param: str | None = None) -> RequestError:
    """What exceeds a bound: 413. What is left of the body is not read, so that the connection ends."""
    return RequestError(413, message, param, "request_too_large", {"Connection": "close"})


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """value: NumPy's arrays in it are written as lists, float32 in as many digits as give the same bits again."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, "application/json")

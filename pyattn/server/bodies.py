"""Bodies of requests: read within a bound, parsed strictly, their keys checked one by one."""

import json
from collections.abc import Collection
from typing import Any, NoReturn

import anyio
from starlette.requests import Request

from pyattn.server.errors import RequestError, too_large
from pyattn.server.settings import Settings


async def read_body(request: Request, settings: Settings) -> bytes:
    """The bytes of a body; RequestError beyond the bound, before more of it is held, or where it does not end."""
    limit = settings.payload_limit
    beyond = f"the body has more than {limit} bytes, which payload_limit allows; send fewer or shorter texts at once"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > limit:
        raise too_large(beyond)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "Content-Encoding is not supported; send the JSON as it is")
    chunks, size = [], 0
    with anyio.move_on_after(settings.body_timeout) as waiting:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large(beyond)
            chunks.append(chunk)
    if waiting.cancelled_caught:
        seconds = f"{settings.body_timeout:g} seconds"
        raise RequestError(408, f"the body did not arrive within {seconds}", headers={"Connection": "close"})
    return b"".join(chunks)


def parsed(body: bytes) -> dict[str, Any]:
    """The object in a body.

    By json, not by a faster library: it tells keys that stand twice, of which any may be meant, and NaN.
    """
    try:
        # The digits of an integer are bounded by Python, since reading them takes quadratic time.
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except RecursionError:
        raise RequestError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON that is accepted: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_json")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


class Fields:
    """The keys of an object, each checked when it is asked for; null counts as absent, as clients send it.

    Keys that are not known are refused: they would ask for something that is not done.
    """

    def __init__(self, values: dict[str, Any], known: Collection[str]) -> None:
        unknown = next((key for key in values if key not in known), None)
        if unknown is not None:
            shown = unknown if len(unknown) < 50 else f"{unknown[:50]}..."
            names = ", ".join(known)
            message = f"{shown!a} is not supported; the keys are {names}"
            raise RequestError(400, message, None if len(unknown) > 50 else printable(unknown), "unknown_parameter")
        self._values = values

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def value(self, name: str) -> Any:
        if not self.has(name):
            raise RequestError(400, f"{name} is missing", name, "missing_required_parameter")
        return self._values[name]

    def text(self, name: str) -> str | None:
        return checked_text(name, self._values[name]) if self.has(name) else None

    def flag(self, name: str, otherwise: bool) -> bool:
        value = self._values.get(name)
        if not isinstance(value, bool | None):
            raise wrong(name, f"{name} must be true or false, not {kind(value)}")
        return otherwise if value is None else value

    def count(self, name: str, most: int | None = None) -> int | None:
        """A positive integer, at most so great."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            accepted = "a positive integer" if most is None else f"an integer from 1 to {most}"
            is_short = type(value) is int and abs(value) < 10**20
            raise wrong(name, f"{name} must be {accepted}, not {value if is_short else kind(value)}")
        return value

    def choice(self, name: str, accepted: Collection[str]) -> str | None:
        value = self._values.get(name)
        if value is None or (isinstance(value, str) and value in accepted):
            return value
        names = " or ".join(map(repr, accepted))
        raise wrong(name, f"{name} must be {names}, not {kind(value) if not isinstance(value, str) else 'another'}")


def checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(name.partition("[")[0], f"{name} must be a string, not {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"{name} has half a surrogate pair (character {error.start}), which is no text"
        raise wrong(name.partition("[")[0], message) from None
    return value


def checked_list(name: str, value: Any, most: int, what: str) -> list[Any]:
    """A list that is neither empty nor longer than clients may send at once."""
    if not isinstance(value, list):
        raise wrong(name, f"{name} must be {what}, not {kind(value)}")
    if not value:
        raise wrong(name, f"{name} must be {what}; it is empty")
    if len(value) > most:
        raise RequestError(
            413,
            f"{name} has {len(value)} elements; at most {most} are accepted at once (max_client_batch_size)",
            name,
            "request_too_large",
        )
    return value


def wrong(param: str, message: str) -> RequestError:
    return RequestError(400, message, param, "invalid_value")


def kind(value: Any) -> str:
    """What JSON calls a value, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), "something else")


def printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()

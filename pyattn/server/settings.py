"""What a server accepts and how it batches; the names are those of text-embeddings-inference where it has one."""

from dataclasses import dataclass

from pyattn import _checks

_POSITIVE = ("max_batch_tokens", "max_concurrent_requests", "max_client_batch_size", "payload_limit")
_SECONDS = ("max_wait_ms", "body_timeout")


@dataclass(frozen=True)
class Settings:
    """Settings of `application`, which describes them."""

    max_batch_tokens: int = 16384
    max_concurrent_requests: int = 512
    max_client_batch_size: int = 32
    payload_limit: int = 2_000_000
    auto_truncate: bool = True
    default_prompt_name: str | None = None
    api_key: str | None = None
    served_model_name: str | None = None
    max_wait_ms: float = 2.0
    body_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            _checks.size("application", name, getattr(self, name))
        _checks.flag("application", "auto_truncate", self.auto_truncate)
        for name in ("default_prompt_name", "api_key", "served_model_name"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise TypeError(f"application: {name} must be a str or None, not {type(value).__name__}")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ValueError(
                "application: api_key must be of printable ASCII, and not empty: headers carry nothing else"
            )
        for name in _SECONDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"application: {name} must be a number, not {type(value).__name__}")
            if not 0 <= value <= 86_400_000:
                raise ValueError(f"application: {name} must be a number from 0 to 86400000, not {value}")

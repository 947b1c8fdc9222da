"""The settings beside a tokenizer.json: tokenizer_config.json, and what older directories have in two files more."""

from pathlib import Path
from typing import Any

from pyattn.models.files import read_json

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Settings:
    """The settings beside a tokenizer.json, as transformers merges them from up to three files."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "tokenizer_config.json"
        values = read_json(self.file, dict) if self.file.exists() else {}
        values.pop("add_bos_token", None)  # beside a tokenizer.json, whose post_processor adds tokens
        values.pop("add_eos_token", None)
        self.values = values
        self.name = values.get("tokenizer_class")
        if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
            values["extra_special_tokens"] = values.pop("additional_special_tokens")
        self.placed: dict[int, Any] = {}  # added tokens by their numbers
        self.is_legacy = "added_tokens_decoder" not in values
        if not self.is_legacy:
            decoder = self.checked("added_tokens_decoder", dict, "an object")
            try:
                self.placed = {int(number): token for number, token in decoder.items()}
            except ValueError as error:
                raise self.error("added_tokens_decoder", "an object whose keys are numbers") from error
        else:
            self._merge_special(directory / "special_tokens_map.json")
            self._merge_added(directory / "added_tokens.json")

    def _merge_special(self, file: Path) -> None:
        for key, value in (read_json(file, dict) if file.exists() else {}).items():
            if isinstance(value, dict) and key != "extra_special_tokens":
                value = value | {"__type": "AddedToken", "special": True}
            elif key == "extra_special_tokens" and isinstance(value, list):
                before = self.values.get(key) or []
                value = [*before, *(token for token in value if token not in before)]
            self.values[key] = value

    def _merge_added(self, file: Path) -> None:
        named = {content_of(self.values[key]) for key in TOKEN_NAMES if self.values.get(key)}
        extra = self.values.get("extra_special_tokens") or ()
        named |= {content_of(token) for token in extra}
        for token, number in (read_json(file, dict) if file.exists() else {}).items():
            if type(number) is not int:
                raise ValueError(f"load: {file}: {token!r} must have a number, not {number!r}")
            self.placed[number] = {"content": token, "normalized": token not in named, "special": token in named}

    def error(self, key: str, wanted: str) -> ValueError:
        return ValueError(f"load: {self.file}: {key} must be {wanted}, not {self.values.get(key)!r:.200}")

    def checked(self, key: str, needed: type, wanted: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if type(value) is not needed:
            raise self.error(key, wanted)
        return value

    def flag(self, key: str, default: bool, null: bool | None = None) -> bool:
        """A boolean; null where the key may be null is the value that it has then."""
        if null is not None and self.values.get(key, default) is None:
            return null
        return bool(self.checked(key, bool, "true or false", default))

    def words(self, key: str) -> list[Any]:
        """A list of tokens; empty where it is absent or null."""
        value = self.values.get(key)
        if not isinstance(value or [], list):
            raise self.error(key, "a list of tokens")
        return list(value or [])


def content_of(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)

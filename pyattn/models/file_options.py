"""How tokens are chosen, as the files of a directory say it: read when it is asked for, not when a model is loaded."""

from collections.abc import Mapping
from typing import Any

from pyattn.generation import GenerationOptions
from pyattn.generation.options import changed_options
from pyattn.models.config import ModelConfig

_OPTION_OF = {"eos_token_id": "stop_tokens"}  # keys of files, where they have other names than the options
_DEPENDENT = ("num_return_sequences", "min_new_tokens")  # options that others make right or wrong


class FileOptions:
    """What generation_config.json says, or config.json if there is no such file.

    Args:
        config: the model's.
        generation: the contents of generation_config.json; None: there is none.
        source: where the model comes from, for messages.
    """

    def __init__(self, config: ModelConfig, generation: Mapping[str, Any] | None, source: str) -> None:
        values = dict(config.source if generation is None else generation)
        if generation is None and values.get("force_bos_token_to_be_generated"):  # as the first BARTs say it
            values.setdefault("forced_bos_token_id", values.get("bos_token_id"))
        self._file = f"{'config' if generation is None else 'generation_config'}.json beside {source}"
        self._values, self._config = values, config

    def options(self, function: str, changes: Mapping[str, Any]) -> GenerationOptions:
        """The options, with others instead of some; these may stand for what the file has wrong.

        Raises:
            TypeError, ValueError: changes are wrong, or what the file says is not supported beside them.
        """
        changed_options(function, None, {key: x for key, x in changes.items() if key not in _DEPENDENT})
        values = {key: x for key, x in self._values.items() if _OPTION_OF.get(key, key) not in changes}
        for key in ("eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
            ids = values.get(key)
            if isinstance(ids, int | list):  # those that the vocabulary lacks have no effect
                ids = ids if isinstance(ids, list) else [ids]
                values[key] = [x for x in ids if not (type(x) is int and x >= self._config.vocab_size)]
        try:
            return GenerationOptions.from_dict(values, **changes)
        except (TypeError, ValueError) as error:
            changed_options(function, None, changes)  # of which alone may be the fault
            raise ValueError(
                f"{function}: {self._file}: {error}; options in the call take the place of the file's"
            ) from error

    def start_token(self, function: str) -> int | None:
        """The token that a text begins with behind an encoder: the first that files say, as transformers takes it."""
        size = self._config.vocab_size
        for key in ("decoder_start_token_id", "bos_token_id"):
            for values in (self._values, self._config.source):
                if (token := values.get(key)) is not None:
                    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
                        raise ValueError(
                            f"{function}: {self._file}: {key} must be a token, 0 to {size - 1}, not {token!r:.200}"
                        )
                    return token
        return None

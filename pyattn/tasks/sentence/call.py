"""The options of a call of SentenceEncoder, checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn.tasks.quantization import PRECISIONS, checked_ranges
from pyattn.tasks.sentence.modules import Pooling
from pyattn.tasks.sentence.settings import chosen_prompt
from pyattn.tasks.texts import without_surrogates

# The options of calls that make tokens of texts alone, or vectors of tokens.
TOKENS_ALONE: dict[str, Any] = {
    "truncate": True, "batch_tokens": 2048, "truncate_dim": None, "normalize": None, "precision": "float32",
    "ranges": None,
}  # fmt: skip


class Call:
    """The checked options of a call of `encode` or `encode_stream`, whose arguments are given by name."""

    def __init__(self, encoder: Any, function: str, given: Mapping[str, Any]) -> None:
        self.function, self.truncate = function, given["truncate"]
        self.batch_tokens = _checks.size(function, "batch_tokens", given["batch_tokens"])
        cut = encoder.truncate_dim if given["truncate_dim"] is None else given["truncate_dim"]
        self.width = encoder._width
        if cut is not None:
            self.width = min(self.width, _checks.size(function, "truncate_dim", cut))
        prompt = chosen_prompt(
            function, encoder.prompts, given["prompt"], given["prompt_name"], encoder.default_prompt_name
        )
        self.prompt = without_surrogates(prompt or "")
        self.prompt_length = 0  # the number of tokens that Pooling leaves out
        if self.prompt and any(isinstance(x, Pooling) and not x.config["include_prompt"] for x in encoder._modules):
            self.prompt_length = encoder._first.prompt_length(self.prompt)
        self.precision = _checks.choice(function, "precision", given["precision"], PRECISIONS)
        self.ranges = checked_ranges(function, self.precision, given["ranges"], None, np.empty(self.width))
        normalize = given["normalize"]
        self.normalize = None if normalize is None else _checks.flag(function, "normalize", normalize)

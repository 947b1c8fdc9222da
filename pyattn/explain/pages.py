"""Attention as a page for a browser: layers and heads to choose, in one file that needs no network."""

import base64
import html
import json
import string
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise

import numpy as np

from pyattn._checks import Array
from pyattn.explain.attended import Attended
from pyattn.explain.blocks import block_means, starts
from pyattn.explain.drawing import LONGEST_LABEL

MOST_TOKENS = 96  # that are shown one by one; more are joined in blocks, no more than these


def page(tokens: Sequence[str], seen: Sequence[Attended], *, sequence: int = 0, title: str = "Attention") -> str:
    """HTML that shows the weights of each layer and head over the tokens.

    Up to 96 tokens stand by themselves. Longer texts are cut into at most 96 blocks of neighbours, and the page shows
    the mean weight that a query of one block gives to all keys of another: they are pooled as they are computed, in
    memory that grows with the text, not with its square. Weights are rounded to 1/255 of their square roots.

    Args:
        tokens: the words or pieces of the sequence, which the page shows.
        seen: self-attention of the layers to choose from, as `pyattn.explain.watch` gives it.
        sequence: which one of the call's.
        title: of the page.

    Raises:
        TypeError, ValueError: no tokens or layers, or a layer that does not attend from so many tokens to as many.

    Example:
        >>> import numpy as np, pyattn, pyattn.explain
        >>> encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(32, 4, 64, rng=0), 2)
        >>> with pyattn.explain.watch(encoder) as seen:
        ...     out = encoder(np.ones((1, 3, 32), np.float32))
        >>> pyattn.explain.page(["a", "b", "c"], seen)[:15]
        '<!DOCTYPE html>'
    """
    if not seen or not tokens:
        raise ValueError(f"page: {len(tokens)} tokens and {len(seen)} layers are given; one of each is needed at least")
    if wrong := [token for token in tokens if not isinstance(token, str)]:
        raise TypeError(f"page: tokens must be strings, not {type(wrong[0]).__name__}")
    layers = []
    for attended in seen:
        query, key, _ = attended.operands(sequence)
        if not query.shape[-2] == key.shape[-2] == len(tokens):
            raise ValueError(
                f"page: {attended.layer} attends from {query.shape[-2]} rows to {key.shape[-2]}; there are "
                f"{len(tokens)} tokens"
            )
        means = block_means(attended, sequence, (MOST_TOKENS, MOST_TOKENS))
        layers.append({"name": attended.layer, "heads": [_packed(head) for head in means]})
    blocks = starts(len(tokens), MOST_TOKENS)
    labels = [_label(tokens[first:end]) for first, end in pairwise(blocks)]
    note = "" if len(labels) == len(tokens) else f"{len(tokens)} tokens stand in {len(labels)} blocks of neighbours. "
    data = json.dumps({"tokens": labels, "layers": layers}).replace("<", "\\u003c")
    template = string.Template(resources.files("pyattn.explain").joinpath("page.html").read_text("utf-8"))
    return template.substitute(title=html.escape(title), note=note, data=data)


def _packed(weights: Array) -> str:
    rounded = np.rint(np.sqrt(np.clip(weights, 0, 1)) * 255).astype(np.uint8)
    return base64.b64encode(rounded.tobytes()).decode()


def _label(tokens: Sequence[str]) -> str:
    text = " ".join(tokens)
    return text if len(text) <= LONGEST_LABEL or len(tokens) == 1 else f"{text[: LONGEST_LABEL - 2]} …"

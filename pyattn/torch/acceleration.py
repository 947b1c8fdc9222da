"""Whole models of torch, computed by pyattn."""

from typing import Any, TypeVar

import torch

from pyattn import _checks
from pyattn.torch.accelerated import replaced
from pyattn.torch.encoders import Encoder, is_encoder
from pyattn.torch.generators import Generator, is_generator
from pyattn.torch.modules import kind_of_module

WEIGHTS = {torch.bfloat16: "bfloat16", torch.float64: "float64"}  # pyattn's for torch's

_Module = TypeVar("_Module", bound=torch.nn.Module)


def accelerate(model: _Module, *, dtype: Any = None) -> _Module:
    """A copy of a model whose layers pyattn computes: of the same class, with the same parameters.

    What becomes pyattn's: base models of transformers of the families that `pyattn.models.load` reads, without padding;
    `generate` of those that generate (all but Whisper), token for token; nn.TransformerEncoder, its layer, and
    nn.MultiheadAttention where weights are not needed. They are found wherever they stand in a module: in a head's
    model, in a SentenceTransformer, in your own. All else stays torch's, and so does every call that needs gradients,
    dropout, hidden states of all layers, embeddings instead of tokens, or hooks inside: `served(model)` counts the
    calls that pyattn took, and the others by their reason. In results padding is 0.

    Changed parameters are seen at the next call, if torch knows of the change: an optimizer's step, load_state_dict,
    not a write through .data, after which the accelerated modules' refresh() is to be called.

    Args:
        model: any torch.nn.Module; it is left as it is.
        dtype: of pyattn's weights, as `pyattn.models.load` has it; None: that of the parameters, float16 as float32.

    Raises:
        TypeError: model is no module, or dtype none that pyattn has.
        ValueError: nothing in model is what pyattn computes, or its configuration asks for what is not supported.

    Example:
        >>> import torch, pyattn.torch
        >>> layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 2).eval()
        >>> fast = pyattn.torch.accelerate(model)
        >>> with torch.no_grad():
        ...     out = fast(torch.randn(3, 10, 64))
        >>> pyattn.torch.served(fast)
        Served(calls=1, passed_on={})
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, not {type(model).__name__}")
    chosen = None if dtype is None else _checks.weight_dtype_name("accelerate", dtype)

    def prepare(module: Any) -> None:
        own = next((x.dtype for x in module.parameters() if x.is_floating_point()), torch.float32)
        module._dtype = chosen or WEIGHTS.get(own, "float32")
        module._current()  # which refuses what pyattn does not compute, now

    result, count = replaced(model, _kind_of, prepare)
    if not count:
        raise ValueError(
            f"accelerate: {type(model).__name__} has no module that pyattn computes; accepted are models of "
            "transformers, of the families that pyattn.models.load reads, nn.TransformerEncoder, its layer, and "
            "nn.MultiheadAttention"
        )
    return result


def _kind_of(module: torch.nn.Module) -> type | None:
    """What accelerates a module, or None."""
    if is_generator(module):
        return Generator
    return Encoder if is_encoder(module) else kind_of_module(module)

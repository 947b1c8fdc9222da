"""Whole models of torch, computed by pyattn."""

import sys
from typing import Any, TypeVar

import torch

from pyattn import _checks
from pyattn.torch.accelerated import Accelerated, PassedOn, class_of, cloned
from pyattn.torch.encoders import Encoder, is_encoder
from pyattn.torch.generators import Generator, is_generator
from pyattn.torch.modules import kind_of_module

_Module = TypeVar("_Module", bound=torch.nn.Module)


def accelerate(model: _Module, *, dtype: Any = None) -> _Module:
    """A copy of a model whose layers pyattn computes: of the same class, with the same parameters and configuration.

    What becomes pyattn's: base models of transformers of the families that `pyattn.models.load` reads, and those that
    generate (all but Whisper); nn.TransformerEncoder, its layer, and nn.MultiheadAttention where weights are not
    needed. They are found wherever they stand in a module: in a head's model, in a SentenceTransformer, in your own.
    All else stays torch's.

    Such a module computes in pyattn what is known to be the same, and its own forward or generate all other calls:
    those that need gradients, dropout, hidden states of all layers, or embeddings instead of tokens; those with padding
    in front of an encoder's tokens or behind a decoder's, under autocast, with hooks, options or shapes that it does
    not know; and all calls of modules that are not as their class makes them, with layers replaced, wrapped or given
    other attributes. `served(model)` counts the calls that pyattn took, and the others by their reason. In an
    encoder's results padding is 0, and where tokens are drawn, they are other ones than torch's for the same seed.

    What is changed in the modules, their configuration or parameters is seen at the next call, if torch knows of it: an
    optimizer's step, load_state_dict, not a write through .data, after which the accelerated modules' refresh() is to
    be called.

    Args:
        model: any torch.nn.Module that torch.compile has not compiled yet; it is left as it is.
        dtype: of pyattn's weights, as `pyattn.models.load` has it; None: that of the parameters, float16 as float32.

    Raises:
        TypeError: model is no module, or one that is compiled, or dtype none that pyattn has.
        ValueError: nothing in model is what pyattn computes, or no configuration of it is supported.

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
    if any(map(_is_compiled, model.modules())):
        raise TypeError("accelerate: model has been compiled; accelerate it first, then torch.compile what that gives")
    chosen = None if dtype is None else _checks.weight_dtype_name("accelerate", dtype)
    result, accelerated = cloned(model, _kind_of, chosen)
    refused = []
    for module in accelerated:
        try:
            module._current()
        except PassedOn:  # which its calls are, unless that changes
            pass
        except ValueError as error:
            refused.append(error)
    if refused and len(refused) == len(accelerated):
        raise refused[0]
    if not accelerated:
        raise ValueError(
            f"accelerate: {type(model).__name__} has no module that pyattn computes; accepted are models of "
            "transformers, of the families that pyattn.models.load reads, nn.TransformerEncoder, its layer, and "
            "nn.MultiheadAttention"
        )
    return result


def _kind_of(module: torch.nn.Module) -> type[Accelerated] | None:
    """What accelerates a module, or None."""
    cls = class_of(module)
    if is_generator(module, cls):
        return Generator
    return Encoder if is_encoder(module, cls) else kind_of_module(module, cls)


def _is_compiled(module: torch.nn.Module) -> bool:
    compiled = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", ())
    return isinstance(module, compiled) or vars(module).get("_compiled_call_impl") is not None

"""Encoders of transformers, accelerated."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from pyattn.models.encoders import ImageEncoder, TextEncoder
from pyattn.models.families import IMAGE_FAMILIES, TEXT_FAMILIES
from pyattn.models.pretrained import EncoderConfig
from pyattn.torch.accelerated import Accelerated, Reason
from pyattn.torch.tensors import array_of

TAKEN = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "return_dict")


class Encoder(Accelerated):
    """A base model of transformers: hidden states and, if it has one, what its pooler makes of them."""

    config: Any

    def _make(self) -> TextEncoder | ImageEncoder:
        config = EncoderConfig.from_dict(self.config.to_dict(), "accelerate")
        kind = TextEncoder if config.model_type in TEXT_FAMILIES else ImageEncoder
        return kind(config, tensors_of(self), "accelerate", self._dtype)

    def _reason(self, *args: Any, **kwargs: Any) -> Reason:
        given = self._named(args, kwargs)
        others = sorted(name for name, x in given.items() if name not in TAKEN and x is not None and x is not False)
        if others:
            return f"{others[0]} is given"
        if self.config.output_hidden_states or getattr(self.config, "output_attentions", False):
            return "config.output_hidden_states or output_attentions"
        if (mask := given.get("attention_mask")) is not None and mask.ndim != 2:
            return "attention_mask of more than two axes"
        if mask is not None and getattr(self, "pooler", None) is not None and not mask[:, 0].all():
            return "padding at the first place, which the pooler looks at"
        return None if "input_ids" in given or "pixel_values" in given else "no input_ids or pixel_values"

    def _run(self, twin: Any, *args: Any, **kwargs: Any) -> Any:
        given = self._named(args, kwargs)
        if "pixel_values" in given:
            hidden = twin(array_of(given["pixel_values"].float()))
        else:
            options = {name: given.get(name) for name in ("token_type_ids", "attention_mask")}
            arrays = {name: array_of(x) for name, x in options.items() if x is not None}
            hidden = twin(array_of(given["input_ids"]), **arrays)
        states = torch.from_numpy(hidden).to(next(self.parameters()).dtype)  # type: ignore[attr-defined]
        pooled = self._pooled(states)
        from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

        output = BaseModelOutput(states) if pooled is None else BaseModelOutputWithPooling(states, pooled)
        as_dict = given.get("return_dict")
        as_dict = getattr(self.config, "return_dict", True) if as_dict is None else as_dict
        return output if as_dict else output.to_tuple()

    def _pooled(self, states: torch.Tensor) -> torch.Tensor | None:
        pooler = getattr(self, "pooler", None)
        if self.config.model_type == "albert" and pooler is not None:
            return self.pooler_activation(pooler(states[:, 0]))  # type: ignore[attr-defined]
        if self.config.model_type.startswith("dinov2"):
            return states[:, 0]
        return None if pooler is None else pooler(states)

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names."""
        return named(self._own_forward(), args, kwargs)


def named(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    return {**given.pop("kwargs", {}), **given}


def tensors_of(module: Any) -> dict[str, Any]:
    """Parameters and floating buffers as float32, by the names that files have."""
    state = module.state_dict()
    with contextlib.suppress(ImportError):  # versions of transformers before 5 have no other names
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(module, state)
    return {name: array_of(x.float()) for name, x in state.items() if x.is_floating_point()}


def is_encoder(module: torch.nn.Module) -> bool:
    """Whether it is the base model of a family that pyattn has."""
    config = getattr(module, "config", None)
    kind = getattr(config, "model_type", None)
    known = kind in TEXT_FAMILIES or kind in IMAGE_FAMILIES
    return known and getattr(module, "base_model", None) is module and not getattr(config, "is_decoder", False)

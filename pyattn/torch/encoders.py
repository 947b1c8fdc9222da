"""Encoders of transformers, accelerated."""

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pyattn.models.encoders import ImageEncoder, TextEncoder
from pyattn.models.families import IMAGE_FAMILIES, TEXT_FAMILIES
from pyattn.models.pretrained import EncoderConfig
from pyattn.torch.accelerated import Accelerated, Call, PassedOn
from pyattn.torch.tensors import array_of
from pyattn.torch.trees import Tree, config_of

EXAMPLE, MOST_APART = 8, 1e-3  # tokens with which a model is tried, and how far apart results may be
TEXTS = ("input_ids", "attention_mask", "token_type_ids")
ATTENTION = (None, "eager", "sdpa", "flex_attention", "pyattn", "pyattn_flash")  # implementations of the same


class Pretrained(Accelerated):
    """A model of transformers."""

    config: Any

    def _obstacle(self, tree: Tree) -> str | None:
        if any(getattr(config, "_attn_implementation", None) not in ATTENTION for config in tree.configs):
            return "attention of another implementation"
        return super()._obstacle(tree)

    def _as_made(self) -> nn.Module:
        return self._own_class(copy.deepcopy(self.config))

    def _tried(self, twin: Any, example: dict[str, Any], dtype: str) -> tuple[Any, type]:
        """A twin and the class of what the module gives, once both have given the same of an example."""
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            own = self._own_forward()(**example)
        made = twin, type(own)
        found = self._call(**example)(made)
        if [*found.keys()] != [*own.keys()]:
            raise PassedOn("results of other fields")
        exact = dtype == "float32" and all(x.dtype is torch.float32 for x in own.values())
        for x, y in zip(found.values(), own.values(), strict=True):
            if exact and not (x - y).norm() <= MOST_APART * y.norm():
                raise PassedOn("results that are not those of its configuration")
        return made

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], taken: tuple[str, ...]) -> dict[str, Any]:
        """What a call is given, by name; raises PassedOn where that is more than what is taken, or asks for more."""
        given = dict(_signature(self._own_class).bind(self, *args, **kwargs).arguments)
        given = {**given.pop("kwargs", {}), **given}
        given.pop("self")
        given = {name: x for name, x in given.items() if x is not None}
        others = sorted(name for name, x in given.items() if name not in taken and x is not (name == "return_dict"))
        if others:
            raise PassedOn(f"{others[0]} is given")
        if getattr(self.config, "output_hidden_states", False) or getattr(self.config, "output_attentions", False):
            raise PassedOn("config.output_hidden_states or output_attentions")
        if not getattr(self.config, "return_dict", True) and "return_dict" not in given:
            raise PassedOn("config.return_dict is False")
        return {name: given[name] for name in taken if name in given}


class Encoder(Pretrained):
    """A base model of transformers: hidden states and, if it has one, what its pooler makes of them."""

    def _as_made(self) -> nn.Module:
        options = {}
        parameters = inspect.signature(self._own_class).parameters
        if "add_pooling_layer" in parameters:
            options["add_pooling_layer"] = getattr(self, "pooler", None) is not None
        if "use_mask_token" in parameters:
            options["use_mask_token"] = getattr(self.embeddings, "mask_token", None) is not None  # type: ignore[attr-defined]
        return self._own_class(copy.deepcopy(self.config), **options)

    def _make(self, dtype: str) -> tuple[TextEncoder | ImageEncoder, type]:
        config = EncoderConfig.from_dict(self.config.to_dict(), "accelerate")
        if config.model_type in TEXT_FAMILIES:
            kind: Any = TextEncoder
            example = {"input_ids": torch.arange(EXAMPLE)[None] % config.vocab_size}
        else:
            kind = ImageEncoder
            sizes = (1, config.num_channels, *config.image_size)
            pixels = torch.linspace(-1, 1, math.prod(sizes)).reshape(sizes)
            example = {"pixel_values": pixels.to(next(self.parameters()).dtype)}  # type: ignore[attr-defined]
        return self._tried(kind(config, tensors_of(self), "accelerate", dtype), example, dtype)

    def _call(self, *args: Any, **kwargs: Any) -> Call:
        if self.config.model_type in IMAGE_FAMILIES:
            arrays = self._images(**self._given(args, kwargs, ("pixel_values",)))
        else:
            arrays = self._texts(**self._given(args, kwargs, TEXTS))

        def run(made: tuple[Any, type]) -> Any:
            twin, output = made
            hidden = torch.from_numpy(twin(**arrays)).to(next(self.parameters()).dtype)  # type: ignore[attr-defined]
            pooled = self._pooled(hidden)
            return output(hidden) if pooled is None else output(hidden, pooled)

        return run

    def _images(self, pixel_values: Any = None) -> dict[str, Any]:
        if pixel_values is None or pixel_values.ndim != 4:
            raise PassedOn("no pixel_values of four axes")
        if pixel_values.dtype is not next(self.parameters()).dtype:  # type: ignore[attr-defined]
            raise PassedOn("pixel_values of another dtype")
        size = self.config.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        if not self.config.model_type.startswith("dinov2") and tuple(pixel_values.shape[2:]) != size:
            raise PassedOn("images of another size")
        return {"pixel_values": array_of(pixel_values.float())}

    def _texts(self, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> dict[str, Any]:
        check_ids(input_ids)
        arrays = {"token_ids": array_of(input_ids)}
        if token_type_ids is not None:
            if token_type_ids.shape != input_ids.shape or token_type_ids.dtype is not torch.int64:
                raise PassedOn("token_type_ids of another shape or dtype")
            arrays["token_type_ids"] = array_of(token_type_ids)
        if attention_mask is not None:
            live = array_of(mask_of(attention_mask, input_ids))
            if not live[:, 0].all():  # where heads look, and learned positions begin
                raise PassedOn("padding at the first place")
            arrays["attention_mask"] = live
        return arrays

    def _pooled(self, states: torch.Tensor) -> torch.Tensor | None:
        pooler = getattr(self, "pooler", None)
        if self.config.model_type == "albert" and pooler is not None:
            return self.pooler_activation(pooler(states[:, 0]))  # type: ignore[attr-defined]
        if self.config.model_type.startswith("dinov2"):
            return states[:, 0]
        return None if pooler is None else pooler(states)


def check_ids(ids: Any) -> None:
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.dtype is not torch.int64 or not ids.numel():
        raise PassedOn("no input_ids of two axes and torch.int64")


def mask_of(mask: Any, ids: torch.Tensor) -> torch.Tensor:
    """Where there is no padding, as booleans; raises PassedOn if a mask says something else."""
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        raise PassedOn("attention_mask of another shape")
    live: torch.Tensor = mask if mask.dtype is torch.bool else mask == 1
    if mask.dtype is not torch.bool and not (live | (mask == 0)).all():
        raise PassedOn("attention_mask of other numbers than 0 and 1")
    return live


def tensors_of(module: Any) -> dict[str, Any]:
    """Parameters and floating buffers as float32, by the names that files have."""
    state = module.state_dict()
    with contextlib.suppress(ImportError):  # versions of transformers before 5 have no other names
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(module, state)
    return {name: array_of(x.float()) for name, x in state.items() if x.is_floating_point()}


@functools.cache
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.forward)  # type: ignore[attr-defined]


def is_encoder(module: Any, cls: type) -> bool:
    """Whether it is the base model of a family that pyattn has."""
    config = config_of(module)
    kind = getattr(config, "model_type", None)
    if (kind not in TEXT_FAMILIES and kind not in IMAGE_FAMILIES) or getattr(config, "is_decoder", False):
        return False
    return is_of(cls, "MODEL_MAPPING", config)


def is_of(cls: type, table: str, config: Any) -> bool:
    """Whether it is the class that a table of transformers has for a configuration."""
    if not cls.__module__.startswith("transformers."):
        return False
    import transformers

    found = getattr(transformers, table).get(type(config), None)
    return cls in found if isinstance(found, tuple) else cls is found

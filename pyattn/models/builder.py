"""The stacks of layers that a specification describes."""

from dataclasses import replace
from typing import TypeVar

from pyattn.layers.stack import Stack
from pyattn.models.embeddings import make_norm
from pyattn.models.spec import StackSpec
from pyattn.positional import RelativePositionBias

_Stack = TypeVar("_Stack", bound=Stack)


def make_stack(stack_class: type[_Stack], spec: StackSpec, dtype: str) -> _Stack:
    """A TransformerEncoder or a TransformerDecoder, whose parameters are never drawn if others are loaded."""
    if any(layer.sinks for layer in spec.layers):
        raise ValueError("load: layers have sinks, which are not read from files or written to them")
    relative = spec.relative
    return stack_class.from_configs(
        [replace(layer, dtype=dtype) for layer in spec.layers],
        make_norm(spec.norm, spec.layers[0].d_model),
        order=spec.order or None,
        position_bias=None
        if relative is None
        else RelativePositionBias(relative.buckets, relative.distance, relative.heads, relative.bidirectional),
    )

"""What a layer of the Transformer is: its sizes and choices, checked once."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._module import check_part
from pyattn.activations import ACTIVATIONS
from pyattn.positional.scaling import frequencies_for


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of queries and keys.

    base and scaling are as in rotary_frequencies, scaling as the items of its mapping. width: how many features of a
    head rotate, the first ones, or None for all. Scaling types whose frequencies depend on the sequence's length have
    those of sequences within the original length; models refuse longer ones (ModelConfig.longest).
    """

    base: float
    scaling: tuple[tuple[str, Any], ...] = ()
    width: int | None = None


@dataclass(frozen=True)
class LayerConfig:
    """Sizes and choices of one layer, of an encoder or a decoder.

    Layers make one from their torch-shaped arguments; their `from_config` takes one, a stack's `from_configs` several.

    Args:
        d_model, nhead, dim_feedforward: as in torch's layers. nhead divides d_model unless head_dim is given.
        activation: "relu", "gelu" (erf), "gelu_tanh" or "silu".
        gated, unit_offset, residual_scale: as in TransformerEncoderLayer; unit_offset goes with "rms" alone.
        num_key_value_heads, head_dim, scale, window, softcap, sinks, alibi, qk_norm: as in MultiHeadAttention, of
            self-attention; cross-attention has nhead heads of keys, and neither a window, sinks nor ALiBi.
        rotary: rotary positions of self-attention, or None.
        norm: "layer" or "rms", of all norms of the layer.
        layer_norm_eps: what norms add to the variance.
        norm_placement: "post" (a norm after each residual sum), "pre" (before each block), or "sandwich" (before each
            block, and after it before the residual sum).
        input_norm: False: a "pre" layer has no norm before its self-attention.
        in_proj_bias, out_proj_bias, linear_bias, norm_bias: which of attention's input and output projections, the
            feed-forward block and norms ("layer" alone) have a bias.
        cross_attention: whether the layer attends to a memory after its self-attention.
        dtype: "float32", "float64", "bfloat16" or "int8", in which weights are stored and multiplied.
        function: what messages of errors begin with.

    Attributes have these names; dtype is the name. dataclasses.replace makes one that differs.

    Raises:
        TypeError: an argument's type is wrong.
        ValueError: an argument is out of range, or does not go with another.

    Example:
        >>> import dataclasses
        >>> config = LayerConfig(64, 4, 128, norm="rms", norm_placement="pre", rotary=Rotary(1e4))
        >>> dataclasses.replace(config, window=(512, 0)).window
        (512, 0)
    """

    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    _: KW_ONLY
    activation: str = "relu"
    gated: bool = False
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    scale: float | None = None
    window: tuple[int | None, int | None] | None = None
    softcap: float | None = None
    sinks: bool = False
    alibi: bool = False
    rotary: Rotary | None = None
    qk_norm: bool = False
    norm: str = "layer"
    layer_norm_eps: float = 1e-5
    unit_offset: bool = False
    norm_placement: str = "post"
    input_norm: bool = True
    residual_scale: float = 1.0
    in_proj_bias: bool = True
    out_proj_bias: bool = True
    linear_bias: bool = True
    norm_bias: bool = True
    cross_attention: bool = False
    dtype: DTypeLike = "float32"
    function: InitVar[str] = "LayerConfig"

    def __post_init__(self, function: str) -> None:
        width, heads = ("embed_dim", "num_heads") if function == "MultiHeadAttention" else ("d_model", "nhead")
        checked: dict[str, Any] = {
            "d_model": _checks.size(function, width, self.d_model),
            "nhead": _checks.size(function, heads, self.nhead),
            "dim_feedforward": _checks.size(function, "dim_feedforward", self.dim_feedforward),
            "dtype": _checks.weight_dtype_name(function, self.dtype),
            "residual_scale": _checks.positive(function, "residual_scale", self.residual_scale),
        }
        _checks.choice(function, "activation", self.activation, [name for name in ACTIVATIONS if name])
        _checks.choice(function, "norm", self.norm, ("layer", "rms"))
        _checks.choice(function, "norm_placement", self.norm_placement, ("post", "pre", "sandwich"))
        for name in (field.name for field in fields(self) if field.type is bool):
            checked[name] = _checks.flag(function, name, getattr(self, name))
        self._check_heads(function, width, heads)
        _checks.sides(function, self.window)
        checked["window"] = None if self.window is None else tuple(self.window)
        _checks.finite_scale(function, self.scale, 1, np.dtype(np.float32))
        if self.softcap is not None:
            dtype = np.dtype("float64" if checked["dtype"] == "float64" else "float32")
            checked["softcap"] = _checks.finite_softcap(function, self.softcap, dtype)
        check_eps(function, "layer_norm_eps", self.layer_norm_eps)
        if self.unit_offset and self.norm != "rms":
            raise ValueError(f'{function}: unit_offset is of norm "rms", not {self.norm!r}')
        if not self.input_norm and self.norm_placement != "pre":
            raise ValueError(f'{function}: input_norm=False is of norm_placement "pre", not {self.norm_placement!r}')
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _check_heads(self, function: str, width: str, heads: str) -> None:
        shared = self.nhead if self.num_key_value_heads is None else self.num_key_value_heads
        _checks.size(function, "num_key_value_heads", shared)
        if self.head_dim is None and self.d_model % self.nhead:
            raise ValueError(f"{function}: {width} {self.d_model} must be a multiple of {heads} {self.nhead}")
        if self.nhead % shared:
            raise ValueError(f"{function}: num_heads {self.nhead} must be a multiple of num_key_value_heads {shared}")
        head_dim = self.d_model // self.nhead if self.head_dim is None else self.head_dim
        _checks.size(function, "head_dim", head_dim)
        if self.rotary is not None:
            check_rotary(function, self.rotary, head_dim)


def check_eps(function: str, name: str, eps: Any) -> float:
    accepted = "a finite number, 0 or more"
    if not 0 <= _checks.number(function, name, eps, accepted) < np.inf:
        raise ValueError(f"{function}: {name} must be {accepted}, not {eps!r}")
    return float(eps)


def check_rotary(function: str, rotary: Any, head_dim: int) -> None:
    """Refuses what is no Rotary, or not one for heads of so many features."""
    check_part(function, "rotary", rotary, Rotary, "a Rotary or None")
    width = head_dim if rotary.width is None else _checks.size(function, "rotary.width", rotary.width)
    if width > head_dim:
        raise ValueError(f"{function}: rotary.width {width} is more than a head's {head_dim} features")
    if rotary.base is None:
        raise TypeError(f"{function}: rotary.base must be a number, not None")
    accepted = "positive and finite, or None"
    if not 0 < _checks.number(function, "rotary_base", rotary.base, accepted) < 1e300:
        raise ValueError(f"{function}: rotary_base must be {accepted}; not {rotary.base!r}")
    if width % 2:
        raise ValueError(f"{function}: rotary positions need heads of an even width, not {width}")
    accepted = "a tuple of pairs (name, value) that can be hashed"
    check_part(function, "rotary.scaling", rotary.scaling, tuple, accepted)
    try:
        hash(rotary.scaling)
        scaling = dict(rotary.scaling)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: rotary.scaling must be {accepted}, not {rotary.scaling!r}") from None
    frequencies_for(function, width, rotary.base, scaling, 0)


_ARGUMENTS = {"norm_first", "sandwich_norm", "bias", "rotary_base", *(field.name for field in fields(LayerConfig))}


def torch_config(function: str, given: Mapping[str, Any], **others: Any) -> LayerConfig:
    """A LayerConfig of the public arguments of a layer, its __init__'s locals, and of others."""
    options = {name: value for name, value in given.items() if name in _ARGUMENTS} | others
    norm_first = _checks.flag(function, "norm_first", options.pop("norm_first", False))
    sandwich_norm = _checks.flag(function, "sandwich_norm", options.pop("sandwich_norm", False))
    if sandwich_norm and not norm_first:
        raise ValueError(f"{function}: sandwich_norm needs norm_first=True")
    bias, base = _checks.flag(function, "bias", options.pop("bias")), options.pop("rotary_base")
    options |= dict.fromkeys(("in_proj_bias", "out_proj_bias", "linear_bias", "norm_bias"), bias)
    return LayerConfig(
        norm_placement="sandwich" if sandwich_norm else "pre" if norm_first else "post",
        rotary=None if base is None else Rotary(base),
        function=function,
        **options,
    )

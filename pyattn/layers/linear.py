"""The dense layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn._checks import Array
from pyattn._core import linear as _linear
from pyattn._module import Layer, Seed, Setting, initial
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for
from pyattn.activations import ACTIVATIONS
from pyattn.precision import INT8, MAX_INT8_INPUTS, Quantized, elements_of


class Linear(Layer):
    """activation(x weight^T + bias), with the weight packed once for the matmul kernel.

    Parameters: `weight` (out_features, in_features) and, if bias, `bias` (out_features,); until they are loaded, random
    from rng. activation: None, "relu", "gelu" (erf), "gelu_tanh" or "silu", fused. dtype: of the stored weight,
    "float32", "float64", "bfloat16" or "int8"; x and the output are float64 where it is, else float32.

    Example:
        >>> layer = Linear(384, 1536, activation="gelu")
        >>> layer(np.ones((2, 7, 384), np.float32)).shape
        (2, 7, 1536)
    """

    # Made from the seed at first use: parameters that are loaded at once would be drawn in vain.
    _packed: _linear.Packed | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        dtype: DTypeLike = "float32",
        rng: Seed = None,
    ) -> None:
        self.in_features = _checks.size("Linear", "in_features", in_features)
        self.out_features = _checks.size("Linear", "out_features", out_features)
        self.weight_dtype = _checks.weight_dtype("Linear", dtype)
        if self.weight_dtype == INT8 and in_features > MAX_INT8_INPUTS:
            raise ValueError(
                f"Linear: in_features is {in_features}; int8 takes at most {MAX_INT8_INPUTS} (sums have 32 bits)"
            )
        self.dtype = np.dtype(np.float64 if self.weight_dtype == np.float64 else np.float32)  # of inputs and outputs
        self.activation = _checks.choice("Linear", "activation", activation, ACTIVATIONS)
        self._has_bias = _checks.flag("Linear", "bias", bias)
        self._seed = int(np.random.default_rng(rng).integers(2**63))

    @in_namespace
    def __call__(self, x: Array) -> Array:
        """x (..., in_features) to (..., out_features).

        Raises:
            TypeError: x is not of the layer's dtype.
            ValueError: x has another last axis.
        """
        rows, shape = _checks.rows("Linear", x, self.in_features, self.dtype)
        return self._apply(rows).reshape(*shape, self.out_features)

    def _apply(self, rows: Array, residual: Array | None = None, out: Array | None = None) -> Array:
        """__call__ for checked rows (n, in_features), each contiguous, plus residual; residual may be out."""
        out = np.empty((len(rows), self.out_features), self.dtype) if out is None else out
        threads = threads_for(2.0 * rows.size * self.out_features)
        _linear.linear(rows, [self._weights()], residual, out, ACTIVATIONS[self.activation], threads)
        return out

    def _weights(self) -> _linear.Packed:
        if self._packed is None:
            rng = np.random.default_rng(self._seed)
            shapes = self._own_shapes().items()
            made = self._pack({name: initial(shape, self.in_features, rng, self.dtype) for name, shape in shapes})
            vars(self).setdefault("_packed", made)  # unless another thread has set it in the meantime
        assert self._packed is not None
        return self._packed

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | {"bias": (self.out_features,)} if self._has_bias else shapes

    def _own_held(self) -> dict[str, Any]:
        packed = self._weights()
        elements, scales = packed.unpack()
        values: dict[str, Any] = {"weight": elements if scales is None else Quantized(elements, scales)}
        return values if packed.bias is None else values | {"bias": packed.bias.copy()}

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle: the weight unpacked, since how it is packed depends on the instruction set."""
        state = super().__getstate__()
        packed = state.get("_packed")
        return state if packed is None else state | {"_packed": (*packed.unpack(), packed.bias)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "_packed" in state:
            elements, scales, bias = state["_packed"]
            self._packed = _linear.Packed(elements, bias, scales)

    def _own_made(self, values: Mapping[str, Any]) -> list[Setting]:
        return [(self, "_packed", self._pack(values))]

    def _pack(self, values: Mapping[str, Any]) -> _linear.Packed:
        bias = np.array(values["bias"], self.dtype) if self._has_bias else None
        elements, scales = elements_of(values["weight"], self.weight_dtype)
        return _linear.Packed(elements, bias, scales)

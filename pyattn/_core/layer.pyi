from typing import Any, TypeAlias

from numpy.typing import NDArray

from pyattn._core.binding import Binding, Memory, Rotation
from pyattn._core.linear import Packed

Array: TypeAlias = NDArray[Any]

class WeightsPlan:
    def __init__(self, parts: list[Packed]) -> None: ...

class AttentionPlan:
    revision: object
    rotary: Any
    compute_dtype: Any
    bf16: bool
    heads: int
    key_heads: int
    head_dim: int
    def __init__(self, layer: Any, revision: object) -> None: ...
    def run(self, x: Array, own: Binding, rotation: Rotation | None = None, memory: Memory | None = None) -> Array: ...
    def precompute(self, x: Array, binding: Binding, rotation: Rotation | None, keys: Array, values: Array) -> None: ...

class LayerPlan:
    revision: object
    self_attention: AttentionPlan
    cross_attention: AttentionPlan | None
    def __init__(
        self,
        layer: Any,
        self_attention: AttentionPlan,
        cross_attention: AttentionPlan | None,
        norms: list[Any],
        revision: object,
    ) -> None: ...
    def run(
        self,
        x: Array,
        out: Array,
        own: Binding,
        rotation: Rotation | None = None,
        memory: Memory | None = None,
        keys: Array | None = None,
        values: Array | None = None,
    ) -> None: ...

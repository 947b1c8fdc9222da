from typing import Any

from numpy import ndarray as Array

from pyattn._core.binding import Binding, Memory, Rotation

class AttentionPlan:
    revision: object
    rotary: Any
    compute_dtype: Any
    bf16: bool
    head_dim: int
    def __init__(self, layer: Any, revision: object) -> None: ...
    def run(self, x: Array, own: Binding, rotation: Rotation, memory: Memory | None) -> Array: ...
    def precompute(
        self, x: Array, binding: Binding, rotation: Rotation, cache: Array, scales: Array | None
    ) -> None: ...

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
        rotation: Rotation,
        memory: Memory | None,
        cache: Array | None,
        scales: Array | None,
    ) -> None: ...

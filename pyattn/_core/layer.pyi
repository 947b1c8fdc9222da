from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

class Workspace:
    def __init__(self) -> None: ...

class Rotation:
    def __init__(self, positions: Array, cosines: Array, sines: Array) -> None: ...

class Binding:
    workspace: Workspace
    mask: Array | None
    bias: Array | None
    past_len: Array | None
    new_len: Array | None
    is_causal: bool
    bias_of_sequence: bool
    threads: int
    small: float
    def __init__(self, batch: int, query_starts: Array, key_starts: Array, workspace: Workspace) -> None: ...

class Memory:
    query_rotation: Rotation | None
    key_rotation: Rotation | None
    def __init__(
        self,
        binding: Binding,
        key_rows: Array | None = None,
        value_rows: Array | None = None,
        keys: Array | None = None,
        values: Array | None = None,
    ) -> None: ...

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

from pyattn._checks import Array, Options
from pyattn._core.linear import Packed

Rotation = tuple[Array, Array, Array]
Norm = tuple[Array | None, Array | None, float, bool]

class Workspace:
    def __init__(self) -> None: ...

class Attention:
    def __init__(
        self,
        projections: list[Packed],
        out_proj: Packed,
        heads: int,
        key_heads: int,
        width: int,
        norm: Norm | None,
        batch: int,
        query_starts: Array,
        key_starts: Array,
        options: Options,
        query_rotation: Rotation | None = None,
        key_rotation: Rotation | None = None,
        keys: Array | None = None,
        values: Array | None = None,
        past: Array | None = None,
        until: Array | None = None,
    ) -> None: ...

def multi_head_attention(self: Attention, inputs: list[Array], threads: int, small: float) -> Array: ...
def layer(
    x: Array,
    out: Array,
    self_attention: Attention,
    cross_attention: Attention | None,
    memory: list[Array],
    linear1: Packed,
    linear2: Packed,
    norm: Norm | None,
    norm_first: bool,
    activation: int,
    gated: bool,
    workspace: Workspace,
    threads: int,
    small: float,
) -> None: ...
def cache_memory(self: Attention, rows: Array, workspace: Workspace, threads: int, small: float) -> None: ...

from pyattn._checks import Array, Options
from pyattn._core.linear import Packed

Rotation = tuple[Array, Array, Array]
Norm = tuple[Array, Array | None, float]

class Workspace:
    def __init__(self) -> None: ...

def multi_head_attention(
    inputs: list[Array],
    projections: list[Packed],
    out_proj: Packed,
    heads: int,
    batch: int,
    query_starts: Array,
    key_starts: Array,
    options: Options,
    query_rotation: Rotation | None,
    key_rotation: Rotation | None,
    threads: int,
    small: float,
) -> Array: ...
def encoder_layer(
    x: Array,
    out: Array,
    projections: list[Packed],
    out_proj: Packed,
    linear1: Packed,
    linear2: Packed,
    norm1: Norm | None,
    norm2: Norm,
    norm_first: bool,
    activation: int,
    gated: bool,
    heads: int,
    batch: int,
    starts: Array,
    options: Options,
    rotation: Rotation | None,
    workspace: Workspace,
    threads: int,
    small: float,
) -> None: ...

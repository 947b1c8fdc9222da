from numpy import ndarray as Array

class Workspace:
    buffers: list[Array | None]
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
        key_rows: Array | None,
        value_rows: Array | None,
        keys: Array | None,
        values: Array | None,
    ) -> None: ...

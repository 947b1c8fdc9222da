from collections.abc import Callable
from typing import TypeAlias

from numpy import ndarray as Array

Rotation: TypeAlias = tuple[Array, Array, Array] | None  # of this stub alone

class Workspace:
    buffers: list[Array | None]
    watch: Callable[..., None] | None
    def __init__(self) -> None: ...

class Binding:
    workspace: Workspace
    query_starts: Array
    key_starts: Array
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
    def __init__(
        self,
        binding: Binding,
        rows: tuple[Array, Array] | None,
        cache: Array | None,
        scales: Array | None,
        query_rotation: Rotation,
        key_rotation: Rotation,
    ) -> None: ...

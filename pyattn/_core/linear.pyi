import numpy as np

from pyattn._checks import Array

class Packed:
    dtype: np.dtype[np.generic]
    bias: Array | None
    outputs: int
    inputs: int
    held: int
    def __init__(
        self, weight: Array, bias: Array | None = None, scales: Array | None = None, whole: bool = False
    ) -> None: ...
    def unpack(self) -> tuple[Array, Array | None]: ...

def narrowest(weight: Array, float16: bool = True) -> int: ...
def linear(
    input: Array, parts: list[Packed], residual: Array | None, out: Array, activation: int, threads: int
) -> None: ...

import numpy as np
from numpy import ndarray as Array

class Packed:
    dtype: np.dtype[np.generic]
    bias: Array | None
    format: int
    def __init__(
        self, weight: Array, bias: Array | None = None, scales: Array | None = None, narrow: bool = True
    ) -> None: ...
    def unpack(self) -> tuple[Array, Array | None]: ...

def linear(
    input: Array, parts: list[Packed], residual: Array | None, out: Array, activation: int, threads: int
) -> None: ...

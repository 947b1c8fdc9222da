from numpy import ndarray as Array

ACTIVATIONS: dict[str | None, int]

def normalise(
    input: Array, weight: Array | None, bias: Array | None, out: Array, eps: float, centred: bool, threads: int
) -> None: ...
def activate(input: Array, out: Array, activation: int, threads: int) -> None: ...
def rotate(
    rows: Array,
    positions: Array,
    cosines: Array,
    sines: Array,
    threads: int,
    head_width: int,
    interleaved: bool = False,
) -> None: ...
def embed(tables: list[Array], indices: list[Array], out: Array, threads: int) -> None: ...

from numpy import ndarray as Array

from pyattn._core.linear import Packed

def maxsim(
    queries: list[Packed],
    query_starts: Array,
    firsts: Array,
    documents: Array,
    starts: Array,
    out: Array,
    threads: int,
) -> None: ...
def maxima(words: list[Packed], documents: Array, starts: Array, out: Array, threads: int) -> None: ...

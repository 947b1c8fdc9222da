from pyattn._checks import Array

WIDTH_BLOCK: int

def attention(
    query: Array,
    key: Array,
    value: Array | None,
    out: Array | None,
    *,
    query_starts: Array,
    key_starts: Array,
    scale: float,
    threads: int,
    lse: Array | None = None,
    weights: Array | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    slopes: Array | None = None,
    sinks: Array | None = None,
    kv_lengths: Array | None = None,
    offsets: Array | None = None,
    left: int = -1,
    right: int = -1,
    softcap: float = 0.0,
    structure: tuple[Array, Array, Array | None] | None = None,
    maximum: Array | None = None,
    entropy: Array | None = None,
    received: Array | None = None,
    received_from: int = 0,
    received_to: int = -1,
    top_keys: Array | None = None,
    top_weights: Array | None = None,
) -> None: ...

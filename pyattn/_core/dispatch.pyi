isa: str
isa_available: tuple[str, ...]
openmp: int
compiler: str
sanitized: bool
debug: bool
native_bfloat16: bool  # whether the machine has dot products of them
native_int8: bool

def thread_limit() -> int: ...
def measure_multiply_add(itemsize: int, threads: int, seconds: float) -> float: ...
def measure_read(threads: int, seconds: float, size: int) -> float: ...

isa: str
isa_available: tuple[str, ...]
openmp: int
compiler: str
sanitized: bool
debug: bool
float32_alone: bool  # as `make dev` builds it
native_bfloat16: bool  # whether the machine has dot products of them
native_int8: bool

def note_main_thread() -> None: ...
def thread_limit() -> int: ...
def calls_running() -> int: ...
def granted(threads: int) -> int: ...

"""The files of a vector index: a directory whose header.json names all others, and is replaced in one step.

    header.json           model, fingerprint, width, counts, and the names and SHA-256 of the files below
    vectors-BASE          rows x width float32, little-endian; only ever appended to
    passages-BASE         one JSON line [text, file, line, name] for each row; only ever appended to
    ends-BASE             rows uint64: where the line of each row ends
    live-STATE            one bit for each row, the least significant first: 0 is a deleted row
    state-STATE           JSON: the rows of each file, and notes
    graph-GRAPH           faiss's file, if there are rows enough
    lock                  held by the one process that writes

A reader sees the old index or the whole new one: what a writer appends lies beyond the counts of the header until that
is replaced, and everything else has a new name each time. A writer that dies half way leaves what the next one
overwrites or removes. Mapped files stay readable for those who have opened them, when their names are gone too.
"""

import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyattn.tasks.passages import Passage

FORMAT = "pyattn vector index 1"
HEADER = "header.json"
_MAX_HEADER = 2**20  # bytes; a fingerprint and a model's name take a few hundred
_MAX_COUNT = 2**48
GROWING = ("vectors", "passages", "ends")
_PREFIXES = (*GROWING, "live", "state", "graph")
_OWN = re.compile(rf"(?:{'|'.join(_PREFIXES)})-[0-9a-f]{{8}}|header\.json\.[0-9a-f]{{8}}")
_TOKEN = re.compile(r"[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Header:
    """What header.json says. Tokens are the endings of names; a graph without one does not exist."""

    model: str
    fingerprint: str
    width: int
    exact: int  # so many of the newest rows are in no graph
    rows: int = 0
    text_bytes: int = 0
    graph_rows: int = 0
    base: str = ""
    state: str = ""
    state_sha256: str = ""
    live_sha256: str = ""
    graph: str = ""
    graph_sha256: str = ""

    def __post_init__(self) -> None:
        counts = {"width": 1, "exact": 1, "rows": 0, "text_bytes": 0, "graph_rows": 0}
        for name, lowest in counts.items():
            value = getattr(self, name)
            if type(value) is not int or not lowest <= value <= _MAX_COUNT:
                raise ValueError(f"{name} is {value!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in counts and not isinstance(value, str):
                raise ValueError(f"{field.name} is {value!r}, no string")
        if self.graph_rows > self.rows or bool(self.graph_rows) != bool(self.graph):
            raise ValueError(f"its graph has {self.graph_rows} of {self.rows} rows")

    def check_names(self) -> None:
        """Refuses names of files that this module does not give: others could lie anywhere."""
        for name in ("base", "state", "graph"):
            value = getattr(self, name)
            if not _TOKEN.fullmatch(value) and (name != "graph" or value):
                raise ValueError(f"{name} is {value!r}")
        for name in ("state_sha256", "live_sha256"):
            if not _SHA256.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is no checksum")

    def names(self) -> set[str]:
        """The files of the index."""
        endings = {"live": self.state, "state": self.state, "graph": self.graph}
        return {f"{prefix}-{endings.get(prefix, self.base)}" for prefix in _PREFIXES}


def token() -> str:
    return secrets.token_hex(4)


def read_header(directory: Path) -> Header:
    """What header.json of a directory says; ValueError where it is damaged or something else."""
    path = directory / HEADER
    if not path.is_file():
        raise ValueError(f"it has no {HEADER}")
    with path.open("rb") as file:
        content = file.read(_MAX_HEADER + 1)
    if len(content) > _MAX_HEADER:
        raise ValueError(f"its {HEADER} has more than {_MAX_HEADER} bytes")
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError(f"its {HEADER} is nested") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"its {HEADER} does not say {FORMAT!r}")
    if values.keys() != {field.name for field in fields(Header)}:
        raise ValueError(f"its {HEADER} lacks or adds entries")
    header = Header(**values)
    header.check_names()
    return header


def write_header(directory: Path, header: Header) -> None:
    """Replaces header.json in one step, when all that it names is on the disk."""
    temporary = directory / f"{HEADER}.{token()}"
    content = json.dumps({"format": FORMAT, **asdict(header)}, indent=1).encode()
    try:
        write_file(temporary, content)
        temporary.replace(directory / HEADER)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_state(directory: Path, header: Header, state: bytes, live: bytes) -> Header:
    """Writes the two files that are new each time. Returns the header that names them."""
    name = token()
    state_sha256 = write_file(directory / f"state-{name}", state)
    live_sha256 = write_file(directory / f"live-{name}", live)
    return replace(header, state=name, state_sha256=state_sha256, live_sha256=live_sha256)


def write_file(path: Path, content: bytes) -> str:
    """Writes a new file to the disk. Returns its SHA-256."""
    with path.open("xb") as file:
        file.write(content)
        synchronize(file)
    return hashlib.sha256(content).hexdigest()


def synchronize(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def read_checked(path: Path, sha256: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path.name} is damaged: its SHA-256 is not that of {HEADER}")
    return content


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def mapped(path: Path, dtype: Any, count: int) -> NDArray[Any]:
    """The first `count` elements of a file, mapped into memory to be read; ValueError where it has fewer."""
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < size:
            raise ValueError(f"{path.name} is cut: it has fewer than {size} bytes")
        if not size:  # nothing cannot be mapped
            return np.empty(0, dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), dtype)


def new_files(directory: Path, header: Header) -> Header:
    """The header of an index without rows, in files of new names."""
    base = token()
    for name in GROWING:
        (directory / f"{name}-{base}").touch(exist_ok=False)
    return replace(header, base=base, rows=0, text_bytes=0, graph="", graph_rows=0, graph_sha256="")


def append_rows(directory: Path, header: Header, passages: Iterable[Passage], vectors: NDArray[np.float32]) -> Header:
    """Writes rows behind those that the header counts, over what a failed writer has left. Returns its successor."""
    lines = [json.dumps(list(passage)).encode() + b"\n" for passage in passages]
    ends = header.text_bytes + np.cumsum([len(line) for line in lines], dtype="<u8")
    starts = (header.rows * header.width * 4, header.text_bytes, header.rows * 8)
    contents = (vectors.astype("<f4").tobytes(), b"".join(lines), ends.tobytes())
    for name, start, content in zip(GROWING, starts, contents, strict=True):
        with (directory / f"{name}-{header.base}").open("r+b") as file:
            file.seek(start)
            file.write(content)
            file.truncate()
    text_bytes = int(ends[-1]) if lines else header.text_bytes
    return replace(header, rows=header.rows + len(lines), text_bytes=text_bytes)


def remove_others(directory: Path, header: Header) -> None:
    """Removes the files of earlier states, and of writers that died; none that this module did not name."""
    for path in directory.iterdir():
        if _OWN.fullmatch(path.name) and path.name not in header.names():
            path.unlink(missing_ok=True)


def lock(directory: Path) -> IO[bytes]:
    """The lock of the one writer, held until it is closed; OSError where another process has it."""
    import fcntl  # not on Windows, where indexes can only be read

    file = (directory / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise OSError(f"{directory} is being written by another process, or another VectorIndex of this one") from error
    return file


def is_passage(row: Any) -> bool:
    types = (str, str, int, str)
    return isinstance(row, list | tuple) and len(row) == 4 and all(map(isinstance, row, types)) and row[2] is not True


def passage_of(line: bytes) -> Passage:
    """The passage of a line; ValueError for anything else."""
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested") from None
    if not isinstance(row, list) or not is_passage(row):
        raise ValueError("it is not [text, file, line, name]")
    return Passage(*row)

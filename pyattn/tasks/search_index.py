"""A search index: passages, one vector each, and the name of the encoder that made them; it is one .npz file."""

import json
import os
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._module import check_part
from pyattn.generation.sampling import greatest
from pyattn.tasks.passages import Passage

_FORMAT = "pyattn search index 1"
_MAX_HEADER = 256  # bytes of the header of an array in the file; np.savez writes 118


class Hit(NamedTuple):
    """A passage and its score: the dot product of its vector and that of the query."""

    score: float
    passage: Passage


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """Passages that can be searched by vector.

    Args:
        passages: n passages.
        vectors: (n, width) float32, one for each passage.
        model: the user's name for the encoder that made the vectors.
        fingerprint: `SentenceEncoder.fingerprint` of that encoder: vectors of another cannot be compared with these.

    Raises:
        TypeError: vectors are not float32; model or fingerprint is no string.
        ValueError: vectors are not one for each passage, or not all finite.
    """

    passages: Sequence[Passage]
    vectors: NDArray[np.float32]
    model: str
    fingerprint: str

    def __post_init__(self) -> None:
        name = "SearchIndex"
        vectors = _checks.array(name, "vectors", self.vectors)
        if vectors.dtype != np.float32:
            raise TypeError(f"{name}: vectors have dtype {vectors.dtype}; float32 is needed")
        if vectors.ndim != 2 or len(vectors) != len(self.passages):
            raise ValueError(f"{name}: {len(self.passages)} passages, but vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError(f"{name}: vectors are not all finite")
        for what, text in (("model", self.model), ("fingerprint", self.fingerprint)):
            check_part(name, what, text, str, "a string")
        # In one order, so that scores do not depend on the strides that vectors came with.
        object.__setattr__(self, "vectors", np.ascontiguousarray(vectors))

    def search(self, vector: ArrayLike, k: int) -> list[Hit]:
        """The passages with the greatest dot products with a vector.

        Args:
            vector: (width,).
            k: the number of hits; all passages, if there are fewer.

        Returns:
            The hits, best first; among equal ones, the earlier passage first.

        Raises:
            TypeError: vector is not of real numbers; k is not an integer.
            ValueError: vector has another shape, or a product with it is not finite; k is less than 1.
        """
        query = _checks.array("search", "vector", vector)
        if query.dtype.kind not in "fiu":
            raise TypeError(f"search: vector has dtype {query.dtype}; real numbers are needed")
        if query.shape != self.vectors.shape[1:]:
            raise ValueError(f"search: vector has shape {query.shape}; the index's have {self.vectors.shape[1:]}")
        k = _checks.count("search", "k", k, 1)
        with np.errstate(all="ignore"):  # products that are not finite are refused below
            scores = self.vectors @ query.astype(np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("search: a product of vector with one of the index is not finite")
        return [Hit(float(scores[i]), self.passages[i]) for i in greatest(scores, k)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to a file in one step: a reader sees the old file or the whole new one.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        path = Path(path)
        header = {"format": _FORMAT, "model": self.model, "fingerprint": self.fingerprint, "passages": self.passages}
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), vectors=self.vectors)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SearchIndex":
        """Reads the index that `save` wrote to a file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is something else, or damaged; the message names it.
            MemoryError: it does not fit into memory.
        """
        with Path(path).open("rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    file_size = os.fstat(file.fileno()).st_size
                    header = _read_array(archive, "header.npy", np.dtype(np.uint8), file_size)
                    vectors = _read_array(archive, "vectors.npy", np.dtype(np.float32), file_size)
                values = json.loads(header.tobytes())
                if not isinstance(values, dict) or values.get("format") != _FORMAT:
                    raise ValueError(f"its header does not say {_FORMAT!r}")
                rows = values.get("passages")
                if not isinstance(rows, list) or not {"model", "fingerprint"} <= values.keys():
                    raise ValueError("its header lacks the model, the fingerprint or the passages")
                passages = [Passage(*row) for row in rows]
                if not all(all(map(isinstance, passage, (str, str, int, str))) for passage in passages):
                    raise ValueError("a passage is not [text, file, line, name]")
                return cls(passages, vectors, values["model"], values["fingerprint"])
            except MemoryError:
                raise
            except Exception as error:  # NumPy, zipfile and json raise many types for damaged files
                raise ValueError(f"load: {path} is not an index that `pyattn embed` wrote ({error})") from error


def _read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], file_size: int) -> NDArray[Any]:
    """An array of an .npz file, uncompressed: no larger than the file. np.load takes memory as the header claims."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or not member.file_size == member.compress_size <= file_size:
        raise ValueError(f"{name} is compressed or not whole")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not as np.savez writes it")
        shape, in_columns, stored = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
        if stored != dtype:
            raise ValueError(f"{name} has type {stored}; {dtype} is needed")
        values: NDArray[Any] = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if in_columns else "C")

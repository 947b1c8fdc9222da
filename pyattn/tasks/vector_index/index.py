"""The vector index: what its users call."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._module import check_part
from pyattn.generation.sampling import greatest
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import Hit
from pyattn.tasks.vector_index import files as index_files
from pyattn.tasks.vector_index.files import Header
from pyattn.tasks.vector_index.state import State
from pyattn.tasks.vector_index.steps import commit, create, read, read_state
from pyattn.tasks.vector_index.view import View, map_view

_CHUNK = 2**14  # rows that are copied at once
_CANDIDATES = 200  # by default, and no fewer than four times the hits


class VectorIndex:
    """Passages on disk that can be searched by vector, appended to and deleted; made by `create`, opened by `open`.

    Changes (`add`, `delete`, `compact`, `notes`) are seen by this object at once, and by others after `save`, in one
    step: who opens it before, or after a crash half way, has the old index, and keeps what was there when it opened it.
    The first change takes the directory's lock, which `save` and `close` give back: one process writes, any number
    read. Many threads may search one object at once; a change must have it to itself.

    The newest passages, up to `exact` of them, are compared one by one. Those before them are in a graph, which needs
    `pip install "pyattn[index]"`. It finds nearly what there is (docs/search.md has the figures); how it comes out
    depends on how its threads took turns, and so may the last of the hits. Scores are products of float32 vectors.

    Files are trusted no further than they must be: nothing is unpickled, names lead nowhere else, sizes are checked,
    files that are read whole have a SHA-256 in the header, and faiss checks the links of the graph.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pyattn import VectorIndex
        >>> folder = tempfile.mkdtemp()
        >>> with VectorIndex.create(f"{folder}/notes.index", model="m", fingerprint="f", width=3) as index:
        ...     passages = [("a cat", "a.txt", 1, ""), ("a dog", "b.txt", 1, "")]
        ...     numbers = index.add(passages, np.eye(3, dtype=np.float32)[:2])
        ...     index.save()
        >>> index = VectorIndex.open(f"{folder}/notes.index")
        >>> index.search([0.1, 0.9, 0], k=1)
        [Hit(score=0.8999999761581421, passage=Passage(text='a dog', file='b.txt', line=1, name=''))]
        >>> index.delete(files=["b.txt"])
        1
        >>> index.save()
        >>> len(index), index.files
        (1, ['a.txt'])
    """

    def __init__(self, directory: Path, header: Header, view: View) -> None:
        """Of the directory, its header and what it holds: `create` and `open` make an index."""
        self._directory = directory
        self._header = header
        self._lock: IO[bytes] | None = None
        self._state: State | None = None
        self._view = view

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, model: str, fingerprint: str, width: int, exact: int = 5000
    ) -> "VectorIndex":
        """A new index without passages.

        Args:
            path: the directory; it must not exist, or be empty.
            model: the user's name for the encoder that makes the vectors.
            fingerprint: `SentenceEncoder.fingerprint` of that encoder: others' vectors cannot be compared with these.
            width: of the vectors.
            exact: as many of the newest passages are compared one by one, before they go into the graph.

        Raises:
            TypeError: model or fingerprint is no string; width or exact no integer.
            ValueError: the directory is not empty; width or exact is less than 1.
            OSError: it cannot be made.
        """
        for what, text in (("model", model), ("fingerprint", fingerprint)):
            check_part("create", what, text, str, "a string")
        width, exact = _checks.count("create", "width", width, 1), _checks.count("create", "exact", exact, 1)
        directory = Path(path)
        return cls(directory, *create(directory, Header(model, fingerprint, width, exact)))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "VectorIndex":
        """The index of a directory.

        Raises:
            OSError: there is no such directory, or it cannot be read.
            ValueError: it holds something else, or is damaged; the message names it.
            ImportError: it has a graph, and faiss is not installed.
        """
        directory = Path(path)
        return cls(directory, *read(directory))

    @property
    def model(self) -> str:
        """The user's name for the encoder that made the vectors."""
        return self._header.model

    @property
    def fingerprint(self) -> str:
        """Of the encoder that made the vectors."""
        return self._header.fingerprint

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self._header.width

    @property
    def deleted(self) -> int:
        """Deleted passages whose place is still taken, until `compact`."""
        return len(self._view.live) - len(self)

    @property
    def files(self) -> list[str]:
        """The files that have passages, in the order in which they came."""
        live, state = self._view.live, self._read_state()
        return [file for file in state.files if any(live[rows].any() for rows in state.rows(file))]

    @property
    def notes(self) -> dict[str, Any]:
        """What is to be kept beside the passages, as JSON has it: a dictionary to change, which `save` writes."""
        return self._read_state().notes

    def __len__(self) -> int:
        """The number of passages."""
        return self._view.count

    def search(self, vector: ArrayLike, k: int, *, candidates: int | None = None) -> list[Hit]:
        """The passages with the greatest dot products with a vector, nearly.

        Args:
            vector: (width,).
            k: the number of hits; all passages, if there are fewer.
            candidates: how many passages the graph is to find, whose float32 vectors are then compared: the more, the
                better and slower; by default 200, or 4 k if that is more. As many as there are passages: all are
                compared, without the graph.

        Returns:
            The hits, best first; among equal ones, the one that was added earlier.

        Raises:
            TypeError: vector is not of real numbers; k or candidates is not an integer.
            ValueError: vector has another shape, or a product with it is not finite; k is less than 1, candidates less
                than k; a passage is damaged.
        """
        query = _checks.array("search", "vector", vector)
        if query.dtype.kind not in "fiu":
            raise TypeError(f"search: vector has dtype {query.dtype}; real numbers are needed")
        if query.shape != (self.width,):
            raise ValueError(f"search: vector has shape {query.shape}; the index's have {(self.width,)}")
        k = _checks.count("search", "k", k, 1)
        count = max(_CANDIDATES, 4 * k) if candidates is None else _checks.count("search", "candidates", candidates, k)
        view = self._view
        with np.errstate(all="ignore"):  # products that are not finite are refused
            query = query.astype(np.float32)
            if not np.isfinite(query).all():
                raise ValueError("search: vector is not all finite in float32")
            try:
                rows, scores = view.nearest(query, count, k)
                return [Hit(float(scores[i]), view.passage(int(rows[i]))) for i in greatest(scores, k)]
            except ValueError as error:
                raise ValueError(f"search: of {self._directory}, {error}") from error

    def add(self, passages: Sequence[Passage | tuple[str, str, int, str]], vectors: ArrayLike) -> range:
        """Appends passages.

        Args:
            passages: n passages, or tuples (text, file, line, name).
            vectors: (n, width) float32, one for each.

        Returns:
            Their numbers, which `delete` takes; they last until `compact`.

        Raises:
            TypeError: vectors are not float32; a passage is not as above.
            ValueError: vectors are not one for each passage, of another width, or not all finite; another process has
                changed the index since it was opened.
            OSError: another process is writing, or a file cannot be written; nothing is added.
        """
        rows = _checks.array("add", "vectors", vectors)
        if rows.dtype != np.float32:
            raise TypeError(f"add: vectors have dtype {rows.dtype}; float32 is needed")
        if rows.shape != (len(passages), self.width):
            needed = (len(passages), self.width)
            raise ValueError(
                f"add: vectors have shape {rows.shape}; for these passages and this index, {needed} is needed"
            )
        if not np.isfinite(rows).all():
            raise ValueError("add: vectors are not all finite")
        for i, passage in enumerate(passages):
            if not index_files.is_passage(passage):
                raise TypeError(f"add: passages[{i}] is not (text, file, line, name), three strings and an integer")
        self._begin("add")
        first, view = self._header.rows, self._view
        self._header = index_files.append_rows(self._directory, self._header, map(Passage._make, passages), rows)
        live = np.concatenate([view.live, np.ones(len(rows), bool)])
        self._view = map_view(self._directory, self._header, live, view.graph)
        self._read_state().append([passage[1] for passage in passages], first)
        return range(first, first + len(rows))

    def delete(self, ids: Iterable[int] = (), *, files: Iterable[str] = ()) -> int:
        """Deletes passages; the graph passes through them from now on, but does not find them.

        Args:
            ids: their numbers, as `add` returned them.
            files: all passages of these files.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an id is no integer, or files is one string.
            ValueError: there is no passage of that number, or of that file, or no longer; nothing is deleted. Another
                process has changed the index since it was opened.
            OSError: another process is writing.
        """
        if isinstance(files, str):
            raise TypeError(f"delete: files must be a sequence of names, not the string {files!r}")
        view, state = self._view, self._read_state()
        live = view.live.copy()
        for number in ids:
            number = _checks.integer("delete", "an id", number)
            if not (0 <= number < len(view.live) and view.live[number]):
                raise ValueError(f"delete: there is no passage {number}")
            live[number] = False
        names = list(files)
        for name in names:
            if name not in state.files:
                raise ValueError(f"delete: there is no file {name!r} in the index")
            for rows in state.rows(name):
                live[rows] = False
        self._begin("delete")
        for name in dict.fromkeys(names):
            del self._read_state().files[name]
        self._view = replace(view, live=live)
        return view.count - len(self)

    def compact(self) -> None:
        """Gives back the place of deleted passages: the others get new numbers, and `save` makes a new graph.

        Raises:
            ValueError: another process has changed the index since it was opened.
            OSError: another process is writing, or there is no room.
        """
        self._begin("compact")
        view = self._view
        header = index_files.new_files(self._directory, self._header)
        kept = np.flatnonzero(view.live)
        for start in range(0, len(kept), _CHUNK):
            rows = kept[start : start + _CHUNK]
            passages = [view.passage(int(row)) for row in rows]
            header = index_files.append_rows(self._directory, header, passages, view.vectors[rows])
        self._read_state().compact(view.live)
        self._header = header
        self._view = map_view(self._directory, header, np.ones(len(kept), bool), None)

    def save(self) -> None:
        """Makes the changes last, and visible to those who open the index from now on.

        Raises:
            OSError: a file cannot be written, or another process is writing; others keep the old index.
            ImportError: more than `exact` passages have come, and faiss is not installed.
            ValueError: another process has changed the index since it was opened; notes are not JSON.
        """
        if self._lock is None:
            self._begin("save")
        self._header, self._view = commit(self._directory, self._header, self._view, self._read_state())
        self._unlock()

    def close(self) -> None:
        """Forgets changes that were not saved, and lets others write. The index can be searched and changed again."""
        if self._lock is not None:
            self._header, self._view = read(self._directory)
        self._state = None
        self._unlock()

    def __enter__(self) -> "VectorIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_state(self) -> State:
        if self._state is None:
            self._state = read_state(self._directory, self._header)
        return self._state

    def _begin(self, function: str) -> None:
        """Takes the lock, unless this object has it; what was opened must be the newest."""
        if self._lock is None:
            lock = index_files.lock(self._directory)
            try:
                if index_files.read_header(self._directory) != self._header:
                    raise ValueError(
                        f"{function}: {self._directory} has been changed since it was opened; open it again"
                    )
                self._read_state()
            except BaseException:
                lock.close()
                raise
            self._lock = lock

    def __del__(self) -> None:
        if getattr(self, "_lock", None) is not None:  # none, where __init__ did not come so far
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

"""An index in a folder: made, brought up to date, or added to, one file after the other."""

import hashlib
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyattn.cli import texts
from pyattn.tasks.passages import Passage, files_of, read_file
from pyattn.tasks.vector_index import VectorIndex

_BATCH = 2048  # passages that are encoded at once: memory does not grow with the corpus


def run(arguments: Namespace, output: Path) -> None:
    """Makes the index what the arguments say; where that fails, there is the old one, or none."""
    is_new = not output.exists()
    if not (is_new or arguments.update or arguments.append):
        raise ValueError(f"{output} exists: --update makes it what PATH holds now, --append adds to it")
    for path in map(Path, arguments.paths):
        path.stat()  # raises OSError before the work, not in the middle of it
    model, encoder = texts.load_encoder(arguments)
    width = texts.encode(encoder, [Passage("a", "", 1)]).shape[1]
    if is_new:
        index = VectorIndex.create(output, model=model, fingerprint=encoder.fingerprint, width=width)
    else:
        index = VectorIndex.open(output)
        texts.check_model(index, arguments.output, encoder, model, arguments.dtype)
    try:
        with index:
            changes = _Changes(index, arguments)
            for passages in changes.batches():
                index.add(passages, texts.encode(encoder, passages))
            gone = changes.remove_the_gone() if arguments.update else 0
            texts.tell_skipped(arguments, changes.skipped)
            if not len(index):
                raise texts.no_passages(arguments)
            if index.deleted > len(index):
                index.compact()
            index.save()
    except BaseException:
        if is_new:
            shutil.rmtree(output)
        raise
    told = "" if is_new else f" ({changes.read} files read, {gone} removed)"
    print(f"{output}: {len(index)} passages of {len(index.files)} files, {width} dimensions{told}")


class _Changes:
    """What differs between the files of the arguments and an index, whose notes hold the time, size, digest of each."""

    def __init__(self, index: VectorIndex, arguments: Namespace) -> None:
        self.index, self.paths = index, arguments.paths
        self.skipped: list[str] = []
        self.read = 0  # files that are new or have changed
        self._indexed = set(index.files)
        self._seen: set[str] = set()

    def batches(self) -> Iterator[list[Passage]]:
        """The passages of files that are new or have changed, whose old ones are deleted."""
        passages: list[Passage] = []
        for file, is_named in files_of(self.paths, self.skipped.append):
            try:
                passages += self._read(file)
            except (OSError, ValueError):
                if is_named:
                    raise
                self.skipped.append(str(file))
            if len(passages) >= _BATCH:
                yield passages
                passages = []
        if passages:
            yield passages

    def _read(self, file: Path) -> list[Passage]:
        name, notes = str(file), self.index.notes
        before, status = notes.get(name), file.stat()
        known = before if isinstance(before, list) and len(before) == 3 else [None] * 3
        stamp: list[Any] = [status.st_mtime_ns, status.st_size]
        if known[:2] != stamp:
            stamp.append(hashlib.sha256(file.read_bytes()).hexdigest())
            if known[2] != stamp[2]:
                passages = read_file(file)
                if name in self._indexed:
                    self.index.delete(files=[name])
                self.read += 1
                notes[name] = stamp
                self._seen.add(name)
                return passages
            notes[name] = stamp
        self._seen.add(name)
        return []

    def remove_the_gone(self) -> int:
        """Deletes the files that are not there any more, or cannot be read. Returns how many."""
        gone = (self._indexed | self.index.notes.keys()) - self._seen
        self.index.delete(files=sorted(gone & self._indexed))
        for name in gone:
            self.index.notes.pop(name, None)
        return len(gone)

"""What only those who change a vector index read: which rows came from which file, and notes."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class State:
    """files: of each file, [first row, one after the last] of its parts; notes: what the user keeps beside them."""

    files: dict[str, list[list[int]]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def append(self, files: Iterable[str], first: int) -> None:
        """Files of rows that were appended, from row `first` on."""
        for row, file in enumerate(files, start=first):
            spans = self.files.setdefault(file, [])
            if spans and spans[-1][1] == row:
                spans[-1][1] += 1
            else:
                spans.append([row, row + 1])

    def rows(self, file: str) -> Iterator[slice]:
        return (slice(*span) for span in self.files[file])

    def compact(self, live: NDArray[np.bool_]) -> None:
        """The rows as they are numbered when those that are not live have gone."""
        numbers = np.concatenate([[0], np.cumsum(live)])
        for file, spans in list(self.files.items()):
            spans = [[int(numbers[i]) for i in span] for span in spans]
            self.files[file] = [[start, stop] for start, stop in spans if start < stop]
        self.files = {file: spans for file, spans in self.files.items() if spans}

    def to_json(self) -> bytes:
        return json.dumps({"files": self.files, "notes": self.notes}).encode()

    @classmethod
    def from_json(cls, content: bytes, rows: int) -> "State":
        """What `to_json` wrote of an index of so many rows; ValueError for anything else."""
        try:
            values = json.loads(content)
        except RecursionError:
            raise ValueError("its state is nested") from None
        if not isinstance(values, dict) or values.keys() != {"files", "notes"}:
            raise ValueError("its state does not hold files and notes")
        files, notes = values["files"], values["notes"]
        if not isinstance(files, dict) or not isinstance(notes, dict):
            raise ValueError("its files or notes are no dictionary")
        for file, spans in files.items():
            if not isinstance(spans, list) or not all(_is_span(span, rows) for span in spans):
                raise ValueError(f"{file!r} has the rows {spans!r:.60}")
        return cls(files, notes)


def _is_span(span: Any, rows: int) -> bool:
    return (
        isinstance(span, list)
        and len(span) == 2
        and all(type(i) is int for i in span)
        and 0 <= span[0] <= span[1] <= rows
    )

"""Sentence encoders that are named instead of held: each process loads one at its first use, and keeps it."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias

from pyattn import _checks
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.sentence import SentenceEncoder

KEPT = 4  # encoders of a process; those that came first are let go

Name: TypeAlias = tuple[str, Any]  # the directory or the hub's id, and what the types of weights are

# By process, name, and what its directory looked like
_encoders: dict[tuple[int, Name, Any], Future[Any]] = {}


def name_of(function: str, model: str | os.PathLike[str], dtype: WeightDtypes) -> Name:
    """What `loaded` takes, in any process of a machine with the same files: paths that exist are absolute.

    Raises:
        TypeError: model is no path or id, but an encoder, which would have to be sent to each process, for example.
        ValueError: dtype is none of weights.
    """
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"{function}: model must be a directory or an id on the Hugging Face hub, which each process loads itself, "
            f"not {type(model).__name__}"
        )
    path = Path(model).expanduser()
    place = str(path.resolve()) if path.is_dir() else os.fspath(model)
    if not isinstance(dtype, Mapping):
        return place, _checks.weight_dtype_name(function, dtype)
    return place, tuple((pattern, _checks.weight_dtype_name(function, x)) for pattern, x in dtype.items())


def loaded(name: Name, load: Callable[..., Any] = SentenceEncoder.from_pretrained) -> SentenceEncoder:
    """The encoder of that name; of several threads that ask first, one loads it and the others wait.

    It is loaded again where files of its directory have been written since. A process that was forked meanwhile loads
    its own: nobody there would finish what a thread here began.
    """
    key, mine = (os.getpid(), name, _stamp(name[0])), Future[Any]()
    future = _encoders.setdefault(key, mine)
    if future is mine:
        path, dtypes = name
        try:
            mine.set_result(load(path, dtype=dict(dtypes) if isinstance(dtypes, tuple) else dtypes))
        except BaseException as error:
            _encoders.pop(key, None)  # the next caller tries again: files may have come meanwhile
            mine.set_exception(error)
        others = [other for other in list(_encoders) if other != key]
        for other in [*(x for x in others if x[1] == name), *others[: -KEPT + 1]]:
            _encoders.pop(other, None)
    encoder: SentenceEncoder = future.result()
    return encoder


def _stamp(place: str) -> tuple[tuple[str, int, int], ...]:
    """The files of a directory and of the folders in it, with their times and sizes; nothing for an id on the hub."""
    folders, files = [place], []
    try:
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        seen = entry.stat()
                        files.append((entry.path, seen.st_mtime_ns, seen.st_size))
                    elif folder == place:
                        folders.append(entry.path)
    except OSError:
        return ()
    return tuple(sorted(files))

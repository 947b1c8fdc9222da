"""Vectors of texts that lie in a dask collection, a task for each of its partitions."""

import math
import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._extras import import_extra
from pyattn._threads import MAX_THREADS, num_threads
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.loaded import Name, loaded, name_of


def encode(
    texts: Any,
    model: str | os.PathLike[str],
    *,
    dtype: WeightDtypes = "float32",
    normalize: bool | None = None,
    batch_tokens: int = 2048,
    truncate: bool = True,
    prompt: str | None = None,
    prompt_name: str | None = None,
    truncate_dim: int | None = None,
    width: int | None = None,
    threads: int = 1,
) -> Any:
    """SentenceEncoder.encode of a dask collection of texts, lazily.

    Each process that computes a partition loads the model at its first one, once, and keeps it (the last four models
    that it used). A worker that is lost takes nothing with it: dask computes its partitions again elsewhere.

    Args:
        texts: a dask bag of str; a dask array (n,) of str, as objects or in NumPy's types of strings; or a column of a
            dask dataframe.
        model: a directory, which each worker must reach under the same path, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "int8", or patterns, as in SentenceEncoder.from_pretrained.
        normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim: as in SentenceEncoder.encode; a prompt of
            the directory is put in front of texts by its name, as "document" or "query".
        width: how wide the vectors are. None: the model is loaded here too, and says so; settings are checked at once
            then, and workers refuse a model that differs from the one here.
        threads: pyattn's threads of a task. With one, as many are busy as dask runs tasks: one for each thread of a
            worker. More are for a worker of one thread with several CPUs.

    Returns:
        A dask array (n, width) float32, in the order of the texts, with a chunk for each partition. Of bags and columns
        n is unknown to dask; its compute_chunk_sizes() finds out. The numbers are those of SentenceEncoder.encode, to
        the bit on machines of one instruction set.

    Raises:
        TypeError, ValueError, OSError: texts are no such collection; as SentenceEncoder.from_pretrained and encode.
            While the result is computed: a text is no str; the model is not the one here, or not of that width.

    Example:
        >>> import dask.bag, pyattn.dask
        >>> texts = dask.bag.from_sequence(["a cat", "the root of a function"] * 50, npartitions=4)
        >>> model = "sentence-transformers/all-MiniLM-L6-v2"  # or a directory that all workers reach
        >>> vectors = pyattn.dask.encode(texts, model, dtype="int8", width=384)
        >>> vectors.numblocks, vectors.dtype
        ((4, 1), dtype('float32'))
    """
    function = "encode"
    parts, lengths = _partitions(function, texts)
    name = name_of(function, model, dtype)
    options: dict[str, Any] = {
        "normalize": normalize,
        "batch_tokens": _checks.size(function, "batch_tokens", batch_tokens),
        "truncate": _checks.flag(function, "truncate", truncate),
        "prompt": prompt,
        "prompt_name": prompt_name,
        "truncate_dim": truncate_dim,
    }
    threads = _checks.count(function, "threads", threads, 1, MAX_THREADS)
    fingerprint = None
    if width is None:
        encoder = loaded(name)
        width, fingerprint = encoder.encode([], **options).shape[1], encoder.fingerprint
    width = _checks.size(function, "width", width)
    dask, array = (import_extra(x, "pyattn.dask", group="dask") for x in ("dask", "dask.array"))
    vectors_of = dask.delayed(_vectors, pure=True)
    rows = [
        array.from_delayed(
            vectors_of(part, number, name, options, width, fingerprint, threads), (length, width), np.float32
        )
        for number, (part, length) in enumerate(zip(parts, lengths, strict=True))
    ]
    return array.concatenate(rows, allow_unknown_chunksizes=True)


def _partitions(function: str, texts: Any) -> tuple[list[Any], list[float]]:
    """A collection's partitions, as dask's delayed objects, and the number of texts in each, NaN where none knows."""
    array, bag = (import_extra(f"dask.{x}", "pyattn.dask", group="dask") for x in ("array", "bag"))
    dataframe = sys.modules.get("dask.dataframe")  # who has one has imported it
    if isinstance(texts, array.Array):
        if texts.ndim != 1:
            raise ValueError(f"{function}: texts has shape {texts.shape}; accepted: (n,)")
        if texts.dtype != object and texts.dtype.kind not in "UT":
            raise TypeError(f"{function}: texts must be an array of str, not of {texts.dtype}")
        return list(texts.to_delayed()), list(texts.chunks[0])
    if isinstance(texts, bag.Bag):
        parts = texts.to_delayed()
    elif dataframe is not None and isinstance(texts, dataframe.Series | dataframe.Index):
        if getattr(texts.dtype, "kind", "O") not in "OUT":
            raise TypeError(f"{function}: texts must be a column of str, not of {texts.dtype}")
        parts = texts.to_delayed()
    else:
        raise TypeError(
            f"{function}: texts must be a bag, an array or a column of a dataframe of dask, not "
            f"{type(texts).__name__}; dask.bag.from_sequence(texts) makes a bag of a list, dataframe[name] is a column"
        )
    return list(parts), [math.nan] * len(parts)


def _vectors(
    texts: Iterable[str],
    number: int,
    name: Name,
    options: dict[str, Any],
    width: int,
    fingerprint: str | None,
    threads: int,
) -> NDArray[np.float32]:
    """The vectors of a partition, which is the `number`-th."""
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"encode: texts[{index}] of partition {number} must be a str, not {type(text).__name__}")
    with num_threads(threads):
        encoder = loaded(name)
        if fingerprint is not None and encoder.fingerprint != fingerprint:
            raise ValueError(f"encode: the model {name[0]!r} of this worker is not the one where encode was called")
        vectors = encoder.encode(texts, show_progress=False, **options)
    if vectors.shape[1] != width:
        raise ValueError(f"encode: the vectors of {name[0]!r} have width {vectors.shape[1]}, not the {width} given")
    return vectors

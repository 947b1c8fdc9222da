"""The files of a model directory: found, fetched and read. Every error names the file and what would be accepted."""

import importlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyattn.precision import Quantized

# Everything that is read from a model directory, and so everything that is fetched from the hub.
_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/*",
]
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json")
_HUB_FILES = [*_FILES, *MARIAN_FILES]
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

# How a tensor of each accepted type lies in the file; bfloat16 is read as its bits, the upper half of a float32.
_STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I8": "<i1"}

_MOST_DEPTH = 64  # of JSON: what is deeper can be read, but not always shown in a message or written again

# Behind the name of a tensor of int8, that of what its rows are multiplied by.
SCALES = "_scale"

_Json = TypeVar("_Json", dict[str, Any], list[Any])


def import_extra(name: str, purpose: str) -> Any:
    """The module `name` of the optional group "models"; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'{purpose} needs the package {name}: pip install "pyattn[models]"') from error


def find_directory(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """The local directory of that path, else the local copy of the hub's repository of that id (fetched if need be)."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"load: {path} is a file; pass the directory that holds config.json")
    if not isinstance(path_or_hub_id, str) or not _HUB_ID.fullmatch(path_or_hub_id):
        raise FileNotFoundError(
            f"load: there is no directory {path}; pass a model directory, "
            "or a hub id such as 'sentence-transformers/all-MiniLM-L6-v2'"
        )
    hub = import_extra("huggingface_hub", f"load: {path_or_hub_id!r} is no directory here; fetching it from the hub")
    try:
        return Path(hub.snapshot_download(path_or_hub_id, allow_patterns=_HUB_FILES))
    except Exception as error:  # the client's own kinds and those of its HTTP library: one kind for our callers
        raise OSError(
            f"load: {path_or_hub_id!r} is no directory here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error})"
        ) from error


def require_file(path: Path) -> None:
    """FileNotFoundError, which says what a model directory holds, unless there is a file."""
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} is missing; a model directory holds {', '.join(_FILES)}")


def read_json(path: Path, kind: type[_Json]) -> _Json:
    """The JSON object (dict) or array (list) in a file."""
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise ValueError(f"load: {path} is not valid JSON ({error})") from error
    if not isinstance(value, kind):
        raise ValueError(f"load: {path} must hold a JSON {'object' if kind is dict else 'array'}")
    if _is_deeper(value, _MOST_DEPTH):
        raise ValueError(f"load: {path} is nested more than {_MOST_DEPTH} deep")
    return value


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=2) + "\n")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and arrays stand more than so deep in one another."""
    inside = [value]
    for _ in range(depth):
        inside = [x for outer in inside for x in (outer.values() if isinstance(outer, dict) else outer)]
        inside = [x for x in inside if isinstance(x, dict | list)]
    return bool(inside)


def read_tensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[np.float32] | Quantized]:
    """The tensors of a safetensors file whose names `wanted` accepts, in float32, or int8 with their scales."""
    safetensors = import_extra("safetensors", f"load: reading {path}")
    require_file(path)
    try:
        # Checks the header, every offset and the file's length; what follows relies on it.
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"load: {path} is not a whole safetensors file ({error})") from error

    tensors: dict[str, Any] = {}
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for name in filter(wanted, header):
            dtype, shape = header[name]["dtype"], header[name]["shape"]
            if dtype not in _STORED_AS:
                raise ValueError(f"load: {path}: {name} has type {dtype}; accepted are {', '.join(_STORED_AS)}")
            file.seek(8 + header_bytes + header[name]["data_offsets"][0])
            stored = np.fromfile(file, _STORED_AS[dtype], math.prod(shape))
            try:
                stored = stored.reshape(shape)
            except (ValueError, OverflowError) as error:  # many axes, or a long one beside one of length 0
                raise ValueError(f"load: {path}: {name} has a shape that no array has ({error})") from error
            if dtype == "BF16":
                stored = (stored.astype(np.uint32) << 16).view(np.float32)
            tensors[name] = stored if dtype == "I8" else stored.astype(np.float32, copy=False)
    for name in [name for name, tensor in tensors.items() if tensor.dtype == np.int8]:
        matrix, scales = tensors[name], tensors.get(name + SCALES)
        fits = isinstance(scales, np.ndarray) and scales.dtype == np.float32 and scales.shape == matrix.shape[:1]
        if matrix.ndim != 2 or not fits:
            raise ValueError(
                f"load: {path}: {name} is of int8 and {matrix.shape}; such a tensor must be a matrix, with one float "
                f"for each of its rows in {name}{SCALES}"
            )
        tensors[name] = Quantized(matrix, tensors.pop(name + SCALES))
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file of arrays of float32, bits of bfloat16 (uint16) and Quantized.

    The safetensors library has changed how it takes types that NumPy lacks; the format is a header and the bytes.
    """
    parts: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Quantized):
            parts[name], parts[name + SCALES] = tensor.elements, tensor.scales
        else:
            parts[name] = tensor
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # which transformers asks for
    end = 0
    for name, part in parts.items():
        start, end = end, end + part.nbytes
        dtype = next(kind for kind, stored in _STORED_AS.items() if part.dtype == stored)
        header[name] = {"dtype": dtype, "shape": part.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts.values():
            np.ascontiguousarray(part).tofile(file)

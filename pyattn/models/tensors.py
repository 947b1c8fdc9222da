"""The weights of a model directory: safetensors files, whole or in shards, of which a tensor is read when it is used.

What is held at a time is so the model as it will be, and what one tensor takes on its way there. Every error names the
file and what would be accepted.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyattn._extras import import_extra
from pyattn.models.files import INDEX, WEIGHTS, read_json, require_file
from pyattn.models.quantized import ACCEPTED, check_quantization, tool_of
from pyattn.precision import Quantized, values_of

# How tensors lie in files; bfloat16 is read as its bits, the upper half of a float32. The last tell shapes and orders.
_REALS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_STORED_AS = {**_REALS, "I8": "<i1"}
_INTEGERS = {"U8": "<u1", "I32": "<i4", "I64": "<i8"}

# After the name of a tensor of int8 those of what its rows are multiplied by, and of what holds its elements by fours
SCALES, PACKED = "_scale", "_packed"

# Weights that are there instead, and what makes a model.safetensors of them
_OTHERS = {
    "pytorch_model*.bin": "a pickle, which is never read",
    "model.*.safetensors*": "a variant of the weights",
    "consolidated*.safetensors": "weights under Mistral's own names",
    "consolidated*.pth": "a pickle, which is never read",
    "tf_model.h5": "TensorFlow's weights",
    "flax_model.msgpack": "Flax's weights",
    "*.gguf": "llama.cpp's weights",
    "*.onnx": "a graph of ONNX",
    "adapter_model.*": "an adapter without its model",
}
_REMEDY = (
    "transformers' from_pretrained(directory).save_pretrained(other) writes model.safetensors from what it can read"
)


@dataclass(frozen=True, eq=False)
class FileTensor:
    """A tensor in a file: float32 once it is read, or Quantized if it has scales.

    Of int8 packed into I32 the shape is that of the elements, not of the integers.
    """

    path: Path
    name: str
    type: str  # in safetensors
    shape: tuple[int, ...]
    offset: int
    scales: "FileTensor | None" = None
    largest: int = 1  # by which the scales are divided

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.scales is None else np.int8)

    def read(self) -> NDArray[np.float32] | Quantized:
        if self.scales is not None:
            scales: NDArray[np.float32] = values_of(self.scales.read()).reshape(-1)
            return Quantized(self._elements(), scales / np.float32(self.largest) if self.largest > 1 else scales)
        stored = self._raw(_STORED_AS[self.type], self.shape)
        if self.type == "BF16":
            stored = stored.astype(np.uint32)
            stored <<= np.uint32(16)
            return stored.view(np.float32)
        return stored.astype(np.float32, copy=False)

    def checked(self) -> "FileTensor":
        """The tensor, if it can be read."""
        what = f"load: {self.path}: {self.name}"
        if not self.type:
            index = self.path.with_name(INDEX)
            raise ValueError(f"load: {index}: {self.name} is not in {self.path.name}, nor in another shard")
        if self.scales is None and self.type == "I8":
            raise ValueError(
                f"{what} is of int8 and {self.shape}; such a tensor must be a matrix, with one float for each of its "
                f"rows in {self.name}{SCALES}"
            )
        if self.scales is None and self.type not in _REALS:
            raise ValueError(f"{what} has type {self.type}; accepted are {', '.join(_REALS)}, I8")
        try:
            np.broadcast_to(np.float32(0), self.shape)
        except (ValueError, OverflowError) as error:  # many axes, or a long one beside one of length 0
            raise ValueError(f"{what} has a shape that no array has ({error})") from error
        return self

    def integers(self) -> list[int]:
        """The first of them, as many as any description has."""
        count = min(4, math.prod(self.shape))
        return [int(x) for x in self._raw(_INTEGERS[self.type], (count,))] if self.type in _INTEGERS else []

    def _elements(self) -> NDArray[np.int8]:
        if self.type == "I8":
            return self._raw("<i1", self.shape)
        rows, columns = self.shape
        parts = self._raw("<u1", (rows, -(-columns // 4) * 4))
        return (parts[:, :columns] ^ np.uint8(128)).view(np.int8)

    def _raw(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            stored = np.fromfile(file, dtype, math.prod(shape))
        if stored.size != math.prod(shape):
            raise ValueError(f"load: {self.path} was cut while it was read: {self.name} is not whole")
        return stored.reshape(shape)


Tensor: TypeAlias = NDArray[np.float32] | Quantized | FileTensor


def read(tensor: Tensor) -> NDArray[np.float32] | Quantized:
    """The values of a tensor, wherever it is."""
    return tensor.read() if isinstance(tensor, FileTensor) else tensor


def find_weights(directory: Path, config: Mapping[str, Any]) -> Path:
    """The file of a directory's weights, or the index of their shards, of which transformers prefers the first."""
    source = str(directory / "config.json")
    if (directory / "adapter_config.json").is_file():
        raise ValueError(
            f"load: {directory / 'adapter_config.json'}: adapters (LoRA) are not supported; peft's "
            "merge_and_unload().save_pretrained(other) writes a model with the adapter in its weights"
        )
    if (named := config.get("transformers_weights")) not in (None, WEIGHTS):
        raise ValueError(f"load: {source}: transformers_weights must be {WEIGHTS!r}, not {named!r}")
    check_quantization(config, source)
    for file in (directory / WEIGHTS, directory / INDEX):
        if file.is_file():
            return file
    there = [f"{path.name} ({what})" for pattern, what in _OTHERS.items() for path in sorted(directory.glob(pattern))]
    if there:
        raise FileNotFoundError(
            f"load: {directory / WEIGHTS} is missing, and {INDEX} as well; there is {', '.join(there[:4])}; {_REMEDY}"
        )
    require_file(directory / WEIGHTS)
    return directory / WEIGHTS


def weight_files(file: Path) -> list[Path]:
    """What find_weights found: a file of weights, or the shards that an index names."""
    return [file.parent / name for name in sorted(set(_shards(file).values()))] if file.name == INDEX else [file]


def _shards(file: Path) -> dict[str, str]:
    """Of each tensor that an index names the name of its shard."""
    if file.name != INDEX:
        return {}
    shards = read_json(file, dict).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"load: {file}: weight_map must be an object that gives each tensor the name of its shard")
    for shard in set(shards.values()):
        if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise ValueError(f"load: {file}: a shard must be a .safetensors file beside it, not {shard!r}")
    return shards


def stored_tensors(file: Path) -> dict[str, FileTensor]:
    """Tensors in a safetensors file or in the shards of an index, neither read nor checked.

    Those that an index names and no shard has are without type. What holds the scales of int8 is none of these.
    """
    found = {name: FileTensor(file.parent / shard, name, "", (), 0) for name, shard in _shards(file).items()}
    for shard in weight_files(file):
        if not shard.is_file() and shard != file:
            raise FileNotFoundError(f"load: {shard} is missing; {file.name} names it")
        for tensor in _header(shard):
            if (other := found.get(tensor.name)) is not None and other.type:
                raise ValueError(f"load: {file}: {tensor.name} is in {other.path.name} and {shard.name}")
            found[tensor.name] = tensor
    found = _with_scales(file, found)
    for name, tensor in found.items():
        if tensor.scales is None and (tool := tool_of(name, tensor.type)) is not None:
            raise ValueError(f"load: {tensor.path}: {name}: quantized by {tool}: {ACCEPTED}")
    return found


def _header(path: Path) -> list[FileTensor]:
    """All tensors of a safetensors file."""
    safetensors = import_extra("safetensors", f"load: reading {path}")
    require_file(path)
    try:
        # Checks the header, every offset and the file's length; what follows relies on it.
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"load: {path} is not a whole safetensors file ({error})") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return [
        FileTensor(path, name, x["dtype"], tuple(x["shape"]), 8 + length + x["data_offsets"][0])
        for name, x in header.items()
    ]


def _with_scales(file: Path, found: dict[str, FileTensor]) -> dict[str, FileTensor]:
    """The tensors, those of int8 with the scales of their rows; what holds these is none of the model's."""
    for name, tensor in list(found.items()):
        if name.endswith(PACKED) and tensor.type == "I32":  # compressed-tensors, weights only: four in an integer
            stem = name.removesuffix(PACKED)
            sizes = found[stem + "_shape"].integers() if stem + "_shape" in found else []
            rows, columns = sizes if len(sizes) == 2 else (0, 0)
            if tensor.shape == (rows, -(-columns // 4)) and _are_scales(found.get(stem + SCALES), rows):
                del found[name], found[stem + "_shape"]
                found[stem] = replace(tensor, name=stem, shape=(rows, columns), scales=found.pop(stem + SCALES))
        elif tensor.type == "I8":
            rows = tensor.shape[0] if len(tensor.shape) == 2 else -1
            module = name.removesuffix("weight")
            if _are_scales(found.get(name + SCALES), rows):
                found[name] = replace(tensor, scales=found.pop(name + SCALES))
            elif _are_scales(found.get(module + "SCB"), rows):  # bitsandbytes: of the rows the largest, which is 127
                order = found.pop(module + "weight_format", None)
                if order is not None and order.integers() != [0]:
                    raise ValueError(
                        f"load: {file}: {order.name} is {order.integers()}; [0] is needed, rows as they are"
                    )
                found[name] = replace(tensor, scales=found.pop(module + "SCB"), largest=127)
    return found


def _are_scales(tensor: FileTensor | None, rows: int) -> bool:
    """Whether they are one for each of so many rows."""
    return tensor is not None and tensor.type in _REALS and tensor.shape in ((rows,), (rows, 1))


def read_tensors(file: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[np.float32] | Quantized]:
    """The tensors whose names `wanted` accepts."""
    return {name: tensor.checked().read() for name, tensor in stored_tensors(file).items() if wanted(name)}


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
        dtype = next(name for name, stored in _STORED_AS.items() if part.dtype == stored)
        header[name] = {"dtype": dtype, "shape": part.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts.values():
            np.ascontiguousarray(part).tofile(file)

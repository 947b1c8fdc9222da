"""Arrays: their dtypes, integers within bounds, what a result may be written to."""

import math
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[Any]

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))  # of layers and activations; attention takes 16 bits as well
FLOAT32, FLOAT64 = FLOATING


def array(function: str, name: str, x: Any) -> Array:
    """x as an array; a ragged list is an error, and so is a masked array, whose masked elements would count."""
    if type(x) is np.ndarray:
        return x
    if (masked := getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)) is not None and (
        isinstance(x, masked) or (isinstance(x, list | tuple) and any(isinstance(part, masked) for part in x))
    ):
        raise TypeError(f"{function}: {name} is a masked array; {name}.filled(value) makes an ordinary one")
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{function}: {name} is not an array: {error}") from None


def wrong_dtype(function: str, name: str, x: Any, needed: str) -> TypeError:
    return TypeError(f"{function}: {name} has dtype {x.dtype}; {needed}")


def wrong_shape(function: str, name: str, x: Any, accepted: str) -> ValueError:
    return ValueError(f"{function}: {name} has shape {tuple(x.shape)}; accepted: {accepted}")


def wrong_value(function: str, name: str, x: Array, wrong: Array, accepted: str) -> ValueError:
    """What says the first of the wrong values of x, and where it stands."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    seen = f"{x[place]}" + (f" (at index {', '.join(map(str, place))})" if place else "")
    return ValueError(f"{function}: {name} must be {accepted}, not {seen}")


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether dtype is ml_dtypes.bfloat16, which is never imported."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.isnative and dtype.name == "bfloat16"


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of dtype are real floating ones, in any precision."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def statistics_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What attention of arrays of dtype computes in, and the dtype of lse and other statistics."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def layer_dtype(function: str, dtype: DTypeLike) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        if np.dtype(dtype) in FLOATING:
            return np.dtype(dtype)
    except TypeError:  # not a dtype at all
        pass
    raise TypeError(f"{function}: dtype must be float32 or float64, not {getattr(dtype, '__name__', dtype)}")


def weight_dtype(function: str, dtype: Any) -> np.dtype[Any]:
    """float32, float64, int8, or uint16 for the bits of bfloat16: what a weight's elements are."""
    if (isinstance(dtype, str) and dtype == "bfloat16") or getattr(dtype, "__name__", None) == "bfloat16":
        return np.dtype(np.uint16)
    try:
        seen = np.dtype("V1" if dtype is None else dtype)  # NumPy takes None for float64
        if seen in FLOATING or seen == np.int8:
            return seen
        if is_bfloat16(seen):
            return np.dtype(np.uint16)
    except TypeError:  # not a dtype at all
        pass
    named = getattr(dtype, "__name__", dtype)
    raise TypeError(f'{function}: dtype must be "float32", "float64", "bfloat16" or "int8", not {named!r}')


def cache_dtype(function: str, dtype: Any, compute_type: np.dtype[Any]) -> str | None:
    """ "int8", which layers of that compute type must be able to read, or None."""
    if dtype is None:
        return None
    try:
        known = np.dtype(dtype) == np.int8
    except TypeError:  # not a dtype at all
        known = False
    if not known:
        named = getattr(dtype, "__name__", dtype)
        raise TypeError(f'{function}: cache_dtype must be "int8" or None, for the layers\' own, not {named!r}')
    if compute_type != FLOAT32:
        raise ValueError(f'{function}: cache_dtype="int8" is for layers that compute in float32, not {compute_type}')
    return "int8"


def weight_dtype_name(function: str, dtype: Any) -> str:
    """The name of what weight_dtype accepts, as a user would write it."""
    seen = weight_dtype(function, dtype).name
    return "bfloat16" if seen == "uint16" else seen


def attention_arrays(function: str, *, with_16_bits: bool = True, **arrays: Any) -> list[Array]:
    """The arguments as arrays of one and the same dtype: float32, float64, float16 or bfloat16."""
    result = [array(function, name, x) for name, x in arrays.items()]
    dtype = result[0].dtype
    mixed = False
    for name, x in zip(arrays, result, strict=True):
        if x.dtype not in FLOATING and not (with_16_bits and (x.dtype == np.float16 or is_bfloat16(x.dtype))):
            accepted = "float32, float64, float16 or bfloat16" if with_16_bits else "float32 or float64"
            needed = f"{accepted} in native byte order is needed ({name}.astype(np.float32) converts)"
            raise wrong_dtype(function, name, x, needed)
        mixed = mixed or x.dtype != dtype
    if mixed:
        seen = ", ".join(f"{name} {x.dtype}" for name, x in zip(arrays, result, strict=True))
        raise TypeError(f"{function}: dtypes are mixed ({seen}); all must be the same")
    return result


def integers(function: str, name: str, x: Any, shape: tuple[int, ...] | None = None, needed: str = "") -> Array:
    """x as an array of integers, of any dtype, seen as `shape` unless that is None."""
    x = array(function, name, x)
    if x.dtype.kind not in "iu":
        raise wrong_dtype(function, name, x, "integers are needed")
    try:
        return x if shape is None else np.broadcast_to(x, shape)
    except ValueError:
        raise wrong_shape(function, name, x, needed) from None


def real_array(function: str, name: str, x: Any) -> Array:
    """x as an array of real floating numbers, in any precision."""
    real = array(function, name, x)
    if not is_real(real.dtype):
        needed = f"real floating numbers are needed (np.asarray({name}, np.float32) converts)"
        raise wrong_dtype(function, name, real, needed)
    return real


def within(function: str, name: str, x: Array, lowest: int, highest: Array, meaning: str) -> None:
    wrong = (x < lowest) | (x > highest)
    if wrong.any():
        most = highest[tuple(np.argwhere(wrong)[0])]
        raise wrong_value(function, name, x, wrong, f"from {lowest} to {meaning} ({most})")


def below(function: str, name: str, x: Array, limit: int, meaning: str = "") -> None:
    """Refuses integers that are not in [0, limit); meaning: of the limit."""
    if x.size and not 0 <= x.min() <= x.max() < limit:
        raise ValueError(f"{function}: {name} must be in [0, {limit}){meaning}, not in [{x.min()}, {x.max()}]")


def lengths_of(function: str, name: str, given: Any, most: Array, meaning: str, lowest: int = 0) -> Array:
    """A length for each sequence, int64, from `lowest` to `most`, which None stands for."""
    if given is None:
        return most
    # Copied before it is looked at: another thread may write to the caller's.
    lengths = integers(function, name, given, most.shape, f"{most.shape}, one for each sequence").astype(np.int64)
    within(function, name, lengths, lowest, most, meaning)
    return lengths


def rows(function: str, x: Any, width: int, dtype: np.dtype[Any]) -> tuple[Array, tuple[int, ...]]:
    """x (..., width) as rows (n, width), each contiguous, and its leading shape; a view where that is possible."""
    x = array(function, "the input", x)
    if x.dtype != dtype:
        raise TypeError(f"{function}: the input has dtype {x.dtype}, the layer {dtype}; x.astype(np.{dtype}) converts")
    if x.ndim < 1 or x.shape[-1] != width:
        raise ValueError(f"{function}: the input has shape {x.shape}; (..., {width}) is needed")
    shape = x.shape[:-1]
    x = x.reshape(math.prod(shape), width)
    return (x if x.strides[1] == x.itemsize or width == 1 else np.ascontiguousarray(x)), shape


def output(function: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> Array:
    """The caller's array for the result, or a new one for None. It must not overlap inputs, all arguments by name."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        seen = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{function}: out must be an array of dtype {dtype}, not {seen}")
    result = array(function, "out", out)  # a view, where it is of a subclass
    if result.shape != shape:
        raise ValueError(f"{function}: out has shape {result.shape}; the result has {shape}")
    if not result.flags.writeable:
        raise ValueError(f"{function}: out is read-only")
    if _overlaps_itself(result):
        raise ValueError(f"{function}: out overlaps itself: strides {result.strides} for shape {result.shape}")
    for name, x in inputs.items():
        if name == "out":
            continue
        # a sparse matrix is its arrays
        parts = list(vars(x).values()) if hasattr(x, "tocsr") and hasattr(x, "__dict__") else [x]
        if any(_overlap(result, seen) for part in parts if (seen := _memory(part)) is not None):
            raise ValueError(f"{function}: out shares memory with {name}, which is read while out is written")
    return result


def _overlaps_itself(x: Array) -> bool:
    """Whether an axis steps by less than the axes inside it extend: never so for slices of an ordinary array."""
    extent = x.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(x.strides, x.shape, strict=True) if size > 1
    ):
        if x.size and stride < extent:
            return True
        extent += stride * (size - 1)
    return False


def _memory(x: Any) -> Array | None:
    """x as an array of the same memory; None for what is copied when it becomes an array."""
    if isinstance(x, np.ndarray):
        return x
    known = any(hasattr(x, name) for name in ("__array__", "__array_interface__", "__array_struct__"))
    try:
        return np.asarray(x if known else memoryview(x))
    except (TypeError, ValueError, RuntimeError):  # it has no buffer, or none that NumPy can read
        return None


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # any bound is accepted
    except np.exceptions.TooHardError:
        return True

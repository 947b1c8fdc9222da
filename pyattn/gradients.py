"""The gradients of attention on arrays."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pyattn import _checks
from pyattn._checks import Array, Sparse
from pyattn._namespaces import in_namespace
from pyattn._threads import threads_for

_INPUTS = ("query", "key", "value")
_GRADS = ("grad_query", "grad_key", "grad_value")
_OPTIONS = (
    *("mask", "bias", "is_causal", "window", "scale", "softcap"),
    *("alibi_slopes", "sinks", "kv_lengths", "query_offset", "dropout_p", "dropout_seed"),
)

WHOLE_VECTORS = 16  # elements of a row that every instruction set takes in whole vectors
SPARSE_ROWS = 1024  # queries of a sparse mask, for which it is made dense at a time


class Gradients(NamedTuple):
    """Of what attention was given, in its shapes and dtypes; None for what was not asked for."""

    query: Array
    key: Array
    value: Array
    mask: Array | None = None
    bias: Array | None = None
    alibi_slopes: Array | None = None
    sinks: Array | None = None


@in_namespace
def attention_backward(
    grad_out: Array,
    query: Array,
    key: Array,
    value: Array,
    out: Array,
    lse: Array,
    mask: Array | Sparse | None = None,
    *,
    bias: Array | Sparse | None = None,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    grad_lse: Array | None = None,
    also: Sequence[str] = (),
) -> Gradients:
    """The gradients of scaled_dot_product_attention, in memory that does not grow with L x S.

    Dao et al. 2022, FlashAttention (arXiv:2205.14135), appendix B.4. With P the weights, and D = dO . O - dlse for each
    query,

        dV = P^T dO,  dS = P (dO V^T - D),  dQ = scale dS K,  dK = scale dS^T Q

    With dropout, dV is that of the weights that were kept, and dO V^T counts for these alone, both over 1 - dropout_p.
    dS passes the derivative 1 - tanh^2 of a soft cap before it meets Q and K; a bias gets dS, the slope of ALiBi
    -sum dS |p - j|, a sink -sum over queries of exp(sink - lse) D. Weights are computed again from the lse.

    Args:
        grad_out: the gradient of out, (..., H, L, Dv) of query's dtype.
        query, key, value: as the forward pass was given them, float32, float64, float16 or bfloat16. They may have any
            strides. bfloat16 is multiplied as it is where the machine has dot products of it, and no mask is sparse;
            else 16 bits are computed in float32, of copies. So are copied rows that do not lie together, and widths
            that are no multiple of 16.
        out, lse: what scaled_dot_product_attention(..., return_lse=True) returned for these arguments: (..., H, L, Dv)
            of query's dtype, and (..., H, L) in float32 (float64 for float64).
        mask, bias, is_causal, window, scale, softcap, alibi_slopes, sinks, kv_lengths, query_offset, dropout_p,
        dropout_seed: the same as in the forward pass. A sparse mask is made dense for 1,024 queries at a time.
        grad_lse: the gradient of lse, of its shape and dtype, where that was used too; None is 0.
        also: of which of "mask", "bias", "alibi_slopes" and "sinks" gradients are wanted beside those of query, key and
            value; those of dense masks and biases, and of slopes, take another pass of 2/5 of the work.

    Returns:
        Gradients, a named tuple of query, key, value, mask, bias, alibi_slopes and sinks: each of the shape of what was
        given, summed over the axes along which that was broadcast, and of its dtype (alibi_slopes and sinks: of lse's).
        Masked pairs add nothing, whatever stands there; rows that may attend to nothing have gradients of 0. The bits
        do not depend on the number of threads, nor on what else is in the batch.

    Raises:
        TypeError, ValueError: as scaled_dot_product_attention; out, lse or a gradient does not fit; also names what has
            no gradient.

    Example:
        >>> import numpy as np, pyattn
        >>> rng = np.random.default_rng(0)
        >>> query, key, value, grad_out = rng.standard_normal((4, 2, 8, 256, 64), dtype=np.float32)
        >>> out, lse = pyattn.scaled_dot_product_attention(query, key, value, is_causal=True, return_lse=True)
        >>> grads = pyattn.attention_backward(grad_out, query, key, value, out, lse, is_causal=True)
        >>> grads.query.shape
        (2, 8, 256, 64)
    """
    given = locals().copy()
    function = "attention_backward"
    query, key, value = _checks.attention_arrays(function, query=query, key=key, value=value)
    options = _options(function, given)
    names = _checks.learned_options(function, also, options)
    call = _checks.attention_call(function, query, key, value, options)
    arrays = _checks.results_and_gradients(function, query, value, out, lse, grad_out, grad_lse)
    options["scale"] = call.scale
    work = _work_dtype(call, query, arrays["lse"])
    dense = {name: x for name, x in options.items() if name in ("mask", "bias") and not hasattr(x, "tocsr")}
    options |= {name: x.astype(work, copy=False) for name, x in dense.items() if x.dtype != bool}
    inputs = {name: _rows(x, work) for name, x in zip(_INPUTS, (query, key, value), strict=True)}
    results = {name: _rows(x, work) if x.ndim == query.ndim else x for name, x in arrays.items()}
    problem = _Problem(function, inputs, options, results, csr=call.operands.get("csr"))
    grads = [_like(x, y) for x, y in zip(_of_inputs(problem), (query, key, value), strict=True)]
    others = {name: _of_option(problem, name) for name in names}
    for name in others.keys() & dense.keys():
        others[name] = others[name].astype(dense[name].dtype, copy=False)
    return Gradients(*grads, **others)


@in_namespace
def varlen_attention_backward(
    grad_out: Array,
    query: Array,
    key: Array,
    value: Array,
    out: Array,
    lse: Array,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    query_offset: ArrayLike | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | None = None,
    grad_lse: Array | None = None,
    also: Sequence[str] = (),
) -> Gradients:
    """The gradients of varlen_attention: attention_backward of packed sequences.

    Args:
        grad_out: (total_q, H, Dv) of query's dtype.
        query, key, value, cu_seqlens_q, cu_seqlens_k, and options: as varlen_attention was given them.
        out, lse: what it returned with return_lse=True, (total_q, H, Dv) and (total_q, H).
        grad_lse: (total_q, H), or None.
        also: "alibi_slopes", "sinks", or both.

    Returns:
        Gradients. A sequence's bits are those it has alone.

    Raises:
        TypeError, ValueError: as varlen_attention and attention_backward.

    Example:
        >>> import numpy as np, pyattn
        >>> rng = np.random.default_rng(0)
        >>> query, key, value, grad_out = rng.standard_normal((4, 12, 4, 16), dtype=np.float32)
        >>> out, lse = pyattn.varlen_attention(query, key, value, [0, 5, 12], return_lse=True)
        >>> pyattn.varlen_attention_backward(grad_out, query, key, value, out, lse, [0, 5, 12]).key.shape
        (12, 4, 16)
    """
    given = locals().copy()
    function = "varlen_attention_backward"
    query, key, value = _checks.attention_arrays(function, query=query, key=key, value=value)
    options = _options(function, given)
    names = _checks.learned_options(function, also, options)
    starts = (cu_seqlens_q, cu_seqlens_k)
    call = _checks.packed_call(function, query, key, value, starts, options)
    arrays = _checks.results_and_gradients(function, query, value, out, lse, grad_out, grad_lse)
    options["scale"] = call.scale
    work = _work_dtype(call, query, arrays["lse"])
    inputs = {name: _rows(x, work) for name, x in zip(_INPUTS, (query, key, value), strict=True)}
    results = {name: (_rows(x, work) if x.ndim == 3 else x).swapaxes(0, 1) for name, x in arrays.items()}
    problem = _Problem(function, inputs, options, results, starts=starts)
    grads = [x.swapaxes(0, 1) for x in _of_inputs(problem)]
    grads = [_like(x, y) for x, y in zip(grads, (query, key, value), strict=True)]
    return Gradients(*grads, **{name: _of_option(problem, name) for name in names})


class _Problem(NamedTuple):
    """What is known, with rows as the kernels take them."""

    function: str
    inputs: dict[str, Array]
    options: dict[str, Any]
    results: dict[str, Array]  # of the forward pass, and their gradients; packed: heads first
    starts: tuple[Any, Any] | None = None  # of packed sequences
    csr: tuple[Array, Array, Array | None] | None = None  # a sparse mask, and biases of what it stores
    first: int = 0  # of the queries, where others are before these

    def call(self) -> Any:
        query, key, value = (self.inputs[name] for name in _INPUTS)
        if self.starts is not None:
            return _checks.packed_call(self.function, query, key, value, self.starts, self.options)
        call = _checks.attention_call(self.function, query, key, value, self.options)
        call.start_at(self.first)
        return call

    def parts(self) -> Iterator[tuple[slice, "_Problem"]]:
        """All of it; or, of a sparse mask, some queries at a time, for which it is made dense."""
        if self.csr is None:
            yield slice(None), self
            return
        query, keys, bias = self.inputs["query"], self.inputs["key"].shape[-2], self.options.get("bias")
        length = query.shape[-2]
        offset = self.options.get("query_offset")
        offset = np.asarray(self.options.get("kv_lengths", keys)) - length if offset is None else offset
        for first in range(0, max(1, length), SPARSE_ROWS):
            rows = slice(first, min(length, first + SPARSE_ROWS))
            mask, biases = _dense(self.csr, rows, keys, query.dtype)
            options = self.options | {"mask": mask, "query_offset": offset}
            if biases is not None:
                options["bias"] = biases
            elif bias is not None:
                options["bias"] = bias if bias.shape[-2] == 1 else bias[..., rows, :]
            results = {
                name: x[..., rows, :] if x.ndim == query.ndim else x[..., rows] for name, x in self.results.items()
            }
            inputs = self.inputs | {"query": query[..., rows, :]}
            yield rows, _Problem(self.function, inputs, options, results, first=first)


def _options(function: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those that are given, with masks and biases that are not sparse as arrays."""
    options = {name: x for name in _OPTIONS if (x := given.get(name)) is not None}
    for name in options.keys() & {"mask", "bias"}:
        if not hasattr(options[name], "tocsr"):
            options[name] = _checks.array(function, name, options[name])
    return options


def _work_dtype(call: Any, query: Array, lse: Array) -> Any:
    """What rows are given as: a sparse mask's, whose parts add up, as sums."""
    return query.dtype if call.has_gradients and "csr" not in call.operands else lse.dtype


def _rows(x: Array, dtype: Any) -> Array:
    """An array of that dtype whose rows lie together and are whole vectors: x itself, if it is such."""
    width = -(-x.shape[-1] // WHOLE_VECTORS) * WHOLE_VECTORS
    if width != x.shape[-1]:
        rows: Array = np.zeros((*x.shape[:-1], width), dtype)
        to, source = (_bits(rows), _bits(x)) if x.dtype == dtype else (rows, x)
        to[..., : x.shape[-1]] = source
        return rows
    x = x.astype(dtype, copy=False)
    return x if x.strides[-1] == x.itemsize else _contiguous(x)


def _like(grad: Array, x: Array) -> Array:
    return _contiguous(grad[..., : x.shape[-1]]).astype(x.dtype, copy=False)


def _contiguous(x: Array) -> Array:
    return np.ascontiguousarray(_bits(x)).view(x.dtype)


def _bits(x: Array) -> Array:
    """Those of bfloat16, which NumPy copies without calling others: where memory runs out then, it crashes."""
    return x.view(np.uint16) if _checks.is_bfloat16(x.dtype) else x


def _of_inputs(problem: _Problem) -> list[Array]:
    """The gradients of query, key and value; of packed ones heads first."""
    found: list[Array] = []
    for rows, part in problem.parts():
        call = part.call()
        grads = [np.empty(call.operands[name].shape, part.inputs[name].dtype) for name in _INPUTS]
        call.run_gradients(threads_for, **part.results, **dict(zip(_GRADS, grads, strict=True)))
        if rows == slice(None):
            return grads
        found = found or [np.zeros(problem.inputs[name].shape, grads[0].dtype) for name in _INPUTS]
        found[0][..., rows, :] = grads[0]
        found[1] += grads[1]
        found[2] += grads[2]
    return found


def _of_option(problem: _Problem, name: str) -> Array:
    """The gradient of an option, in its shape."""
    option, lse = problem.options[name], problem.results["lse"]
    shape = np.shape(option)
    if name == "sinks":
        return _summed(_of_sinks(problem), shape).astype(lse.dtype)
    if name == "alibi_slopes":
        grad = np.zeros(lse.shape, lse.dtype)
        for rows, part in problem.parts():
            part.call().run_gradients(threads_for, **part.results, grad_slopes=grad[..., rows])
        return _summed(grad.sum(-1, dtype=np.float64), shape).astype(lse.dtype)
    grad = np.zeros(shape, lse.dtype)
    logits = (*problem.inputs["query"].shape[:-1], problem.inputs["key"].shape[-2])
    view = _checks.aligned_mask(problem.function, grad, logits, grad.dtype, name)
    for rows, part in problem.parts():
        part.call().run_gradients(threads_for, **part.results, grad_bias=view[..., rows, :])
    return grad


def _of_sinks(problem: _Problem) -> Array:
    """Of each head, in float64."""
    results, sinks = problem.results, np.asarray(problem.options["sinks"], np.float64)
    grad_out, out = (results[name].astype(results["lse"].dtype, copy=False) for name in ("grad_out", "out"))
    delta = np.einsum("...d,...d->...", grad_out, out, dtype=np.float64)
    delta -= results.get("grad_lse", 0)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp(np.broadcast_to(sinks, delta.shape[:-1])[..., None] - results["lse"])
    dead = results["lse"] == -np.inf  # rows without a sink, that saw nothing
    grad: Array = -np.where(dead, 0, weights * delta).sum(-1)
    return grad


def _summed(grads: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an array of that shape was broadcast."""
    grads = grads.sum(axis=tuple(range(grads.ndim - len(shape))))
    once = tuple(i for i, size in enumerate(shape) if size == 1)
    summed: Array = grads.sum(axis=once, keepdims=True)
    return summed


def _dense(
    csr: tuple[Array, Array, Array | None], rows: slice, keys: int, dtype: np.dtype[Any]
) -> tuple[Array, Array | None]:
    """Rows of a sparse mask and of its biases, if there are any."""
    indptr, indices, data = csr
    stored, count = slice(indptr[rows.start], indptr[rows.stop]), rows.stop - rows.start
    places = np.repeat(np.arange(count), np.diff(indptr[rows.start : rows.stop + 1])), indices[stored]
    mask = np.zeros((count, keys), bool)
    mask[places] = True
    if data is None:
        return mask, None
    biases = np.zeros((count, keys), dtype)
    biases[places] = data[stored]
    return mask, biases

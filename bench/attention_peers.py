"""The contenders of the benchmarks of attention: for each, how to call it on a case in the way that is best for it.

Options that a peer lacks but can express as a mask are given as one, made in ``prepare``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cases import Arrays, Case
from bench.options import MASKS, as_mask
from bench.peers import Call, Peer
from bench.runtimes import (
    onnx_call,
    onnx_model,
    onnx_session,
    openvino_call,
    openvino_parameter,
    openvino_precision,
    torch_call,
    torch_tensor,
)

# No contender is run where it would store more scores than this.
SCORE_BYTES_LIMIT = 4 * 2**30


def _fits(case: Case, copies: int) -> bool:
    """Whether ``copies`` of the score matrices stay within the limit."""
    return copies * case.score_bytes <= SCORE_BYTES_LIMIT


def _can(case: Case, *more: str) -> bool:
    """Whether the case has no arguments but those that a mask expresses and ``more``."""
    return case.keywords.keys() <= MASKS | set(more)


def _plain_causal(case: Case) -> bool:
    """Whether the case's mask is the one that all peers call causal."""
    return case.L == case.S and case.keywords.keys() - {"softcap"} == {"is_causal"}


def _with_mask(case: Case, arrays: Arrays) -> tuple[list[np.ndarray], bool]:
    """Query, key, value and, where there is one, the mask; and whether the peer must mask causally by itself."""
    if _plain_causal(case):
        return list(arrays), True
    mask = as_mask(case)
    return [*arrays, *([] if mask is None else [mask])], False


def _folded(case: Case, arrays: Arrays) -> Arrays:
    """With the queries of a group of heads behind one another, as queries of their key head: (..., group * L, D)."""
    query, key, value = arrays
    return query.reshape(case.batch, case.key_heads or case.heads, -1, case.D), key, value


def _pyattn(case: Case, arrays: Arrays, threads: int) -> Call:
    import pyattn

    function = pyattn.attention_statistics if case.statistics else pyattn.scaled_dot_product_attention
    keywords = case.keywords
    return lambda: function(*arrays, **keywords)


def _numpy(case: Case, arrays: Arrays, threads: int) -> Call | None:
    if case.dtype not in ("float32", "float64") or case.grouped or not _can(case) or not _fits(case, copies=1):
        return None
    query, key, value = arrays
    scale = 1 / math.sqrt(case.D)
    mask = as_mask(case)
    dead = None if mask is None or mask.dtype != bool else ~mask

    def call() -> np.ndarray:
        scores = (query * scale) @ key.swapaxes(-1, -2)
        if dead is not None:
            np.copyto(scores, -np.inf, where=dead)
        elif mask is not None:
            scores += mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return scores @ value

    return call


def _torch(case: Case, arrays: Arrays, threads: int) -> Call | None:
    if not _can(case):
        return None
    from torch.nn.functional import scaled_dot_product_attention

    inputs, causal = _with_mask(case, arrays)
    tensors = [torch_tensor(array) for array in inputs]
    options = {"is_causal": causal, "enable_gqa": case.grouped}
    return torch_call(lambda: scaled_dot_product_attention(*tensors, **options), threads)


def _torch_folded(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """torch without its own way for groups, which repeats the keys."""
    if not case.grouped or case.keywords:
        return None
    from torch.nn.functional import scaled_dot_product_attention

    tensors = [torch_tensor(array) for array in _folded(case, arrays)]
    call = torch_call(lambda: scaled_dot_product_attention(*tensors), threads)
    return lambda: call().reshape(case.batch, case.heads, case.L, case.D)


def _sparse_mask(case: Case) -> tuple[Any, Any] | None:
    """Starts of rows and the keys of a sparse mask, where there is nothing but that."""
    if case.dtype != "float32" or case.batch > 1 or case.grouped or case.keywords.keys() != {"mask"}:
        return None
    mask = case.keywords["mask"]
    if not hasattr(mask, "tocsr"):
        return None
    return tuple(torch_tensor(x.astype(np.int64)) for x in (mask.tocsr().indptr, mask.tocsr().indices))


def _torch_sparse(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """Head by head by products of a sparse matrix in CSR, and the softmax over its rows' values."""
    if (mask := _sparse_mask(case)) is None:
        return None
    import torch

    starts, keys = mask
    row = torch.repeat_interleave(torch.arange(case.L), starts.diff())
    query, key, value = (torch_tensor(array)[0] for array in arrays)

    def matrix(values: Any) -> Any:
        return torch.sparse_csr_tensor(starts, keys, values, (case.L, case.S), check_invariants=False)

    sampled, scale = matrix(torch.ones(len(keys))), 1 / math.sqrt(case.D)

    def head(q: Any, k: Any, v: Any) -> Any:
        scores = torch.sparse.sampled_addmm(sampled, q, k.T, beta=0.0, alpha=scale).values()
        weights = (scores - torch.segment_reduce(scores, "max", offsets=starts)[row]).exp_()
        total = torch.segment_reduce(weights, "sum", offsets=starts)
        return torch.sparse.mm(matrix(weights), v) / total[:, None]

    return torch_call(lambda: torch.stack([head(*each) for each in zip(query, key, value, strict=True)])[None], threads)


def _torch_gather(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """As PyTorch Geometric's TransformerConv does it: gathered for each pair, scattered to softmax and to sums."""
    if (mask := _sparse_mask(case)) is None:
        return None
    import torch

    starts, keys = mask
    row = torch.repeat_interleave(torch.arange(case.L), starts.diff())
    of_heads = row[:, None].expand(-1, case.heads)
    of_features = row[:, None, None].expand(-1, case.heads, case.D)
    query, key, value = (torch_tensor(array)[0].transpose(0, 1).contiguous() for array in arrays)

    def call() -> Any:
        scores = (query.index_select(0, row) * key.index_select(0, keys)).sum(-1) / math.sqrt(case.D)
        most = torch.full((case.L, case.heads), -math.inf).scatter_reduce_(0, of_heads, scores, "amax")
        weights = (scores - most.index_select(0, row)).exp()
        weights /= torch.zeros(case.L, case.heads).scatter_add_(0, of_heads, weights).index_select(0, row)
        messages = value.index_select(0, keys) * weights[:, :, None]
        out = torch.zeros(case.L, case.heads, case.D).scatter_add_(0, of_features, messages)
        return out.transpose(0, 1)[None]

    return torch_call(call, threads)


def _jax(case: Case, arrays: Arrays, threads: int) -> Call | None:
    if case.dtype == "float16" or not _can(case) or not _fits(case, copies=2):
        return None
    import jax

    jax.config.update("jax_enable_x64", True)
    inputs, causal = _with_mask(case, arrays)
    options: dict[str, Any] = {"is_causal": causal}
    if len(inputs) > 3:
        mask = jax.device_put(inputs.pop())
        options["mask" if mask.dtype == bool else "bias"] = mask
    inputs = [jax.device_put(array.swapaxes(1, 2)) for array in inputs]  # (batch, length, heads, width)
    attend = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **options))
    compiled = attend.lower(*inputs).compile()
    return lambda: np.asarray(compiled(*inputs)).swapaxes(1, 2)


def _onnxruntime(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """ONNX's own Attention (opset 23), which stores the scores."""
    if case.dtype == "bfloat16" or not _can(case, "softcap") or not _fits(case, copies=1):
        return None
    from onnx import helper

    inputs, causal = _with_mask(case, arrays)
    if len(inputs) > 3:  # which must have all queries and keys
        inputs[3] = np.ascontiguousarray(np.broadcast_to(inputs[3], (*inputs[3].shape[:2], case.L, case.S)))
    names = ["query", "key", "value", "mask"][: len(inputs)]
    softcap = case.keywords.get("softcap", 0.0)
    node = helper.make_node("Attention", names, ["output"], is_causal=int(causal), softcap=softcap)
    return onnx_call([node], dict(zip(names, inputs, strict=True)), threads)


def _flat(array: np.ndarray) -> np.ndarray:
    """(batch, length, heads * width)."""
    batch, _, length, _ = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, length, -1)


def _onnxruntime_mha(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """ONNX Runtime's MultiHeadAttention, its flash path."""
    if case.dtype != "float32" or case.grouped or (case.keywords and case.options != ("causal",)):
        return None
    from onnx import helper

    node = helper.make_node(
        "MultiHeadAttention",
        ["query", "key", "value"],
        ["output"],
        domain="com.microsoft",
        num_heads=case.heads,
        unidirectional=int("is_causal" in case.keywords),
    )
    inputs = {name: _flat(array) for name, array in zip(node.input, arrays, strict=True)}
    call = onnx_call([node], inputs, threads)
    return lambda: call().reshape(case.batch, case.L, case.heads, case.D).swapaxes(1, 2)


def _onnxruntime_gqa(case: Case, arrays: Arrays, threads: int) -> Call | None:
    """ONNX Runtime's GroupQueryAttention for decoding: the last keys come as new ones, in place behind the cached."""
    if case.dtype not in ("float32", "float16") or case.L > 1 or case.keywords:
        return None
    import onnxruntime
    from onnx import helper

    query, key, value = arrays
    names = ["query", "key", "value", "past_key", "past_value", "last_keys", "keys"]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["output", "present_key", "present_value"],
        domain="com.microsoft",
        num_heads=case.heads,
        kv_num_heads=case.key_heads or case.heads,
    )
    new = [_flat(array[:, :, -case.L :]) for array in (query, key, value)]
    last = np.full(case.batch, case.S - 1, np.int32), np.array(case.S, np.int32)
    inputs = dict(zip(names, [*new, key.copy(), value.copy(), *last], strict=True))
    kinds = {name: (array.dtype, array.shape) for name, array in inputs.items()}
    outputs = {"output": kinds["query"], "present_key": kinds["past_key"], "present_value": kinds["past_value"]}
    session = onnx_session(onnx_model([node], kinds, outputs), threads)
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
    for name, bound in values.items():
        binding.bind_ortvalue_input(name, bound)
    binding.bind_output("output")
    for name in ("key", "value"):
        binding.bind_ortvalue_output(f"present_{name}", values[f"past_{name}"])

    def call() -> np.ndarray:
        session.run_with_iobinding(binding)
        output = binding.get_outputs()[0].numpy()
        return output.reshape(case.batch, case.L, case.heads, case.D).swapaxes(1, 2)

    return call


def _openvino(case: Case, arrays: Arrays, threads: int, *, inputs_as: str | None = None) -> Call | None:
    """Computed in the case's dtype, on inputs of the same or of the dtype ``inputs_as``."""
    if case.dtype == "float64" or not _can(case) or (case.grouped and case.keywords):
        return None
    from openvino import opset13

    inputs, causal = _with_mask(case, _folded(case, arrays))
    if inputs_as is not None:
        inputs = [array if array.dtype == bool else array.astype(inputs_as) for array in inputs]
    parameters = [openvino_parameter(array) for array in inputs]
    output = opset13.scaled_dot_product_attention(*parameters, causal=causal)
    call = openvino_call(output, parameters, inputs, threads, openvino_precision(case.dtype))
    return lambda: call().reshape(case.batch, case.heads, case.L, case.D)


def _openvino_float32_inputs(case: Case, arrays: Arrays, threads: int) -> Call | None:
    return _openvino(case, arrays, threads, inputs_as="float32") if case.dtype == "bfloat16" else None


PYATTN = Peer("pyattn", ("pyattn",), _pyattn)
NUMPY = Peer("numpy", ("numpy",), _numpy)
TORCH = Peer("torch", ("torch",), _torch)
TORCH_FOLDED = Peer("torch folded", ("torch",), _torch_folded)
TORCH_SPARSE = Peer("torch.sparse", ("torch",), _torch_sparse)
TORCH_GATHER = Peer("torch gather", ("torch",), _torch_gather)
ORT_ATTENTION = Peer("ort Attention", ("onnxruntime", "onnx"), _onnxruntime)
ORT_MHA = Peer("ort MHA", ("onnxruntime", "onnx"), _onnxruntime_mha)
ORT_GQA = Peer("ort GQA", ("onnxruntime", "onnx"), _onnxruntime_gqa)
OPENVINO = Peer("openvino", ("openvino",), _openvino)
OPENVINO_FLOAT32_INPUTS = Peer("openvino f32 i/o", ("openvino",), _openvino_float32_inputs)
JAX = Peer("jax", ("jax",), _jax)

ATTENTION = [PYATTN, NUMPY, TORCH, ORT_ATTENTION, ORT_MHA, OPENVINO, JAX]

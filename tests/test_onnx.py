"""The node tests of ONNX's Attention and RotaryEmbedding (https://onnx.ai/onnx/operators/), opsets 23 to 25."""

import numpy as np
import pytest

import pyattn

onnx = pytest.importorskip("onnx")


def node_cases():
    """Some of collect_testcases() in onnx.backend.test.case.node, which takes seconds to make all operators' cases."""
    state = np.random.get_state()
    np.random.seed(0)  # the cases are random
    try:
        from onnx.backend.test.case.node import _NodeTestCases as cases
        from onnx.backend.test.case.node import attention, rotaryembedding  # noqa: F401  # their import makes the cases
    finally:
        np.random.set_state(state)
    return {case.name: case for case in cases if len(case.model.graph.node) == 1}  # the others are *_expanded


def operator(case):
    return case.model.graph.node[0].op_type


CASES = {name: case for name, case in node_cases().items() if operator(case) in ("Attention", "RotaryEmbedding")}


def split_heads(x, heads):
    """(B, L, heads * D) as (B, heads, L, D)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def onnx_attention(
    query,
    key,
    value,
    attn_mask=None,
    past_key=None,
    past_value=None,
    nonpad_kv_seqlen=None,
    *,
    is_causal=0,
    kv_num_heads=None,
    q_num_heads=None,
    left_window_size=-1,
    right_window_size=-1,
    qk_matmul_output_mode=0,
    scale=None,
    softcap=0.0,
    softmax_precision=None,  # pyattn's is float32, or float64 for float64
):
    """The operator's outputs Y, present_key, present_value and qk_matmul_output."""
    packed = query.ndim == 3
    if packed:
        query = split_heads(query, q_num_heads)
        key, value = (split_heads(x, kv_num_heads) for x in (key, value))
    offset = 0
    if past_key is not None:
        offset = past_key.shape[2]
        key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
    if attn_mask is not None:  # of up to four axes, right-aligned; missing columns are masked
        missing = [(0, 0)] * (attn_mask.ndim - 1) + [(0, key.shape[2] - attn_mask.shape[-1])]
        masked = False if attn_mask.dtype == bool else -np.inf
        attn_mask = np.pad(attn_mask, missing, constant_values=masked)
        attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.ndim) + attn_mask.shape)

    stages = [{"scale": scale}]
    stages.append({**stages[-1], "softcap": softcap or None})
    sides = [None if side == -1 else side for side in (left_window_size, right_window_size)]
    everything = {
        **stages[-1],
        "mask": attn_mask,
        "is_causal": bool(is_causal),
        "window": None if sides == [None, None] else tuple(sides),
        "kv_lengths": nonpad_kv_seqlen,
        "query_offset": offset if nonpad_kv_seqlen is None else None,
    }
    stages += [everything, everything]
    out = pyattn.scaled_dot_product_attention(query, key, value, **everything)
    _, lse, product = pyattn.scaled_dot_product_attention(
        query, key, value, **stages[qk_matmul_output_mode], return_lse=True, return_weights=True
    )
    if qk_matmul_output_mode < 3:
        with np.errstate(divide="ignore"):
            product = np.log(product) + lse[..., None]  # the logits
    if packed:
        out = out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)
    return out, key, value, product


def onnx_rotary_embedding(
    x, cos_cache, sin_cache, position_ids=None, *, interleaved=0, num_heads=None, rotary_embedding_dim=0
):
    """The operator's output; its tables are as wide as rotary_embedding_dim says."""
    assert rotary_embedding_dim in (0, 2 * cos_cache.shape[-1])
    options = {"interleaved": bool(interleaved), "num_heads": num_heads}
    return (pyattn.rotary_embedding(x, cos_cache, sin_cache, position_ids, **options),)


OPERATORS = {"Attention": onnx_attention, "RotaryEmbedding": onnx_rotary_embedding}


@pytest.mark.parametrize("name", CASES)
def test_onnx(name):
    case = CASES[name]
    node = case.model.graph.node[0]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    for arrays, expected in case.data_sets:
        given = iter(arrays)
        outputs = OPERATORS[node.op_type](*(next(given) if name else None for name in node.input), **attributes)
        asked = [output for name, output in zip(node.output, outputs, strict=False) if name]
        for actual, truth in zip(asked, expected, strict=True):
            assert actual.shape == truth.shape
            assert actual.dtype == truth.dtype
            rtol = case.rtol
            if truth.dtype.name == "bfloat16":
                rtol = 2**-6  # as in onnx.backend.test.runner
            np.testing.assert_allclose(actual.astype(float), truth.astype(float), rtol=rtol, atol=case.atol)


def test_there_are_all_cases():
    operators = [operator(case) for case in CASES.values()]
    assert (operators.count("Attention"), operators.count("RotaryEmbedding")) == (93, 8)

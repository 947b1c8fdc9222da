"""Linear layers: pyattn against plain NumPy and the installed peers, in float32, bfloat16 and int8, in GFLOP/s.

Bias and GELU are part of the call, and so is the rounding of float32 inputs, but torch gets its inputs in bfloat16.
Every answer is checked against a float64 product of float32 weights before anything is timed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.cases import LINEAR, Arrays, LinearCase
from bench.compare import benchmark
from bench.peers import Call, Peer
from bench.report import parse_options
from bench.runtimes import onnx_call, openvino_call, openvino_parameter, openvino_precision, torch_call, torch_tensor


def _pyattn(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    from pyattn.layers import Linear

    inputs, weight, bias = arrays
    layer = Linear(case.in_features, case.out_features, activation="gelu" if case.gelu else None, dtype=case.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return lambda: layer(inputs)


def _numpy(case: LinearCase, arrays: Arrays, threads: int) -> Call | None:
    if case.dtype != "float32" or case.gelu:
        return None
    inputs, weight, bias = arrays
    return lambda: inputs @ weight.T + bias


def _torch(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    import torch

    layer = torch.nn.Linear(case.in_features, case.out_features)
    layer.load_state_dict({"weight": torch_tensor(arrays[1]), "bias": torch_tensor(arrays[2])})
    call, inputs = torch.nn.Sequential(layer, *[torch.nn.GELU()] * case.gelu), torch_tensor(arrays[0])
    if case.dtype == "bfloat16":
        call, inputs = call.to(torch.bfloat16), inputs.to(torch.bfloat16)
    elif case.dtype == "int8":
        call = torch.ao.quantization.quantize_dynamic(call, {torch.nn.Linear}, torch.qint8)
    return torch_call(lambda: call(inputs), threads)


def _onnxruntime(case: LinearCase, arrays: Arrays, threads: int) -> Call | None:
    from onnx import helper

    if case.dtype == "bfloat16":
        return None
    inputs, weight, bias = arrays
    # int8's tools know MatMul alone; GELU is fused with the bias.
    if case.dtype == "int8" or case.gelu:
        nodes = [helper.make_node("MatMul", ["inputs", "weight"], ["product"])]
        if case.gelu:
            nodes.append(helper.make_node("BiasGelu", ["product", "bias"], ["output"], domain="com.microsoft"))
        else:
            nodes.append(helper.make_node("Add", ["product", "bias"], ["output"]))
    else:
        nodes = [helper.make_node("Gemm", ["inputs", "weight", "bias"], ["output"])]
    constants = {"weight": np.ascontiguousarray(weight.T), "bias": bias}
    return onnx_call(nodes, {"inputs": inputs}, threads, constants, int8=case.dtype == "int8")


def _openvino(case: LinearCase, arrays: Arrays, threads: int) -> Call | None:
    from openvino import opset13

    if case.dtype == "int8":
        return None
    inputs, weight, bias = arrays
    parameter = openvino_parameter(inputs)
    product = opset13.matmul(parameter, opset13.constant(weight), transpose_a=False, transpose_b=True)
    output = opset13.add(product, opset13.constant(bias))
    output = opset13.gelu(output, "erf") if case.gelu else output
    return openvino_call(output, [parameter], [inputs], threads, openvino_precision(case.dtype))


PEERS = [
    Peer("pyattn", ("pyattn",), _pyattn),
    Peer("numpy", ("numpy",), _numpy),
    Peer("torch", ("torch",), _torch),
    Peer("onnxruntime", ("onnxruntime", "onnx"), _onnxruntime),
    Peer("openvino", ("openvino",), _openvino),
]


def oracle(case: LinearCase, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """The given rows of the output, in float64."""
    inputs, weight, bias = (array.astype(np.float64) for array in arrays)
    output = inputs[rows] @ weight.T + bias
    if case.gelu:
        output *= [[0.5 + 0.5 * math.erf(x / math.sqrt(2)) for x in row] for row in output]
    return output


def main(argv: Sequence[str] | None = None) -> None:
    benchmark("linear", LINEAR, PEERS, oracle, parse_options(__doc__, argv))


if __name__ == "__main__":
    main()

"""Linear layers (matmul and bias): pyattn against plain NumPy and the installed peers, in GFLOP/s.

Every answer is checked against a float64 product before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.cases import LINEAR, Arrays, LinearCase
from bench.compare import benchmark
from bench.peers import Call, Peer
from bench.report import parse_options
from bench.runtimes import onnx_call, openvino_call, openvino_parameter, torch_call, torch_tensor


def _pyattn(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    from pyattn.layers import Linear

    inputs, weight, bias = arrays
    layer = Linear(case.in_features, case.out_features)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return lambda: layer(inputs)


def _numpy(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    inputs, weight, bias = arrays
    return lambda: inputs @ weight.T + bias


def _torch(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    from torch.nn.functional import linear

    tensors = [torch_tensor(array) for array in arrays]
    return torch_call(lambda: linear(*tensors), threads)


def _onnxruntime(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    from onnx import helper

    inputs, weight, bias = arrays
    node = helper.make_node("Gemm", ["inputs", "weight", "bias"], ["output"], transB=1)
    return onnx_call([node], {"inputs": inputs}, threads, constants={"weight": weight, "bias": bias})


def _openvino(case: LinearCase, arrays: Arrays, threads: int) -> Call:
    from openvino import opset13

    inputs, weight, bias = arrays
    parameter = openvino_parameter(inputs)
    product = opset13.matmul(parameter, opset13.constant(weight), transpose_a=False, transpose_b=True)
    return openvino_call(opset13.add(product, opset13.constant(bias)), [parameter], [inputs], threads)


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
    return inputs[rows] @ weight.T + bias


def main(argv: Sequence[str] | None = None) -> None:
    benchmark("linear", LINEAR, PEERS, oracle, parse_options(__doc__, argv))


if __name__ == "__main__":
    main()

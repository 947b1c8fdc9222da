"""How arrays and operators get into the peers' runtimes, and out of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import as_numpy_dtype

# Whether threads of ONNX Runtime wait for the next run on their cores: not where those are the next contender's.
spinning = False

# The dtype and the shape of an input or output; axes that may vary have names.
Kind = tuple[Any, Sequence[int | str]]


def torch_tensor(array: np.ndarray) -> Any:
    """A tensor over the array's memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def numpy_array(tensor: Any) -> np.ndarray:
    """An array over the memory of a tensor of torch."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(as_numpy_dtype("bfloat16"))
    return tensor.numpy()


def torch_call(call: Callable[[], Any], threads: int) -> Callable[[], np.ndarray]:
    """``call``, which returns a tensor, without gradients and with that many threads."""
    import torch

    torch.set_num_threads(threads)

    def without_gradients() -> np.ndarray:
        with torch.inference_mode():
            return numpy_array(call())

    return without_gradients


def transformers_model(name: str, folder: Path, threads: int, precision: str = "float32", **options: Any) -> Any:
    """A model directory as transformers' class ``name`` reads it, quietly."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()  # else it reports weights of unused parts
    transformers.logging.disable_progress_bar()
    return getattr(transformers, name).from_pretrained(folder, **options).eval().to(getattr(torch, precision))


def onnx_model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Kind],
    outputs: Mapping[str, Kind],
    constants: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """The ONNX model of ``nodes``."""
    from onnx import helper, numpy_helper

    def described(name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(
        nodes,
        "bench",
        [described(name, *kind) for name, kind in inputs.items()],
        [described(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def quantized(model: Any) -> Any:
    """The model with int8 weights, per channel, and activations quantized at run time."""
    import logging

    import onnx
    from onnxruntime.quantization import quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # advice on preprocessing
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Attention"],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # of operators that are not ONNX's own
        )
        return onnx.load(target)


def onnx_session(model: Any, threads: int) -> Any:
    """An ONNX Runtime session over a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_call(
    nodes: Sequence[Any],
    inputs: Mapping[str, np.ndarray],
    threads: int,
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    int8: bool = False,
) -> Callable[[], np.ndarray]:
    """A call that runs ``nodes`` on fixed ``inputs``; "output" has the first input's dtype and rank."""
    first = next(iter(inputs.values()))
    kinds = {name: (array.dtype, array.shape) for name, array in inputs.items()}
    output = first.dtype, [f"axis{axis}" for axis in range(first.ndim)]
    model = onnx_model(nodes, kinds, {"output": output}, constants)
    session = onnx_session(quantized(model) if int8 else model, threads)
    return lambda: session.run(None, inputs)[0]


def openvino_request(model: Any, threads: int, precision: str = "f32") -> Any:
    """An inference request in true float32: without the hint OpenVINO computes in bfloat16 where it can."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request()


def openvino_precision(dtype: str) -> str:
    """The hint to compute in ``dtype``, or in float32 where there is no arithmetic in it."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype == "float16" and "FP16" in able:
        return "f16"
    # The capabilities are the processor's, even where OpenVINO is held to less and fails.
    return "bf16" if dtype == "bfloat16" and "BF16" in able and os.environ.get("PYATTN_ISA") != "avx2" else "f32"


def openvino_parameter(array: np.ndarray) -> Any:
    """A parameter of the array's shape and dtype."""
    from openvino import Type, opset13

    return opset13.parameter(array.shape, Type.bf16 if array.dtype.name == "bfloat16" else array.dtype)


def openvino_call(
    output: Any, parameters: Sequence[Any], inputs: Sequence[np.ndarray], threads: int, precision: str = "f32"
) -> Callable[[], np.ndarray]:
    """A call of the graph from ``parameters`` to ``output`` on fixed ``inputs``."""
    import openvino

    request = openvino_request(openvino.Model([output], list(parameters)), threads, precision)
    tensors = [_openvino_tensor(array) for array in inputs]

    def call() -> np.ndarray:
        for index, tensor in enumerate(tensors):  # here, so that they live as long as the call
            request.set_input_tensor(index, tensor)
        request.infer()
        result = request.get_output_tensor()
        if result.element_type == openvino.Type.bf16:
            return result.data.view(as_numpy_dtype("bfloat16"))  # which comes as float16
        return result.data

    return call


def _openvino_tensor(array: np.ndarray) -> Any:
    import openvino

    if array.dtype.name == "bfloat16":
        return openvino.Tensor(array.view(np.int16), openvino.Shape(array.shape), openvino.Type.bf16)
    return openvino.Tensor(np.require(array, requirements="W"), shared_memory=True)

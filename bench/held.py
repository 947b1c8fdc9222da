"""Holds contenders to a lesser instruction set than the machine's best, by variables that they read when imported."""

from __future__ import annotations

import os

NOT_HELD = ("onnxruntime", "ort ")  # which asks the processor itself; it has no setting

VARIABLES = {
    "PYATTN_ISA": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's products
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # products of torch
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # products of torch and CTranslate2, kernels of OpenVINO
    "DNNL_MAX_CPU_ISA": "AVX2",  # an older name
    "CT2_FORCE_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",  # JAX
}


def hold(isa: str) -> None:
    """This process and those that it starts. The others know no set by name but AVX2."""
    os.environ.update(VARIABLES if isa == "avx2" else {"PYATTN_ISA": isa})


def is_held(contender: str, above_peak: bool = False) -> bool:
    """Whether it runs on no more than all others do; who does is timed, but no ratio to the best peer counts it.

    Some do only here and there, as OpenVINO in plain products: then they are above the peak.
    """
    return os.environ.get("PYATTN_ISA") != "avx2" or not (above_peak or contender.startswith(NOT_HELD))

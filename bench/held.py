"""Holds contenders to a lesser instruction set than the machine's best, by variables that they read when imported."""

from __future__ import annotations

import os

NOT_HELD = ("onnxruntime",)  # which asks the processor itself; it has no setting

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
    """This process and those that it starts. Of all sets but AVX2, pyattn alone knows the name."""
    os.environ.update(VARIABLES if isa == "avx2" else {"PYATTN_ISA": isa})


def not_held(isa: str | None, names: list[str]) -> list[str]:
    """Those of the names that run on more than the instruction set."""
    if isa is None:
        return []
    return [name for name in names if name != "pyattn" and (isa != "avx2" or name in NOT_HELD)]

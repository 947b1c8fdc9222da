"""pyattn under torch: its attention on tensors, with autograd, compile and export, and for programs as they are."""

from pyattn._extras import import_extra

import_extra("torch", "pyattn.torch", group="torch")

from pyattn.torch.acceleration import accelerate  # noqa: E402
from pyattn.torch.dropout import dropout  # noqa: E402
from pyattn.torch.functional import scaled_dot_product_attention, varlen_attention  # noqa: E402
from pyattn.torch.overrides import Served, disable, enable, enabled, served  # noqa: E402

__all__ = [
    "Served",
    "accelerate",
    "disable",
    "dropout",
    "enable",
    "enabled",
    "scaled_dot_product_attention",
    "served",
    "varlen_attention",
]

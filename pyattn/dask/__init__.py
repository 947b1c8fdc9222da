"""Corpora and sequences beyond one machine: vectors of texts, and attention, over dask's collections.

Everything here is lazy, and runs on whatever scheduler computes it: threads, processes, or a cluster of
dask.distributed, whose workers need pyattn and the model's files. A task takes one thread, as dask counts, so that more
workers, or more threads of a worker, compute more tasks at once.
"""

from pyattn.dask.attention import scaled_dot_product_attention
from pyattn.dask.texts import encode

__all__ = ["encode", "scaled_dot_product_attention"]

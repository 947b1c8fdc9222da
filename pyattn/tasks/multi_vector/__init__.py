"""Late interaction: texts to a vector for each token, with the modules of a ColBERT's directory."""

from pyattn.tasks.multi_vector.encoder import MultiVectorEncoder

__all__ = ["MultiVectorEncoder"]

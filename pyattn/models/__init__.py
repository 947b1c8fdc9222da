"""Pretrained encoders from a model directory: config.json + model.safetensors, the Hugging Face layout."""

import os

from numpy.typing import DTypeLike

from pyattn.models._files import find_directory
from pyattn.models.bert import BertConfig, BertModel

__all__ = ["BertConfig", "BertModel", "load"]


def load(path_or_hub_id: str | os.PathLike[str], *, dtype: DTypeLike = "float32") -> BertModel:
    """The encoder in a model directory.

    Args:
        path_or_hub_id: a local directory that holds config.json (model_type "bert") and model.safetensors (float32,
            float16, bfloat16 or float64), else the id of a repository on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "int8": in what the layers' weights are held and multiplied. Embeddings, norms
            and sums are float32. bfloat16 without dot products of it takes the time of float32.

    Raises:
        TypeError: dtype is none of these.
        OSError: a file is missing (FileNotFoundError) or cannot be read or fetched.
        ValueError: a file is damaged or describes something that is not supported; the message names both.
        ImportError: an optional package is not installed; the message says how to install it.
    """
    return BertModel.from_directory(find_directory(path_or_hub_id), dtype)

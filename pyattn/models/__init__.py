"""Pretrained models from a model directory, as transformers, sentence-transformers and the Hugging Face hub lay it out.

What may change a result is read if it is there, by the names below, where * stands for anything and [0-9] for a digit.
Nothing else is read, and nothing is unpickled or run. Of the hub these files alone are fetched:
"""

import os

from pyattn import _checks
from pyattn.models.cached_sequences import Memory
from pyattn.models.encoders import ImageEncoder, TextEncoder
from pyattn.models.files import FILES, find_directory, read_json
from pyattn.models.generative import GenerativeConfig, GenerativeModel
from pyattn.models.heads import TaskModel
from pyattn.models.pretrained import EncoderConfig, WeightDtypes, read_directory

__all__ = [
    "EncoderConfig",
    "GenerativeConfig",
    "GenerativeModel",
    "ImageEncoder",
    "Memory",
    "TaskModel",
    "TextEncoder",
    "load",
    "load_task",
]
__doc__ = "\n    ".join([str(__doc__), *(f"{pattern}: {what}" for pattern, what in FILES.items())])


def load(
    path_or_hub_id: str | os.PathLike[str], *, dtype: WeightDtypes = "float32", strict: bool = True
) -> TextEncoder | ImageEncoder | GenerativeModel:
    """The model in a model directory.

    Families, by model_type. Encoders of texts: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet, ALBERT,
    ELECTRA, ModernBERT and Nomic BERT; of images: ViT, DeiT and DINOv2, with and without registers. Models that
    generate: GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma 3; after an encoder BART, mBART, Marian, T5 and Whisper.

    Keys of config.json mean what they mean in transformers 5: those that are left out have its defaults, those that
    change a result are obeyed or refused by name. A dtype or torch_dtype there changes nothing: what is computed is
    float32. Code that auto_map names is never run. Tensors of a file may have prefixes of wrappers in front of their
    names ("module.", "_orig_mod.", "model.", "0.auto_model."). Of tied ones, such as those of words and of logits, it
    needs one, under the name of any; where it has several that differ, each is used.

    Args:
        path_or_hub_id: a local directory that holds config.json and model.safetensors, or model.safetensors.index.json
            and the shards that it names; else the id of a repository on the Hugging Face hub. Weights are float32,
            float16, bfloat16, float64, or int8 with a scale for each row, as save_pretrained, compressed-tensors
            (llm-compressor) and bitsandbytes write it: what other tools quantize is refused by their name. They are
            read one after another: beside the model as it is held, memory is taken for no more than a shard of them.
        dtype: "float32", "bfloat16" or "int8": in what the layers' weights are held and multiplied, and those that give
            a generative model's logits. Embeddings, norms, sums and other heads are float32. bfloat16 without dot
            products of it takes the time of float32. Of "int8", weights that rounding would move by more than 2 % of
            their length stay bfloat16 (the model's weight_dtypes says which). A mapping of patterns to dtypes chooses
            for each weight, the last pattern that fits its name: {"*": "int8", "layers.0.*": "bfloat16", "*.linear2":
            "int8"}. Names, such as decoder.layers.3.self_attn.in_proj or head, are the keys of weight_dtypes.
        strict: raise if the file has tensors that are no part of such a model: a conditional random field's, a value
            head's, layers beyond those of config.json. If False, they are passed over; the model's unused_tensors
            names them. Missing ones are always errors.

    Raises:
        TypeError: dtype is none of these, or strict is not a boolean.
        OSError: a file is missing (FileNotFoundError) or cannot be read or fetched.
        ValueError: a file is damaged or describes something that is not supported; the message names both.
        ImportError: an optional package is not installed; the message says how to install it.
    """
    directory = find_directory(path_or_hub_id)
    file = directory / "config.json"
    classes = {name: model for model in (TextEncoder, ImageEncoder, GenerativeModel) for name in model._families}
    model_type = _checks.choice("load", f"{file}: model_type", read_json(file, dict).get("model_type"), classes)
    return classes[model_type].from_directory(directory, dtype, strict)


def load_task(
    path_or_hub_id: str | os.PathLike[str], task: str, *, dtype: WeightDtypes = "float32", strict: bool = True
) -> TaskModel:
    """The encoder of texts in a model directory, with the head for a task.

    Args:
        path_or_hub_id, dtype, strict: as load's.
        task: "sequence-classification", "token-classification", "masked-lm" or "question-answering".

    Raises:
        TypeError, OSError, ImportError: as load.
        ValueError: as load; the family has no such head, or the file has not its tensors.
    """
    config, tensors, source = read_directory(find_directory(path_or_hub_id), EncoderConfig)
    return TaskModel(config, tensors, task, source, dtype, strict)

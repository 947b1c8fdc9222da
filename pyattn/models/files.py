"""The files of a model directory: found, fetched and read. Every error names the file and what would be accepted."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyattn._extras import import_extra

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

# Every file that may change a result, as patterns of the hub's, and what it says: what is fetched from there. A
# repository may hold the same model again for other libraries (onnx/, openvino/, original/): none of that is read.
FILES = {
    "config.json": "the family, the sizes and the choices of the model, and the labels of a task",
    WEIGHTS: "the weights",
    INDEX: "in which files the weights are, where there is no model.safetensors",
    "model-*-of-*.safetensors": "the weights in shards",
    "model.safetensors-*-of-*.safetensors": "the same under another name",
    "adapter_config.json": "that an adapter changes the weights, which is refused",
    "generation_config.json": "how tokens are chosen; without it, config.json says so",
    "artifact.metadata": "a ColBERT's lengths and prefixes, of Stanford's",
    "tokenizer.json": "how texts become tokens, and tokens texts",
    "tokenizer_config.json": "what the tokenizer does otherwise than tokenizer.json, and the longest text",
    "special_tokens_map.json": "which tokens are special, where tokenizer_config.json does not",
    "added_tokens.json": "further tokens, of older tokenizers",
    "chat_template.*": "that texts are put into a template of chats",
    "additional_chat_templates/*": "the same",
    "source.spm": "how Marian takes texts of the source language to pieces",
    "target.spm": "how Marian joins pieces of the target language",
    "vocab.json": "the numbers of Marian's pieces",
    "preprocessor_config.json": "what spectrograms a speech model hears",
    "processor_config.json": "the same, of newer libraries",
    "modules.json": "of what modules a sentence encoder consists, and in what folders they are",
    "config_sentence_transformers.json": "the prompts of a sentence encoder, and what a reranker makes of logits",
    "sentence_*_config.json": "the longest text of a sentence encoder, and whether texts are lower-cased",
    "wordembedding_config.json": "which words a sentence encoder made of a table knows, and the longest text",
    "whitespacetokenizer_config.json": "these words, and those that are passed over",
    "[0-9]*_*/*.json": "what a module in a folder of its own does, such as 1_Pooling/config.json",
    "[0-9]*_*/*.safetensors": "its weights, such as 2_Dense/model.safetensors",
    "[0-9]*_*/*.jinja": "its template of chats",
}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

_MOST_DEPTH = 64  # of JSON: what is deeper can be read, but not always shown in a message or written again

_Json = TypeVar("_Json", dict[str, Any], list[Any])


def find_directory(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """The local directory of that path, else the local copy of the hub's repository of that id (fetched if need be)."""
    if not isinstance(path_or_hub_id, str | os.PathLike):
        raise TypeError(f"load: a path or a hub id is needed, not {type(path_or_hub_id).__name__}")
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"load: {path} is a file; pass the directory that holds config.json")
    if not isinstance(path_or_hub_id, str) or not _HUB_ID.fullmatch(path_or_hub_id):
        raise FileNotFoundError(
            f"load: there is no directory {path}; pass a model directory, "
            "or a hub id such as 'sentence-transformers/all-MiniLM-L6-v2'"
        )
    hub = import_extra("huggingface_hub", f"load: {path_or_hub_id!r} is no directory here; fetching it from the hub")
    try:
        return Path(hub.snapshot_download(path_or_hub_id, allow_patterns=list(FILES)))
    except Exception as error:  # the client's own types and those of its HTTP library: one type for our callers
        raise OSError(
            f"load: {path_or_hub_id!r} is no directory here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error})"
        ) from error


def require_file(path: Path) -> None:
    """FileNotFoundError, which says what a model directory holds, unless there is a file."""
    if not path.is_file():
        what = f"; {path.name} says {FILES[path.name]}" if path.name in FILES else ""
        raise FileNotFoundError(f"load: {path} is missing; a model directory holds {', '.join(FILES)}{what}")


def read_json(path: Path, json_type: type[_Json], optional: bool = False) -> _Json:
    """The JSON object (dict) or array (list) in a file; empty if it is optional and there is none."""
    if optional and not path.exists():
        return json_type()
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise ValueError(f"load: {path} is not valid JSON ({error})") from error
    if not isinstance(value, json_type):
        raise ValueError(f"load: {path} must hold a JSON {'object' if json_type is dict else 'array'}")
    if _is_deeper(value, _MOST_DEPTH):
        raise ValueError(f"load: {path} is nested more than {_MOST_DEPTH} deep")
    return value


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=2) + "\n")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and arrays stand more than so deep in one another."""
    inside = [value]
    for _ in range(depth):
        inside = [x for outer in inside for x in (outer.values() if isinstance(outer, dict) else outer)]
        inside = [x for x in inside if isinstance(x, dict | list)]
    return bool(inside)

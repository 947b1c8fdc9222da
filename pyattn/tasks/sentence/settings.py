"""What the files of a directory of sentence-transformers say of its Transformer: how texts are cut, and the rest.

Every key of its settings is obeyed or refused by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyattn import _checks
from pyattn._extras import import_extra
from pyattn.models.files import read_json
from pyattn.models.tokenizer_classes import Settings
from pyattn.tasks.sentence.modules import TOKENS, check

# The first of these files that exists and is not empty has a Transformer's settings.
SETTINGS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What a Transformer does: the feature that it makes, the output of the model that this is, and how texts may be cut.
_TASKS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "feature-extraction": (TOKENS, "last_hidden_state", (True, "longest_first", "only_first")),
    "fill-mask": (TOKENS, "logits", (True, "longest_first", "only_first")),
    "sequence-classification": ("scores", "logits", (True, "longest_first")),
    "text-generation": ("causal_logits", "logits", (True, "longest_first")),
}
LENGTH_KEY = "model_max_length"
_NO_LENGTH = 10**20  # a greater length means that there is none, as in transformers

_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
_MODEL_ARGUMENTS = """
add_pooling_layer attn_implementation device_map dtype low_cpu_mem_usage torch_dtype trust_remote_code use_safetensors
"""
# What a settings file may say whatever the task, as `check` takes it.
_ACCEPTED: dict[str, Any] = {
    "modality_config": None,  # read_settings checks it, and length_limit the next
    "max_seq_length": None,
    "do_lower_case": (True, False),
    "unpad_inputs": (True, False),  # changes speed alone
    **dict.fromkeys(("query_length", "document_length", "query_expansion", "tokenizer_name_or_path"), ()),
    # Arguments of transformers' from_pretrained that change no vector, and the length
    "model_kwargs": dict.fromkeys(_MODEL_ARGUMENTS.split()),
    "processor_kwargs": dict.fromkeys(("padding_side", "trust_remote_code", "use_fast", LENGTH_KEY)),
    "config_kwargs": dict.fromkeys(("trust_remote_code", "use_cache")),
}


def lower_case(tokenizer: Any, file: Path) -> None:
    """Puts Lowercase in front of a normalizer without such a step, which is found as sentence-transformers finds it."""
    normalizers, given = import_extra("tokenizers", f"load: reading {file}").normalizers, tokenizer.normalizer
    state = None if given is None else json.loads(given.__getstate__())
    steps = [] if state is None else state.get("normalizers", [state])
    if all(step["type"] != "Lowercase" for step in steps):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase()] + [given] * (given is not None))


def refuse_chat_template(folder: Path, beside: Settings) -> None:
    places = [beside.file] if beside.values.get("chat_template") is not None else []
    others = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    places += [folder / name for name in others if (folder / name).exists()]
    if places:
        raise ValueError(
            f"load: {places[0]}: without a modules.json beside it, sentence-transformers puts texts into this chat "
            "template, which is not supported; a modules.json of a Transformer and a Pooling takes them as they are"
        )


_CLASSES = {
    "SentenceTransformer": "SentenceEncoder",
    "SparseEncoder": "SparseEncoder",
    "MultiVectorEncoder": "MultiVectorEncoder",
    "CrossEncoder": "Reranker",
}


def check_model_type(file: Path, settings: Mapping[str, Any], wanted: str) -> None:
    """Refuses a directory that is another class's of sentence-transformers, and says which of pyattn's reads it."""
    kind = settings.get("model_type", "SentenceTransformer")
    if kind == wanted:
        return
    if isinstance(kind, str) and kind in _CLASSES:
        raise ValueError(f"load: {file}: this directory holds a {kind}; use {_CLASSES[kind]}")
    raise ValueError(f"load: {file}: model_type {kind!r} is not supported; {wanted!r} is")


# Of a directory's prompts the first of these is in front of documents.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def read_prompts(
    file: Path, settings: Mapping[str, Any], usual: Mapping[str, str]
) -> tuple[dict[str, str], str | None]:
    """The prompts of config_sentence_transformers.json beside the usual ones, and the name of that which calls use."""
    said = {} if settings.get("prompts") is None else settings["prompts"]
    if not isinstance(said, dict) or not all(isinstance(prompt, str | None) for prompt in said.values()):
        raise ValueError(f"load: {file}: prompts must be an object of strings, not {said!r}")
    prompts = {name: prompt or "" for name, prompt in {**usual, **said}.items()}
    name = settings.get("default_prompt_name")
    if name is not None:
        _checks.choice("load", f"{file}: default_prompt_name", name, prompts)
    return prompts, name


def chosen_prompt(
    function: str, prompts: Mapping[str, str], prompt: Any, prompt_name: Any, default: str | None
) -> str | None:
    """The prompt of a call that gives one, or its name, or neither; None: there is none."""
    for argument, value in (("prompt", prompt), ("prompt_name", prompt_name)):
        if not isinstance(value, str | None):
            raise TypeError(f"{function}: {argument} must be a str or None, not {type(value).__name__}")
    name = default if prompt_name is None else prompt_name
    if prompt is not None or name is None:
        chosen: str | None = prompt
        return chosen
    if name not in prompts:
        names = ", ".join(map(repr, prompts)) or "none"
        raise ValueError(f"{function}: there is no prompt {name!r}; the names are {names}")
    return prompts[name]


def text_settings(task: str) -> dict[str, Any]:
    """What a settings file says of a task and its texts, where that changes nothing else."""
    feature, output, _ = _TASKS[task]
    text = {"method": "forward", "method_output_name": output}
    messages = {"message": {**text, "format": "flat"}} if task == "text-generation" else {}  # of a chat template
    return {"transformer_task": task, "modality_config": {"text": text, **messages}, "module_output_name": feature}


def read_settings(folder: Path, task: str, also: tuple[str, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """The file that has a Transformer's settings, and the settings; ValueError for keys that are not supported.

    also: keys that the caller checks.
    """
    file, settings = folder / SETTINGS_FILES[0], {}
    for name in SETTINGS_FILES:
        if (folder / name).exists() and (settings := read_json(folder / name, dict)):
            file = folder / name
            break
    # What is null counts as absent.
    settings = {_OLD_NAMES.get(key, key): value for key, value in settings.items() if value is not None}
    feature, output, cuts = _TASKS[task]
    # Arguments for calls of the tokenizer; those for other inputs than texts have no effect.
    calls = {
        "text": {"max_length": None, "padding": None, "truncation": cuts},
        "common": {"return_tensors": None},
        "*": {"*": None},
    }
    if task == "text-generation":
        calls["chat_template"] = {}
    own = {"transformer_task": (task,), "module_output_name": (feature,), "processing_kwargs": calls}
    check(file, settings, _ACCEPTED | own | dict.fromkeys(also))
    usual = text_settings(task)["modality_config"]
    said = settings.get("modality_config", {"text": usual["text"]})  # as files from before release 5.4 leave it out
    texts = (usual["text"], {**usual["text"], "method_output_name": [output]})
    if not isinstance(said, dict) or said.get("text") not in texts or said.get("message") != usual.get("message"):
        raise ValueError(f"load: {file}: modality_config must be {json.dumps(usual)}, not {json.dumps(said)}")
    return file, settings


def length_limit(beside: Settings, settings_file: Path, settings: Mapping[str, Any], most: int, usual: int) -> int:
    """The length to which texts are cut; at most `most`, `usual` where only the tokenizer's file, or none, gives it."""
    calls = settings.get("processing_kwargs", {}).get("text", {})
    values = {
        f"{settings_file}: processing_kwargs: text: max_length": calls.get("max_length"),
        f"{settings_file}: processor_kwargs: model_max_length": settings.get("processor_kwargs", {}).get(LENGTH_KEY),
        f"{settings_file}: max_seq_length": settings.get("max_seq_length"),
        f"{beside.file}: {LENGTH_KEY}": beside.values.get(LENGTH_KEY, beside.values.get("max_len")),
    }
    what, length = next(((what, length) for what, length in values.items() if length is not None), ("", None))
    if what in ("", f"{beside.file}: {LENGTH_KEY}"):
        most = usual
    if length is None or (isinstance(length, int | float) and length > _NO_LENGTH):
        return most
    if isinstance(length, float) and length.is_integer():
        length = int(length)
    return min(most, _checks.size("load", what, length))

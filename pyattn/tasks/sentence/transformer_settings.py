"""The settings of a Transformer in a sentence-transformers directory: every key is obeyed or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyattn import _checks
from pyattn.models.files import read_json
from pyattn.tasks.sentence.modules import TOKENS

# The first of these files that exists and is not empty has a Transformer's settings.
SETTINGS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# What a settings file may say: key -> the supported values; a key that is null counts as absent.
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": (TOKENS,),
    "unpad_inputs": (True, False),  # changes speed alone
    "query_length": (),
    "document_length": (),
    "query_expansion": (),
    "tokenizer_name_or_path": (),
}
# Arguments of transformers' from_pretrained that change no vector, by sentence-transformers' names; its older names.
_ARGUMENTS = {
    "model_kwargs": {
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "use_safetensors",
    },
    "processor_kwargs": {"padding_side", "use_fast"},
    "config_kwargs": {"use_cache"},
}
_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
LENGTH_KEY = "model_max_length"
_NO_LENGTH = 10**20  # a greater length means that there is none, as in transformers
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def special_names(folder: Path) -> tuple[dict[str, str], set[str], bool]:
    """A tokenizer's special tokens by their role, other ones, and whether its class names none itself."""
    files = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    config, older = (read_json(file, dict) if file.exists() else {} for file in files)
    values = config if "added_tokens_decoder" in config else config | older
    found = {name: text for name, token in values.items() if name.endswith("_token") and (text := _text(token))}
    others: list[Any] = []
    for listed in (values.get("additional_special_tokens"), values.get("extra_special_tokens")):
        others += listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
    named = {name: text for name, text in found.items() if name in _SPECIAL}
    plain = config.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return named, {text for token in [*others, *found.values()] if (text := _text(token))}, plain


def _text(token: Any) -> str | None:
    """The text of a token, which files give as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def refuse_types(file: Path) -> None:
    """Raises ValueError if GPT-2's tokenizer makes token types, whose embeddings it would add."""
    names = read_json(file, dict).get("model_input_names") if file.exists() else None
    if isinstance(names, list) and "token_type_ids" in names:
        raise ValueError(f"load: {file}: model_input_names: token_type_ids are not supported for GPT-2")


def refuse_chat_template(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    config = read_json(file, dict) if file.exists() else {}
    others = [folder / name for name in ("chat_template.jinja", "chat_template.json", "additional_chat_templates")]
    for place in [file] * (config.get("chat_template") is not None) + [path for path in others if path.exists()]:
        raise ValueError(
            f"load: {place}: without a modules.json beside it, sentence-transformers puts texts into this chat "
            "template, which is not supported; a modules.json of a Transformer and a Pooling takes them as they are"
        )


def read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that has a Transformer's settings, and the settings; ValueError for keys that are not supported."""
    file, settings = folder / SETTINGS_FILES[0], {}
    for name in SETTINGS_FILES:
        if (folder / name).exists() and (settings := read_json(folder / name, dict)):
            file = folder / name
            break
    settings = {_OLD_NAMES.get(key, key): value for key, value in settings.items() if value is not None}
    for key, value in settings.items():
        what = f"{file}: {key}"
        if key in _ACCEPTED:
            if value not in _ACCEPTED[key]:
                accepted = ", ".join(map(repr, _ACCEPTED[key])) or "null"
                raise ValueError(f"load: {what} {value!r} is not supported; accepted: {accepted}")
        elif key == "max_seq_length":
            pass  # length_limit checks it
        elif key == "do_lower_case":
            _checks.choice("load", what, value, (True, False))
        elif key == "modality_config":
            text = _object(what, value).get("text")
            if text not in (TEXT, {**TEXT, "method_output_name": ["last_hidden_state"]}) or "message" in value:
                raise ValueError(f"load: {what} must be {json.dumps({'text': TEXT})}, not {json.dumps(value)}")
        elif key in _ARGUMENTS:
            unknown = _object(what, value).keys() - _ARGUMENTS[key] - {"trust_remote_code"}
            if key == "processor_kwargs":
                unknown -= {LENGTH_KEY}
            if unknown:
                raise ValueError(f"load: {what}: {', '.join(sorted(unknown))} is not supported")
        elif key == "processing_kwargs":
            _check_processing(what, value)
        else:
            raise ValueError(f"load: {what} is not supported")
    return file, settings


def _check_processing(what: str, value: Any) -> None:
    """Checks arguments for calls of the tokenizer; those for other inputs than texts have no effect."""
    for kind, arguments in _object(what, value).items():
        _object(f"{what}: {kind}", arguments)
        accepted = {"text": {"max_length", "padding", "truncation"}, "common": {"return_tensors"}}.get(kind, arguments)
        if unknown := arguments.keys() - accepted:
            raise ValueError(f"load: {what}: {kind}: {', '.join(sorted(unknown))} is not supported")
    truncation = value.get("text", {}).get("truncation", True)
    _checks.choice("load", f"{what}: text: truncation", truncation, (True, "longest_first", "only_first"))


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"load: {what} must be an object, not {value!r}")
    return value


def length_limit(folder: Path, settings_file: Path, settings: Mapping[str, Any], most: int, usual: int) -> int:
    """The length to which texts are cut, which four places may give; at most `most`.

    Where no place but the tokenizer's file gives it, it is at most `usual`, the model's max_position_embeddings.
    """
    file = folder / "tokenizer_config.json"
    config = read_json(file, dict) if file.exists() else {}
    calls = settings.get("processing_kwargs", {}).get("text", {})
    values = {
        f"{settings_file}: processing_kwargs: text: max_length": calls.get("max_length"),
        f"{settings_file}: processor_kwargs: model_max_length": settings.get("processor_kwargs", {}).get(LENGTH_KEY),
        f"{settings_file}: max_seq_length": settings.get("max_seq_length"),
        f"{file}: {LENGTH_KEY}": config.get(LENGTH_KEY, config.get("max_len")),
    }
    what, length = next(((what, length) for what, length in values.items() if length is not None), ("", None))
    if what in ("", f"{file}: {LENGTH_KEY}"):
        most = usual
    if length is None or (isinstance(length, int | float) and length > _NO_LENGTH):
        return most
    if isinstance(length, float) and length.is_integer():
        length = int(length)
    return min(most, _checks.size("load", what, length))

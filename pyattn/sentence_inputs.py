"""The first module of a sentence-transformers directory, which turns texts into vectors: of each token, or of each text.

A Transformer, with its lengths and settings wherever they stand; StaticEmbedding and WordEmbeddings, which are tables.
"""

import json
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._core import rowwise
from pyattn._threads import threads_for
from pyattn.models import TextEncoder
from pyattn.models._files import import_extra, read_json, read_tensors, require_file, write_json, write_tensors
from pyattn.models._tokenizer import errors_of_library, read_tokenizer
from pyattn.models.families import TEXT_FAMILIES
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.token_states import STATE_FAMILIES, TokenStates
from pyattn.sentence_modules import SENTENCE, TOKENS, Features, pool

Tokenized = tuple[list[list[int]], int | None]  # the tokens of each text, and the first text that was cut

# The first of them that is there and not empty has a Transformer's settings.
SETTINGS_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# What a settings file may say: key -> the values that are computed; null stands for a key that is not there.
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": (TOKENS,),
    "unpad_inputs": (True, False),  # is about speed alone
    "query_length": (),
    "document_length": (),
    "query_expansion": (),
    "tokenizer_name_or_path": (),
}
# Arguments of transformers' from_pretrained that change no vector, under sentence-transformers' new names and old.
_ARGUMENTS = {
    "model_kwargs": {"add_pooling_layer", "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage"},
    "processor_kwargs": {"padding_side", "use_fast"},
    "config_kwargs": {"use_cache"},
}
_ARGUMENTS["model_kwargs"] |= {"torch_dtype", "use_safetensors"}
_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
_LENGTH = "model_max_length"
_NO_LENGTH = 10**20  # transformers takes greater ones for none

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Input:
    """What a directory's first module is to the encoder.

    Attributes:
        type: the dotted name that today's sentence-transformers writes.
        folder: where it was read.
        widths: the names of what `features` gives, and how wide that is.
        max_seq_length: texts are cut to so many tokens; None if they never are.
        vocab_size: tokens must be below.
        settings: what changes its vectors beside its files.
    """

    type = ""
    folder: Path
    widths: dict[str, int]
    max_seq_length: int | None
    vocab_size: int
    settings: tuple[Any, ...] = ()

    def set_length(self, tokens: int) -> None:
        raise ValueError(f"SentenceEncoder: a {self.type.rpartition('.')[2]} has no max_seq_length that may be set")

    def tokenize(self, texts: list[str]) -> Tokenized:
        raise NotImplementedError

    def prompt_length(self, prompt: str) -> int:
        """Of how many tokens a prompt is that poolings may leave out."""
        return 0

    def features(self, token_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> Features:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Transformer(Input):
    """A model of pyattn.models whose hidden states are the tokens' vectors, and its tokenizer.

    with_modules: whether the directory has a modules.json. Where it has not, sentence-transformers does not open the
    settings files, and would put texts into a chat template.
    """

    type = "sentence_transformers.base.modules.transformer.Transformer"

    def __init__(self, folder: Path, dtype: WeightDtypes, with_modules: bool) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json", dict)
        kind = self.config.get("model_type")
        _checks.choice("load", f"{folder / 'config.json'}: model_type", kind, (*TEXT_FAMILIES, *STATE_FAMILIES))
        file, settings = _read_settings(folder) if with_modules else (folder, {})
        if not with_modules:
            _refuse_chat_template(folder)
        model = TokenStates if kind in STATE_FAMILIES else TextEncoder
        self.model: TokenStates | TextEncoder = model.from_directory(folder, dtype)
        self.widths = {TOKENS: self.model.config.hidden_size}
        self.vocab_size = self.model.config.vocab_size
        self.settings = (sorted(self.model.weight_dtypes.items()), bool(settings.get("do_lower_case")))
        self._most = self.model.config.max_position_embeddings
        self.max_seq_length: int = _length(folder, file, settings, self._most)
        self._file = folder / "tokenizer.json"
        self.tokenizer = read_tokenizer(self._file, self.vocab_size, self.max_seq_length)
        if settings.get("do_lower_case") and not _lower_cases(self.tokenizer):
            self._lower_case()
        # without the places of tokens in the text, a third faster; older releases of the library lack it
        self._encode_batch = getattr(self.tokenizer, "encode_batch_fast", self.tokenizer.encode_batch)
        self._named = _named_tokens(folder)
        self._special = self._special_tokens()

    def _lower_case(self) -> None:
        normalizers = import_extra("tokenizers", f"load: reading {self._file}").normalizers
        steps = [normalizers.Lowercase()] + ([] if self.tokenizer.normalizer is None else [self.tokenizer.normalizer])
        self.tokenizer.normalizer = normalizers.Sequence(steps)

    def _special_tokens(self) -> frozenset[int]:
        """Tokens that are no part of a prompt if one ends in them."""
        with errors_of_library("load", self._file):
            empty = self.tokenizer.encode("")
            if any(empty.type_ids) and getattr(self.model.config, "type_vocab_size", 0) > 1:
                raise ValueError(f"load: {self._file}: token types other than 0 are not supported")
            added = [number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
            named = map(self.tokenizer.token_to_id, {*self._named.values(), _unknown(self.tokenizer)} - {None})
            return frozenset([*empty.ids, *added, *(number for number in named if number is not None)])

    def set_length(self, tokens: int) -> None:
        least = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if not least <= _checks.size("SentenceEncoder", "max_seq_length", tokens) <= self._most:
            raise ValueError(f"SentenceEncoder: max_seq_length must be from {least} to {self._most}, not {tokens}")
        self.tokenizer.enable_truncation(**{**self.tokenizer.truncation, "max_length": int(tokens)})
        self.max_seq_length = int(tokens)

    def tokenize(self, texts: list[str]) -> Tokenized:
        with errors_of_library("encode", self._file):
            encodings = self._encode_batch(texts)
        return _tokens_of(encodings, self.max_seq_length)

    def prompt_length(self, prompt: str) -> int:
        [ids], _ = self.tokenize([prompt])
        return len(ids) - (bool(ids) and ids[-1] in self._special)

    def features(self, token_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> Features:
        return Features(starts, tokens=self.model(token_ids, starts))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        named = {name: x for name, x in self._named.items() if self.tokenizer.token_to_id(x) is not None} or {
            name: token
            for name, tokens in _USUAL.items()
            if (token := next((x for x in tokens if self.tokenizer.token_to_id(x) is not None), None)) is not None
        }
        padding = self.config.get("pad_token_id")
        padding = self.tokenizer.id_to_token(padding) if isinstance(padding, int) and padding >= 0 else None
        if "pad_token" not in named and (padding or named.get("eos_token")):  # sentence-transformers cannot do without
            named = {**named, "pad_token": padding or named["eos_token"]}
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it is
                "model_input_names": ["input_ids", "attention_mask"],
                _LENGTH: self.max_seq_length,
                "truncation_side": self.tokenizer.truncation["direction"],
                **named,
            },
        )
        write_json(
            folder / SETTINGS_FILES[0],
            {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": _TEXT},
                "module_output_name": TOKENS,
            },
        )


# What the tokens are called in most vocabularies, for files that do not say it.
_USUAL = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "eos_token": ("</s>", "<|endoftext|>"),
}


def _tokens_of(encodings: Any, longest: int | None) -> Tokenized:
    cut = (i for i, encoding in enumerate(encodings) if len(encoding) == longest and encoding.overflowing)
    return [encoding.ids for encoding in encodings], next(cut, None)


def _lower_cases(tokenizer: Any) -> bool:
    """Whether one of its normalizer's steps is Lowercase, as sentence-transformers looks for it."""
    normalizer = json.loads(b"null" if tokenizer.normalizer is None else tokenizer.normalizer.__getstate__())
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    return any(step["type"] == "Lowercase" for step in steps)


def _unknown(tokenizer: Any) -> str | None:
    token = getattr(tokenizer.model, "unk_token", None)
    return token if isinstance(token, str) else None


def _named_tokens(folder: Path) -> dict[str, str]:
    """A tokenizer's special tokens by what they are for."""
    named: dict[str, str] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        for name, token in (read_json(file, dict) if file.exists() else {}).items():
            text = token.get("content") if isinstance(token, dict) else token
            if name in _SPECIAL and isinstance(text, str):
                named[name] = text
    return named


def _refuse_chat_template(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    config = read_json(file, dict) if file.exists() else {}
    others = [folder / name for name in ("chat_template.jinja", "chat_template.json", "additional_chat_templates")]
    for place in [file] * (config.get("chat_template") is not None) + [path for path in others if path.exists()]:
        raise ValueError(
            f"load: {place}: without a modules.json beside it, sentence-transformers puts texts into this chat template, "
            "which is not supported; a modules.json of a Transformer and a Pooling takes them as they are"
        )


def _read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that has a Transformer's settings, and these, every key of them obeyed or refused."""
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
            pass  # _length checks it
        elif key == "do_lower_case":
            _checks.choice("load", what, value, (True, False))
        elif key == "modality_config":
            text = _object(what, value).get("text")
            if text not in (_TEXT, {**_TEXT, "method_output_name": ["last_hidden_state"]}) or "message" in value:
                raise ValueError(f"load: {what} must be {json.dumps({'text': _TEXT})}, not {json.dumps(value)}")
        elif key in _ARGUMENTS:
            unknown = _object(what, value).keys() - _ARGUMENTS[key] - {"trust_remote_code"}
            if key == "processor_kwargs":
                unknown -= {_LENGTH}
            if unknown:
                raise ValueError(f"load: {what}: {', '.join(sorted(unknown))} is not supported")
        elif key == "processing_kwargs":
            _check_processing(what, value)
        else:
            raise ValueError(f"load: {what} is not supported")
    return file, settings


def _check_processing(what: str, value: Any) -> None:
    """Arguments of calls of the tokenizer; those for other inputs than texts have no effect."""
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


def _length(folder: Path, settings_file: Path, settings: Mapping[str, Any], most: int) -> int:
    """To how many tokens texts are cut, which may stand in four places; at most so many as there are positions."""
    file = folder / "tokenizer_config.json"
    config = read_json(file, dict) if file.exists() else {}
    calls = settings.get("processing_kwargs", {}).get("text", {})
    said = {
        f"{settings_file}: processing_kwargs: text: max_length": calls.get("max_length"),
        f"{settings_file}: processor_kwargs: model_max_length": settings.get("processor_kwargs", {}).get(_LENGTH),
        f"{settings_file}: max_seq_length": settings.get("max_seq_length"),
        f"{file}: {_LENGTH}": config.get(_LENGTH, config.get("max_len")),
    }
    what, length = next(((what, length) for what, length in said.items() if length is not None), ("", None))
    if length is None or (isinstance(length, int | float) and length > _NO_LENGTH):
        return most
    if isinstance(length, float) and length.is_integer():
        length = int(length)
    return min(most, _checks.size("load", what, length))


class StaticEmbedding(Input):
    """The mean of a table's rows, one for each token, special tokens left out; also as model2vec saves it."""

    type = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, folder / "tokenizer.json"
        file = folder / "model.safetensors"
        if not file.exists() and (folder / "pytorch_model.bin").exists():
            raise ValueError(f"load: {folder / 'pytorch_model.bin'} is not opened; model.safetensors is needed")
        tensors = read_tensors(file, lambda name: name != "mapping")
        mapping = _integers(file, "mapping")
        keys = {"embedding.weight"} if "embedding.weight" in tensors else {"embeddings"}
        if missing := sorted(keys - tensors.keys()):
            raise ValueError(f"load: {file}: missing tensors: {', '.join(missing)}, or embedding.weight")
        self.table = tensors[keys.pop()]
        self._weights = tensors.get("weights") if "embeddings" in tensors else None
        if not isinstance(self.table, np.ndarray) or self.table.ndim != 2 or not self.table.size:
            raise ValueError(f"load: {file}: the table has shape {self.table.shape}; floats (tokens, width) are needed")
        rows = len(self.table) if mapping is None else len(mapping)
        if mapping is not None and (mapping.ndim != 1 or not np.all((mapping >= 0) & (mapping < len(self.table)))):
            raise ValueError(f"load: {file}: mapping must be of rows of the table, 0 to {len(self.table) - 1}")
        if self._weights is not None and (not isinstance(self._weights, np.ndarray) or self._weights.shape != (rows,)):
            raise ValueError(f"load: {file}: weights must be {rows} floats, one for each token")
        self._mapping, self.vocab_size = mapping, rows
        self.widths = {SENTENCE: self.table.shape[1]}
        require_file(self._file)
        self.tokenizer = read_tokenizer(self._file, sys.maxsize, 2**31 - 1)
        self._restore_truncation()

    def _restore_truncation(self) -> None:
        """Texts are cut only where tokenizer.json itself says so."""
        truncation = read_json(self._file, dict).get("truncation")
        self.max_seq_length = None
        with errors_of_library("load", self._file):
            self.tokenizer.no_truncation()
            if truncation is not None:
                given = {key: truncation[key] for key in ("max_length", "stride") if key in truncation}
                self.tokenizer.enable_truncation(**given, direction=truncation.get("direction", "Right").lower())
                self.max_seq_length = self.tokenizer.truncation["max_length"]

    def tokenize(self, texts: list[str]) -> Tokenized:
        batch = getattr(self.tokenizer, "encode_batch_fast", self.tokenizer.encode_batch)
        with errors_of_library("encode", self._file):
            return _tokens_of(batch(texts, add_special_tokens=False), self.max_seq_length)

    def features(self, token_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> Features:
        numbers = token_ids if self._mapping is None else np.ascontiguousarray(self._mapping[token_ids], np.int64)
        rows = _rows(self.table, numbers)
        if self._weights is not None:
            rows *= self._weights[token_ids][:, None]
        return Features(starts, sentence=pool(rows, starts, ("mean",)))

    def save(self, folder: Path) -> None:
        table = self.table if self._mapping is None else self.table[self._mapping]
        table = table if self._weights is None else table * self._weights[:, None]
        write_tensors(folder / "model.safetensors", {"embedding.weight": np.ascontiguousarray(table, np.float32)})
        self.tokenizer.save(str(folder / "tokenizer.json"))


def _rows(table: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = np.empty((len(numbers), table.shape[1]), np.float32)
    rowwise.embed([np.ascontiguousarray(table)], [numbers], rows, threads_for(20.0 * rows.size))
    return rows


def _integers(file: Path, name: str) -> NDArray[np.int64] | None:
    """A tensor of integers of a file that read_tensors has read; None if it is not there."""
    safetensors = import_extra("safetensors", f"load: reading {file}")
    with safetensors.safe_open(file, framework="numpy") as tensors:
        if name not in tensors.keys():  # noqa: SIM118  # it is no mapping
            return None
        if tensors.get_slice(name).get_dtype() not in ("I64", "I32"):
            raise ValueError(f"load: {file}: {name} must be of integers")
        return np.asarray(tensors.get_tensor(name)).astype(np.int64)


class WordEmbeddings(Input):
    """A table's rows, one for each known word of sentence-transformers' WhitespaceTokenizer."""

    type = "sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings"

    def __init__(self, folder: Path) -> None:
        file = folder / "wordembedding_config.json"
        self.folder, self._settings = folder, read_json(file, dict)
        if unknown := sorted(self._settings.keys() - {"tokenizer_class", "update_embeddings", "max_seq_length"}):
            raise ValueError(f"load: {file}: {', '.join(unknown)} is not supported")
        kind = self._settings.get("tokenizer_class")
        words = isinstance(kind, str) and kind.startswith("sentence_transformers.")
        if not words or kind.rpartition(".")[2] != "WhitespaceTokenizer":
            raise ValueError(f"load: {file}: tokenizer_class {kind!r} is not supported; WhitespaceTokenizer is")
        length = self._settings.get("max_seq_length", 1_000_000)
        self.max_seq_length = None if length is None else _checks.size("load", f"{file}: max_seq_length", length)
        self._read_words(folder / "whitespacetokenizer_config.json")
        tensors_file = folder / "model.safetensors"
        self.table = read_tensors(tensors_file, lambda name: name == "emb_layer.weight").get("emb_layer.weight")
        if not isinstance(self.table, np.ndarray) or self.table.ndim != 2 or not self.table.size:
            raise ValueError(f"load: {tensors_file}: emb_layer.weight must be floats of shape (words, width)")
        self.vocab_size = len(self.table)
        self.widths = {TOKENS: self.table.shape[1]}

    def _read_words(self, file: Path) -> None:
        config = read_json(file, dict)
        if unknown := sorted(config.keys() - {"vocab", "stop_words", "do_lower_case"}):
            raise ValueError(f"load: {file}: {', '.join(unknown)} is not supported")
        for key in ("vocab", "stop_words"):
            words = config.get(key)
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"load: {file}: {key} must be a list of strings")
        self._lower = _checks.choice("load", f"{file}: do_lower_case", config.get("do_lower_case", False), (True, False))
        self._words = {word: number for number, word in enumerate(config["vocab"])}
        self._stop_words = frozenset(config["stop_words"])
        self._tokenizer_config = config

    def set_length(self, tokens: int) -> None:
        self.max_seq_length = _checks.size("SentenceEncoder", "max_seq_length", tokens)

    def tokenize(self, texts: list[str]) -> Tokenized:
        found = [self._numbers(text.lower() if self._lower else text) for text in texts]
        most = self.max_seq_length
        cut = (number for number, tokens in enumerate(found) if most is not None and len(tokens) > most)
        return [tokens[:most] for tokens in found], next(cut, None)

    def _numbers(self, text: str) -> list[int]:
        """Words as they stand, without punctuation around them, then in lower case; what is unknown is left out."""
        numbers = []
        for word in text.split():
            stripped = word.strip(string.punctuation)
            for form in (word, stripped or word, stripped.lower()):
                if form in self._stop_words:
                    break
                if form in self._words:
                    numbers.append(self._words[form])
                    break
        return numbers

    def features(self, token_ids: NDArray[np.int64], starts: NDArray[np.int64]) -> Features:
        return Features(starts, tokens=_rows(self.table, token_ids))

    def save(self, folder: Path) -> None:
        name = "sentence_transformers.sentence_transformer.modules.tokenizer.whitespace.WhitespaceTokenizer"
        settings = {"tokenizer_class": name, "update_embeddings": False, "max_seq_length": self.max_seq_length}
        write_json(folder / "wordembedding_config.json", settings)
        write_json(folder / "whitespacetokenizer_config.json", self._tokenizer_config)
        write_tensors(folder / "model.safetensors", {"emb_layer.weight": np.ascontiguousarray(self.table, np.float32)})

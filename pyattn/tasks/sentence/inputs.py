"""The first module of a sentence-transformers directory, which turns texts into vectors: usually a Transformer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyattn import _checks
from pyattn._checks import Array
from pyattn.models import TextEncoder
from pyattn.models.families import STATE_FAMILIES, TEXT_FAMILIES
from pyattn.models.files import read_json, write_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tensors import find_weights, weight_files
from pyattn.models.token_states import TokenStates
from pyattn.models.tokenizer import encode_all, errors_of_library, first_cut, read_tokenizer
from pyattn.models.tokenizer_classes import TOKEN_NAMES, Settings
from pyattn.tasks.batches import Tokenized
from pyattn.tasks.sentence.modules import TOKENS
from pyattn.tasks.sentence.settings import (
    LENGTH_KEY,
    SETTINGS_FILES,
    length_limit,
    lower_case,
    read_settings,
    refuse_chat_template,
    text_settings,
)

# Usual names of special tokens, for files that do not name them; the last one that the tokenizer has is taken.
_USUAL = {
    "unk_token": ("<unk>", "[UNK]"),
    "sep_token": ("</s>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]"),
    "cls_token": ("<s>", "[CLS]"),
    "mask_token": ("<mask>", "[MASK]"),
    "eos_token": ("<|endoftext|>", "</s>"),
}


class Input:
    """What the first modules of a directory share, beside methods that give features and save."""

    type = ""  # the dotted name that today's sentence-transformers writes
    folder: Path
    tokenizer: Any  # of the library; one that has none tokenizes by itself
    adds_special_tokens = True
    widths: dict[str, int]  # of the features that it gives, by name
    max_seq_length: int | None  # to which texts are cut; None: they are not
    vocab_size: int  # tokens are below it
    whose_vocabulary = "the table's rows are"  # begins the message that gives it
    settings: tuple[Any, ...] = ()  # values that change its vectors and are in none of its files
    weights: Sequence[Path] = ()  # its files of weights
    model: Any = None  # that gives hidden states, if it has one

    def set_length(self, tokens: int) -> None:
        raise ValueError(f"SentenceEncoder: a {self.type.rpartition('.')[2]} has no max_seq_length that may be set")

    def tokenize(self, texts: list[str]) -> Tokenized[list[int]]:
        encodings = encode_all(
            "encode", self.tokenizer, f"{self.folder}/tokenizer.json", texts, self.adds_special_tokens
        )
        return [encoding.ids for encoding in encodings], first_cut(encodings, self.max_seq_length)

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt that Pooling may leave out."""
        return 0


class Transformer(Input):
    """A model of pyattn.models whose hidden states are the tokens' vectors, and its tokenizer.

    with_modules: whether the directory has a modules.json. Without one, sentence-transformers does not open the
    settings files, and would put texts into a chat template.
    """

    type = "sentence_transformers.base.modules.transformer.Transformer"
    whose_vocabulary = "config.json has vocab_size"
    task = "feature-extraction"
    also: tuple[str, ...] = ()  # keys of its settings that a task reads itself, from `said`

    def __init__(self, folder: Path, dtype: WeightDtypes, strict: bool, with_modules: bool) -> None:
        self.folder, self._file = folder, folder / "tokenizer.json"
        self.config = read_json(folder / "config.json", dict)
        kind = self.config.get("model_type")
        if kind == "model2vec":
            raise ValueError(
                f"load: {folder / 'config.json'}: directories of model2vec are read by a modules.json, which there is "
                "not: its StaticModel.save_pretrained writes one, of a StaticEmbedding"
            )
        _checks.choice("load", f"{folder / 'config.json'}: model_type", kind, (*TEXT_FAMILIES, *STATE_FAMILIES))
        beside = Settings(folder)
        file, settings = read_settings(folder, self.task, self.also) if with_modules else (folder, {})
        self.said = settings
        if not with_modules:
            refuse_chat_template(folder, beside)
        self.model = self._read_model(kind, dtype, strict)
        self.weights = weight_files(find_weights(folder, self.config))
        config = self.model.config
        self.widths, self.vocab_size = {TOKENS: config.hidden_size}, config.vocab_size
        self.settings = (sorted(self.model.weight_dtypes.items()), bool(settings.get("do_lower_case")))
        self._most, self._usual = config.longest, config.max_position_embeddings
        self.max_seq_length = length_limit(beside, file, settings, self._most, self._usual)
        self.tokenizer = read_tokenizer(self._file, self.vocab_size, self.max_seq_length)
        if settings.get("do_lower_case"):
            lower_case(self.tokenizer, self._file)
        types = beside.values.get("model_input_names")
        if kind == "gpt2" and isinstance(types, list) and "token_type_ids" in types:  # it would add their embeddings
            raise ValueError(f"load: {beside.file}: model_input_names: token_type_ids are not supported for GPT-2")
        self.named, names = _special_names(beside.values)
        self._special = self._special_tokens(names, beside.name in ("PreTrainedTokenizerFast", "TokenizersBackend"))

    def _read_model(self, kind: Any, dtype: WeightDtypes, strict: bool) -> Any:
        model = TokenStates if kind in STATE_FAMILIES else TextEncoder
        return model.from_directory(self.folder, dtype, strict)

    def _special_tokens(self, names: set[str], is_plain: bool) -> frozenset[int]:
        """Special tokens, which are not counted to a prompt that ends in one.

        Where files name none, transformers' classes but the plain one have some, for which those around a text stand.
        """
        with errors_of_library("load", self._file):
            empty = self.tokenizer.encode("")
            if any(empty.type_ids) and getattr(self.model.config, "type_vocab_size", 0) > 1:
                raise ValueError(f"load: {self._file}: token types other than 0 are not supported")
            if not is_plain and isinstance(unknown := getattr(self.tokenizer.model, "unk_token", None), str):
                names = names | {unknown}
            found = [self.tokenizer.token_to_id(name) for name in names]
        return frozenset([token for token in found if token is not None] + empty.ids * (not is_plain))

    def set_length(self, tokens: int) -> None:
        least = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        tokens = _checks.count("SentenceEncoder", "max_seq_length", tokens, max(1, least), self._most)
        self.tokenizer.enable_truncation(**{**self.tokenizer.truncation, "max_length": tokens})
        self.max_seq_length = tokens

    def prompt_length(self, prompt: str) -> int:
        [ids], _ = self.tokenize([prompt])
        return len(ids) - (bool(ids) and ids[-1] in self._special)

    def features(self, token_ids: Array, cu_seqlens: Array) -> dict[str, Array]:
        return {TOKENS: self.model(token_ids, cu_seqlens)}

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        known = self.tokenizer.token_to_id
        named = {name: x for name, x in self.named.items() if known(x) is not None}
        if not named:
            named = {name: x for name, usual in _USUAL.items() for x in usual if known(x) is not None}
        padding = self.config.get("pad_token_id")
        padding = self.tokenizer.id_to_token(padding) if isinstance(padding, int) and padding >= 0 else None
        if "pad_token" not in named and (padding or named.get("eos_token")):  # sentence-transformers needs one
            named = {**named, "pad_token": padding or named["eos_token"]}
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # this class takes tokenizer.json as it is
            "model_input_names": ["input_ids", "attention_mask"],
            LENGTH_KEY: self.max_seq_length,
            "truncation_side": self.tokenizer.truncation["direction"],
            **named,
        }
        write_json(folder / "tokenizer_config.json", tokenizer_config)
        settings = text_settings(self.task)
        if self.max_seq_length > self._usual:  # which is obeyed only here, not in tokenizer_config.json
            settings["max_seq_length"] = self.max_seq_length
        write_json(folder / SETTINGS_FILES[0], settings)


def _special_names(values: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """A tokenizer's special tokens by their role, and all of them."""
    found = {name: text for name, token in values.items() if name.endswith("_token") and (text := _text(token))}
    others: list[Any] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = values.get(key)
        others += listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
    named = {name: text for name, text in found.items() if name in TOKEN_NAMES}
    return named, {*found.values(), *filter(None, map(_text, others))}


def _text(token: Any) -> str | None:
    """The text of a token, which files give as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None

"""The first module of a sentence-transformers directory, which turns texts into vectors: usually a Transformer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._extras import import_extra
from pyattn._threads import rust_has_threads
from pyattn.models import TextEncoder
from pyattn.models.families import STATE_FAMILIES, TEXT_FAMILIES
from pyattn.models.files import read_json, write_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tensors import find_weights, weight_files
from pyattn.models.token_states import TokenStates
from pyattn.models.tokenizer import errors_of_library, read_tokenizer
from pyattn.tasks.sentence.modules import TOKENS, Features
from pyattn.tasks.sentence.transformer_settings import (
    LENGTH_KEY,
    SETTINGS_FILES,
    TEXT,
    length_limit,
    read_settings,
    refuse_chat_template,
    refuse_types,
    special_names,
)

Tokenized = tuple[list[list[int]], int | None]  # the tokens of each text, and the first text that was cut


class Input:
    """The first module of a directory, as the encoder uses it.

    Attributes:
        type: the dotted name that today's sentence-transformers writes.
        folder: where it was read.
        widths: the names of the features that `features` gives, and their widths.
        max_seq_length: texts are cut to so many tokens; None: they are never cut.
        vocab_size: tokens must be below it. whose_vocabulary: the beginning of a message that gives it.
        settings: values that change its vectors and are in none of its files. weights: its files of weights.
        model: the model that gives hidden states, if it has one.
    """

    type = ""
    folder: Path
    widths: dict[str, int]
    max_seq_length: int | None
    vocab_size: int
    whose_vocabulary = "the table's rows are"
    settings: tuple[Any, ...] = ()
    weights: Sequence[Path] = ()
    model: Any = None

    def set_length(self, tokens: int) -> None:
        raise ValueError(f"SentenceEncoder: a {self.type.rpartition('.')[2]} has no max_seq_length that may be set")

    def tokenize(self, texts: list[str]) -> Tokenized:
        raise NotImplementedError

    def prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt that Pooling may leave out."""
        return 0

    def features(self, token_ids: NDArray[np.int64], cu_seqlens: NDArray[np.int64]) -> Features:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Transformer(Input):
    """A model of pyattn.models whose hidden states are the tokens' vectors, and its tokenizer.

    with_modules: whether the directory has a modules.json. Without one, sentence-transformers does not open the
    settings files, and would put texts into a chat template.
    """

    type = "sentence_transformers.base.modules.transformer.Transformer"
    whose_vocabulary = "config.json has vocab_size"

    def __init__(self, folder: Path, dtype: WeightDtypes, strict: bool, with_modules: bool) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json", dict)
        kind = self.config.get("model_type")
        _checks.choice("load", f"{folder / 'config.json'}: model_type", kind, (*TEXT_FAMILIES, *STATE_FAMILIES))
        file, settings = read_settings(folder) if with_modules else (folder, {})
        if not with_modules:
            refuse_chat_template(folder)
        model = TokenStates if kind in STATE_FAMILIES else TextEncoder
        self.model = model.from_directory(folder, dtype, strict)
        self.weights = weight_files(find_weights(folder, self.config))
        self.widths = {TOKENS: self.model.config.hidden_size}
        self.vocab_size = self.model.config.vocab_size
        self.settings = (sorted(self.model.weight_dtypes.items()), bool(settings.get("do_lower_case")))
        config = self.model.config
        self._most, self._usual = config.longest, config.max_position_embeddings
        self.max_seq_length = length_limit(folder, file, settings, self._most, self._usual)
        self._file = folder / "tokenizer.json"
        self.tokenizer = read_tokenizer(self._file, self.vocab_size, self.max_seq_length)
        if settings.get("do_lower_case") and not _lower_cases(self.tokenizer):
            self._lower_case()
        self._named, self._more_special, self._is_plain = special_names(folder)
        if kind == "gpt2":
            refuse_types(folder / "tokenizer_config.json")
        self._special = self._special_tokens()

    def _lower_case(self) -> None:
        normalizers = import_extra("tokenizers", f"load: reading {self._file}").normalizers
        steps = [normalizers.Lowercase()] + ([] if self.tokenizer.normalizer is None else [self.tokenizer.normalizer])
        self.tokenizer.normalizer = normalizers.Sequence(steps)

    def _special_tokens(self) -> frozenset[int]:
        """Special tokens: they are not counted to a prompt that ends in one, as transformers names them.

        Where the files name none, transformers' classes have names of their own; the tokens that tokenizer.json puts
        around a text stand for those.
        """
        names = set(self._named.values()) | self._more_special
        with errors_of_library("load", self._file):
            empty = self.tokenizer.encode("")
            if any(empty.type_ids) and getattr(self.model.config, "type_vocab_size", 0) > 1:
                raise ValueError(f"load: {self._file}: token types other than 0 are not supported")
            if not self._is_plain and isinstance(unknown := getattr(self.tokenizer.model, "unk_token", None), str):
                names.add(unknown)
            found = [self.tokenizer.token_to_id(name) for name in names]
        return frozenset([token for token in found if token is not None] + empty.ids * (not self._is_plain))

    def set_length(self, tokens: int) -> None:
        least = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if not least <= _checks.size("SentenceEncoder", "max_seq_length", tokens) <= self._most:
            raise ValueError(f"SentenceEncoder: max_seq_length must be from {least} to {self._most}, not {tokens}")
        self.tokenizer.enable_truncation(**{**self.tokenizer.truncation, "max_length": int(tokens)})
        self.max_seq_length = int(tokens)

    def tokenize(self, texts: list[str]) -> Tokenized:
        with errors_of_library("encode", self._file):
            return tokens_of(self.tokenizer, texts, self.max_seq_length)

    def prompt_length(self, prompt: str) -> int:
        [ids], _ = self.tokenize([prompt])
        return len(ids) - (bool(ids) and ids[-1] in self._special)

    def features(self, token_ids: NDArray[np.int64], cu_seqlens: NDArray[np.int64]) -> Features:
        return Features(cu_seqlens, tokens=self.model(token_ids, cu_seqlens))

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
        if "pad_token" not in named and (padding or named.get("eos_token")):  # sentence-transformers needs one
            named = {**named, "pad_token": padding or named["eos_token"]}
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",  # this class takes tokenizer.json as it is
                "model_input_names": ["input_ids", "attention_mask"],
                LENGTH_KEY: self.max_seq_length,
                "truncation_side": self.tokenizer.truncation["direction"],
                **named,
            },
        )
        write_json(
            folder / SETTINGS_FILES[0],
            {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": TEXT},
                "module_output_name": TOKENS,
                # A length beyond the model's usual one is obeyed only here, not in tokenizer_config.json.
                **({"max_seq_length": self.max_seq_length} if self.max_seq_length > self._usual else {}),
            },
        )


# Usual names of special tokens, for files that do not name them.
_USUAL = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "eos_token": ("</s>", "<|endoftext|>"),
}


def tokens_of(tokenizer: Any, texts: list[str], longest: int | None, **options: Any) -> Tokenized:
    """The tokens of texts by a tokenizer of the library, which cuts them to `longest`."""
    if rust_has_threads():
        # This call omits the places of tokens in the text and is a third faster; older releases lack it.
        encodings = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)(texts, **options)
    else:
        encodings = [tokenizer.encode(text, **options) for text in texts]
    cut = (i for i, encoding in enumerate(encodings) if len(encoding) == longest and encoding.overflowing)
    return [encoding.ids for encoding in encodings], next(cut, None)


def _lower_cases(tokenizer: Any) -> bool:
    """Whether a step of its normalizer is Lowercase, found as sentence-transformers does."""
    normalizer = json.loads(b"null" if tokenizer.normalizer is None else tokenizer.normalizer.__getstate__())
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    return any(step["type"] == "Lowercase" for step in steps)

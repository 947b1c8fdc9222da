"""Directories of rerankers: of transformers' models for pairs, and of sentence-transformers' CrossEncoder."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.models import TextEncoder, load_task
from pyattn.models.families import GENERATIVE_FAMILIES, TEXT_FAMILIES
from pyattn.models.files import read_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.token_logits import TokenLogits
from pyattn.models.tokenizer import check_tokens, errors_of_library, read_tokenizer
from pyattn.models.tokenizer_classes import Settings, gives_types
from pyattn.tasks.reranker.prompt import read_prompt
from pyattn.tasks.reranker.scorers import PairScorer, PromptScorer, Scorer
from pyattn.tasks.sentence.directory import SETTINGS, listed_modules
from pyattn.tasks.sentence.modules import MODULES, SCORES, TOKENS, Features, Module, Pooling, check
from pyattn.tasks.sentence.settings import (
    check_model_type,
    length_limit,
    lower_case,
    read_prompts,
    read_settings,
    refuse_chat_template,
)

_CLASSIFIES, _WRITES, _READS = "sequence-classification", "text-generation", "feature-extraction"
_LOGIT = "LogitScore"
_SCORE_KEYS = {"true_token_id": None, "false_token_id": None, "module_input_name": ("causal_logits",)}

# What files call an activation. Of other names nothing is known, and nothing is imported.
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
}


class Directory:
    """What a directory holds: the scorer, the activation that its files name (None: none), and its prompts.

    dtype, strict: for a model's weights. max_length: in place of the directory's. chat_template: the same.
    """

    def __init__(
        self, directory: Path, dtype: WeightDtypes, strict: bool, max_length: int | None, chat_template: str | None
    ) -> None:
        self._dtype, self._strict, self._max_length, self._template = dtype, strict, max_length, chat_template
        self.prompts: dict[str, str] = {}
        self.default_prompt_name: str | None = None
        listed = directory / "modules.json"
        self._folder, named, others = directory, None, list[tuple[str, Path]]()
        if listed.exists():  # sentence-transformers does not open its settings without
            named = self._read_settings(directory / SETTINGS)
            (_, self._folder), *others = listed_modules(listed, ("Transformer",), (*MODULES, _LOGIT))
        self._is_plain = not listed.exists()
        self._config_file = self._folder / "config.json"
        self._config = read_json(self._config_file, dict)
        self._beside = Settings(self._folder)
        self.activation = _activation({directory / SETTINGS: named}, self._config_file, self._config)
        architecture = _architecture(self._config)
        if [kind for kind, _ in others] == [_LOGIT] or (self._is_plain and architecture.endswith("ForCausalLM")):
            self.scorer = self._prompted(others)
        elif chat_template is not None:
            raise ValueError("Reranker: chat_template is for models of language; this one reads pairs as they are")
        else:
            self.scorer = self._modular(listed, others) if others else self._classifier(architecture)

    def _read_settings(self, file: Path) -> Any:
        """Reads prompts; what the activation is called."""
        settings = read_json(file, dict, optional=True)
        check_model_type(file, settings, "CrossEncoder")
        self.prompts, self.default_prompt_name = read_prompts(file, settings, {})
        return settings.get("activation_fn")

    def _classifier(self, architecture: str) -> Scorer:
        """A model with a head for sequences, of transformers."""
        if architecture and not architecture.endswith("ForSequenceClassification"):
            is_reader = architecture.endswith(("Model", "ForMaskedLM"))
            other = "; use SentenceEncoder for vectors of texts" if is_reader else ""
            raise ValueError(
                f"load: {self._config_file}: this directory holds a {architecture}, not a model "
                f"ForSequenceClassification{other}"
            )
        self._check_family(TEXT_FAMILIES)
        if self._is_plain:
            refuse_chat_template(self._folder, self._beside)
        file, settings = self._settings(_CLASSIFIES)
        model = load_task(self._folder, _CLASSIFIES, dtype=self._dtype, strict=self._strict)
        tokenizer, with_types = self._tokenizer(model.config, file, settings)
        return PairScorer(model, model.labels, model.config.vocab_size, tokenizer, with_types, self._source)

    def _modular(self, listed: Path, others: list[tuple[str, Path]]) -> Scorer:
        """An encoder, and modules that make scores of its hidden states."""
        self._check_family(TEXT_FAMILIES)
        file, settings = self._settings(_READS)
        encoder = TextEncoder.from_directory(self._folder, self._dtype, self._strict)
        widths = {TOKENS: encoder.config.hidden_size}
        if any(kind == _LOGIT for kind, _ in others):
            raise ValueError(f"load: {listed}: LogitScore must be the only module after a Transformer for {_WRITES}")
        modules = [MODULES[kind].read(folder, widths) for kind, folder in others]
        for kind, (_, folder) in zip(modules, others, strict=True):
            if isinstance(kind, Pooling) and not kind.config["include_prompt"]:
                raise ValueError(
                    f"load: {folder / 'config.json'}: include_prompt false is not supported for rerankers; true is"
                )
        if SCORES not in widths:
            raise ValueError(
                f"load: {listed}: no module makes scores; a Dense whose module_output_name is 'scores' does"
            )
        tokenizer, with_types = self._tokenizer(encoder.config, file, settings)
        labels = tuple(f"LABEL_{i}" for i in range(widths[SCORES]))
        model = Modules(encoder, modules)
        return PairScorer(model, labels, encoder.config.vocab_size, tokenizer, with_types, self._source)

    def _prompted(self, others: list[tuple[str, Path]]) -> Scorer:
        """A model of language that is asked whether a document answers a query."""
        self._check_family({x: y for x, y in GENERATIVE_FAMILIES.items() if "encoder_layers" not in y.keys})
        file, settings = self._settings(_WRITES)
        prompt = read_prompt(self._folder, self._template)
        tokenizer = read_tokenizer(self._source, 2**31 - 1, 1 << 20)  # whose tokens are checked as they come
        if others:
            score_file = others[0][1] / "config.json"
            given = read_json(score_file, dict)
            check(score_file, given, _SCORE_KEYS)
            asked = {"true_token_id": given.get("true_token_id")}
            if given.get("false_token_id") is not None:
                asked["false_token_id"] = given["false_token_id"]
            what = f"{score_file}: "
        else:
            asked, what = {word: tokenizer.token_to_id(word) for word in ("yes", "no")}, f"{self._source}: the token "
        tokens = []
        for key, token in asked.items():
            if isinstance(token, bool) or not isinstance(token, int) or token < 0:
                raise ValueError(f"load: {what}{key} must be the number of a token, not {token!r}")
            tokens.append(token)
        model = TokenLogits.from_directory(self._folder, tokens, self._dtype, self._strict)
        config = model.states.config
        length = self._length(file, settings, config.longest, config.max_position_embeddings, least=1)
        with errors_of_library("load", self._source):
            tokenizer.enable_truncation(**{**tokenizer.truncation, "max_length": length})
        return PromptScorer(model, prompt, tokenizer, length, self._source)

    @property
    def _source(self) -> Path:
        return self._folder / "tokenizer.json"

    def _check_family(self, families: Any) -> None:
        _checks.choice("load", f"{self._config_file}: model_type", self._config.get("model_type"), families)

    def _settings(self, task: str) -> tuple[Path, dict[str, Any]]:
        return (self._folder, {}) if self._is_plain else read_settings(self._folder, task)

    def _length(self, file: Path, settings: dict[str, Any], most: int, usual: int, least: int) -> int:
        """To how many tokens pairs are cut, of which `least` are special."""
        if self._max_length is not None:
            return _checks.count("Reranker", "max_length", self._max_length, max(1, least), most)
        length = length_limit(self._beside, file, settings, most, usual)
        if length < least:  # the library would not cut at all
            raise ValueError(f"load: {self._source} adds {least} tokens to a pair; its max_length is only {length}")
        return length

    def _tokenizer(self, config: Any, file: Path, settings: dict[str, Any]) -> tuple[Any, bool]:
        """The tokenizer of an encoder, cutting pairs, and whether the encoder is given types of tokens."""
        source = self._source
        length = length_limit(self._beside, file, settings, config.longest, config.max_position_embeddings)
        tokenizer = read_tokenizer(source, config.vocab_size, length)
        if settings.get("do_lower_case"):
            lower_case(tokenizer, source)
        special = tokenizer.num_special_tokens_to_add(is_pair=True)
        length = self._length(file, settings, config.longest, config.max_position_embeddings, special)
        with errors_of_library("load", source):
            tokenizer.enable_truncation(**{**tokenizer.truncation, "max_length": length})
            empty, type_ids = tokenizer.encode("", "").ids, tokenizer.encode("a", "a").type_ids
        check_tokens("load", empty, config.vocab_size, source)
        with_types, types = gives_types(self._beside, self._config), config.type_vocab_size
        if with_types and types and max(type_ids, default=0) >= types:
            raise ValueError(f"load: {source} gives the type {max(type_ids)}; config.json has {types} of them")
        return tokenizer, with_types


class Modules:
    """An encoder of texts and the modules that make scores of its hidden states."""

    def __init__(self, encoder: TextEncoder, modules: list[Module]) -> None:
        self.encoder, self.modules = encoder, modules

    def __call__(self, token_ids: Array, cu_seqlens: Array, token_type_ids: Array | None) -> NDArray[np.float32]:
        """Logits (n, labels) of packed pairs."""
        features = Features(cu_seqlens, {TOKENS: self.encoder(token_ids, cu_seqlens, token_type_ids)}, 0)
        for module in self.modules:
            module(features)
        return np.asarray(features.vectors[SCORES], np.float32)


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _activation(named: dict[Path, Any], file: Path, config: dict[str, Any]) -> str | None:
    """The activation that the files name; None: none."""
    own, old = config.get("sentence_transformers"), "sbert_ce_default_activation_function"
    has_own = isinstance(own, dict) and "activation_fn" in own
    places = {f"{place}: activation_fn": name for place, name in named.items()}
    if isinstance(own, dict) and has_own:
        places[f"{file}: sentence_transformers: activation_fn"] = own["activation_fn"]
    else:
        places[f"{file}: {old}"] = config.get(old)
    for place, name in places.items():
        if name is not None:
            return _ACTIVATIONS[_checks.choice("load", place, name, _ACTIVATIONS)]
    return None

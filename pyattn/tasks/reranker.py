"""Rerankers: how well each document answers a query, read together, by a model that classifies pairs of texts."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.models import TaskModel, load_task
from pyattn.models.families import TEXT_FAMILIES
from pyattn.models.files import find_directory, read_json
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tokenizer import check_tokens, encode_all, errors_of_library, first_cut, read_tokenizer
from pyattn.models.tokenizer_classes import Settings, gives_types
from pyattn.tasks.batches import FEW, WINDOW, Cuts, Tokenized, batches, packed, tokenized
from pyattn.tasks.sentence.directory import SETTINGS, listed_modules
from pyattn.tasks.sentence.settings import length_limit, lower_case, read_settings, refuse_chat_template
from pyattn.tasks.texts import checked_texts, progress, without_surrogates

Pair: TypeAlias = tuple[str, str]
_TASK = "sequence-classification"

# What files call an activation. Of other names nothing is known, and nothing is imported.
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.Sigmoid": "sigmoid",
}
_NAMES = ("identity", "sigmoid")


class Reranker:
    """Scores of pairs of texts, such as a query and a document, by an encoder that reads both together.

    `from_pretrained` makes one from a directory.

    Args:
        model: a `TaskModel` for sequence classification.
        tokenizer: a `tokenizers.Tokenizer` that cuts pairs to at most as many tokens as the model has positions.
        activation: "identity" or "sigmoid": what is made of logits.
        with_types: whether the model is given the types of tokens, which tell the second text from the first.
        file: where the tokenizer comes from; messages name it.

    Attributes:
        model: the `TaskModel`.
        activation: as above.
        max_length: pairs are cut to that many tokens, special tokens included: the longer text first.
        labels: the names of a pair's scores, as config.json has them; most rerankers have one.
    """

    def __init__(
        self,
        model: TaskModel,
        tokenizer: Any,
        activation: str,
        with_types: bool,
        file: Path = Path("tokenizer.json"),
    ) -> None:
        self.model, self.activation = model, _checks.choice("Reranker", "activation", activation, _NAMES)
        self.max_length: int = tokenizer.truncation["max_length"]
        self.labels = model.labels
        self._tokenizer, self._with_types, self._file = tokenizer, with_types, str(file)
        self._cuts = Cuts()

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        max_length: int | None = None,
        strict: bool = True,
    ) -> "Reranker":
        """The cross-encoder in a model directory, as transformers or sentence-transformers writes it.

        That is a model for sequence classification of the encoders of texts of `pyattn.models.load`, with its
        tokenizer.json. The activation is what config_sentence_transformers.json beside a modules.json names, else
        config.json (sentence_transformers.activation_fn or sbert_ce_default_activation_function): torch's Identity or
        Sigmoid. Without any, it is the sigmoid for one label, and the identity for more. A modules.json with more than
        a Transformer, models of language that answer "yes" or "no", and prompts are refused by name.

        Args:
            path_or_hub_id: a local directory, else the id of a repository on the Hugging Face hub.
            dtype: "float32", "bfloat16" or "int8", or patterns, as in `pyattn.models.load`: in what the layers' weights
                are stored and multiplied. The head is float32, and so are scores.
            max_length: pairs are cut to so many tokens, at most as many as the model has positions; None: as the
                directory says.
            strict: as in `pyattn.models.load`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`. The directory holds another model, or
                names another activation.
        """
        directory = find_directory(path_or_hub_id)
        folder, file, settings, named = _read_settings(directory)
        config_file = folder / "config.json"
        config = read_json(config_file, dict)
        _check_model(config_file, config)
        beside = Settings(folder)
        if not (directory / "modules.json").exists():
            refuse_chat_template(folder, beside)
        stated = _activation(named, config_file, config)
        model = load_task(folder, _TASK, dtype=dtype, strict=strict)
        most, usual = model.config.longest, model.config.max_position_embeddings
        source = folder / "tokenizer.json"
        length = length_limit(beside, file, settings, most, usual)
        tokenizer = read_tokenizer(source, model.config.vocab_size, length)
        if settings.get("do_lower_case"):
            lower_case(tokenizer, source)
        special = tokenizer.num_special_tokens_to_add(is_pair=True)
        if max_length is not None:
            length = _checks.count("Reranker", "max_length", max_length, max(1, special), most)
        if length < special:  # the library would not cut at all
            raise ValueError(f"load: {source} adds {special} tokens to a pair; its max_length is only {length}")
        with errors_of_library("load", source):
            tokenizer.enable_truncation(**{**tokenizer.truncation, "max_length": length})
            empty, type_ids = tokenizer.encode("", "").ids, tokenizer.encode("a", "a").type_ids
        check_tokens("load", empty, model.config.vocab_size, source)
        with_types, types = gives_types(beside, config), model.config.type_vocab_size
        if with_types and types and max(type_ids, default=0) >= types:
            raise ValueError(f"load: {source} gives the type {max(type_ids)}; config.json has {types} of them")
        return cls(
            model, tokenizer, stated or ("sigmoid" if len(model.labels) == 1 else "identity"), with_types, source
        )

    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        activation: str | None = None,
        apply_softmax: bool = False,
        show_progress: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
    ) -> Any:
        """The scores of pairs of texts.

        Pairs are packed, none is padded; a pair's score has the same bits whatever is scored beside it, in batches of
        any size and on any number of threads.

        Args:
            pairs: n pairs of strings, as tuples or lists: (query, document). Or a single pair.
            activation: "identity" gives logits, "sigmoid" numbers from 0 to 1; None: as the attribute says.
            apply_softmax: where there are several labels, the scores of a pair are made to sum to 1.
            show_progress: whether to draw a bar on standard error; None: on a terminal, for more than a second's work.
            batch_tokens: at most so many tokens, or one pair, are computed at once, which changes memory, not results.
            truncate: True cuts pairs of more than max_length tokens, the longer text first, with a warning the first
                time; False raises.

        Returns:
            (n,) float32, or (n, labels) where the model has several; of a single pair one score, or (labels,).

        Raises:
            TypeError: pairs is a str, None or no iterable, or one of them is no pair of strings.
            ValueError: a pair has one text or more than two, the tokenizer makes no tokens of it, or it is too long and
                truncate is False; activation is none of these; batch_tokens is not a positive integer.
        """
        function = "Reranker.predict"
        rows, is_single = _checked_pairs(function, pairs)
        flag = _checks.flag(function, "apply_softmax", apply_softmax)
        scores = self._scores(function, "pairs", rows, activation, show_progress, batch_tokens, truncate)
        if flag and scores.ndim > 1:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return scores[0] if is_single else scores

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        activation: str | None = None,
        show_progress: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
    ) -> list[dict[str, Any]]:
        """The documents by their scores for a query, best first; of equal ones the earlier first.

        Args:
            query: a string.
            documents: strings; no single one.
            top_k: how many are returned; None: all.
            return_documents: whether each has its document, as "text".
            activation, show_progress, batch_tokens, truncate: as in predict.

        Returns:
            [{"corpus_id": the document's index, "score": a float}, ...].

        Raises:
            TypeError: query is no str; documents is a str, None or no iterable, or one of them is no str.
            ValueError: the model gives several scores for a pair; top_k is negative; as predict.
        """
        function = "Reranker.rank"
        if len(self.labels) != 1:
            raise ValueError(
                f"{function}: the model gives {len(self.labels)} scores for a pair ({', '.join(self.labels)}), not "
                "one; predict gives them all"
            )
        if not isinstance(query, str):
            raise TypeError(f"{function}: query must be a str, not {type(query).__name__}")
        texts = list(checked_texts(function, documents, "documents", "rank(query, [text])"))
        count = len(texts) if top_k is None else _checks.count(function, "top_k", top_k)
        has_text = _checks.flag(function, "return_documents", return_documents)
        pairs = [(query, text) for text in texts]
        scores = self._scores(function, "documents", pairs, activation, show_progress, batch_tokens, truncate)
        best = np.argsort(-scores, kind="stable")[:count].tolist()
        return [{"corpus_id": i, "score": float(scores[i])} | ({"text": texts[i]} if has_text else {}) for i in best]

    def _scores(
        self,
        function: str,
        name: str,
        pairs: list[Pair],
        activation: str | None,
        show_progress: bool | None,
        batch_tokens: int,
        truncate: bool,
    ) -> NDArray[np.float32]:
        """predict's scores of pairs that have been checked, before the softmax; name: theirs, in messages."""
        activation = self.activation if activation is None else activation
        _checks.choice(function, "activation", activation, _NAMES)
        batch_tokens = _checks.size(function, "batch_tokens", batch_tokens)
        is_cut = _checks.flag(function, "truncate", truncate)
        checked = partial(self._cuts.checked, function, name, self.max_length, is_cut, stacklevel=5)
        scores = np.empty((len(pairs), len(self.labels)), np.float32)
        if show_progress is None and len(pairs) <= FEW:  # making a bar would take longer than to score one pair
            show_progress = False
        with progress(len(pairs), show_progress, purpose=function, label="scoring", unit="pair") as done:
            for number, window in enumerate(tokenized(pairs, partial(self._tokenize, function), checked)):
                ids, types = [x.ids for x in window], [x.type_ids for x in window]
                if not all(ids):
                    empty = next(i for i, tokens in enumerate(ids) if not tokens) + number * WINDOW
                    raise ValueError(f"{function}: {self._file} makes no tokens of {name}[{empty}]; one is needed")
                for batch in batches(list(map(len, ids)), batch_tokens):
                    token_ids, cu_seqlens = packed(ids, batch)
                    check_tokens(function, token_ids, self.model.config.vocab_size, self._file)
                    given = packed(types, batch)[0] if self._with_types else None
                    scores[np.array(batch) + number * WINDOW] = self.model(token_ids, cu_seqlens, given)
                    done(len(batch))
        scores = scores[:, 0] if len(self.labels) == 1 else scores
        return _sigmoid(scores) if activation == "sigmoid" else np.ascontiguousarray(scores)

    def _tokenize(self, function: str, pairs: list[Pair]) -> Tokenized[Any]:
        texts = [(without_surrogates(first), without_surrogates(second)) for first, second in pairs]
        encodings = encode_all(function, self._tokenizer, self._file, texts)
        return encodings, first_cut(encodings, self.max_length)


def _sigmoid(x: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # the infinity makes the 0 that it should
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _checked_pairs(function: str, pairs: Any) -> tuple[list[Pair], bool]:
    """The pairs, all checked, and whether there is a single one, which is given without a list."""
    wanted = "a list of pairs of str, (query, document), or one pair"
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise TypeError(f"{function}: pairs must be {wanted}, not {'None' if pairs is None else type(pairs).__name__}")
    rows = pairs.tolist() if isinstance(pairs, np.ndarray) else pairs if isinstance(pairs, tuple) else list(pairs)
    is_single = bool(rows) and all(isinstance(text, str) for text in rows)
    for index, pair in enumerate([rows] if is_single else rows):
        what = "pairs" if is_single else f"pairs[{index}]"
        if not isinstance(pair, tuple | list):
            raise TypeError(f"{function}: {what} must be a pair of str, (query, document), not {type(pair).__name__}")
        if len(pair) != 2:
            texts = "text" if len(pair) == 1 else "texts"
            raise ValueError(f"{function}: {what} must be a pair of str, (query, document), not {len(pair)} {texts}")
        for text in pair:
            if not isinstance(text, str):
                raise TypeError(f"{function}: {what} must be a pair of str, not of {type(text).__name__}")
    return [(first, second) for first, second in ([rows] if is_single else rows)], is_single


def _read_settings(directory: Path) -> tuple[Path, Path, dict[str, Any], dict[Path, Any]]:
    """The Transformer's folder, its settings and their file; what an activation is called, by the file that says it."""
    listed, file = directory / "modules.json", directory / SETTINGS
    if not listed.exists():  # sentence-transformers does not open the settings then
        return directory, directory, {}, {}
    settings = read_json(file, dict, optional=True)
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "CrossEncoder":
        other = "; use SentenceEncoder" if kind == "SentenceTransformer" else ""
        raise ValueError(f"load: {file}: this directory holds a {kind}, not a CrossEncoder{other}")
    [(_, folder)] = listed_modules(listed, ("Transformer",), ())
    if (name := settings.get("default_prompt_name")) is not None:
        raise ValueError(f"load: {file}: default_prompt_name {name!r} is not supported for rerankers; null is")
    return folder, *read_settings(folder, _TASK), {file: settings.get("activation_fn")}


def _check_model(file: Path, config: dict[str, Any]) -> None:
    """Refuses models that do not classify sequences, as far as config.json says so."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if name and not name.endswith("ForSequenceClassification"):
        other = "; use SentenceEncoder for vectors of texts" if name.endswith(("Model", "ForMaskedLM")) else ""
        raise ValueError(f"load: {file}: this directory holds a {name}, not a model ForSequenceClassification{other}")
    _checks.choice("load", f"{file}: model_type", config.get("model_type"), TEXT_FAMILIES)


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

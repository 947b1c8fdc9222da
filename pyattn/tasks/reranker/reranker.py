"""Rerankers: how well each document answers a query, read together, by a model that is given pairs of texts."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.models.files import find_directory
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.batches import FEW, WINDOW, Cuts, tokenized
from pyattn.tasks.reranker.directory import Directory
from pyattn.tasks.reranker.scorers import Pair, Scorer
from pyattn.tasks.sentence.settings import chosen_prompt
from pyattn.tasks.texts import checked_texts, progress, without_surrogates

_NAMES = ("identity", "sigmoid")


class Reranker:
    """Scores of pairs of texts, such as a query and a document, by a model that reads both together.

    `from_pretrained` makes one from a directory.

    Args:
        scorer: what makes logits of pairs; see `from_pretrained`.
        activation: "identity" or "sigmoid": what is made of logits.
        prompts: name -> text that a call may choose.
        default_prompt_name: that which calls use unless they name one.

    Attributes:
        activation, prompts, default_prompt_name: as above; may be changed.
        max_length: pairs are cut to that many tokens, special tokens included: the longer text first, or, of a model of
            language, the end of the document.
        labels: the names of a pair's scores, as config.json has them; most rerankers have one.
        model: what computes logits, such as a `TaskModel`.
    """

    def __init__(
        self,
        scorer: Scorer,
        activation: str,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
    ) -> None:
        self.activation = _checks.choice("Reranker", "activation", activation, _NAMES)
        self.prompts, self.default_prompt_name = dict(prompts or {}), default_prompt_name
        self.model, self.labels, self.max_length = scorer.model, scorer.labels, scorer.max_length
        self._scorer, self._cuts = scorer, Cuts()

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        max_length: int | None = None,
        chat_template: str | None = None,
        strict: bool = True,
    ) -> "Reranker":
        """The reranker in a model directory, as transformers or sentence-transformers (CrossEncoder) writes it.

        That is one of these, with its tokenizer.json:

        - a model for sequence classification of the encoders of texts of `pyattn.models.load`;
        - such an encoder and in modules.json a Pooling, and Dense, LayerNorm and others, one of which makes scores;
        - a model of language (Llama, Mistral, Qwen2, Qwen3, Gemma 3, GPT-2) that is asked whether a document answers a
          query, such as Qwen3-Reranker (Zhang et al. 2025, arXiv:2506.05176): in modules.json a LogitScore, else the
          score is the logit of "yes" less that of "no". Its chat template has places for the roles query and document,
          and perhaps system, an instruction. Templates are not run: see `chat_template`. Keys and values of what the
          texts of one query begin with are computed once, to the same bits as without.

        The activation is what config_sentence_transformers.json beside a modules.json names, else config.json
        (sentence_transformers.activation_fn or sbert_ce_default_activation_function): torch's Identity or Sigmoid.
        Without any, it is the sigmoid for one label, and the identity for more.

        Args:
            path_or_hub_id: a local directory, else the id of a repository on the Hugging Face hub.
            dtype: "float32", "bfloat16" or "int8", or patterns, as in `pyattn.models.load`: in what the layers' weights
                are stored and multiplied. The head is float32, and so are scores.
            max_length: pairs are cut to so many tokens, at most as many as the model has positions; None: as the
                directory says.
            chat_template: for a model of language, in place of the directory's: text in which
                `{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}` is the query;
                with "document" it is the document, with "system" the instruction, and `| default("...")` after that is
                for calls that give none; `{% set name = ... %}` may name these.
            strict: as in `pyattn.models.load`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`. The directory holds another model,
                names another activation, or has another template.
        """
        held = Directory(find_directory(path_or_hub_id), dtype, strict, max_length, chat_template)
        usual = "sigmoid" if len(held.scorer.labels) == 1 else "identity"
        return cls(held.scorer, held.activation or usual, held.prompts, held.default_prompt_name)

    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
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
            prompt: the instruction of a model of language, in place of its template's; of others, a text that is put in
                front of the first of each pair.
            prompt_name: without a prompt, that of this name in `prompts`; None: the default_prompt_name, if it is set.
            activation: "identity" gives logits, "sigmoid" numbers from 0 to 1; None: as the attribute says.
            apply_softmax: where there are several labels, the scores of a pair are made to sum to 1.
            show_progress: whether to draw a bar on standard error; None: on a terminal, for more than a second's work.
            batch_tokens: at most so many tokens, or one pair, are computed at once, which changes memory, not results.
            truncate: True cuts pairs of more than max_length tokens, the longer text first, with a warning the first
                time; False raises.

        Returns:
            (n,) float32, or (n, labels) where the model has several; of a single pair one score, or (labels,).

        Raises:
            TypeError: pairs is a str, None or no iterable, or one of them is no pair of strings; prompt is no str.
            ValueError: a pair has one text or more than two, the tokenizer makes no tokens of it, or it is too long and
                truncate is False; activation is none of these; batch_tokens is not a positive integer; there is no
                prompt of that name, or the template of a model of language has no place for one.
        """
        function = "Reranker.predict"
        rows, is_single = _checked_pairs(function, pairs)
        flag = _checks.flag(function, "apply_softmax", apply_softmax)
        chosen = self._prompt(function, prompt, prompt_name)
        scores = self._scores(function, "pairs", rows, chosen, activation, show_progress, batch_tokens, truncate)
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
        prompt: str | None = None,
        prompt_name: str | None = None,
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
            prompt, prompt_name, activation, show_progress, batch_tokens, truncate: as in predict.

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
        chosen, pairs = self._prompt(function, prompt, prompt_name), [(query, text) for text in texts]
        scores = self._scores(function, "documents", pairs, chosen, activation, show_progress, batch_tokens, truncate)
        best = np.argsort(-scores, kind="stable")[:count].tolist()
        return [{"corpus_id": i, "score": float(scores[i])} | ({"text": texts[i]} if has_text else {}) for i in best]

    def _prompt(self, function: str, prompt: str | None, prompt_name: str | None) -> str:
        chosen = chosen_prompt(function, self.prompts, prompt, prompt_name, self.default_prompt_name)
        if chosen and not self._scorer.takes_prompt:
            raise ValueError(f"{function}: the model's chat template has no place for a prompt (the role system)")
        return without_surrogates(chosen or "")

    def _scores(
        self,
        function: str,
        name: str,
        pairs: list[Pair],
        prompt: str,
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
        tokenize = partial(self._scorer.tokenize, function, prompt)
        scores = np.empty((len(pairs), len(self.labels)), np.float32)
        if show_progress is None and len(pairs) <= FEW:  # making a bar would take longer than to score one pair
            show_progress = False
        with progress(len(pairs), show_progress, purpose=function, label="scoring", unit="pair") as done:
            for number, window in enumerate(tokenized(pairs, tokenize, checked)):
                first = number * WINDOW
                for batch, logits in self._scorer.logits(function, name, window, first, batch_tokens):
                    scores[np.array(batch) + first] = logits
                    done(len(batch))
        scores = scores[:, 0] if len(self.labels) == 1 else scores
        return _sigmoid(scores) if activation == "sigmoid" else np.ascontiguousarray(scores)


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

"""What makes logits of pairs of texts: a model that classifies pairs, or one of language that is asked about them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyattn.models.token_logits import TokenLogits
from pyattn.models.tokenizer import check_tokens, encode_all, first_cut
from pyattn.tasks.batches import Tokenized, batches, packed
from pyattn.tasks.reranker.prompt import PairPrompt
from pyattn.tasks.texts import without_surrogates

Pair: TypeAlias = tuple[str, str]
# The numbers of pairs and their logits (n, labels)
Scored: TypeAlias = tuple[list[int], NDArray[np.float32]]

# Of padded sequences: more than so many tokens are computed with little padding, the shortest so long as this share.
_PADDED, _LEAST = 512, 0.8


class Prompted(NamedTuple):
    """The tokens of a prompt, and the query in it."""

    ids: list[int]
    query: str


class Scorer(Protocol):
    """Logits of pairs.

    Attributes:
        model: what computes them.
        labels: the names of the columns of logits.
        max_length: pairs are cut to so many tokens.
        takes_prompt: whether a call may have one: an instruction, or what is put in front of the first text.
    """

    model: Any
    labels: tuple[str, ...]
    max_length: int
    takes_prompt: bool

    def tokenize(self, function: str, prompt: str, pairs: list[Pair]) -> Tokenized[Any]:
        """The tokens of pairs, and the first pair that was cut."""

    def logits(self, function: str, name: str, window: list[Any], first: int, batch_tokens: int) -> Iterator[Scored]:
        """Logits of all tokenized pairs of a window, of which the first is that of this number in `name`."""


class PairScorer:
    """Logits of a model of packed tokens and of their types, such as a `TaskModel`.

    model: called with token_ids, cu_seqlens and token_type_ids or None. vocab_size: its tokens are below it.
    with_types: whether the model is given the types of tokens. file: where the tokenizer comes from.
    """

    takes_prompt = True

    def __init__(
        self, model: Any, labels: tuple[str, ...], vocab_size: int, tokenizer: Any, with_types: bool, file: Path
    ) -> None:
        self.model, self.labels = model, labels
        self.max_length: int = tokenizer.truncation["max_length"]
        self._tokenizer, self._with_types, self._file, self._vocab_size = tokenizer, with_types, str(file), vocab_size

    def tokenize(self, function: str, prompt: str, pairs: list[Pair]) -> Tokenized[Any]:
        texts = [(prompt + without_surrogates(first), without_surrogates(second)) for first, second in pairs]
        encodings = encode_all(function, self._tokenizer, self._file, texts)
        return encodings, first_cut(encodings, self.max_length)

    def logits(self, function: str, name: str, window: list[Any], first: int, batch_tokens: int) -> Iterator[Scored]:
        ids, types = [x.ids for x in window], [x.type_ids for x in window]
        if not all(ids):
            empty = next(i for i, tokens in enumerate(ids) if not tokens) + first
            raise ValueError(f"{function}: {self._file} makes no tokens of {name}[{empty}]; one is needed")
        for batch in batches(list(map(len, ids)), batch_tokens):
            token_ids, cu_seqlens = packed(ids, batch)
            check_tokens(function, token_ids, self._vocab_size, self._file)
            given = packed(types, batch)[0] if self._with_types else None
            yield batch, self.model(token_ids, cu_seqlens, given)


class PromptScorer:
    """The logit of "yes" less that of "no", or of one token, after a prompt that has a query and a document.

    Qwen3-Reranker: Zhang et al. 2025 (arXiv:2506.05176), section 2. Pairs of one query begin alike: keys and values of
    that are computed once for all of a window.
    """

    labels: tuple[str, ...] = ("score",)

    def __init__(self, model: TokenLogits, prompt: PairPrompt, tokenizer: Any, max_length: int, file: Path) -> None:
        self.model, self.max_length = model, max_length
        self.takes_prompt = prompt.takes_instruction
        self._prompt, self._tokenizer, self._file = prompt, tokenizer, str(file)
        self._vocab_size = model.states.config.vocab_size

    def tokenize(self, function: str, prompt: str, pairs: list[Pair]) -> Tokenized[Prompted]:
        fill = partial(self._prompt.fill, instruction=prompt)
        texts = [fill(without_surrogates(query), without_surrogates(document)) for query, document in pairs]
        encode = partial(encode_all, function, self._tokenizer, self._file, special=False)
        encodings = encode(texts)
        ids = [x.ids for x in encodings]
        # What follows the document is what the model is asked by: of a text that was cut it takes the last places.
        cut = first_cut(encodings, self.max_length)
        if cut is not None:
            first, second = (x.ids for x in encode([fill("0", "0"), fill("1 2 3 4", "1 2 3 4")]))
            ending = first[len(first) - _alike(first[::-1], second[::-1]) :][-self.max_length :]
            for tokens, encoding in zip(ids, encodings, strict=True):
                if ending and encoding.overflowing:
                    tokens[-len(ending) :] = ending
        return [Prompted(tokens, query) for tokens, (query, _) in zip(ids, pairs, strict=True)], cut

    def logits(
        self, function: str, name: str, window: list[Prompted], first: int, batch_tokens: int
    ) -> Iterator[Scored]:
        for index, (tokens, _) in enumerate(window):
            check_tokens(function, tokens, self._vocab_size, self._file)
            if not tokens:
                raise ValueError(f"{function}: {self._file} makes no tokens of {name}[{first + index}]; one is needed")
        return scored_prompts(self.model, window, batch_tokens)


def scored_prompts(model: TokenLogits, window: Sequence[Prompted], batch_tokens: int) -> Iterator[Scored]:
    """The scores of all prompts of a window: the logit of the first token, less that of the second if there is one."""
    for group in _groups(window):
        sequences = [window[i].ids for i in group]
        shared = _shared(sequences)
        beginning, endings = model.begin(sequences[0][:shared]), [tokens[shared:] for tokens in sequences]
        for batch in _padded(list(map(len, endings)), batch_tokens):
            logits = model(beginning, [endings[i] for i in batch])
            yield [group[i] for i in batch], logits[:, :1] - logits[:, 1:] if logits.shape[1] == 2 else logits


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens are the same at the beginning of both."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(first), len(second)))


def _shared(sequences: list[list[int]]) -> int:
    """How many tokens all begin with, but for the last of each. Of a single one that is none: nothing is gained."""
    if len(sequences) == 1:
        return 0
    least, most = min(sequences), max(sequences)  # between which all others stand
    return min(_alike(least, most), min(map(len, sequences)) - 1)


def _groups(window: Sequence[Prompted]) -> list[list[int]]:
    """Numbers of pairs by their queries; those that are alone with theirs together, since prompts begin alike."""
    by_query: dict[str, list[int]] = {}
    for index, pair in enumerate(window):
        by_query.setdefault(pair.query, []).append(index)
    alone = [group[0] for group in by_query.values() if len(group) == 1]
    return [group for group in by_query.values() if len(group) > 1] + [alone] * bool(alone)


def _padded(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of sequences, longest first, in batches of at most so many tokens, padding too, or one sequence."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for index in order:
        if batch:
            longest = lengths[batch[0]]
            tokens = len(batch) * longest
            if tokens + longest > batch_tokens or (tokens >= _PADDED and lengths[index] < _LEAST * longest):
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch

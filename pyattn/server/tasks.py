"""What batches compute: vectors of texts or of tokens, and scores of pairs."""

from typing import Any, NamedTuple

from pyattn._checks import Array
from pyattn.tasks.reranker import Reranker
from pyattn.tasks.sentence import SentenceEncoder

_CHARACTERS = 4  # of a token, about


class EmbeddingOptions(NamedTuple):
    """is_tokens: inputs are ids, not texts. dimensions: vectors are cut to so many, and made unit vectors again."""

    is_tokens: bool
    prompt_name: str | None
    truncate: bool
    dimensions: int | None


class Embedding:
    """Vectors, as `SentenceEncoder.encode` gives them."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder

    def prepare(self, options: EmbeddingOptions, inputs: list[Any]) -> list[list[int]]:
        if options.is_tokens:
            return inputs
        return self.encoder.token_ids(inputs, options.truncate, prompt_name=options.prompt_name)

    def estimate(self, given: Any) -> int:
        return 2 + len(given) // _CHARACTERS if isinstance(given, str) else len(given)

    def cost(self, prepared: list[int]) -> int:
        return len(prepared)

    def compute(self, options: EmbeddingOptions, prepared: list[list[int]]) -> Array:
        return self.encoder.encode_token_ids(
            prepared,
            normalize=None if options.dimensions is None else True,
            prompt="" if options.is_tokens else None,
            prompt_name=options.prompt_name,
            truncate_dim=options.dimensions,
        )


class RerankOptions(NamedTuple):
    activation: str | None
    truncate: bool


class Reranking:
    """Scores, as `Reranker.predict` gives them."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def prepare(self, options: RerankOptions, inputs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return inputs

    def estimate(self, given: tuple[str, str]) -> int:
        return min(self.reranker.max_length, 3 + (len(given[0]) + len(given[1])) // _CHARACTERS)

    def cost(self, prepared: tuple[str, str]) -> int:
        return self.estimate(prepared)  # the tokens of pairs are made where they are scored

    def compute(self, options: RerankOptions, prepared: list[tuple[str, str]]) -> Array:
        scores: Array = self.reranker.predict(
            prepared, activation=options.activation, truncate=options.truncate, show_progress=False
        )
        return scores

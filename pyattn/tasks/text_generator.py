"""Text from text: a generative model and the tokenizer of its directory."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pyattn import _checks
from pyattn.generation import GenerationOptions
from pyattn.generation.options import with_valid
from pyattn.models.files import find_directory
from pyattn.models.generative import GenerativeModel
from pyattn.models.languages import Languages
from pyattn.models.marian_tokenizer import MarianTokenizer
from pyattn.models.pieces import Decoder
from pyattn.models.pretrained import WeightDtypes
from pyattn.models.tokenizer import check_tokens, errors_of_library, read_tokenizer
from pyattn.tasks.texts import checked_texts, progress, without_surrogates

MAX_NEW_TOKENS = 256  # where neither the directory nor the caller gives a greatest length
MAX_TOKENS = 2**30  # of a text; the model's own limit is checked for each text


class TextGenerator:
    """Writes texts: a decoder continues a text, a model with an encoder turns it into another (translation, summary).

    `from_pretrained` makes one from a directory.

    Args:
        model: a `GenerativeModel`: a decoder, perhaps with an encoder of tokens.
        tokenizer: a `tokenizers.Tokenizer`, or an object that encodes and decodes as it does.
        file: where the tokenizer comes from; messages name it.
    """

    def __init__(self, model: GenerativeModel, tokenizer: Any, file: Path = Path("tokenizer.json")) -> None:
        kind = model.config.encoder_input
        if kind not in ("", "tokens"):
            other = "; SpeechRecognizer takes it" if kind == "frames" else ""
            raise ValueError(f"TextGenerator: {model.config.model_type} reads {kind}, not text{other}")
        if model.config.source_vocab_size:
            raise ValueError(
                "TextGenerator: the model's two sides have vocabularies of their own, which is not supported for texts"
            )
        self.model, self.tokenizer, self._file = model, tokenizer, file

    @property
    def languages(self) -> list[str]:
        """The languages that `source` and `target` may name; most models have none."""
        return sorted(self._languages.codes)

    @cached_property
    def _languages(self) -> Languages:
        return Languages(self.tokenizer, self.model.config.vocab_size, self._file)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        strict: bool = True,
        cache_dtype: DTypeLike | None = None,
    ) -> "TextGenerator":
        """The model and the tokenizer of a directory, or of a repository on the Hugging Face hub.

        Args:
            path_or_hub_id: holds config.json, model.safetensors, perhaps generation_config.json, and tokenizer.json
                with tokenizer_config.json, or else source.spm, target.spm and vocab.json, as Marian's do.
            dtype, strict: as in `pyattn.models.load`.
            cache_dtype: "int8" or None: how keys and values are held, the attribute of `GenerativeModel`.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        directory = find_directory(path_or_hub_id)
        model = GenerativeModel.from_directory(directory, dtype, strict)
        model.cache_dtype = cache_dtype
        file, size = directory / "tokenizer.json", model.config.vocab_size
        if not file.exists() and (directory / "source.spm").exists():
            return cls(model, MarianTokenizer(directory, size), directory / "source.spm")
        return cls(model, read_tokenizer(file, size, MAX_TOKENS), file)

    def __call__(
        self,
        texts: Iterable[str],
        options: GenerationOptions | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        show_progress: bool | None = None,
        batch_size: int = 16,
        **changes: Any,
    ) -> list[str]:
        """Writes one text for each given text, in their order; the given text itself is no part of it.

        Args:
            texts: strings; no single one.
            options: how tokens are chosen; None: as the directory says. Where they say no greatest length, 256 new
                tokens, or as many as the model has positions for. `seed` is one for all texts, or one for each.
            source, target: of `languages`, the texts', as "de_DE" (mBART), and the one to write, as "en_XX" (mBART) or
                "fra" (a Marian that knows several); None: those that the directory says.
            show_progress: whether to draw a bar on standard error; None: on a terminal, for more than a second's work.
            batch_size: how many texts of similar length are written at once. The result does not depend on it.
            **changes: options by name, instead of those in `options`.

        Raises:
            TypeError: texts is a str, or holds something else; an option is of a wrong type.
            ValueError: a text has no tokens, or more than the model has positions for, or one that the model lacks; an
                option is wrong; a language is not one of the model's, or it has none.
        """
        name = "TextGenerator"
        given = list(checked_texts(name, texts))
        size = _checks.size(name, "batch_size", batch_size)
        options = self.model.options_with(name, options, self._to_language(name, target, changes))
        if options.num_return_sequences > 1:
            raise ValueError(f"{name}: num_return_sequences must be 1, not {options.num_return_sequences}")
        tokens = [self._tokens(name, f"texts[{i}]", text, source, target) for i, text in enumerate(given)]
        seeds = _seeds(name, options, len(given))
        bounded = {length: self._bounded(options, length) for length in set(map(len, tokens))}
        results = [""] * len(given)
        decoder = Decoder(self.tokenizer, name, self._file)
        order = sorted(range(len(given)), key=lambda i: -len(tokens[i]))
        with progress(len(given), show_progress, purpose=name, label="writing", unit="text") as done:
            for _, group in groupby(order, key=lambda i: bounded[len(tokens[i])].max_new_tokens):
                while batch := list(islice(group, size)):
                    seed = None if seeds is None else tuple(seeds[i] for i in batch)
                    chosen = with_valid(bounded[len(tokens[batch[0]])], seed=seed)
                    read = self._read([tokens[i] for i in batch])
                    for i, result in zip(batch, self.model.generate(**read, options=chosen), strict=True):
                        results[i] = "".join(self._pieces(decoder, tokens[i], result.tokens.tolist(), chosen))
                    done(len(batch))
        return results

    def stream(
        self,
        text: str,
        options: GenerationOptions | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        **changes: Any,
    ) -> Iterator[str]:
        """Writes for one text, piece by piece as tokens are chosen, without beams.

        Args:
            text, options, source, target, **changes: as in a call; num_beams is 1 unless changes say otherwise.

        Yields:
            Pieces that are not empty; joined, they are what a call gives.

        Raises:
            TypeError, ValueError: as a call; beams are asked for. The call raises, not the iterator.
        """
        name = "TextGenerator.stream"
        (given,) = checked_texts(name, [text])
        changes = {"num_beams": 1} | self._to_language(name, target, changes)
        options = self.model.options_with(name, options, changes)
        tokens = self._tokens(name, "text", given, source, target)
        options = with_valid(self._bounded(options, len(tokens)), seed=_seeds(name, options, 1))
        chosen = self.model.stream(**self._read([tokens]), options=options)
        decoder = Decoder(self.tokenizer, name, self._file)
        return self._pieces(decoder, tokens, (token for _, token in chosen), options)

    def _pieces(
        self, decoder: Decoder, prompt: Any, chosen: Iterable[int], options: GenerationOptions
    ) -> Iterator[str]:
        """The text of the chosen tokens up to a stop token; without an encoder, the prompt is their context."""
        before = prompt.tolist() if self.model.encoder is None else []
        stops = set(np.ravel(options.stop_tokens).tolist())
        return decoder.pieces(before, takewhile(lambda token: token not in stops, chosen))

    def _read(self, prompts: list[Any]) -> dict[str, Any]:
        """What the model generates from: prompts, or what its encoder makes of them."""
        if self.model.encoder is None:
            return {"prompts": prompts}
        lengths = np.array([len(prompt) for prompt in prompts])
        padded = np.zeros((len(prompts), lengths.max()), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(prompts)
        return {"memory": self.model.encode(padded, lengths)}

    def _to_language(self, function: str, target: str | None, changes: dict[str, Any]) -> dict[str, Any]:
        """The changes of options, and those that the target language asks for."""
        asked = {} if target is None else self._languages.options(function, target)
        if both := sorted(asked.keys() & changes.keys()):
            raise ValueError(f"{function}: {both[0]} and target={target!r} exclude one another")
        return changes | asked

    def _tokens(self, function: str, what: str, text: str, source: str | None, target: str | None) -> Any:
        with errors_of_library(function, self._file):
            ids = np.array(self.tokenizer.encode(without_surrogates(text)).ids, np.int64)
        check_tokens(function, ids, self.model.config.vocab_size, self._file)
        if source is not None or target is not None:
            ids = self._languages.target(function, target, self._languages.source(function, source, ids))
        most = self.model.config.longest - (self.model.encoder is None)  # after a prompt, a new token needs room
        if not 0 < len(ids) <= most:
            raise ValueError(f"{function}: {what} has {len(ids)} tokens; the model takes from 1 to {most}")
        return ids

    def _bounded(self, options: GenerationOptions, length: int) -> GenerationOptions:
        """The options, with a greatest number of new tokens after a text of that length where they say none."""
        if options.max_new_tokens is not None or options.max_length is not None:
            return options
        room = self.model.config.longest - (length if self.model.encoder is None else 1)
        return replace(options, max_new_tokens=min(MAX_NEW_TOKENS, room))


def _seeds(function: str, options: GenerationOptions, texts: int) -> tuple[int, ...] | None:
    """A seed for each text, so that its draws do not depend on the batch that it is in."""
    if isinstance(options.seed, tuple) and len(options.seed) != texts:
        raise ValueError(f"{function}: there are {texts} texts, but {len(options.seed)} seeds; or one for all")
    if options.seed is None or isinstance(options.seed, tuple):
        return options.seed
    return tuple(map(int, np.random.SeedSequence(options.seed).generate_state(texts, np.uint64)))

"""Sentence embeddings: texts -> tokens -> encoder -> one vector per text."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyattn import _checks
from pyattn._extras import import_extra
from pyattn._threads import one_ahead
from pyattn.models._files import find_directory
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.sentence.directory import digest_of, read_directory, write_directory
from pyattn.tasks.sentence.inputs import Tokenized
from pyattn.tasks.sentence.modules import SENTENCE, Dropout, Module, Normalize, Pooling, unit

# Texts that are tokenized and sorted together, while those before are encoded: enough to fill a batch.
_WINDOW = 128

# Their files do not say that poolings leave out the prompt, but sentence-transformers knows it.
_INSTRUCTORS = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")

_FEW = 8  # texts that are encoded within a second everywhere


class SentenceEncoder:
    """Texts to vectors, with the modules of a sentence-transformers directory; see `from_pretrained`.

    Attributes:
        prompts: name -> text that is put in front of texts; may be changed. "query" and "document" are always there.
        default_prompt_name: the prompt of encode and encode_stream that are given none; None: no prompt. May be set.
        truncate_dim: to how many numbers vectors are cut, None: not at all. May be set.
        similarity_fn_name: by what the vectors are to be compared, as the directory says: "cosine" (where it says
            nothing), "dot", "euclidean" or "manhattan".
    """

    def __init__(
        self,
        directory: Path,
        dtype: WeightDtypes = "float32",
        *,
        truncate_dim: int | None = None,
        strict: bool = True,
    ) -> None:
        if truncate_dim is not None:
            _checks.size("SentenceEncoder", "truncate_dim", truncate_dim)
        found = read_directory(directory, dtype, strict)
        self._first, self._all_modules, self._files = found.first, found.modules, found.files
        self.prompts, self.default_prompt_name = found.prompts, found.default_prompt_name
        self.truncate_dim = found.truncate_dim if truncate_dim is None else truncate_dim
        self.similarity_fn_name = found.similarity_fn_name
        # Vectors are made unit vectors at the end, all at once, or not at all, as the caller wants it.
        self._modules = list(found.modules)
        self._is_unit = False
        while self._modules and _is_last_step(self._modules[-1]):
            self._is_unit = isinstance(self._modules.pop(), Normalize) or self._is_unit
        self._width = found.width
        self._warned = False
        self._digest: bytes | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        *,
        dtype: WeightDtypes = "float32",
        truncate_dim: int | None = None,
        strict: bool = True,
    ) -> "SentenceEncoder":
        """The sentence encoder in a model directory as sentence-transformers writes it, before release 5.4 and since.

        modules.json lists a first module: a Transformer (config.json, model.safetensors, tokenizer.json; families of
        encoders of texts as in `pyattn.models.load`, and GPT-2, Llama, Mistral, Qwen2 and T5's encoder),
        StaticEmbedding or WordEmbeddings; then any of Pooling, Dense, LayerNorm, Normalize and Dropout in any order,
        each with a folder of its own. config_sentence_transformers.json may set prompts, default_prompt_name,
        similarity_fn_name and truncate_dim; sentence_bert_config.json, or that of another family's name, and
        tokenizer_config.json the length to which texts are cut. A directory without modules.json has its tokens' mean,
        or the last token's vector where it is a model of language. Whatever these files say is obeyed, or refused by
        name.

        Args:
            path_or_hub_id: a local directory, else the id of a repository on the Hugging Face hub.
            dtype: "float32", "bfloat16" or "int8", or patterns, as in `pyattn.models.load`: in what the layers' weights
                are held and multiplied. Where the CPU has dot products of them (pyattn info), bfloat16 halves the time
                of float32 at best, int8 quarters it. Other modules are float32.
            truncate_dim: instead of the directory's: vectors are cut to so many numbers behind all modules.
            strict: of the Transformer's tensors, as in `pyattn.models.load`.

        Raises:
            TypeError: dtype is none of these, or strict is not a boolean.
            OSError: a file is missing (FileNotFoundError) or cannot be read or fetched.
            ValueError: a file is damaged or describes something that is not supported; the message names both.
            ImportError: an optional package is not installed; the message says how to install it.
        """
        encoder = cls(find_directory(path_or_hub_id), dtype, truncate_dim=truncate_dim, strict=strict)
        if path_or_hub_id in _INSTRUCTORS:
            for module in encoder._all_modules:
                if isinstance(module, Pooling):
                    module.include_prompt = False
        return encoder

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes a directory that `from_pretrained` reads, and sentence-transformers from 5.4 on, to the same vectors.

        Weights are written as they are held: sentence-transformers reads float32 and bfloat16, but not int8, which
        only pyattn does. Prompts, lengths and truncate_dim are written as they are set.

        Raises:
            OSError: a file cannot be written.
        """
        settings: dict[str, Any] = {
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
        }
        if self.truncate_dim is not None:
            settings["truncate_dim"] = self.truncate_dim
        write_directory(Path(directory), self._first, self._all_modules, settings)

    @property
    def model(self) -> Any:
        """The `TextEncoder`, or what else gives the hidden states of tokens; None where a table of words does."""
        return self._first.model

    @model.setter
    def model(self, model: Any) -> None:
        self._first.model = model

    @property
    def pooling(self) -> str | tuple[str, ...] | None:
        """How tokens' vectors become one: "mean", "cls" or what else a Pooling names; several side by side in a tuple.

        None where there is no Pooling.
        """
        modes = next((module.modes for module in self._modules if isinstance(module, Pooling)), None)
        return modes[0] if modes is not None and len(modes) == 1 else modes

    @property
    def max_seq_length(self) -> int | None:
        """Texts are cut to that many tokens, special tokens and prompt included.

        May be set, up to the model's positions. None for tables of words whose directory does not say any.
        """
        return self._first.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        self._first.set_length(tokens)

    @property
    def fingerprint(self) -> str:
        """A digest of the directory's files and of the settings: encoders of the same make the same vectors.

        Files are read at the first access.
        """
        import hashlib  # here, as below, since it takes a part of the time to the first embedding

        if self._digest is None:
            self._digest = digest_of(self._files)
        prompts = (sorted(self.prompts.items()), self.default_prompt_name)
        modules = [(module.type, module.config()) for module in self._all_modules]
        settings = (self._first.settings, self.max_seq_length, modules, prompts, self.truncate_dim)
        return hashlib.sha256(self._digest + repr((settings, self.similarity_fn_name)).encode()).hexdigest()

    def encode(
        self,
        texts: Iterable[str],
        normalize: bool | None = None,
        show_progress: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector for each text.

        Args:
            texts: n strings; no single one.
            normalize: None gives what the directory's modules give, as sentence-transformers does: unit vectors, whose
                dot products are cosines, where they end in Normalize. True gives unit vectors in any case, also
                where truncate_dim has cut them; False what the modules in front of a Normalize at the end give.
            show_progress: whether to draw a progress bar on standard error. None means: on a terminal, when the work
                takes longer than a second.
            batch_tokens: at most that many tokens are computed at once, though never less than one text. It bounds the
                memory; the result does not depend on it.
            truncate: whether texts of more than max_seq_length tokens are cut, with a warning the first time; an error
                otherwise.
            prompt: what is put in front of each text. Its tokens count for max_seq_length; a Pooling whose
                include_prompt is false leaves them out.
            prompt_name: the prompt of that name in `prompts`, if prompt is None. If both are None, that of
                default_prompt_name, if there is one.
            truncate_dim: to how many numbers vectors are cut, behind all modules; None: as the attribute says. Cut
                vectors are no unit vectors any more, unless normalize is True.

        Returns:
            (n, width) float32, in the order of the texts. A Pooling makes zeros of a text without a single token, and
            of one that a prompt which it leaves out fills ("cls": its first token). There alone sentence-transformers
            may give others: -inf for "max".

        Raises:
            TypeError: texts is a str, or holds something else than str; the message names its index and type. prompt is
                not a str.
            ValueError: batch_tokens or truncate_dim is not a positive integer; there is no prompt of that name; a text
                is too long and truncate is False.
        """
        texts = list(_checked_texts("encode", texts))
        run = self._run("encode", normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim)
        vectors = np.empty((len(texts), run.width), np.float32)
        if show_progress is None and len(texts) <= _FEW:  # making a bar would take longer than to encode one text
            show_progress = False
        bar = None if show_progress is False else _progress_bar(len(texts), show_progress)
        with nullcontext() if bar is None else bar:
            done = 0
            for window in self._tokenized(run, texts):
                part = vectors[done : done + len(window)]
                self._encode_window(run, window, part, bar.update if bar is not None else None)
                done += len(window)
        return vectors

    def encode_query(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """encode of what is looked for: unless prompt or prompt_name is given, with the prompt "query".

        That is "" where the directory has none: default_prompt_name is not asked then, as in sentence-transformers.
        Options, results and errors are encode's.
        """
        name = "query" if prompt is None and prompt_name is None and "query" in self.prompts else prompt_name
        return self.encode(texts, prompt=prompt, prompt_name=name, **options)

    def encode_document(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """encode of what is found: unless prompt or prompt_name is given, with the prompt "document".

        Where that has been taken out of `prompts`, with "passage" or "corpus". Otherwise as encode_query.
        """
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self.encode(texts, prompt=prompt, prompt_name=prompt_name, **options)

    def encode_stream(
        self,
        texts: Iterable[str],
        normalize: bool | None = None,
        batch_tokens: int = 2048,
        truncate: bool = True,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """encode for any number of texts, such as a generator's, in memory that does not grow with it.

        Args:
            texts: strings, taken as they are needed: at most 256 ahead of the vectors.
            normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim: as in encode.

        Yields:
            For each text, in order, its vector (width,), the same bits that encode gives.

        Raises:
            TypeError, ValueError: as encode; for a text when it is taken.
        """
        texts = _checked_texts("encode_stream", texts)
        run = self._run("encode_stream", normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim)
        return self._stream(run, texts)

    def _stream(self, run: "_Run", texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        for window in self._tokenized(run, texts):
            vectors = np.empty((len(window), run.width), np.float32)
            self._encode_window(run, window, vectors, None)
            yield from vectors

    def _run(
        self,
        function: str,
        normalize: bool | None,
        batch_tokens: int,
        truncate: bool,
        prompt: str | None,
        prompt_name: str | None,
        truncate_dim: int | None,
    ) -> "_Run":
        """The checked options of a call."""
        _checks.size(function, "batch_tokens", batch_tokens)
        cut = self.truncate_dim if truncate_dim is None else truncate_dim
        width = self._width if cut is None else min(self._width, _checks.size(function, "truncate_dim", cut))
        for name, value in (("prompt", prompt), ("prompt_name", prompt_name)):
            if not isinstance(value, str | None):
                raise TypeError(f"{function}: {name} must be a str or None, not {type(value).__name__}")
        chosen = self.default_prompt_name if prompt_name is None else prompt_name
        if prompt is None and chosen is not None:
            if chosen not in self.prompts:
                raise ValueError(
                    f"{function}: there is no prompt {chosen!r}; the names are {', '.join(map(repr, self.prompts))}"
                )
            prompt = self.prompts[chosen]
        text = _without_surrogates(prompt or "")
        is_left_out = any(isinstance(module, Pooling) and not module.include_prompt for module in self._modules)
        length = self._first.prompt_length(text) if text and is_left_out else 0
        if normalize is not None:
            normalize = _checks.flag(function, "normalize", normalize)
        return _Run(function, text, length, normalize, batch_tokens, truncate, width)

    def _tokenized(self, run: "_Run", texts: Iterable[str]) -> Iterator[list[list[int]]]:
        """The tokens of windows of texts; those of the next window are made while the caller computes with the last."""
        windows, tokenize = _windows(texts), partial(self._tokenize, run)
        first = next(windows, None)
        if first is None:
            return
        tokens = self._checked_length(run, tokenize(first), 0)
        second = next(windows, None)
        if second is None:  # most calls: no thread
            yield tokens
            return
        with one_ahead() as begin:
            done = len(first)
            for window in chain([second], windows):
                coming = begin(tokenize, window)
                yield tokens
                tokens = self._checked_length(run, coming(), done)
                done += len(window)
        yield tokens

    def _tokenize(self, run: "_Run", texts: list[str]) -> Tokenized:
        """The tokens of each text, and the first text that was cut."""
        texts = [_without_surrogates(text) for text in texts]
        if run.prompt:
            texts = [run.prompt + text for text in texts]
        return self._first.tokenize(texts)

    def _checked_length(self, run: "_Run", tokenized: Tokenized, before: int) -> list[list[int]]:
        """The tokens, unless a text was cut that must not be; before: how many texts there were in front of these."""
        tokens, cut = tokenized
        if cut is not None and not (run.truncate and self._warned):
            what = f"{run.function}: texts[{before + cut}] has more than {self.max_seq_length} tokens"
            if not run.truncate:
                raise ValueError(f"{what}; truncate=True cuts it")
            self._warned = True
            warnings.warn(f"{what}; such texts are cut (said once)", stacklevel=4)  # where encode is called
        return tokens

    def _encode_window(
        self,
        run: "_Run",
        sequences: list[list[int]],
        vectors: NDArray[np.float32],
        progress: Callable[[int], object] | None,
    ) -> None:
        """Fills vectors, one for each sequence of tokens; tells progress how many more are done."""
        whole = vectors if run.width == self._width else np.empty((len(sequences), self._width), np.float32)
        for batch in _batches(sequences, run.batch_tokens):
            cu_seqlens = np.array([0, *accumulate(len(sequences[i]) for i in batch)], np.int64)
            token_ids = np.array(list(chain.from_iterable(sequences[i] for i in batch)), np.int64)
            if token_ids.size and token_ids.max() >= self._first.vocab_size:
                raise ValueError(
                    f"encode: {self._first.folder / 'tokenizer.json'} gives the token {token_ids.max()}; "
                    f"{self._first.whose_vocabulary} {self._first.vocab_size}"
                )
            features = self._first.features(token_ids, cu_seqlens)
            features.prompt = run.prompt_length
            for module in self._modules:
                module(features)
            whole[batch] = features.of(SENTENCE)
            if progress is not None:
                progress(len(batch))
        if run.normalize or (run.normalize is None and self._is_unit and whole is vectors):
            vectors[:] = unit(whole[:, : run.width])
        elif whole is not vectors:
            whole = unit(whole) if run.normalize is None and self._is_unit else whole
            vectors[:] = whole[:, : run.width]


@dataclass(frozen=True)
class _Run:
    """The options of a call, checked: which function it is of, what stands in front of texts, the width of vectors."""

    function: str
    prompt: str
    prompt_length: int  # in tokens that poolings leave out
    normalize: bool | None
    batch_tokens: int
    truncate: bool
    width: int


def _is_last_step(module: Module) -> bool:
    return isinstance(module, Dropout) or (isinstance(module, Normalize) and module.name == SENTENCE)


def _without_surrogates(text: str) -> str:
    return text.encode(errors="replace").decode()  # the tokenizer refuses lone ones


def _progress_bar(total: int, show: bool | None) -> Any:
    """Drawn if show; if that is None, on a terminal when the work takes longer than a second."""
    tqdm = import_extra("tqdm", "encode").tqdm
    return tqdm(total=total, desc="encoding", unit="text", disable=None if show is None else not show, delay=not show)


def _checked_texts(function: str, texts: Iterable[str]) -> Iterator[str]:
    """The texts, each checked when it is taken; what is no iterable of texts is an error at once."""
    if isinstance(texts, str):
        raise TypeError(f"{function}: texts must be a list of str, not a single one: {function}([text])")
    try:
        iterator = iter(texts)
    except TypeError:
        raise TypeError(f"{function}: texts must be a list of str, not {type(texts).__name__}") from None

    def checked() -> Iterator[str]:
        for index, text in enumerate(iterator):
            if not isinstance(text, str):
                raise TypeError(f"{function}: texts[{index}] must be a str, not {type(text).__name__}")
            yield text

    return checked()


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while window := list(islice(iterator, _WINDOW)):
        yield window


def _batches(sequences: list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences, longest first, so that each batch has like lengths and at most batch_tokens (or is one)."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    start = tokens = 0
    for place, index in enumerate(order):
        if place > start and tokens + len(sequences[index]) > batch_tokens:
            yield order[start:place]
            start, tokens = place, 0
        tokens += len(sequences[index])
    yield order[start:]

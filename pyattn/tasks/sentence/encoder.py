"""Sentence embeddings: texts -> tokens -> modules -> one vector for each text."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyattn import _checks
from pyattn._checks import Array
from pyattn.models.files import find_directory
from pyattn.models.pretrained import WeightDtypes
from pyattn.tasks.batches import FEW, WINDOW, Cuts, Tokenized, batches, packed, tokenized
from pyattn.tasks.quantization import quantized, refuse_single
from pyattn.tasks.sentence.call import TOKENS_ALONE, Call
from pyattn.tasks.sentence.directory import Directory, digest_of, write_directory
from pyattn.tasks.sentence.modules import SENTENCE, Dropout, Features, Module, Normalize, Pooling, unit
from pyattn.tasks.sentence.settings import DOCUMENT_PROMPTS
from pyattn.tasks.texts import checked_ids, checked_texts, progress, without_surrogates

# Their files do not say that Pooling leaves out the prompt; sentence-transformers knows these by name.
_INSTRUCTORS = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")


class SentenceEncoder:
    """Texts to vectors, with the modules of a sentence-transformers directory; see `from_pretrained`.

    Attributes:
        prompts: name -> text that is put in front of texts; may be changed. "query" and "document" are always there.
        default_prompt_name: the prompt that calls use unless they name one; None: no prompt. May be set.
        truncate_dim: vectors are cut to so many numbers; None: they are not cut. May be set.
        similarity_fn_name: how vectors are compared: "cosine" (the default), "dot", "euclidean" or "manhattan".
    """

    def __init__(self, directory: Directory) -> None:
        self._first, self._all_modules, self._files = directory.first, directory.modules, directory.files
        self.prompts, self.default_prompt_name = directory.prompts, directory.default_prompt_name
        self.truncate_dim, self.similarity_fn_name = directory.truncate_dim, directory.similarity_fn_name
        self._width = directory.width
        # The last step, to unit vectors, is left to encode: its caller may switch it on or off.
        self._modules = list(directory.modules)
        self._is_unit = False
        while self._modules and _is_last_step(self._modules[-1]):
            self._is_unit = isinstance(self._modules.pop(), Normalize) or self._is_unit
        self._cuts = Cuts()
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

        modules.json lists a Transformer (of the families of encoders of texts of `pyattn.models.load`, GPT-2, Llama,
        Mistral, Qwen2, Qwen3, Gemma 3, or T5's encoder), StaticEmbedding or WordEmbeddings, and then any of Pooling,
        Dense, LayerNorm, Normalize and Dropout. config_sentence_transformers.json may set prompts, default_prompt_name,
        similarity_fn_name and truncate_dim; sentence_bert_config.json, or that of another family's name, and
        tokenizer_config.json the length to which texts are cut. Without modules.json, vectors are the tokens' mean, or
        the last token's where it is a model of language. Whatever these files say is obeyed, or refused by name.

        Args:
            path_or_hub_id: a local directory, else the id of a repository on the Hugging Face hub.
            dtype: "float32", "bfloat16" or "int8", or patterns, as in `pyattn.models.load`: the type in which the
                Transformer's layers store and multiply weights. Where the CPU has dot products of that type (pyattn
                info), bfloat16 takes half the time of float32 at best, int8 a quarter. Other modules are float32.
            truncate_dim: after all modules, vectors are cut to so many numbers; None: as the directory says.
            strict: as in `pyattn.models.load`, for the Transformer's tensors.

        Raises:
            TypeError, OSError, ValueError, ImportError: as `pyattn.models.load`.
        """
        if truncate_dim is not None:
            _checks.size("SentenceEncoder", "truncate_dim", truncate_dim)
        encoder = cls(Directory(find_directory(path_or_hub_id), dtype, strict))
        if truncate_dim is not None:
            encoder.truncate_dim = truncate_dim
        if path_or_hub_id in _INSTRUCTORS:
            for module in encoder._all_modules:
                if isinstance(module, Pooling):
                    module.config["include_prompt"] = False
        return encoder

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes a directory that `from_pretrained` reads, and sentence-transformers from 5.4 on, to the same vectors.

        Weights keep the number type in which they are stored; sentence-transformers reads no int8. Prompts, lengths and
        truncate_dim are written as they are set.

        Raises:
            OSError: a file cannot be written.
        """
        names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
        settings = {name: getattr(self, name) for name in names}
        if self.truncate_dim is None:
            del settings["truncate_dim"]
        write_directory(Path(directory), self._first, self._all_modules, settings)

    @property
    def model(self) -> Any:
        """The model that gives the hidden states of tokens, such as a `TextEncoder`; None where a table does."""
        return self._first.model

    @model.setter
    def model(self, model: Any) -> None:
        self._first.model = model

    @property
    def pooling(self) -> str | tuple[str, ...] | None:
        """The mode of Pooling, such as "mean" or "cls"; a tuple of several, side by side; None without a Pooling."""
        modes = next((module.modes for module in self._modules if isinstance(module, Pooling)), None)
        return modes[0] if modes is not None and len(modes) == 1 else modes

    @property
    def max_seq_length(self) -> int | None:
        """Texts are cut to that many tokens, special tokens and prompt included.

        May be set, up to the model's positions. None for tables of words whose directory gives no length.
        """
        return self._first.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        self._first.set_length(tokens)

    @property
    def fingerprint(self) -> str:
        """A digest of the files, read once, and of the settings: encoders with the same one make the same vectors."""
        import hashlib  # here, as in digest_of: importing it takes a part of the time to the first embedding

        if self._digest is None:
            self._digest = digest_of(self._files)
        prompts = (sorted(self.prompts.items()), self.default_prompt_name)
        modules = [(module.type, module.config) for module in self._all_modules]
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
        precision: str = "float32",
        ranges: Any = None,
    ) -> Array:
        """One vector for each text.

        Args:
            texts: n strings; no single one.
            normalize: None gives what the directory's modules give, as sentence-transformers does: unit vectors, whose
                dot products are cosines, where the last module is Normalize. True gives unit vectors in any case, also
                after truncate_dim has cut them; False omits a Normalize at the end.
            show_progress: whether to draw a bar on standard error; None: on a terminal, for more than a second's work.
            batch_tokens: at most so many tokens, or one text, are computed at once, which changes memory, not results.
            truncate: True cuts texts of more than max_seq_length tokens, with a warning the first time; False raises.
            prompt: is put in front of each text. Its tokens count for max_seq_length; a Pooling whose include_prompt is
                false leaves them out.
            prompt_name: without a prompt, that of this name in `prompts`; None: the default_prompt_name, if it is set.
            truncate_dim: vectors are cut to so many numbers after all modules, and are no unit vectors then unless
                normalize is True; None: as the attribute says.
            precision: "float32", or "int8", "uint8", "binary" or "ubinary", to which vectors are rounded at last, as
                `pyattn.tasks.quantization.quantize_embeddings` says.
            ranges: (2, width), for "int8" and "uint8"; None: those of the vectors of this call.

        Returns:
            (n, width) float32, or what `quantize_embeddings` makes of it, in the order of the texts. Pooling gives
            zeros for a text without tokens, and for a text that consists of a prompt that Pooling leaves out (for
            "cls", its first token). Only there may sentence-transformers give other numbers: -inf for "max".

        Raises:
            TypeError: texts is a str, or one of them, or the prompt, is none.
            ValueError: batch_tokens or truncate_dim is not a positive integer; there is no prompt of that name; a text
                is too long and truncate is False; precision and ranges as in `quantize_embeddings`.
        """
        call = Call(self, "encode", locals())
        texts = list(checked_texts("encode", texts))
        refuse_single("encode", call.precision, call.ranges, len(texts))
        vectors = np.empty((len(texts), call.width), np.float32)
        if show_progress is None and len(texts) <= FEW:  # making a bar would take longer than to encode one text
            show_progress = False
        with progress(len(texts), show_progress, purpose="encode", label="encoding", unit="text") as done:
            for number, window in enumerate(self._tokenized(call, texts)):
                start = number * WINDOW
                vectors[start : start + len(window)] = self._encoded(call, window, done)
        return quantized("encode", vectors, call.precision, call.ranges)

    def encode_query(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None, **options: Any
    ) -> Array:
        """encode for queries: with the prompt "query", unless prompt or prompt_name is given.

        That prompt is "" where the directory has none; as in sentence-transformers, default_prompt_name is not used
        then. Options, results and errors are those of encode.
        """
        name = "query" if prompt is None and prompt_name is None and "query" in self.prompts else prompt_name
        return self.encode(texts, prompt=prompt, prompt_name=name, **options)

    def encode_document(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None, **options: Any
    ) -> Array:
        """encode for the texts that are searched: with the prompt "document", unless prompt or prompt_name is given.

        Where that has been taken out of `prompts`, "passage" or "corpus" is used. Otherwise as encode_query.
        """
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in DOCUMENT_PROMPTS if name in self.prompts), None)
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
        precision: str = "float32",
        ranges: Any = None,
    ) -> Iterator[Array]:
        """encode for any number of texts, such as those of a generator, in memory that does not grow with it.

        Args:
            texts: strings; they are taken when they are needed, at most 256 ahead of the vectors.
            normalize, batch_tokens, truncate, prompt, prompt_name, truncate_dim, precision: as in encode.
            ranges: as in encode; needed for "int8" and "uint8".

        Yields:
            For each text, in order, its vector (width,), the same bits that encode gives.

        Raises:
            TypeError, ValueError: as encode; errors about a text are raised when it is taken.
        """
        call = Call(self, "encode_stream", locals())
        refuse_single("encode_stream", call.precision, call.ranges, 1)
        texts = checked_texts("encode_stream", texts)
        return (
            quantized("encode_stream", vector, call.precision, call.ranges)
            for window in self._tokenized(call, texts)
            for vector in self._encoded(call, window)
        )

    def tokens(self, text: str) -> tuple[list[str], list[int]]:
        """What `encode` makes of a text without a prompt, cut to max_seq_length: its tokens, and their ids.

        Raises:
            TypeError: text is no string.
            ValueError: the first module has no tokenizer of the tokenizers library.
        """
        if not isinstance(text, str):
            raise TypeError(f"SentenceEncoder.tokens: text must be a string, not {type(text).__name__}")
        if self.model is None:
            raise ValueError("SentenceEncoder.tokens: the encoder is a table of words, which has no attention")
        (ids,), _ = self._first.tokenize([without_surrogates(text)])
        return [self._first.tokenizer.id_to_token(token) for token in ids], ids

    def token_ids(
        self, texts: Iterable[str], truncate: bool = True, *, prompt: str | None = None, prompt_name: str | None = None
    ) -> list[list[int]]:
        """The ids of the tokens that `encode` makes of each text, special ones and those of its prompt included.

        Args:
            texts, truncate, prompt, prompt_name: as in encode.

        Raises:
            TypeError, ValueError: as encode.
        """
        given = {"truncate": truncate, "prompt": prompt, "prompt_name": prompt_name}
        call = Call(self, "token_ids", TOKENS_ALONE | given)
        return [tokens for window in self._tokenized(call, checked_texts("token_ids", texts)) for tokens in window]

    def encode_token_ids(
        self,
        token_ids: Iterable[Sequence[int]],
        normalize: bool | None = None,
        batch_tokens: int = 2048,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> Array:
        """encode for texts whose tokens are known: of what `token_ids` gives, with the same prompt, the bits of encode.

        Args:
            token_ids: for each text, the ids of its tokens, special ones included: nothing is added to them or cut off.
            prompt, prompt_name: what these tokens begin with, which counts only where Pooling leaves it out.
            normalize, batch_tokens, truncate_dim: as in encode.

        Returns:
            (n, width) float32, as encode.

        Raises:
            TypeError: token_ids is no iterable, or one of them is no sequence of integers.
            ValueError: an id is none of the vocabulary, or a text has more than max_seq_length; as encode.
        """
        given = {"normalize": normalize, "batch_tokens": batch_tokens, "truncate_dim": truncate_dim}
        call = Call(self, "encode_token_ids", TOKENS_ALONE | given | {"prompt": prompt, "prompt_name": prompt_name})
        return self._encoded(call, checked_ids(call.function, token_ids, self.max_seq_length, self._first.vocab_size))

    def _tokenized(self, call: Call, texts: Iterable[str]) -> Iterator[list[list[int]]]:
        """The tokens of windows of texts."""

        def tokenize(window: list[str]) -> Tokenized[list[int]]:
            return self._first.tokenize([call.prompt + without_surrogates(text) for text in window])

        checked = partial(self._cuts.checked, call.function, "texts", self.max_seq_length, call.truncate)
        return tokenized(texts, tokenize, checked)

    def _encoded(self, call: Call, tokens: list[list[int]], done: Callable[[int], object] = lambda n: None) -> Array:
        """One vector for each of the sequences; tells `done` how many more there are."""
        vectors = np.empty((len(tokens), call.width), np.float32)
        for batch in batches(list(map(len, tokens)), call.batch_tokens):
            token_ids, cu_seqlens = packed(tokens, batch)
            if token_ids.size and token_ids.max() >= self._first.vocab_size:
                raise ValueError(
                    f"encode: {self._first.folder / 'tokenizer.json'} gives the token {token_ids.max()}; "
                    f"{self._first.whose_vocabulary} {self._first.vocab_size}"
                )
            features = Features(cu_seqlens, self._first.features(token_ids, cu_seqlens), call.prompt_length)
            for module in self._modules:
                module(features)
            rows = features.vectors[SENTENCE]
            rows = unit(rows) if call.normalize is None and self._is_unit else rows
            rows = rows[:, : call.width]
            vectors[batch] = unit(rows) if call.normalize else rows
            done(len(batch))
        return vectors


def _is_last_step(module: Module) -> bool:
    return isinstance(module, Dropout) or (isinstance(module, Normalize) and module.name == SENTENCE)

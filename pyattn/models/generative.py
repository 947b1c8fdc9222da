"""Models that generate: a decoder of tokens, alone or after an encoder of tokens, spectrograms or images."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pyattn import _checks
from pyattn._checks import Array
from pyattn.generation import Generated, GenerationOptions, generate, stream
from pyattn.generation.options import changed_options, with_valid
from pyattn.generation.rows import Adjust
from pyattn.models.cached_sequences import CachedSequences, Memory
from pyattn.models.config import ModelConfig
from pyattn.models.embeddings import TokenEmbeddings
from pyattn.models.families import GENERATIVE_FAMILIES
from pyattn.models.files import write_json
from pyattn.models.naming import Selection, Tensors
from pyattn.models.pretrained import Pretrained, WeightDtypes

NEW_TOKENS = 20  # at most, unless something else is said
_OPTION_OF = {"eos_token_id": "stop_tokens"}  # keys of files, where they have other names than the options
_DEPENDENT = ("num_return_sequences", "min_new_tokens")  # options that others make right or wrong


class GenerativeConfig(ModelConfig):
    """A decoder's, and that of the encoder in front of it if encoder_layers is not 0."""

    families = GENERATIVE_FAMILIES
    causal = (True,)  # transformers reads is_causal of every decoder


class GenerativeModel(Pretrained):
    """A decoder of tokens, after an encoder if its family has one.

    `pyattn.models.load` makes one from a directory.

    Args:
        config, tensors, source, dtype, strict: as `Pretrained` has them.
        generation: the contents of generation_config.json; None: config.json says how tokens are chosen.

    Attributes:
        config, weight_dtypes, unused_tensors: as `Pretrained` has them; config is a `GenerativeConfig`.
        generation: the argument.
        options: the `GenerationOptions` that generate and stream use unless they are given others; may be set. Until
            then they are those of generation_config.json, and a ValueError names what in it is not supported.
        start_token: that which a text begins with after an encoder; None if the files name none, ValueError if they
            name none of the vocabulary.
        cache_dtype: "int8", or None for the layers' own: how start, and with it generate and stream, hold keys and
            values, as TransformerDecoder.start has it; None until it is set.
        encoder, decoder: the stacks of layers; their check_finite, set to True, finds the layer that makes NaN.
    """

    _families = GENERATIVE_FAMILIES
    _config_class = GenerativeConfig
    _other_files: ClassVar[Mapping[str, str]] = {"generation": "generation_config.json"}
    config: GenerativeConfig

    def __init__(
        self,
        config: GenerativeConfig,
        tensors: Tensors | Selection,
        source: str = "tensors",
        dtype: WeightDtypes = "float32",
        strict: bool = True,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.generation = generation
        self._options: GenerationOptions | None = None  # those that were set
        self._cache_dtype: str | None = None
        self._said = dict(config.source if generation is None else generation)
        if generation is None and self._said.get("force_bos_token_to_be_generated"):  # as the first BARTs say it
            self._said.setdefault("forced_bos_token_id", self._said.get("bos_token_id"))
        self._file = f"{'config' if generation is None else 'generation_config'}.json beside {source}"
        super().__init__(config, tensors, source, dtype, strict)

    @property
    def options(self) -> GenerationOptions:
        return self.options_with(f"{type(self).__name__}.options", None, {})

    @options.setter
    def options(self, options: GenerationOptions) -> None:
        self._options = changed_options(f"{type(self).__name__}.options", options, {})

    @property
    def cache_dtype(self) -> str | None:
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, dtype: DTypeLike | None) -> None:
        self._cache_dtype = _checks.cache_dtype(f"{type(self).__name__}.cache_dtype", dtype, np.dtype(np.float32))

    @property
    def start_token(self) -> int | None:
        said, size = (self._said, self.config.source), self.config.vocab_size
        for key in ("decoder_start_token_id", "bos_token_id") if self.config.encoder_layers else ():
            # the first that files say, as transformers takes it
            if (token := next((x[key] for x in said if x.get(key) is not None), None)) is not None:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < size:
                    raise ValueError(
                        f"{type(self).__name__}.start_token: {self._file}: {key} must be a token, 0 to {size - 1}, not "
                        f"{token!r:.200}"
                    )
                return token
        return None

    def options_with(
        self, function: str, options: GenerationOptions | None, changes: Mapping[str, Any]
    ) -> GenerationOptions:
        """The options, or else those that were set, or else those of the directory; with changes.

        Changes may stand for what the directory's file has wrong.
        """
        if options is not None or self._options is not None:
            return changed_options(function, self._options if options is None else options, changes)
        changed_options(function, None, {key: x for key, x in changes.items() if key not in _DEPENDENT})
        values = {key: x for key, x in self._said.items() if _OPTION_OF.get(key, key) not in changes}
        for key in ("eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
            ids = [values[key]] if isinstance(values.get(key), int) else values.get(key)
            if isinstance(ids, list):  # those that the vocabulary lacks have no effect
                values[key] = [x for x in ids if not (type(x) is int and x >= self.config.vocab_size)]
        try:
            return GenerationOptions.from_dict(values, **changes)
        except (TypeError, ValueError) as error:
            changed_options(function, None, changes)  # of which alone may be the fault
            raise ValueError(
                f"{function}: {self._file}: {error}; options in the call take the place of the file's"
            ) from error

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        super().save_pretrained(directory)
        if self.generation is not None:
            write_json(Path(directory) / "generation_config.json", self.generation)

    def __call__(self, token_ids: ArrayLike, memory: Memory | None = None) -> NDArray[np.float32]:
        """Logits of what follows each token, all at once.

        Args:
            token_ids: (B, L) integers.
            memory: what encode returned, for models with an encoder.

        Returns:
            (B, L, vocab_size) float32.

        Raises:
            TypeError, ValueError: as CachedSequences.step; memory is missing, of other samples, or not wanted.
        """
        name = type(self).__name__
        tokens = _checks.indices(name, "token_ids", token_ids, self.config.vocab_size)
        if tokens.ndim != 2:
            raise ValueError(f"{name}: token_ids has shape {tokens.shape}; (B, L) is needed")
        self._check_memory(name, memory, len(tokens))
        if tokens.shape[1] > self.config.longest:
            raise ValueError(f"{name}: sequences have {tokens.shape[1]} tokens; {self.config.bound}")
        if not tokens.size:
            return np.zeros((*tokens.shape, self.config.vocab_size), np.float32)
        state = self.start(memory, batch_size=len(tokens), capacity=tokens.shape[1])._state
        positions = np.tile(np.arange(tokens.shape[1]), len(tokens))
        x = self.embeddings.apply(tokens.reshape(-1), positions, words=self._parameters["words"])
        hidden = self.decoder._step_rows(name, x, state, tokens.shape[1], np.full(len(tokens), tokens.shape[1]))
        return self._logits(hidden).reshape(*tokens.shape, -1)

    def encode(self, inputs: ArrayLike, lengths: ArrayLike | None = None) -> Memory:
        """The encoder's output.

        Args:
            inputs: tokens (B, S), integers; or frames (B, n, num_mel_bins), or pixels (B, channels, height, width),
                float32.
            lengths: (B,) integers: how many of each sample's tokens are real, padding after them; None: all.

        Raises:
            TypeError: inputs are of another dtype.
            ValueError: the model has no encoder, or shapes do not fit.
        """
        name, embeddings = f"{type(self).__name__}.encode", self.encoder_embeddings
        if embeddings is None:
            raise ValueError(f"{name}: {self.config.model_type} has no encoder")
        if isinstance(embeddings, TokenEmbeddings):
            return self._encode_tokens(name, inputs, lengths)
        if lengths is not None:
            raise ValueError(f"{name}: lengths are for tokens; this model takes {self.config.encoder_input}")
        x = _checks.array(name, "inputs", inputs)
        if x.dtype != np.float32:
            raise TypeError(f"{name}: inputs have dtype {x.dtype}; float32 is needed")
        if not embeddings.fits(x.shape):
            needed = ", ".join(map(str, embeddings.shape))
            raise ValueError(f"{name}: inputs have shape {x.shape}; (B, {needed}) is needed")
        hidden = self._states_of_all(embeddings, x)
        return Memory(hidden, np.full(len(hidden), hidden.shape[1]))

    def _encode_tokens(self, name: str, inputs: ArrayLike, lengths: ArrayLike | None) -> Memory:
        tokens = _checks.indices(name, "inputs", inputs, self.config.source_vocab_size or self.config.vocab_size)
        if tokens.ndim != 2:
            raise ValueError(f"{name}: inputs have shape {tokens.shape}; (B, S) is needed")
        live, starts = _checks.packing(name, tokens.shape, None, attention_mask=None, lengths=lengths)
        assert live is not None
        hidden = np.zeros((*tokens.shape, self.config.hidden_size), np.float32)
        hidden[live] = self._states(name, self.encoder_embeddings, self.encoder, tokens[live], starts)
        return Memory(hidden, np.diff(starts), tuple(np.split(tokens[live], starts[1:-1])))

    def start(self, memory: Memory | None = None, *, batch_size: int | None = None, capacity: int) -> CachedSequences:
        """Sequences without tokens, for pyattn.generation.

        Args:
            memory: what encode returned, for models with an encoder: one sequence for each of its samples.
            batch_size: the most sequences that there will be; without memory also how many there are.
            capacity: the most tokens that a sequence will have; memory is taken for all of them.

        Raises:
            TypeError: memory is something else.
            ValueError: it is missing, or given to a model that has no encoder; a size is not a positive integer.
        """
        self._check_memory(f"{type(self).__name__}.start", memory)
        hidden, lengths = (None, None) if memory is None else (memory.hidden, memory.lengths)
        sizes: dict[str, Any] = {"capacity": capacity, "batch_size": batch_size, "memory_lengths": lengths}
        state = self.decoder.start(hidden, **sizes, cache_dtype=self._cache_dtype)
        return CachedSequences(self, state)

    def generate(
        self,
        prompts: Sequence[ArrayLike] | Array | None = None,
        options: GenerationOptions | None = None,
        *,
        memory: Memory | None = None,
        prefixes: ArrayLike | Sequence[ArrayLike] | None = None,
        adjust: Adjust | None = None,
        **changes: Any,
    ) -> list[Generated]:
        """Continues prompts, or begins a text for each sample of memory; see pyattn.generation.generate.

        Args:
            prompts: arrays of token ids; None: for each sample of memory the token that starts a text.
            options: how tokens are chosen; None: the attribute of that name. Where they say no greatest length, 20 new
                tokens. max_length is at most config.longest.
            memory: what encode returned, for models with an encoder: a sample for each prompt.
            prefixes, adjust: as there.
            **changes: options by name, instead of those in `options`.

        Raises:
            TypeError, ValueError: as there; memory is missing, of other samples, or not wanted; a prompt and
                max_new_tokens are more tokens than config.longest.
        """
        result: list[Generated] = self._run(
            generate, prompts, options, memory, changes, prefixes=prefixes, adjust=adjust
        )
        return result

    def stream(
        self,
        prompts: Sequence[ArrayLike] | Array | None = None,
        options: GenerationOptions | None = None,
        *,
        memory: Memory | None = None,
        prefixes: ArrayLike | Sequence[ArrayLike] | None = None,
        adjust: Adjust | None = None,
        **changes: Any,
    ) -> Iterator[tuple[int, int]]:
        """generate that yields tokens as they are chosen, without beams; see pyattn.generation.stream.

        Yields:
            The number of a prompt, and its next token.
        """
        return iter(self._run(stream, prompts, options, memory, changes, prefixes=prefixes, adjust=adjust))

    def _run(
        self,
        run: Callable[..., Any],
        prompts: Sequence[ArrayLike] | Array | None,
        options: GenerationOptions | None,
        memory: Memory | None,
        changes: dict[str, Any],
        **more: Any,
    ) -> Any:
        """What a function of pyattn.generation gives, once all is checked."""
        name = f"{type(self).__name__}.{run.__name__}"
        options = self.options_with(name, options, changes)
        tokens = self._prompts(name, prompts, memory)
        if options.max_new_tokens is None and options.max_length is None:
            options = replace(options, max_new_tokens=NEW_TOKENS)
        most, longest = self.config.longest, max(map(len, tokens), default=0)
        if options.max_new_tokens is None:
            capacity = min(options.max_length or most, most)
            options = with_valid(options, max_length=capacity)
        elif (capacity := longest + options.max_new_tokens) > most:
            raise ValueError(
                f"{name}: a prompt of {longest} tokens and max_new_tokens={options.max_new_tokens} more are too many; "
                f"{self.config.bound}"
            )
        if not tokens:
            return []
        rows = len(tokens) * max(options.num_beams, options.num_return_sequences)
        caches = self.start(memory, batch_size=rows, capacity=capacity)
        if memory is None:
            caches.reorder(np.arange(len(tokens)))
        sources = self._sources(name, options, memory)
        return run(caches, tokens, options, sources=sources, **more)

    def _prompts(
        self, function: str, prompts: Sequence[ArrayLike] | Array | None, memory: Memory | None
    ) -> list[Array]:
        """Prompts, or for each sample of memory the token that starts a text."""
        if prompts is None:
            start = None if memory is None else self.start_token
            if memory is None or start is None:
                missing = "an encoder" if memory is None else "a decoder_start_token_id"
                raise ValueError(f"{function}: prompts are needed by a model without {missing}")
            self._check_memory(function, memory)
            prompts = [[start]] * len(memory.hidden)
        tokens = _checks.token_sequences(function, "prompts", prompts)
        self._check_memory(function, memory, len(tokens))
        return tokens

    def _sources(self, function: str, options: GenerationOptions, memory: Memory | None) -> tuple[Array, ...] | None:
        """The tokens that the encoder has read, for each sample; None without an encoder."""
        if memory is None:
            return None
        asked = options.encoder_no_repeat_ngram_size or options.encoder_repetition_penalty != 1
        if asked and self.config.encoder_input == "tokens" and len(memory.tokens) != len(memory.hidden):
            raise ValueError(
                f"{function}: options of the encoder's tokens need a memory that has them, as encode's has"
            )
        return memory.tokens or (np.zeros(0, np.int64),) * len(memory.hidden)

    def _check_memory(self, function: str, memory: Memory | None, samples: int | None = None) -> None:
        model_type = self.config.model_type
        if memory is not None and not isinstance(memory, Memory):
            raise TypeError(f"{function}: memory must be what encode returned, not {type(memory).__name__}")
        if memory is not None and self.encoder is None:
            raise ValueError(f"{function}: {model_type} has no encoder, but memory is given")
        if memory is None:
            if self.encoder is not None:
                raise ValueError(f"{function}: {model_type} has an encoder: memory, what encode returns, is needed")
            return
        hidden = _checks.array(function, "memory.hidden", memory.hidden)
        lengths = _checks.array(function, "memory.lengths", memory.lengths)
        if hidden.dtype != np.float32 or lengths.dtype.kind not in "iu":
            raise TypeError(
                f"{function}: memory is {hidden.dtype}, its lengths {lengths.dtype}; float32 and integers are needed"
            )
        width = self.config.hidden_size
        if hidden.ndim != 3 or hidden.shape[2] != width or lengths.shape != hidden.shape[:1]:
            raise ValueError(
                f"{function}: memory has shape {hidden.shape}, its lengths {lengths.shape}; {model_type} needs "
                f"(B, S, {width}) and (B,)"
            )
        _checks.within(function, "memory.lengths", lengths, 0, np.full(len(hidden), hidden.shape[1]), "S")
        if samples not in (None, len(hidden)):
            raise ValueError(f"{function}: memory has {len(hidden)} samples, but there are {samples} sequences")

    def _logits(self, hidden: Array) -> NDArray[np.float32]:
        spec = self._spec.logits
        assert spec is not None
        if spec.scale != 1:
            hidden = hidden * np.float32(spec.scale)
        logits: NDArray[np.float32] = self.head._apply(np.ascontiguousarray(hidden))
        if spec.softcap:
            logits /= np.float32(spec.softcap)
            np.tanh(logits, out=logits)
            logits *= np.float32(spec.softcap)
        return logits

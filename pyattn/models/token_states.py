"""Hidden states of models that generate: of a decoder alone, or of T5's encoder, without the head that makes logits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._module import Setting
from pyattn.layers import Linear
from pyattn.layers.sequences import Sequences
from pyattn.models.config import GenerativeConfig
from pyattn.models.family import Family
from pyattn.models.generative_families import GENERATIVE_FAMILIES
from pyattn.models.inputs import TokenEmbeddings
from pyattn.models.pretrained import Pretrained, WeightDtypes, any_dtype, products_of
from pyattn.models.stacks import decoder_of, encoder_of
from pyattn.positional import relative_position_buckets
from pyattn.precision import values_of


def _without(family: Family, *parts: str, **changes: Any) -> Family:
    """A family whose files may have tensors of a head and of these parts, which its models have not."""
    absent = ("lm_head.", *parts)
    names, gated = (
        {name: x for name, x in table.items() if not name.startswith(("head.", *parts))}
        for table in (family.names, family.names_if_gated)
    )
    return replace(
        family,
        names=names,
        names_if_gated=gated,
        tied=tuple(name for name in family.tied if not name.startswith(absent)),
        ignored=(*family.ignored, *absent),
        **changes,
    )


STATE_FAMILIES = {name: _without(GENERATIVE_FAMILIES[name]) for name in ("gpt2", "llama", "mistral", "qwen2")}
_T5 = GENERATIVE_FAMILIES["t5"]
STATE_FAMILIES["t5"] = _without(
    _T5,
    "decoder.",
    "relative_bias",
    "words",
    keys={**_T5.keys, "num_hidden_layers": _T5.keys["encoder_layers"]},
    supported={key: values for key, values in _T5.supported.items() if key != "is_encoder_decoder"},  # either way
)


@dataclass(frozen=True, kw_only=True)
class StateConfig(GenerativeConfig):
    """A generative model's, of which only one stack of layers is run; is_causal: false makes a decoder an encoder."""

    is_causal: bool = True

    families = STATE_FAMILIES
    causal = (True, False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> "StateConfig":
        config = super().from_dict(values, source)
        assert isinstance(config, cls)
        causal = values.get("is_causal", True)
        if not causal and any(window is not None for window in config.windows):
            raise ValueError(f"load: {source}: is_causal false is not supported together with sliding_window")
        return replace(config, is_causal=bool(causal))


class TokenStates(Pretrained):
    """The last hidden states of GPT-2, Llama, Mistral or Qwen2, or of T5's encoder, over packed tokens.

    What files have beside them, such as a head, is passed over. Arguments, attributes and errors are those of
    `Pretrained`.
    """

    _families = STATE_FAMILIES
    _configs = StateConfig
    _products_of = ""
    config: StateConfig

    def _make(self, config: StateConfig, dtype: WeightDtypes) -> None:
        kind = any_dtype(dtype)
        self._parameters = {name: np.zeros((0, shape[1]), np.float32) for name, shape in self._own_shapes().items()}
        if config.encoder_layers:
            self.encoder_embeddings = TokenEmbeddings(config, "encoder_embeddings")
            self.encoder = encoder_of(config, kind)
        else:
            self.embeddings = TokenEmbeddings(config, "embeddings")
            self.decoder = decoder_of(config, kind)

    def __call__(self, token_ids: ArrayLike, cu_seqlens: ArrayLike) -> NDArray[np.float32]:
        """The hidden state of every token behind the last norm; a decoder's sees itself and those before it.

        Args:
            token_ids: (total,) integers, the n sequences one after another.
            cu_seqlens: (n + 1,) integers: sequence i is token_ids[cu_seqlens[i]:cu_seqlens[i + 1]].

        Returns:
            (total, hidden_size) float32.

        Raises:
            TypeError: an argument is not made of integers.
            ValueError: shapes do not fit together, an id is outside its embedding table, or a sequence is longer than
                config.longest.
        """
        name, config = "TokenStates", self.config
        tokens = _checks.indices(name, "token_ids", token_ids, config.vocab_size)
        _, starts = _checks.packing(name, tokens.shape, cu_seqlens, attention_mask=None, lengths=None)
        sequences = Sequences(1, starts, is_causal=not config.encoder_layers and config.is_causal)
        if (longest := sequences.longest()) > config.longest:
            raise ValueError(f"{name}: a sequence has {longest} tokens; {config.bound}")
        words = self._parameters.get("words", np.zeros((0, config.hidden_size), np.float32))  # T5's are the encoder's
        if not config.encoder_layers:
            x = self.embeddings.apply(words, tokens, sequences.positions())
            return self.decoder._forward_rows(x, [sequences] * len(self.decoder.layers))
        distances = np.arange(1 - longest, max(1, longest))
        buckets = relative_position_buckets(distances, config.relative_buckets, config.relative_distance, True)
        sequences.relative_bias = np.ascontiguousarray(self._parameters["encoder_relative_bias"][buckets].T)
        x = self.encoder_embeddings.apply(words, tokens, sequences.positions())
        return self.encoder._forward_rows(x, sequences)

    def _products(self) -> dict[str, list[Linear]]:
        if self.config.encoder_layers:
            return products_of(self.encoder.layers, "encoder.layers")
        return products_of(self.decoder.layers, "decoder.layers")

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.config
        shapes = {
            "words": (config.vocab_size, config.hidden_size),
            "encoder_relative_bias": (config.relative_buckets, config.num_attention_heads),
        }
        return {name: shape for name, shape in shapes.items() if name in config.family.names}

    def _own_made(self, values: Any) -> list[Setting]:
        made = {name: np.ascontiguousarray(values_of(x), np.float32) for name, x in values.items()}
        return [(self, "_parameters", made)]

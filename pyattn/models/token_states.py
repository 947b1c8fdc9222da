"""Hidden states of models that generate: of a decoder alone, or of T5's encoder, without the head that makes logits."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn._module import Setting
from pyattn.layers import Linear, TransformerDecoder, TransformerEncoder
from pyattn.layers.sequences import Sequences
from pyattn.layers.stack import Stack
from pyattn.models.builder import make_stack
from pyattn.models.configs import StateConfig
from pyattn.models.embeddings import TokenEmbeddings
from pyattn.models.families import STATE_FAMILIES
from pyattn.models.pretrained import Pretrained, products_of
from pyattn.models.spec import ModelSpec, TokenSpec
from pyattn.precision import values_of


class TokenStates(Pretrained):
    """The last hidden states of GPT-2, Llama, Mistral, Qwen2, Qwen3 or Gemma 3, or of T5's encoder, over packed tokens.

    What files have beside them, such as a head, is passed over. Arguments, attributes and errors are those of
    `Pretrained`.
    """

    _families = STATE_FAMILIES
    _config_class = StateConfig
    config: StateConfig

    def _make(self, spec: ModelSpec, dtype: str) -> None:
        self._parameters = {name: np.zeros((0, shape[1]), np.float32) for name, shape in self._own_shapes().items()}
        if spec.encoder is not None:
            assert isinstance(spec.encoder_embeddings, TokenSpec)
            self.encoder_embeddings = TokenEmbeddings(spec.encoder_embeddings)
            self.encoder = make_stack(TransformerEncoder, spec.encoder, dtype)
        else:
            assert spec.decoder is not None and spec.decoder_embeddings is not None
            self.embeddings = TokenEmbeddings(spec.decoder_embeddings)
            self.decoder = make_stack(TransformerDecoder, spec.decoder, dtype)

    def __call__(self, token_ids: ArrayLike, cu_seqlens: ArrayLike) -> NDArray[np.float32]:
        """The hidden state of every token behind the last norm.

        A decoder's token sees itself and those before it, unless the configuration has it see all.

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
        encoder, decoder = self._spec.encoder is not None, self._spec.decoder
        stack: Stack = self.encoder if encoder else self.decoder
        is_causal = decoder is not None and config.is_causal and not decoder.bidirectional
        sequences = Sequences.packed(starts, is_causal, stack._tables)
        if (longest := sequences.longest()) > config.longest:
            raise ValueError(f"{name}: a sequence has {longest} tokens; {config.bound}")
        embeddings = self.encoder_embeddings if encoder else self.embeddings
        x = embeddings.apply(tokens, sequences.positions(), words=self._parameters.get("words"))
        return stack._forward_rows(x, sequences)

    def _products(self) -> dict[str, list[Linear]]:
        if self._spec.encoder is not None:
            return products_of(self.encoder.layers, "encoder.layers")
        return products_of(self.decoder.layers, "decoder.layers")

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"words": (self.config.vocab_size, self.config.hidden_size)} if "words" in self._spec.names else {}

    def _own_made(self, values: Any) -> list[Setting]:
        tables = {name: np.ascontiguousarray(values_of(x), np.float32) for name, x in values.items()}
        return [(self, "_parameters", tables)]

"""Hidden states of models that generate: of a decoder alone, or of T5's encoder, without the head that makes logits."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyattn import _checks
from pyattn.models.config import ModelConfig
from pyattn.models.families import STATE_FAMILIES
from pyattn.models.pretrained import Pretrained


class StateConfig(ModelConfig):
    """A generative model's, of which only one stack of layers is run; is_causal: false makes a decoder an encoder."""

    families = STATE_FAMILIES
    causal = (True, False)


class TokenStates(Pretrained):
    """The last hidden states of GPT-2, Llama, Mistral, Qwen2, Qwen3 or Gemma 3, or of T5's encoder, over packed tokens.

    What files have beside them, such as a head, is passed over. Arguments, attributes and errors are those of
    `Pretrained`.
    """

    _families = STATE_FAMILIES
    _config_class = StateConfig

    def __call__(self, token_ids: ArrayLike, cu_seqlens: ArrayLike) -> NDArray[np.float32]:
        """The hidden state of every token after the last norm.

        A decoder's token sees itself and those before it, unless the configuration has it see all.

        Args:
            token_ids, cu_seqlens: as TextEncoder's, packed.

        Returns:
            (total, hidden_size) float32.

        Raises:
            TypeError, ValueError: as TextEncoder.
        """
        name, config = "TokenStates", self.config
        tokens = _checks.indices(name, "token_ids", token_ids, config.vocab_size)
        _, starts = _checks.packing(name, tokens.shape, cu_seqlens, attention_mask=None, lengths=None)
        decoder = self._spec.decoder
        if decoder is None:
            return self._states(name, self.encoder_embeddings, self.encoder, tokens, starts)
        is_causal = config.is_causal and not decoder.bidirectional
        return self._states(name, self.embeddings, self.decoder, tokens, starts, is_causal)

"""DistilBERT: Sanh et al. 2019 (arXiv:1910.01108)."""

from pyattn.models.families.bert import EMBEDDINGS, TOKEN_HEADS, WORDS, encoder_spec
from pyattn.models.family import Family, Head
from pyattn.models.keys import layer_names
from pyattn.models.spec import Names

_NAMES: Names = {
    **EMBEDDINGS,
    **layer_names(
        "encoder.layers.{}", "transformer.layer.{}",
        self_attn=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        norm1="sa_layer_norm", linear1="ffn.lin1", linear2="ffn.lin2", norm2="output_layer_norm",
    ),
}  # fmt: skip
_KEYS = {
    "hidden_size": ("dim", "hidden_size"), "num_hidden_layers": ("n_layers", "num_hidden_layers"),
    "num_attention_heads": ("n_heads", "num_attention_heads"), "intermediate_size": ("hidden_dim",),
    "hidden_act": ("activation",),
}  # fmt: skip
_DEFAULTS = {
    "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "activation": "gelu",
    "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip

TEXT_FAMILIES = {
    "distilbert": Family(
        build=lambda config: encoder_spec(config, _NAMES),
        prefix="distilbert.",
        defaults=_DEFAULTS,
        keys=_KEYS,
        constants={"layer_norm_eps": 1e-12},
        heads={
            **TOKEN_HEADS,
            "sequence-classification": Head("classifier", dense="pre_classifier", activation="relu", of_sequence=True),
            "masked-lm": Head("vocab_projector", dense="vocab_transform", norm="vocab_layer_norm"),
        },
        tied=(WORDS, "vocab_projector.weight"),
        ignored=("embeddings.position_ids",),
    )
}

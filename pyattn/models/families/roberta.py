"""RoBERTa: Liu et al. 2019 (arXiv:1907.11692); XLM-RoBERTa and CamemBERT differ in their vocabularies."""

from dataclasses import replace

from pyattn.models.families.bert import BERT, TOKEN_HEADS, WORDS, positions_from
from pyattn.models.family import Head
from pyattn.models.keys import integer

_MASKED = Head(
    "lm_head.decoder", dense="lm_head.dense", activation="gelu", norm="lm_head.layer_norm", out_bias="lm_head.bias"
)
_CLASSIFIER = Head("classifier.out_proj", dense="classifier.dense", activation="tanh", of_sequence=True)

XLM_ROBERTA = replace(
    BERT,
    prefix="roberta.",
    defaults={**BERT.defaults, "pad_token_id": 1},
    # positions are counted from after that of padding
    derive=lambda values, sizes: positions_from(integer(values, "pad_token_id", least=0) + 1, sizes),
    heads={**TOKEN_HEADS, "sequence-classification": _CLASSIFIER, "masked-lm": _MASKED},
    tied=(WORDS, "lm_head.decoder.weight"),
    ignored=("embeddings.position_ids", "pooler."),
)

TEXT_FAMILIES = {
    "roberta": replace(XLM_ROBERTA, defaults={**XLM_ROBERTA.defaults, "vocab_size": 50265}),
    "xlm-roberta": XLM_ROBERTA,
    "camembert": XLM_ROBERTA,
}

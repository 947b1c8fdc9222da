"""Records what transformers makes of files that hold a model's tensors otherwise, for tests/models/test_layouts.py.

Run with torch and transformers installed: python -m tests.data.record_layouts
The models are those that record_families.py and record_generative.py recorded: here their tied matrices stand under
other names, or several times, with values of their own.
"""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

from tests.data.record_families import CASES, FOLDER
from tests.data.record_generative import FOLDER as GENERATIVE
from tests.data.record_keys import class_of, outcome

RECORD = Path(__file__).parent / "layouts.json"

# What config.json of facebook/bart-large-cnn says beside the sizes. Its file has model.decoder.embed_tokens.weight and
# none of the other names of this matrix.
BART_LARGE_CNN = {
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 2,
    "extra_pos_embeddings": 0,
    "force_bos_token_to_be_generated": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "num_beams": 4,
    "num_hidden_layers": 2,
    "output_past": True,
    "pad_token_id": 1,
    "prefix": " ",
    "scale_embedding": False,
    "task_specific_params": {"summarization": {"early_stopping": True, "length_penalty": 2.0, "max_length": 142}},
    "transformers_version": "4.7.0.dev0",
    "use_cache": True,
}
SIZES = ("model_type", "vocab_size", "d_model", "encoder_layers", "decoder_layers", "max_position_embeddings")
SIZES += ("encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim")

SHARED, DECODER, ENCODER = (
    "model.shared.weight",
    "model.decoder.embed_tokens.weight",
    "model.encoder.embed_tokens.weight",
)
HEAD = "lm_head.weight"
_SIDES = (SHARED, DECODER, ENCODER, HEAD)
_T5 = ("shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight", HEAD)
# Cases with a tied matrix: the names that it may have, first that which transformers writes
TIED = {
    "bart": _SIDES,
    "mbart": _SIDES,
    "marian": _SIDES,
    "t5": _T5,
    "t5-gated": _T5,
    "whisper": (DECODER, "proj_out.weight"),
    "gpt2": ("transformer.wte.weight", HEAD),
    "llama-tied": ("model.embed_tokens.weight", HEAD),
    "bert-masked-lm": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "roberta-masked-lm": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "distilbert-masked-lm": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    "mpnet-masked-lm": ("mpnet.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "albert-masked-lm": ("albert.embeddings.word_embeddings.weight", "predictions.decoder.weight"),
    "electra-masked-lm": ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    "modernbert-masked-lm": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
    "nomicbert-masked-lm": ("nomic_bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
}
BIASES = {
    "bert-masked-lm": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    "roberta-masked-lm": ("lm_head.bias", "lm_head.decoder.bias"),
    "mpnet-masked-lm": ("lm_head.bias", "lm_head.decoder.bias"),
    "albert-masked-lm": ("predictions.bias", "predictions.decoder.bias"),
    "nomicbert-masked-lm": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
}


def layouts(case, values, tensors):
    """Names of layouts -> config.json and the tensors of each."""
    names = TIED[case]
    given = next(name for name in names if name in tensors)
    matrix, rest = tensors[given], {name: x for name, x in tensors.items() if name not in names}
    own = {name: np.ascontiguousarray(np.roll(matrix, i, axis=0)) for i, name in enumerate(names)}
    found = {f"only {name}": (values, {**rest, name: matrix}) for name in names}
    found["all alike"] = values, {**rest, **dict.fromkeys(names, matrix)}
    found["all their own"] = values, {**rest, **own}
    untied = values | {"tie_word_embeddings": False}
    bias = {BIASES[case][1]: tensors[BIASES[case][0]]} if case in BIASES else {}
    found["all their own, untied"] = untied, {**rest, **own, **bias}
    found["only the first, untied"] = untied, {**rest, names[0]: matrix}
    for first in names if len(names) > 2 else ():
        found[f"without {first}"] = values, {**rest, **{name: x for name, x in own.items() if name != first}}
        found[f"shared and {first}"] = values, {**rest, names[0]: matrix, first: own[first]}
    if case in BIASES:
        plain, of_decoder = BIASES[case]
        others = {name: x for name, x in tensors.items() if name not in BIASES[case]}
        bias = tensors[plain]
        found["bias of the decoder alone"] = values, {**others, of_decoder: bias}
        found["both biases"] = values, {**others, plain: bias, of_decoder: bias[::-1].copy()}
    if case == "bart":
        sizes = {key: values[key] for key in SIZES}
        found["bart-large-cnn"] = {**sizes, **BART_LARGE_CNN}, {**rest, DECODER: matrix}
    if case == "marian":
        apart = values | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 50}
        bias = {"final_logits_bias": np.tile(tensors["final_logits_bias"], 2)[:, :50]}
        larger = {name: np.tile(own[name], (2, 1))[:50] for name in (DECODER, HEAD)}
        found["vocabularies apart"] = apart, {**rest, **bias, ENCODER: matrix, DECODER: larger[DECODER]}
        found["vocabularies apart, own head"] = apart, {**rest, **bias, ENCODER: matrix, **larger}
        untied = apart | {"tie_word_embeddings": False}
        found["vocabularies apart, untied"] = untied, {**rest, **bias, ENCODER: matrix, **larger}
        places = np.sin(np.arange(24 * 16, dtype=np.float32)).reshape(24, 16)
        named = {
            f"model.{side}.embed_positions.weight": places * (1 + i) for i, side in enumerate(("encoder", "decoder"))
        }
        found["own positions"] = values, {**tensors, **named}
        found["own positions of the decoder"] = values, {**tensors, "model.decoder.embed_positions.weight": places}
    if case == "t5":
        bias = np.ones((8, 2), np.float32)
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        found["bias of attention to the encoder"] = values, {**tensors, name: bias}
    if case == "llama-tied":
        found["rotary frequencies"] = values, {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": matrix[0]}
    if case == "gpt2":
        masks = {"transformer.h.0.attn.bias": np.ones((1, 1, 32, 32), np.float32)}
        masks["transformer.h.0.attn.masked_bias"] = np.full((), -3, np.float32)
        found["masks"] = values, {**tensors, **masks}
    return found


def recorded_of(case):
    from tests.support.recorded import recorded

    values, tensors, inputs, _ = recorded(case, FOLDER if case in CASES else GENERATIVE)
    values.pop("generation", None)
    return values, tensors, inputs


def main():
    import transformers

    from tests.support.recorded import write

    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    record = {}
    for case in TIED:
        values, tensors, inputs = recorded_of(case)
        task = CASES[case][0] if case in CASES else ""
        record[case] = {}
        for name, (changed, other) in layouts(case, values, tensors).items():
            with tempfile.TemporaryDirectory() as folder:
                folder = write(Path(folder), changed, other)
                record[case][name] = outcome(class_of(case, inputs), folder, task, inputs, changed)
            print(case, name, record[case][name][0])
    lines = (f"{json.dumps(case)}: {json.dumps(told, separators=(',', ':'))}" for case, told in record.items())
    RECORD.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()

"""Records what transformers makes of every key of config.json, for tests/models/test_keys.py.

Run with torch and transformers installed: python -m tests.data.record_keys [CASE ...]
Of the models that record_families.py and record_generative.py recorded, each key is left out, set to null, to other
values, and to values of other types; what the model then computes is sampled at a few places.
"""

import json
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from tests.data.record_families import CASES, FOLDER, classes_of, is_remote
from tests.data.record_generative import FOLDER as GENERATIVE

RECORD = Path(__file__).parent / "keys.json"
TOKENS, SAMPLES = 12, 8
ABSENT = "(absent)"

_ALIKE = (
    "albert-groups",
    "electra-unprojected",
    "modernbert-biases",
    "vit-unbiased",
    "jina-reglu",
    "jina-ungated",
    "new-unusual",
)
ENCODERS = [case for case in CASES if not CASES[case][0] and case not in _ALIKE]
HEADS = [case for case in CASES if CASES[case][0]]
DECODERS = ["bart", "mbart", "marian", "t5", "t5-gated", "whisper", "gpt2", "llama", "llama-biases", "llama-yarn"]
DECODERS += ["mistral", "qwen2", "qwen2-windows", "qwen3-windows", "gemma3", "gemma3-scaled"]

ACTIVATIONS = ["gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_python_tanh", "gelu_accurate", "quick_gelu"]
ACTIVATIONS += ["gelu_pytorch_tanh", "gelu_10", "relu", "relu2", "relu6", "silu", "swish", "mish", "tanh", "sigmoid"]
ACTIVATIONS += ["linear", "leaky_relu", "swiglu", "geglu", "GELU", "", 3, ["gelu"]]
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation", "activation_function", "classifier_activation")

_ANY = {
    "architectures": [["SomethingElse"], []],
    "auto_map": [{"AutoModel": "modeling.Other"}],
    "attn_implementation": ["sdpa"],
    "chunk_size_feed_forward": [0, 4],
    "dtype": ["float16"],
    "gradient_checkpointing": [True],
    "id2label": [{"0": "a", "1": "b", "2": "c"}, {"0": "a"}, {"x": "a", "y": "b", "z": "c"}, ["a", "b", "c"], {}],
    "is_decoder": [True, False, 1],
    "add_cross_attention": [True, False],
    "is_encoder_decoder": [True, False],
    "label2id": [{"a": 0}],
    "num_labels": [3, 5, 0],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "output_past": [True],
    "per_layer_config": [{"0": {"hidden_act": "relu", "layer_norm_eps": 0.5}}, {}],
    "problem_type": ["regression", "multi_label_classification", "single_label_classification", "other"],
    "pruned_heads": [{}, {"0": [1]}],
    "return_dict": [False],
    "tie_word_embeddings": [True, False, "no", 1],
    "torch_dtype": ["float16", "bfloat16", "other"],
    "torchscript": [True],
    "transformers_version": ["3.0.0", 3],
    "use_bfloat16": [True],
    "use_cache": [True, False],
    "xla_device": [True],
}
_TEXT = {
    "position_embedding_type": ["absolute", "relative_key", "relative_key_query"],
    "pad_token_id": [0, 2, 7, 39, 40, -1, "1"],
    "classifier_dropout": [0.5],
    "summary_type": ["last"],
    "summary_activation": ["tanh"],
    "summary_use_proj": [False],
    "sinusoidal_pos_embds": [True],
    "sinusoidal": [True],
    "gap_size": [1],
    "net_structure_type": [1],
    "embedding_size": [8, 12],
    "inner_group_num": [1, 2],
    "num_hidden_groups": [1, 2, 3],
    "down_scale_factor": [2],
}
_ROPE = {
    "rope_parameters": [
        {},
        {"rope_theta": 77.0},
        {"rope_theta": 77},
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0},
        {"type": "linear", "factor": 2.0, "rope_theta": 77.0},
        {"rope_type": "default", "type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "proportional"},
        {"partial_rotary_factor": 0.5},
        {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
        {"full_attention": {"rope_theta": 77.0}},
        {"full_attention": {"rope_theta": 77.0}, "sliding_attention": {"rope_theta": 7.0}},
        {"rope_theta": None},
        {"rope_theta": "77"},
        {"rope_type": None},
        "default",
    ],
    "rope_scaling": [{"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": 3}, {}, "linear"],
    "rope_theta": [77.0, 77, "77", 0],
    "partial_rotary_factor": [0.5, 1.0],
    "original_max_position_embeddings": [8],
    "rope_interleaved": [True],
}
_IMAGE = {
    "encoder_stride": [8],
    "pooler_act": ["relu"],
    "pooler_output_size": [8],
    "drop_path_rate": [0.5],
    "layerscale_value": [0.1],
    "use_mask_token": [True, False],
    "apply_layernorm": [False],
    "reshape_hidden_states": [False],
    "mlp_ratio": [2, 4, 4.0, 1.5],
    "image_size": [25, [20, 20], [20], [20, 25], 20.0],
    "patch_size": [4, [5, 5], [5, 4], 5.0],
    "use_swiglu_ffn": [True, False],
    "qkv_bias": [True, False, 0],
    "num_register_tokens": [0, 3, 4],
}
_SIDES = {
    "decoder_vocab_size": [40, 50],
    "add_bias_logits": [True, False],
    "add_final_layer_norm": [True, False],
    "normalize_before": [True, False],
    "normalize_embedding": [True, False],
    "static_position_embeddings": [True, False],
    "extra_pos_embeddings": [0, 2],
    "encoder_layerdrop": [0.5],
    "decoder_layerdrop": [0.5],
    "scale_embedding": [True, False, 1],
    "share_encoder_decoder_embeddings": [True, False],
    "hidden_size": [16, 32],
    "num_hidden_layers": [1, 2, 3],
    "num_attention_heads": [2, 4],
    "d_kv": [6, 8],
    "num_key_value_heads": [2, 4],
    "use_weighted_layer_sum": [True],
    "apply_spec_augment": [True],
    "layer_norm_eps": [0.1],
    "layer_norm_epsilon": [0.1],
    "relative_attention_num_buckets": [8, 10],
    "relative_attention_max_distance": [12, 30],
}
_T5 = {
    "feed_forward_proj": [
        *("relu", "gelu", "silu", "tanh", "gated-gelu", "gated-relu", "gated-silu", "gated-gelu_new", "gated"),
        *("a-relu", "gated-gelu-x", ["relu"]),
    ],
    "dense_act_fn": ["relu", "gelu", "gelu_new", "silu", "tanh"],
    "is_gated_act": [True, False],
    "scale_decoder_outputs": [True, False],
    "head_dim": [6, 8],
    "num_layers": [1, 2],
    "num_decoder_layers": [1, 2],
    "vocab_size": [40, 41],
}
_GPT2 = {
    "n_ctx": [16],
    "n_inner": [20, 64],
    "scale_attn_weights": [True, False],
    "scale_attn_by_inverse_layer_idx": [True, False],
    "reorder_and_upcast_attn": [True],
    "hidden_size": [16, 32],
    "num_hidden_layers": [1, 2, 3],
    "num_attention_heads": [2, 4],
    "max_position_embeddings": [16, 32],
    "n_layer": [1, 3],
    "n_head": [4],
    "summary_first_dropout": [0.5],
}
_LLAMA = {
    "attention_bias": [True, False, 1],
    "mlp_bias": [True, False],
    "head_dim": [4, 8, 5],
    "hidden_act": [],
    "layer_types": [
        ["full_attention", "full_attention"],
        ["sliding_attention", "full_attention"],
        ["full_attention", "sliding_attention", "sliding_attention"],
        ["full_attention"],
        ["attention", "attention"],
        ["attention", "attention", "sliding_attention"],
        ["other", "other"],
    ],
    "max_window_layers": [0, 1, 5, 28],
    "num_key_value_heads": [1, 2, 4],
    "pretraining_tp": [2],
    "sliding_window": [3, 4096, 0, 2.0],
    "use_sliding_window": [True, False],
    "max_position_embeddings": [8, 64],
    "num_hidden_layers": [1, 2, 3],
}
_MODERNBERT = {
    "attention_bias": [True, False],
    "classifier_bias": [True, False],
    "classifier_pooling": ["cls", "mean", "max"],
    "decoder_bias": [True, False],
    "deterministic_flash_attn": [True],
    "global_attn_every_n_layers": [1, 2, 3],
    "global_rope_theta": [77.0, 77],
    "layer_types": [["full_attention"] * 4, ["full_attention"], ["attention"] * 4, ["sliding_attention"] * 4],
    "local_attention": [2, 6, 8, 9, 8.0],
    "local_rope_theta": [77.0, -1],
    "mlp_bias": [True, False],
    "norm_bias": [True, False],
    "reference_compile": [True],
    "repad_logits_with_grad": [True],
    "rope_scaling": _ROPE["rope_scaling"],
    "rope_parameters": [*_ROPE["rope_parameters"], {"full_attention": None}, {"sliding_attention": {"factor": 1.0}}],
    "sliding_window": [3, 4],
    "sparse_prediction": [True],
}
_NOMIC = {
    **_ROPE,
    "n_embd": [16, 32],
    "n_layer": [1],
    "head_dim": [8, 4],
    "rotary_emb_base": [77.0, 1000],
    "rotary_emb_interleaved": [True],
    "rotary_emb_fraction": [0.5],
    "activation_function": ["swiglu", "geglu"],
    "prenorm": [True],
    "qkv_proj_bias": [True],
    "use_rms_norm": [True],
}
_NEW = {
    "layer_norm_type": ["layer_norm", "rms_norm", "other"],
    "logn_attention_scale": [True, False],
    "logn_attention_clip1": [True],
    "pack_qkv": [True, False],
    "position_embedding_type": ["rope", "absolute", "alibi"],
    "rope_scaling": [
        {"type": "ntk", "factor": 4.0},
        {"type": "ntk", "factor": 4},
        {"type": "ntk", "factor": 1.0},
        {"type": "ntk", "factor": 0.5},
        {"type": "ntk", "factor": 8.0, "mixed_b": None},
        {"type": "ntk", "factor": 4.0, "mixed_b": 0.75},
        {"rope_type": "linear", "factor": 2.0},
        {"type": "ntk"},
        {},
        "ntk",
    ],
    "rope_theta": _ROPE["rope_theta"],
    "type_vocab_size": [0, 1, 2],
    "unpad_inputs": [True],
    "use_memory_efficient_attention": [True],
}
_JINA = {
    "position_embedding_type": ["absolute", "alibi", "relative_key"],
    "feed_forward_type": ["original", "geglu", "reglu", "swiglu", "other"],
    "emb_pooler": ["mean"],
}
_GEMMA3 = {
    **_LLAMA,
    **_ROPE,
    "attn_logit_softcapping": [2.0],
    "final_logit_softcapping": [3.0, 2, 0.0, True],
    "head_dim": [4, 5, 6],
    "layer_types": [["full_attention"] * 3, ["full_attention"], ["attention"] * 3, ["sliding_attention"] * 3],
    "query_pre_attn_scalar": [6, 16, 0],
    "rope_local_base_freq": [77.0, 77, "77"],
    "rope_parameters": _MODERNBERT["rope_parameters"],
    "sliding_window_pattern": [1, 2, 3, 6],
    "use_bidirectional_attention": [True, False],
}
# Keys of how tokens are chosen belong to generation's options, whose tests are elsewhere.
_OF_GENERATION = {"bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id", "suppress_tokens"}
_OF_GENERATION |= {"forced_bos_token_id", "begin_suppress_tokens", "model_type", "task_specific_params"}


# What may concern a head.
_OF_HEADS = {"layer_norm_eps", "norm_eps", "norm_bias", "decoder_bias", "tie_word_embeddings", "sparse_prediction"}
_OF_HEADS |= {"problem_type", "num_labels", "label2id", "id2label", "seq_classif_dropout", "qa_dropout"}
_OF_HEADS |= {*ACTIVATION_KEYS}
# Models that differ from others of their family in a few keys: what else is walked there.
_VARIANTS = {
    "dinov2-swiglu": {*_IMAGE, "hidden_act"},
    "llama-biases": {"attention_bias", "mlp_bias", "hidden_act"},
    "llama-yarn": {*_ROPE, "max_position_embeddings", "head_dim"},
    "qwen2-windows": {*_LLAMA, "num_attention_heads"},
    "gemma3-scaled": {*_ROPE, "layer_types", "rope_local_base_freq", "sliding_window_pattern"},
    "t5-gated": {*_T5, "tie_word_embeddings", "num_hidden_layers"},
}


def _is_walked(case, key):
    if case in HEADS:
        if not case.endswith(("masked-lm", "sequence-classification")) and key in ACTIVATION_KEYS:
            return False  # of the encoder, or as that of a sequence's class
        return key in _OF_HEADS or key.startswith(("classif", "summary"))
    return case not in _VARIANTS or key in _VARIANTS[case]


def _extras(case, values):
    kind = values["model_type"]
    extras = dict(_ANY)
    if kind in ("bart", "mbart", "marian", "whisper", "t5"):
        extras |= _SIDES | {"pad_token_id": [0, 39, 40, -1, "1"]}
    elif kind == "gpt2":
        extras |= _GPT2
    elif kind in ("llama", "mistral", "qwen2", "qwen3"):
        extras |= _ROPE | _LLAMA
    elif "image_size" in values:
        extras |= _IMAGE
    else:
        extras |= _TEXT
    own = {"modernbert": _MODERNBERT, "nomic_bert": _NOMIC, "t5": _T5, "gemma3_text": _GEMMA3, "new": _NEW}
    own["gte"] = {**_NEW, "rope_parameters": _ROPE["rope_parameters"]}
    return extras | (_JINA if "feed_forward_type" in values else own.get(kind, {}))


def _others(value):
    """Other values of a key, of its own type and of others."""
    if isinstance(value, bool):
        return [not value, int(value), str(value)]
    if isinstance(value, int):
        return [value + 1, float(value), str(value)]
    if isinstance(value, float):
        return [0.125, 0, str(value)]
    if isinstance(value, str):
        return [3, "other"]
    return [3, "other", [], {}]


def changes_of(case, values, config_class):
    """(key, value) pairs; ABSENT stands for a key that is left out."""
    from transformers import GenerationConfig

    told = GenerationConfig()._get_default_generation_params().keys()
    keys = {**values, **config_class().to_dict(), **_extras(case, values)}
    for key in sorted(keys):
        if key in _OF_GENERATION | told or re.match("_|transformers_version$", key) or not _is_walked(case, key):
            continue
        tried = [ABSENT, None] if key in values else [None]
        tried += _extras(case, values).get(key) or _others(values.get(key, keys[key]))
        if key in ACTIVATION_KEYS and key in values:
            tried = [ABSENT, None, *ACTIVATIONS]
        seen = []
        for value in tried:
            if json.dumps(value) not in seen and (key not in values or json.dumps(value) != json.dumps(values[key])):
                seen.append(json.dumps(value))
                yield key, value


def changed(values, key, value):
    return {k: v for k, v in (values | {key: value}).items() if v is None or v != ABSENT}


def sampled(output):
    """A few elements of an array, spread over it."""
    flat = np.asarray(output).reshape(-1)
    return flat[np.linspace(0, len(flat) - 1, SAMPLES).astype(int)]


def _compute(model, task, inputs):
    import torch

    with torch.inference_mode():
        if "0" in inputs:
            return model(torch.from_numpy(inputs["0"]))[0]
        if "prompts" not in inputs:
            result = model(torch.from_numpy(inputs["ids"][3:4, :TOKENS]))
            if task == "question-answering":
                return torch.stack([result[0], result[1]], dim=-1)
            return result[0]
        given = {"input_ids": torch.from_numpy(inputs["prompts"][:1, :7])}
        if "frames" in inputs:
            given = {"input_features": torch.from_numpy(inputs["frames"][:1]).transpose(1, 2)}
        elif "ids" in inputs:
            given = {"input_ids": torch.from_numpy(inputs["ids"][:1])}
        if "frames" in inputs or "ids" in inputs:
            given["decoder_input_ids"] = torch.from_numpy(inputs["prompts"][:1, :7])
        return model(**given)[0]


def outcome(model_class, folder, task, inputs, values):
    """What transformers makes of a config.json: one of four kinds, and outputs or None.

    "value" and outputs; "unexpected" and outputs, where the file has tensors that the model has not; "missing", where
    it lacks some; "error".
    """
    import torch

    (folder / "config.json").write_text(json.dumps(values))
    try:
        torch.manual_seed(0)
        model, told = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        output = _compute(model.eval(), task, inputs)
    except Exception:
        return "error", None
    if told["missing_keys"] or told["mismatched_keys"]:
        return "missing", None
    if not torch.isfinite(output).all():
        return "error", None
    kind = "unexpected" if told["unexpected_keys"] else "value"
    return kind, [float(f"{x:.6f}") for x in sampled(output.numpy())]


def _few(key, kind, told):
    """A few of those values of a key that change nothing, or that transformers refuses; all others."""
    most = len(told) if key in ACTIVATION_KEYS else 2
    alike = [x for x in told if kind == "error" or (kind in ("value", "unexpected") and x[1] == "same")]
    return [x for x in told if x not in alike[most:]]


def class_of(case, inputs):
    """transformers' class for a case."""
    import transformers

    classes = {"sequence-classification": "SequenceClassification", "masked-lm": "MaskedLM"}
    classes |= {"token-classification": "TokenClassification", "question-answering": "QuestionAnswering"}
    if case in CASES and is_remote(case):
        return classes_of(case)[1]
    if case in CASES:
        return getattr(transformers, f"AutoModelFor{classes[CASES[case][0]]}" if CASES[case][0] else "AutoModel")
    kind = "SpeechSeq2Seq" if "frames" in inputs else "Seq2SeqLM" if "ids" in inputs else "CausalLM"
    return getattr(transformers, f"AutoModelFor{kind}")


def main():
    import transformers

    from tests.support.recorded import recorded, write

    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    cases = [(case, FOLDER) for case in ENCODERS + HEADS] + [(case, GENERATIVE) for case in DECODERS]
    for case, home in cases:
        if sys.argv[1:] and case not in sys.argv[1:]:
            continue
        values, tensors, inputs, _ = recorded(case, home)
        values.pop("generation", None)
        task = CASES[case][0] if home == FOLDER else ""
        model_class = class_of(case, inputs)
        with tempfile.TemporaryDirectory() as folder:
            folder = write(Path(folder), values, tensors)
            kind, base = outcome(model_class, folder, task, inputs, values)
            assert kind == "value", (case, kind, base)
            told = {}
            remote = case in CASES and is_remote(case)
            config_class = classes_of(case)[0] if remote else transformers.CONFIG_MAPPING[values["model_type"]]
            for key, value in changes_of(case, values, config_class):
                kind, result = outcome(model_class, folder, task, inputs, changed(values, key, value))
                if result is not None and np.allclose(result, base, rtol=0, atol=2e-6):
                    result = "same"
                told.setdefault(key, {}).setdefault(kind, []).append(value if result is None else [value, result])
            defaults = {key: value for key, value in config_class().to_dict().items() if not isinstance(value, dict)}
            told = {key: {kind: _few(key, kind, given) for kind, given in kinds.items()} for key, kinds in told.items()}
        record[case] = {"base": base, "defaults": {} if task else defaults, "keys": told}
        print(case, sum(len(x) for kinds in told.values() for x in kinds.values()), "changes")
    lines = (f"{json.dumps(case)}: {json.dumps(told, separators=(',', ':'))}" for case, told in record.items())
    RECORD.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()

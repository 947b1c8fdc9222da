"""Every key of config.json of every family, absent, null and of other values: as transformers, or refused by name.

Recorded by tests/data/record_keys.py.
"""

import json

import numpy as np
import pytest

from bench.torch_families import MODEL_TYPES
from pyattn import models
from pyattn.models.families import GENERATIVE_FAMILIES, IMAGE_FAMILIES, TEXT_FAMILIES
from pyattn.models.family import ACTIVATIONS
from tests.data.record_families import CASES, FOLDER
from tests.data.record_generative import FOLDER as GENERATIVE
from tests.data.record_keys import ABSENT, ACTIVATION_KEYS, DECODERS, ENCODERS, HEADS, RECORD, TOKENS, changed, sampled
from tests.support.recorded import recorded, write

pytest.importorskip("safetensors.numpy")

TOLERANCE = 1e-5
FAMILIES = TEXT_FAMILIES | IMAGE_FAMILIES | GENERATIVE_FAMILIES
RECORDED = json.loads(RECORD.read_text())

# What transformers 5 computes and pyattn refuses by name: what its layers lack,
LACKING = {
    *ACTIVATION_KEYS,
    "dense_act_fn",
    "feed_forward_proj",
    "is_decoder",
    "per_layer_config",
    "is_encoder_decoder",
    "use_bidirectional_attention",
}
LACKING |= {"partial_rotary_factor", "rope_parameters", "scale_attn_by_inverse_layer_idx", "layer_types"}
# what no model of the family has, and transformers 5 passes over,
LACKING |= {"attn_logit_softcapping"}
# what older versions of it obeyed, and transformers 5 passes over,
LACKING |= {"position_embedding_type", "pruned_heads", "normalize_before", "normalize_embedding"}
LACKING |= {"add_final_layer_norm", "static_position_embeddings"}
# what Nomic's own code obeys,
LACKING |= {"prenorm", "qkv_proj_bias", "rotary_emb_fraction", "rotary_emb_interleaved", "use_rms_norm"}
LACKING |= {"rotary_emb_base", "n_embd", "n_layer"}
# what the code of GTE and of Arctic-Embed obeys, and models like them might have,
LACKING |= {"layer_norm_type", "logn_attention_scale", "pack_qkv", "rope_scaling", "feed_forward_type"}
# and what two keys say that contradict one another, or values that make no sense.
CONTRADICTORY = {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"}
CONTRADICTORY |= {"sliding_window", "max_position_embeddings"}
SENSELESS = {("pad_token_id", -1), ("rope_theta", 0), ("tie_word_embeddings", "no"), ("tie_word_embeddings", 1)}
SENSELESS |= {("tie_word_embeddings", None), ("scale_decoder_outputs", None), ("is_gated_act", None)}
SENSELESS |= {("final_logit_softcapping", 0.0)}


def computed(model, inputs):
    """What record_keys.py samples, of pyattn's model."""
    if "0" in inputs:
        return model(inputs["0"])
    if "prompts" not in inputs:
        return model(inputs["ids"][3:4, :TOKENS])
    memory = None
    if "frames" in inputs or "ids" in inputs:
        memory = model.encode(inputs["frames" if "frames" in inputs else "ids"][:1])
    return model(inputs["prompts"][:1, :7], memory)


def load(folder, case, **options):
    task = CASES[case][0] if case in CASES else ""
    return models.load_task(folder, task, **options) if task else models.load(folder, **options)


def is_excused(case, key, value, message):
    """Whether a refusal of what transformers computes is meant, and names the key."""
    if key in ACTIVATION_KEYS:
        return value not in tuple(ACTIVATIONS) and f"{key} must be one of" in message
    if key in LACKING:
        return key in message or "rope_type must be" in message or "partial_rotary_factor" in message
    if key in CONTRADICTORY:
        return key in message and ("contradict" in message or "must be" in message)
    return (key, value) in SENSELESS and key in message


def faults_of(case, folder):
    config, tensors, inputs, _ = recorded(case, FOLDER if case in CASES else GENERATIVE)
    config.pop("generation", None)
    write(folder, config, tensors)
    base = np.array(RECORDED[case]["base"])
    for key, kinds in RECORDED[case]["keys"].items():
        for kind, told in kinds.items():
            for value in told:
                value, expected = value if kind in ("value", "unexpected") else (value, None)
                expected = base if isinstance(expected, str) else expected
                (folder / "config.json").write_text(json.dumps(changed(config, key, value)))
                fault = fault_of(case, folder, inputs, key, value, kind, expected)
                if fault:
                    yield key, value, kind, fault


def fault_of(case, folder, inputs, key, value, kind, expected):
    """What is wrong with one change of one key, of which transformers computes what is expected.

    Where transformers fails, a model that loads is no fault: most such keys change nothing, and are of another type.
    """
    options = {}
    try:
        try:
            model = load(folder, case)
        except ValueError as error:
            if kind != "unexpected" or "does not have" not in str(error):
                raise
            assert "strict=False" in str(error)
            options = {"strict": False}
            model = load(folder, case, strict=False)
        if kind == "error":
            return None
        result = sampled(computed(model, inputs))
    except ValueError as error:
        message = str(error)
        named = message.startswith("load: ")
        if kind == "value":
            named = is_excused(case, key, value, message)
        return None if named else f"{type(error).__name__}: {error}"
    if kind == "missing":
        return "loads, although transformers misses tensors"
    if options and not model.unused_tensors:
        return "names no tensors that are not used"
    if not np.abs(result - expected).max() < TOLERANCE:
        return f"is passed over: off by {np.abs(result - expected).max():.2g}"
    return None


def test_every_family_and_task_is_walked():
    families = {recorded(case, FOLDER if case in CASES else GENERATIVE)[0]["model_type"] for case in RECORDED}
    assert families == FAMILIES.keys() - MODEL_TYPES.keys()
    assert RECORDED.keys() == {*ENCODERS, *HEADS, *DECODERS}


@pytest.mark.parametrize("case", RECORDED)
def test_every_key_is_obeyed_or_refused_by_name(case, tmp_path):
    assert not list(faults_of(case, tmp_path))


@pytest.mark.parametrize("case", [case for case, told in RECORDED.items() if told["defaults"]])
def test_defaults_are_those_of_transformers(case):
    config = recorded(case, FOLDER if case in CASES else GENERATIVE)[0]
    family = FAMILIES[config["model_type"]]
    theirs, ours = RECORDED[case]["defaults"], family.defaults
    told = {key: value for key, value in ours.items() if key in theirs and value is not None}
    if config["model_type"] in ("qwen2", "qwen3"):
        assert told.pop("sliding_window") == 4096  # transformers keeps it where use_sliding_window is true
    assert {key: theirs[key] for key in told} == told
    for keys in family.keys.values():
        assert keys[0] in ours


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in MODEL_TYPES])
def test_a_configuration_may_leave_all_to_defaults(model_type):
    kind = models.GenerativeConfig if model_type in GENERATIVE_FAMILIES else models.EncoderConfig
    config = kind.from_dict({"model_type": model_type})
    assert config.hidden_size > 0 and config.layer_norm_eps in (1e-12, 1e-5, 1e-6)


def test_the_walk_sees_a_key_that_is_passed_over(tmp_path, monkeypatch):
    """A fault of each kind is one."""
    monkeypatch.setitem(RECORDED["bert"], "keys", {"layer_norm_eps": {"value": [[0.125, "same"]]}})
    assert [fault[:3] for fault in faults_of("bert", tmp_path)] == [("layer_norm_eps", 0.125, "value")]
    monkeypatch.setitem(RECORDED["bert"], "keys", {"hidden_size": {"value": [[ABSENT, "same"]]}})
    assert [fault[:3] for fault in faults_of("bert", tmp_path)] == [("hidden_size", ABSENT, "value")]
    monkeypatch.setitem(RECORDED["bert"], "keys", {"use_cache": {"missing": [True]}})
    assert [fault[:3] for fault in faults_of("bert", tmp_path)] == [("use_cache", True, "missing")]

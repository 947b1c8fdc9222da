"""Files that hold a model's tensors otherwise: tied ones under any name or several, prefixes, and what is beside them.

What transformers makes of the first is recorded by tests/data/record_layouts.py.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pyattn import SpeechRecognizer, TextGenerator, models
from tests.data.record_families import CASES
from tests.data.record_keys import sampled
from tests.data.record_layouts import DECODER, HEAD, RECORD, SHARED, TIED, layouts, recorded_of
from tests.models.test_keys import computed, load
from tests.support.recorded import write

TOLERANCE = 1e-5
RECORDED = json.loads(RECORD.read_text())


def test_all_layouts_are_recorded():
    for case in TIED:
        values, tensors, _ = recorded_of(case)
        assert layouts(case, values, tensors).keys() == RECORDED[case].keys()


@pytest.mark.parametrize(("case", "layout"), [(case, layout) for case in RECORDED for layout in RECORDED[case]])
def test_tied_tensors_are_used_as_the_file_has_them(case, layout, tmp_path):
    kind, expected = RECORDED[case][layout]
    values, tensors, inputs = recorded_of(case)
    folder = write(tmp_path / "a", *layouts(case, values, tensors)[layout])
    if kind == "missing":
        with pytest.raises(ValueError, match="^load: .*missing tensors"):
            load(folder, case)
        return
    model = load(folder, case)
    assert np.abs(sampled(computed(model, inputs)) - expected).max() < TOLERANCE
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", case)
    np.testing.assert_array_equal(computed(again, inputs), computed(model, inputs))
    if layout.startswith(("only", "all alike")) and case not in CASES:
        assert len(load_file(tmp_path / "saved" / "model.safetensors").keys() & _plain(TIED[case])) == 1


@pytest.mark.parametrize("case", ["bart", "mbart", "marian"])
def test_untied_files_of_transformers_4_share_their_words(case, tmp_path):
    """It wrote the shared matrix once, and the head: transformers 5 draws the missing ones at random."""
    values, tensors, inputs = recorded_of(case)
    head = np.roll(tensors[SHARED], 1, axis=0)
    folder = write(tmp_path / "a", values | {"tie_word_embeddings": False}, {**tensors, HEAD: head})
    expected = load(write(tmp_path / "b", values, {**tensors, HEAD: head}), case)
    np.testing.assert_array_equal(computed(load(folder, case), inputs), computed(expected, inputs))


def test_an_encoder_reads_its_words_under_the_name_of_a_head(tmp_path):
    for case, names in TIED.items():
        if case not in CASES:
            continue
        values, tensors, inputs = recorded_of(case)
        expected = computed(models.load(write(tmp_path / case, values, tensors)), inputs)
        tensors[names[1]] = tensors.pop(names[0])
        model = models.load(write(tmp_path / case, values, tensors))
        np.testing.assert_array_equal(computed(model, inputs), expected)
        model.save_pretrained(tmp_path / "saved")
        np.testing.assert_array_equal(computed(models.load(tmp_path / "saved"), inputs), expected)


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("bart", SHARED, (41, 16)),
        ("bart", DECODER, (40, 15)),
        ("t5", "encoder.embed_tokens.weight", (39, 16)),
        ("gpt2", HEAD, (40, 17)),
        ("bert-masked-lm", "cls.predictions.decoder.weight", (39, 16)),
    ],
)
def test_tied_tensors_of_other_shapes_are_refused(case, name, shape, tmp_path):
    values, tensors, _ = recorded_of(case)
    *_, (_, tensors) = (x for key, x in layouts(case, values, tensors).items() if key == "all their own")
    tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(
        ValueError, match=rf"^load: .*{name.removeprefix('model.')} has shape \({shape[0]}, {shape[1]}\)"
    ):
        load(write(tmp_path, values, tensors), case)


# One case of each kind of model, and prefixes that tools put in front
WRAPPED = (
    "bert",
    "bert-masked-lm",
    "electra-sequence-classification",
    "dinov2",
    "bart",
    "t5",
    "llama",
    "gpt2",
    "whisper",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "0.auto_model.", "module._orig_mod.", "model.module.", "0.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("case", WRAPPED)
def test_prefixes_of_wrappers_are_understood(case, prefix, tmp_path):
    values, tensors, inputs = recorded_of(case)
    expected = computed(load(write(tmp_path, values, tensors), case), inputs)
    wrapped = {prefix + name: x for name, x in tensors.items()}
    np.testing.assert_array_equal(computed(load(write(tmp_path, values, wrapped), case), inputs), expected)
    beside = {**wrapped, "crf.transitions": np.zeros((3, 3), np.float32), "2.linear.weight": np.zeros(3, np.float32)}
    with pytest.raises(
        ValueError, match=r"does not have: 2\.linear\.weight, crf\.transitions; strict=False passes over"
    ):
        load(write(tmp_path, values, beside), case)
    model = load(tmp_path, case, strict=False)
    np.testing.assert_array_equal(computed(model, inputs), expected)
    assert {"2.linear.weight", "crf.transitions"} <= set(model.unused_tensors)
    assert list(model.unused_tensors) == sorted(model.unused_tensors)


def test_what_compilers_put_between_names_is_understood(tmp_path):
    values, tensors, inputs = recorded_of("bert")
    expected = computed(load(write(tmp_path, values, tensors), "bert"), inputs)
    compiled = {name.replace("encoder.layer.1.", "encoder.layer.1._orig_mod."): x for name, x in tensors.items()}
    assert compiled != tensors
    np.testing.assert_array_equal(computed(load(write(tmp_path, values, compiled), "bert"), inputs), expected)


def test_two_models_in_a_file_are_refused(tmp_path):
    values, tensors, _ = recorded_of("bert")
    both = {f"{prefix}{name}": x for name, x in tensors.items() for prefix in ("module.", "")}
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"^load: .*several tensors are embeddings\.LayerNorm\.bias, but for what"):
            load(write(tmp_path, values, both), "bert", strict=strict)


@pytest.mark.parametrize(
    ("case", "name", "shape", "dtype"),
    [
        ("bert", "crf.transitions", (3, 3), np.float32),
        ("bert", "linear.weight", (4, 16), np.float32),  # ColBERT's
        ("bert", "encoder.layer.3.output.dense.weight", (16, 24), np.float32),
        ("bert", "steps", (), np.int64),
        ("bert-token-classification", "crf.transitions", (3, 3), np.float32),
        ("modernbert-masked-lm", "head.dense.bias", (16,), np.float32),
        ("gpt2", "v_head.summary.weight", (1, 16), np.float32),
        ("llama", "model.layers.2.mlp.up_proj.weight", (24, 16), np.float32),
        ("llama", "model.layers.1.self_attn.q_proj.bias", (16,), np.float32),
        ("vit", "decoder.weight", (2, 2), np.float32),
        ("t5", "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", (8, 2), np.float32),
    ],
)
def test_tensors_beside_the_models_are_passed_over_on_request(case, name, shape, dtype, tmp_path):
    values, tensors, inputs = recorded_of(case)
    expected = computed(load(write(tmp_path / "a", values, tensors), case), inputs)
    folder = write(tmp_path / "b", values, {**tensors, name: np.zeros(shape, dtype)})
    short = name.removeprefix("model.")
    with pytest.raises(ValueError, match=rf"^load: .*does not have: (model\.)?{short}; strict=False passes over them"):
        load(folder, case)
    model = load(folder, case, strict=False)
    assert name in model.unused_tensors
    np.testing.assert_array_equal(computed(model, inputs), expected)
    tensors.pop(next(other for other in tensors if other.endswith(".bias") or "norm" in other))
    with pytest.raises(ValueError, match="^load: .*missing tensors"):
        load(write(tmp_path / "b", values, {**tensors, name: np.zeros(shape, dtype)}), case, strict=False)


def test_heads_and_what_is_computed_are_named_as_unused(tmp_path):
    values, tensors, _ = recorded_of("bert-masked-lm")
    model = models.load(write(tmp_path, values, {**tensors, "bert.embeddings.position_ids": np.arange(40)[None]}))
    heads = sorted(name for name in tensors if name.startswith("cls."))
    assert model.unused_tensors == ("bert.embeddings.position_ids", *heads)
    assert models.load_task(tmp_path, "masked-lm").unused_tensors == ("bert.embeddings.position_ids",)
    direct = models.TextEncoder(model.config, tensors)
    assert direct.unused_tensors == tuple(heads)


@pytest.mark.parametrize("strict", ["no", None, 2])
def test_strict_is_a_boolean(strict, tmp_path):
    values, tensors, _ = recorded_of("bert")
    with pytest.raises((TypeError, ValueError), match="^load: strict must be"):
        models.load(write(tmp_path, values, tensors), strict=strict)


def test_texts_and_speech_pass_it_on(tmp_path):
    pytest.importorskip("tokenizers")
    from tests.support.tiny_generator import write_generator
    from tests.support.tiny_whisper import write_whisper

    for kind, folder in (
        (TextGenerator, write_generator(tmp_path / "texts", "llama")),
        (SpeechRecognizer, write_whisper(tmp_path / "speech")),
    ):
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, "v_head.summary.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"does not have: v_head\.summary\.weight; strict=False passes over them"):
            kind.from_pretrained(folder)
        assert kind.from_pretrained(folder, strict=False).model.unused_tensors == ("v_head.summary.weight",)


def test_texts_of_two_vocabularies_are_refused(tmp_path):
    """Only one of them would be read."""
    pytest.importorskip("tokenizers")
    from tests.support.tiny_generator import write_generator

    values, tensors, _ = recorded_of("marian")
    values, tensors = layouts("marian", values, tensors)["vocabularies apart"]
    folder = write_generator(tmp_path, "marian", **values)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="^TextGenerator: the model's two sides have vocabularies of their own"):
        TextGenerator.from_pretrained(folder)


def test_tokens_of_two_vocabularies_are_checked(tmp_path):
    values, tensors, _ = recorded_of("marian")
    model = load(write(tmp_path, *layouts("marian", values, tensors)["vocabularies apart"]), "marian")
    with pytest.raises(ValueError, match=r"inputs must be in \[0, 40\)"):
        model.encode([[45]])
    assert model([[45]], model.encode([[39]])).shape == (1, 1, 50)
    with pytest.raises(ValueError, match=r"token_ids must be in \[0, 50\)"):
        model([[50]], model.encode([[39]]))


def _plain(names):
    return {name.removeprefix("model.").removeprefix("transformer.") for name in names}

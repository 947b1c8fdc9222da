"""Every family against transformers: recorded by tests/data/record_families.py, and anew where it is installed."""

import numpy as np
import pytest

from pyattn import TransformerEncoder, models
from pyattn.layers import LayerConfig
from pyattn.models.pretrained import make_stack
from pyattn.models.spec import StackSpec
from pyattn.precision import to_int8
from tests.data.record_families import CASES, make
from tests.support.marks import portable
from tests.support.recorded import load, recorded, write

pytest.importorskip("safetensors.numpy")
safetensors = pytest.importorskip("safetensors")

TOLERANCE = 1e-5


def largest_difference(model, case, inputs, outputs):
    """Between our results and theirs: packed, padded with a mask, and padded with lengths."""
    if "ids" not in inputs:
        return max(abs(model(inputs[i]) - outputs[i]).max() for i in outputs)
    lengths = inputs["lengths"]
    rows = np.flatnonzero(lengths)  # a sequence without tokens has no class
    ids, lengths = inputs["ids"][rows], lengths[rows]
    live = np.arange(ids.shape[1]) < lengths[:, None]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    packed = model(ids[live], starts)
    np.testing.assert_array_equal(model(ids[live], lengths=lengths), packed)
    if CASES[case][0] == "sequence-classification":
        np.testing.assert_array_equal(model(ids, attention_mask=live), packed)
        return max(abs(packed[i] - outputs[str(row)]).max() for i, row in enumerate(rows))
    for padded in (model(ids, attention_mask=live), model(ids, lengths=lengths)):
        np.testing.assert_array_equal(padded[live], packed)
        assert not padded[~live].any()
    return max(abs(packed[starts[i] : starts[i + 1]] - outputs[str(row)]).max() for i, row in enumerate(rows))


def test_every_family_is_recorded():
    families = {recorded(case)[0]["model_type"] for case in CASES}
    assert families == models.EncoderConfig.families.keys()


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers_as_recorded(case, tmp_path):
    config, tensors, inputs, outputs = recorded(case)
    model = load(write(tmp_path, config, tensors), case)
    assert largest_difference(model, case, inputs, outputs) < TOLERANCE


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_agrees_with_transformers_as_installed(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config, tensors, inputs, outputs = make(case, seed=1)
    model = load(write(tmp_path, config, tensors), case)
    assert largest_difference(model, case, inputs, outputs) < TOLERANCE


@portable
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_matters(case, tmp_path):
    """Each tensor that is read, moved a little, moves the result by far more than the tolerance."""
    config, tensors, inputs, outputs = recorded(case)
    plain = load(write(tmp_path, config, tensors), case)
    taken = plain.encoder._stored().keys() if CASES[case][0] else plain._stored().keys()
    prefix = models.EncoderConfig.families[config["model_type"]].prefix
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if short not in taken or name.endswith(("key.bias", ".k.bias", "k_lin.bias", "k_proj.bias")):
            continue  # a key's bias adds the same to all scores of a query: softmax does not see it
        ramp = np.linspace(0.05, 0.3, tensor.size, dtype=np.float32).reshape(tensor.shape)
        moved = load(write(tmp_path, config, {**tensors, name: tensor + ramp}), case)
        assert largest_difference(moved, case, inputs, outputs) > 20 * TOLERANCE, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded(case, dtype, tmp_path):
    config, tensors, inputs, _ = recorded(case)
    model = load(write(tmp_path, config, tensors), case, dtype=dtype)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", case, dtype=dtype)
    key = next(iter(inputs))
    arguments = (inputs[key],) if "ids" not in inputs else (inputs["ids"][0], [0, inputs["ids"].shape[1]])
    expected = model(*arguments)
    np.testing.assert_array_equal(again(*arguments), expected)
    exact = load(tmp_path, case)(*arguments)
    error = np.linalg.norm(expected - exact) / np.linalg.norm(exact)
    assert error <= {"float32": 0, "bfloat16": 0.05, "int8": 0.08}[dtype]


def test_loads_other_spellings(tmp_path):
    """Nomic BERT's own config.json, before transformers had the family; without the encoder's prefix."""
    config, tensors, inputs, outputs = recorded("nomic")
    other = {
        "model_type": "nomic_bert",
        "n_embd": 16,
        "n_head": 2,
        "n_inner": 24,
        "n_layer": 3,
        "n_positions": 40,
        "activation_function": "swiglu",
        "layer_norm_epsilon": config["layer_norm_eps"],
        "rotary_emb_base": 1000,
        "type_vocab_size": 2,
        "vocab_size": 40,
        "prenorm": False,
    }
    model = load(write(tmp_path, other, tensors), "nomic")
    assert largest_difference(model, "nomic", inputs, outputs) < TOLERANCE


def test_gte_by_its_other_names(tmp_path):
    """Arctic-Embed's config.json, which has the keys of GTE's own code; tensors with the prefix of that code."""
    config, tensors, inputs, outputs = recorded("new")
    prefixed = {f"new.{name}": tensor for name, tensor in tensors.items()}
    for name in ("new", "gte"):
        model = load(write(tmp_path, config | {"model_type": name}, prefixed), "new")
        assert largest_difference(model, "new", inputs, outputs) < TOLERANCE


def test_halves_that_are_swapped_in_files_are_saved_as_they_were(tmp_path):
    config, tensors, *_ = recorded("new")
    models.load(write(tmp_path, config, tensors)).save_pretrained(tmp_path / "saved")
    saved = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(saved[name], tensor)


def test_alibi_goes_on_beyond_the_positions_that_the_model_names(tmp_path):
    config, tensors, inputs, outputs = recorded("jina")
    model = load(write(tmp_path, config | {"max_position_embeddings": 5}, tensors), "jina")
    assert largest_difference(model, "jina", inputs, outputs) < TOLERANCE


def test_labels_are_those_of_the_configuration(tmp_path):
    config, tensors, *_ = recorded("bert-token-classification")
    folder = write(tmp_path, config | {"id2label": {"0": "O", "1": "B-PER"}}, tensors)
    assert models.load_task(folder, "token-classification").labels == ("O", "B-PER", "LABEL_2")


def refused(tmp_path, case, message, error=ValueError, changes=None, task=None, tensors=None):
    config, stored, *_ = recorded(case)
    folder = write(tmp_path, config | (changes or {}), {**stored, **(tensors or {})})
    with pytest.raises(error, match=message):
        models.load_task(folder, task) if task else load(folder, case)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings must be above pad_token_id"),
        ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type must be one of 'absolute'"),
        ("albert", {"inner_group_num": 2}, "inner_group_num must be one of 1, not 2"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types must be 4 of"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}},
            "rope_type must be one of 'def",
        ),
        ("modernbert", {"rope_parameters": 3}, "is not a whole configuration of modernbert"),
        (
            "modernbert",
            {"global_attn_every_n_layers": 0, "layer_types": None},
            "global_attn_every_n_layers must be an integer from 1",
        ),
        ("modernbert", {"local_attention": -5}, "local_attention must be an integer from 0"),
        ("modernbert", {"local_attention": 8.0}, "local_attention must be an integer from 0 .*not 8.0"),
        ("modernbert", {"local_attention": 2**64}, "local_attention must be an integer"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling must be one of 'cls', 'mean', not 'max'"),
        ("modernbert", {"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters must be of 'full_attention' and"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": 1e999}}}, "must be a positive number"),
        ("nomic", {"num_attention_heads": 16, "head_dim": None}, "rotary positions need heads of an even width, not 1"),
        ("nomic", {"num_hidden_layers": 10**13}, "num_hidden_layers is 10000000000000, which is more than any"),
        ("mpnet", {"relative_attention_num_buckets": 3}, "relative_attention_num_buckets must be from 4 to 511"),
        ("mpnet", {"relative_attention_num_buckets": 512}, "relative_attention_num_buckets must be from 4 to 511"),
        ("roberta", {"pad_token_id": -200000}, "pad_token_id must be an integer from 0"),
        ("roberta", {"pad_token_id": 1.0}, "pad_token_id must be an integer from 0 to .*, not 1.0"),
        ("roberta", {"pad_token_id": None}, "pad_token_id must be an integer"),
        ("bert", {"hidden_size": 10**12}, "hidden_size is 1000000000000, which is more than any model's"),
        ("bert", {"hidden_size": 2**30}, "its tensors have .* elements; config.json asks for more"),
        ("bert", {"vocab_size": 2**31 - 1}, "its tensors have .* elements; config.json asks for more"),
        (
            "mpnet",
            {"relative_attention_num_buckets": 511, "num_attention_heads": 16},
            "its tensors have .* elements; config.json asks for more",
        ),
        (
            "bert",
            {"num_hidden_layers": 4096},
            "its tensors have .* elements; config.json asks for more|missing tensors",
        ),
        ("albert", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, which is more"),
        ("dinov2", {"mlp_ratio": 1e-9}, "has shape"),
        ("dinov2-registers", {"num_register_tokens": -1}, "num_register_tokens must be an integer from 0"),
        ("nomic", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved must be one of False"),
        ("nomic", {"rope_parameters": {"rope_theta": -1}}, "rope_theta, .*, must be a positive number, not -1"),
        ("vit", {"image_size": "big"}, "image_size must be a positive integer"),
        ("vit", {"patch_size": None}, "patch_size must be a positive integer, not None"),
        ("vit", {"image_size": 3}, "image_size .* smaller than a patch"),
        ("dinov2", {"mlp_ratio": "4"}, "mlp_ratio must be a positive number, not '4'"),
        ("electra", {"embedding_size": 9}, "has shape"),
        ("bert", {"feed_forward_type": "geglu"}, "feed_forward_type 'geglu' is of models with position_embedding_type"),
        ("jina", {"feed_forward_type": "swiglu"}, "feed_forward_type must be one of 'original', 'geglu', 'reglu', not"),
        (
            "jina",
            {"auto_map": {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}},
            "auto_map names jina-bert-v2-qk-post-norm, whose norms of queries and keys are not supported",
        ),
        ("roberta", {"position_embedding_type": "alibi"}, "position_embedding_type must be one of 'absolute', not"),
        ("new", {"position_embedding_type": "alibi"}, "position_embedding_type must be one of 'rope', 'absolute'"),
        ("new", {"logn_attention_scale": True}, "logn_attention_scale must be one of False, not True"),
        ("new", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type must be one of 'ntk', not"),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.75}}, "rope_scaling has 'mixed_b'; type"),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 0.5}}, "factor must be a number from 1, not 0.5"),
        ("new", {"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters must be one of None, not"),
        ("new", {"type_vocab_size": -1}, "type_vocab_size must be an integer from 0"),
        ("gte", {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_scaling and rope_parameters contradict one"),
        ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type must be one of 'rope', not"),
    ],
)
def test_configurations_that_are_refused(case, changes, message, tmp_path):
    refused(tmp_path, case, f"^load: .*{message}", changes=changes)


def test_heads_that_are_refused(tmp_path):
    refused(
        tmp_path, "bert", "missing tensors of the head for question-answering: qa_outputs", task="question-answering"
    )
    refused(tmp_path, "nomic", "task of a nomic_bert model must be one of", task="question-answering")
    refused(tmp_path, "vit", "a vit model has no head for a task", task="masked-lm")
    wrong = {"classifier.weight": np.zeros((3, 5), np.float32)}
    refused(tmp_path, "bert-token-classification", r"classifier.weight has shape \(3, 5\)", tensors=wrong)


def test_head_tensors_that_are_refused(tmp_path):
    three = {"qa_outputs.weight": np.zeros((3, 16), np.float32), "qa_outputs.bias": np.zeros(3, np.float32)}
    refused(tmp_path, "bert-question-answering", r"qa_outputs\.weight has shape \(3, 16\); \(2, 16\)", tensors=three)
    more = {"cls.predictions.decoder.weight": np.zeros((41, 16), np.float32)}
    refused(tmp_path, "bert-masked-lm", r"decoder\.weight has shape \(41, 16\); \(40, 16\) is needed", tensors=more)
    case = "bert-masked-lm"
    config, tensors, *_ = recorded(case)
    del tensors["cls.predictions.transform.dense.bias"]
    with pytest.raises(ValueError, match=r"missing tensors of the head for masked-lm: cls\.predictions\.transform\.de"):
        load(write(tmp_path, config, tensors), case)
    norm = {"cls.predictions.transform.LayerNorm.weight": np.zeros(3, np.float32)}
    refused(tmp_path, case, r"LayerNorm\.weight has shape \(3,\); \(16,\) is needed", tensors=norm)
    for wrong in (np.zeros(7, np.float32), np.float32(1), np.zeros((0, 16), np.float32)):
        changed = {"classifier.weight": np.asarray(wrong)}
        refused(tmp_path, "bert-token-classification", r"classifier\.weight has shape", tensors=changed)
    refused(
        tmp_path,
        "modernbert-masked-lm",
        "classifier_activation must be one of",
        changes={"classifier_activation": "tanh"},
    )


def test_int8_tensors_anywhere(tmp_path):
    """What is stored as int8 with scales is read as such, or as what it stands for, and is saved again."""
    config, tensors, inputs, outputs = recorded("mpnet")
    for name in ("encoder.relative_attention_bias.weight", "embeddings.word_embeddings.weight"):
        elements, scales = to_int8(tensors[name])
        tensors |= {name: elements, name + "_scale": scales}
    shaped = "encoder.layer.0.attention.attn.o.weight"  # with an axis more than is needed
    tensors[shaped] = tensors[shaped][None]
    for dtype in ("float32", "int8"):
        model = models.load(write(tmp_path, config, tensors), dtype=dtype)
        assert largest_difference(model, "mpnet", inputs, outputs) < 0.5
        model.save_pretrained(tmp_path / dtype)
        again = models.load(tmp_path / dtype, dtype=dtype)
        ids = inputs["ids"][0]
        np.testing.assert_array_equal(again(ids, lengths=[len(ids)]), model(ids, lengths=[len(ids)]))
    norm = "embeddings.LayerNorm.weight"
    tensors |= {norm: np.ones((1, 16), np.int8), norm + "_scale": np.ones(1, np.float32)}
    models.load(write(tmp_path, config, tensors))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_activation_of_a_head_may_be_its_own(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for key in ("hidden_activation", "classifier_activation"):
        for task in ("masked-lm", "sequence-classification"):
            case = f"modernbert-{task}"
            task, family, changes = CASES[case]
            monkeypatch.setitem(CASES, case, (task, family, {**changes, key: "silu"}))
            config, tensors, inputs, outputs = make(case, seed=2)
            assert config[key] == "silu"
            model = load(write(tmp_path, config, tensors), case)
            assert largest_difference(model, case, inputs, outputs) < TOLERANCE
            monkeypatch.undo()


def test_loading_a_state_dict_copies(tmp_path):
    config, tensors, inputs, _ = recorded("bert")
    model = models.load(write(tmp_path, config, tensors))
    ids = inputs["ids"][0]
    expected = model(ids, lengths=[len(ids)])
    state = model.state_dict()
    model.load_state_dict(state)
    for value in state.values():
        value[:] = 0
    np.testing.assert_array_equal(model(ids, lengths=[len(ids)]), expected)
    with pytest.raises(TypeError, match="^TextEncoder.load_state_dict: state_dict must map names to arrays"):
        model.load_state_dict(None)


def test_token_types_of_a_family_without_them_are_not_used(tmp_path):
    config, tensors, inputs, _ = recorded("mpnet")
    model = models.load(write(tmp_path, config, tensors))
    ids = inputs["ids"]
    np.testing.assert_array_equal(model(ids, token_type_ids=np.ones_like(ids)), model(ids))
    with pytest.raises(ValueError, match="token_type_ids has shape"):
        model(ids, token_type_ids=[[1]])


def test_a_pooling_that_is_not_the_familys_is_not_used(tmp_path):
    case = "bert-sequence-classification"
    config, tensors, inputs, outputs = recorded(case)
    model = load(write(tmp_path, config | {"classifier_pooling": "mean"}, tensors), case)
    assert largest_difference(model, case, inputs, outputs) < TOLERANCE


def test_registers_may_be_none(tmp_path):
    config, tensors, inputs, _ = recorded("dinov2-registers")
    del tensors["embeddings.register_tokens"]
    model = models.load(write(tmp_path, config | {"num_register_tokens": 0}, tensors))
    assert model(inputs["0"]).shape == (2, 17, 16)


def test_configurations_compare_and_hash():
    first, second = (models.EncoderConfig.from_dict(recorded("modernbert")[0]) for _ in range(2))
    assert first == second and hash(first) == hash(second)


def test_a_sequence_to_classify_has_tokens(tmp_path):
    case = "roberta-sequence-classification"
    config, tensors, *_ = recorded(case)
    model = load(write(tmp_path, config, tensors), case)
    with pytest.raises(ValueError, match="^TaskModel: sequence 1 has no tokens"):
        model([5, 6], [0, 2, 2])
    assert model(np.zeros(0, int), [0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2],), {}, "go with one of cu_seqlens and lengths; given are none"),
        (([1, 2], [0, 2]), {"lengths": [2]}, "given are cu_seqlens and lengths"),
        (([1, 2],), {"attention_mask": [1, 1]}, "given are attention_mask"),
        (([[1, 2]], [0, 2]), {}, "go with at most one of attention_mask and lengths"),
        (([1, 2],), {"lengths": [1]}, "lengths must be integers that add up to 2"),
        (([[1, 2]],), {"lengths": [3]}, "lengths must be integers of 0 to 2, 1 of them"),
        (([[1, 2]],), {"lengths": [1, 1]}, "lengths must be integers of 0 to 2, 1 of them"),
        (([[1, 2]],), {"attention_mask": [1, 1]}, r"attention_mask has shape \(2,\); token_ids has \(1, 2\)"),
        (([[1, 2]],), {"attention_mask": [[1, 2]]}, "attention_mask must be 0 or 1"),
        (([[[1]]],), {}, r"token_ids has shape \(1, 1, 1\)"),
    ],
)
def test_packing_that_is_refused(arguments, options, message, tmp_path):
    config, tensors, *_ = recorded("bert")
    model = models.load(write(tmp_path, config, tensors))
    with pytest.raises(ValueError, match=f"^TextEncoder: {message}|^TextEncoder: .*{message}"):
        model(*arguments, **options)
    with pytest.raises(TypeError, match="attention_mask has dtype complex128"):
        model([[1, 2]], attention_mask=[[1j, 0]])


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((3, 20, 20), np.float32, ValueError, r"pixel_values has shape \(3, 20, 20\); \(B, 3, height, width\)"),
        ((1, 4, 20, 20), np.float32, ValueError, "shape"),
        ((1, 3, 20, 4), np.float32, ValueError, r"at least one patch, \(5, 5\)"),
        ((1, 3, 20, 20), np.uint8, TypeError, "pixel_values has dtype uint8; real numbers"),
    ],
)
def test_images_that_are_refused(shape, dtype, error, message, tmp_path):
    config, tensors, *_ = recorded("vit")
    model = models.load(write(tmp_path, config, tensors))
    with pytest.raises(error, match=f"^ImageEncoder: .*{message}"):
        model(np.zeros(shape, dtype))
    assert model(np.zeros((0, 3, 20, 20), np.float32)).shape == (0, 17, 16)


def test_dtypes_by_name(tmp_path):
    """Patterns choose, the last that fits; each weight is held and multiplied as it says, and saved so."""
    config, tensors, inputs, _ = recorded("bert")
    folder = write(tmp_path, config, tensors)
    model = models.load(folder, dtype={"*": "int8", "layers.0.*": "bfloat16", "*.linear2": "bfloat16"})
    held = {
        name: str(x.elements.dtype) if hasattr(x, "elements") else str(x.dtype) for name, x in model._held().items()
    }
    for name, dtype in model.weight_dtypes.items():
        assert dtype == ("bfloat16" if name.startswith("layers.0.") or name.endswith("linear2") else "int8")
        weight = f"encoder.{name}" + ("_weight" if name.endswith("in_proj") else ".weight")
        assert held[weight] == {"bfloat16": "uint16", "int8": "int8"}[dtype]
    ids = inputs["ids"][0]
    expected = model(ids, lengths=[len(ids)])
    np.testing.assert_array_equal(models.load(folder, dtype={"*": "int8"})._held().keys(), model._held().keys())
    model.save_pretrained(tmp_path / "saved")
    again = models.load(tmp_path / "saved", dtype={"*": "int8", "layers.0.*": "bfloat16", "*.linear2": "bfloat16"})
    np.testing.assert_array_equal(again(ids, lengths=[len(ids)]), expected)
    for dtypes, message in (
        ({"*.linear1": "int8"}, "no pattern of dtype fits layers.0.self_attn.in_proj"),
        ({"*": "int8", "*.linear1": "float32"}, "bfloat16 and int8 only may be mixed, not float32, int8"),
    ):
        with pytest.raises(ValueError, match=f"^load: .*{message}"):
            models.load(folder, dtype=dtypes)
    with pytest.raises(TypeError, match="^load: dtype must be"):
        models.load(folder, dtype={"*": "int4"})
    for wrong in ("int4", "float64", None, 3):
        with pytest.raises(TypeError, match="^load: dtype must be"):
            models.load(folder, dtype=wrong)


def test_layers_with_sinks_are_refused():
    spec = StackSpec((LayerConfig(16, 2), LayerConfig(16, 2, sinks=True)))
    with pytest.raises(ValueError, match="^load: layers have sinks, which are not read from files or written to them"):
        make_stack(TransformerEncoder, spec, "float32")


def test_weights_that_int8_would_hurt_stay_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr(models.pretrained, "MOST_ROUNDING", 0.01)  # of so narrow ones none moves by more
    config, tensors, inputs, _ = recorded("bert")
    name = "encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][:, 3] *= 40  # one input of all outputs takes the scale for itself
    folder = write(tmp_path, config, tensors)
    model = models.load(folder, dtype="int8")
    assert {name for name, dtype in model.weight_dtypes.items() if dtype != "int8"} == {"layers.1.linear2"}
    ids = inputs["ids"][0]
    exact = models.load(folder)(ids, lengths=[len(ids)])

    def error(dtype):
        return np.linalg.norm(models.load(folder, dtype=dtype)(ids, lengths=[len(ids)]) - exact)

    assert error("int8") < error({"*": "int8"})
    model.save_pretrained(tmp_path / "saved")
    assert models.load(tmp_path / "saved", dtype="int8").weight_dtypes == model.weight_dtypes

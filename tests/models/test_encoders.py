"""BERT against a plain NumPy version, transformers' own, and the real weights; and what it refuses."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from pyattn import models
from pyattn.models import EncoderConfig, TextEncoder
from tests.support.tiny_model import CONFIG, random_tensors, reference_bert, write_json, write_model

LENGTHS = [5, 1, 0, 16, 3]
CU_SEQLENS = np.cumsum([0, *LENGTHS])


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(1)
    return rng.integers(0, CONFIG["vocab_size"], CU_SEQLENS[-1]), rng.integers(0, 2, CU_SEQLENS[-1])


def build(tensors=None, **changes):
    config = {**CONFIG, **changes}
    return TextEncoder(EncoderConfig.from_dict(config), random_tensors(config) if tensors is None else tensors)


def expected(token_ids, token_types):
    """The plain version, one sequence at a time."""
    tensors = random_tensors()
    parts = [
        reference_bert(CONFIG, tensors, token_ids[start:end], token_types[start:end])
        for start, end in pairwise(CU_SEQLENS)
        if end > start
    ]
    return np.concatenate(parts)


def test_agrees_with_the_plain_version(tokens):
    token_ids, token_types = tokens
    hidden = build()(token_ids, CU_SEQLENS, token_types)
    assert hidden.shape == (25, 24) and hidden.dtype == np.float32
    np.testing.assert_allclose(hidden, expected(token_ids, token_types), atol=2e-5, rtol=0)


def test_the_comparison_notices_every_tensor(tokens):
    """Each parameter, shifted a little, moves the result by far more than the tolerance above."""
    token_ids, token_types = tokens
    plain = expected(token_ids, token_types)
    for name, tensor in random_tensors().items():
        if name.endswith("self.key.bias"):
            continue  # adds the same to all scores of a query: softmax does not see it
        moved = {
            **random_tensors(),
            name: tensor + np.linspace(0, 0.1, tensor.size, dtype=np.float32).reshape(tensor.shape),
        }
        assert abs(build(moved)(token_ids, CU_SEQLENS, token_types) - plain).max() > 2e-4, name


def test_token_types_default_to_zero(tokens):
    token_ids, _ = tokens
    model = build()
    zeros = np.zeros_like(token_ids)
    np.testing.assert_array_equal(model(token_ids, CU_SEQLENS), model(token_ids, CU_SEQLENS, zeros))


@pytest.mark.parametrize("cu_seqlens", [[0], [0, 0], [0, 0, 0]])
def test_no_tokens_at_all(cu_seqlens):
    hidden = build()(np.zeros(0, np.int64), cu_seqlens)
    assert hidden.shape == (0, 24) and hidden.dtype == np.float32


@pytest.mark.oracle
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"])
def test_agrees_with_transformers(act, tokens):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    token_ids, token_types = tokens
    theirs = transformers.BertModel(transformers.BertConfig(**CONFIG | {"hidden_act": act}), add_pooling_layer=False)
    missing, unexpected = theirs.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in random_tensors().items()}, strict=False
    )
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    theirs.eval()
    hidden = build(hidden_act=act)(token_ids, CU_SEQLENS, token_types)
    with torch.no_grad():
        for start, end in pairwise(CU_SEQLENS):
            if end > start:
                ids, types = (torch.from_numpy(x[None, start:end]) for x in tokens)
                state = theirs(input_ids=ids, token_type_ids=types).last_hidden_state[0]
                np.testing.assert_allclose(hidden[start:end], state.numpy(), atol=2e-5, rtol=0)


def test_loads_a_directory_with_every_accepted_spelling(tmp_path, tokens):
    """The prefix, TensorFlow's names for LayerNorm, and tensors that are no part of the encoder."""
    token_ids, _ = tokens
    tensors = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in random_tensors().items()
    }
    tensors["bert.embeddings.position_ids"] = np.arange(16, dtype=np.int64)[None]
    tensors["bert.pooler.dense.weight"] = np.zeros((24, 24), np.float32)
    tensors["cls.predictions.bias"] = np.zeros(3, np.float32)
    model = models.load(str(write_model(tmp_path, tensors=tensors)))
    np.testing.assert_array_equal(model(token_ids, CU_SEQLENS), build()(token_ids, CU_SEQLENS))


def test_half_precision_weights_are_widened(tmp_path, tokens):
    token_ids, _ = tokens
    halved = {name: tensor.astype(np.float16) for name, tensor in random_tensors().items()}
    model = models.load(write_model(tmp_path, tensors=halved))
    widened = {name: tensor.astype(np.float32) for name, tensor in halved.items()}
    np.testing.assert_array_equal(model(token_ids, CU_SEQLENS), build(widened)(token_ids, CU_SEQLENS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "opt"}, "model_type must be one of .*'bert', .*'roberta', .*'vit', .*, not 'opt'"),
        ({"model_type": None}, "model_type must be one of .*'bert', .*, not None"),
        ({"hidden_act": "tanh"}, "hidden_act must be one of 'gelu', .*'swish', not 'tanh'"),
        ({"hidden_act": ["gelu"]}, "hidden_act must be one of"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be one of 'absolute', 'alibi', not 'rel",
        ),
        ({"is_decoder": True}, "is_decoder must be one of False, not True"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, not 0"),
        ({"hidden_size": 24.0}, "hidden_size must be a positive integer, not 24.0"),
        ({"vocab_size": "30522"}, "vocab_size must be a positive integer, not '30522'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"num_attention_heads": 5}, "hidden_size 24 must be a multiple of num_attention_heads 5"),
        ({"layer_norm_eps": -1}, "layer_norm_eps must be a number in .*, not -1"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number in .*, not '1e-12'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number in .*, not nan"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(tmp_path, change, message):
    write_json(tmp_path / "config.json", CONFIG | change)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        models.load(tmp_path)


@pytest.mark.parametrize("key", list(CONFIG))
def test_a_field_that_is_null_is_refused(key):
    with pytest.raises(ValueError, match=f"load: config: {key} must be .*, not None"):
        EncoderConfig.from_dict({**CONFIG, key: None})


def test_config_fields_are_kept():
    config = EncoderConfig.from_dict({**CONFIG, "hidden_dropout_prob": 0.1, "position_embedding_type": "absolute"})
    assert CONFIG.items() <= dataclasses.asdict(config).items()
    assert config.source["hidden_dropout_prob"] == 0.1


def test_a_missing_tensor_is_named():
    tensors = random_tensors()
    del tensors["encoder.layer.1.attention.self.key.bias"]
    with pytest.raises(ValueError, match=r"tensors: missing tensors: encoder\.layer\.1\.attention\.self\.key\.bias$"):
        build(tensors)


def test_many_missing_tensors_are_counted():
    words = "embeddings.word_embeddings.weight"
    with pytest.raises(ValueError, match=r"missing tensors: embeddings\.LayerNorm\.bias, .* and 32 more$"):
        build({words: random_tensors()[words]})
    with pytest.raises(ValueError, match=r"tensors: missing tensors: it has none of a model's$"):
        build({})


@pytest.mark.parametrize("name", ["encoder.layer.2.output.dense.bias", "embeddings.position"])
def test_an_extra_tensor_is_named(name):
    with pytest.raises(ValueError, match=rf"tensors that a bert model does not have: {name}; strict=False passes"):
        build(random_tensors() | {name: np.zeros(24, np.float32)})


def test_a_misshapen_tensor_is_named(tmp_path):
    name = "encoder.layer.0.intermediate.dense.weight"
    tensors = random_tensors()
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    with pytest.raises(ValueError, match=rf"model\.safetensors: {name} has shape \(24, 40\); .* asks for \(40, 24\)"):
        models.load(write_model(tmp_path, tensors=tensors))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_model(tmp_path) / name).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("token_ids", "cu_seqlens", "token_types", "error", "message"),
    [
        ([1.0, 2.0], [0, 2], None, TypeError, "token_ids has dtype float64; integers are needed"),
        ([[1, 2]], [0, 2], None, ValueError, r"token_ids of shape \(1, 2\) go with at most one of attention_mask"),
        ([1, -1], [0, 2], None, ValueError, r"token_ids must be in \[0, 48\), not in \[-1, 1\]"),
        ([1, 48], [0, 2], None, ValueError, r"token_ids must be in \[0, 48\), not in \[1, 48\]"),
        ([1, 2], [0, 1], None, ValueError, "cu_seqlens must ascend from 0 to the number of tokens, 2"),
        ([1, 2], [1, 2], None, ValueError, "cu_seqlens must ascend from 0"),
        ([1, 2], [0, 2, 1, 2], None, ValueError, "cu_seqlens must ascend from 0"),
        ([1, 2], [0, 3], None, ValueError, "cu_seqlens must ascend from 0"),
        ([1, 2], [0.0, 2.0], None, TypeError, "cu_seqlens must be integers, not float64"),
        ([1, 2], np.zeros(0, int), None, ValueError, "cu_seqlens must ascend from 0"),
        ([1] * 17, [0, 17], None, ValueError, "a sequence has 17 tokens; the model has positions for 16"),
        ([1, 2], [0, 2], [0], ValueError, r"token_type_ids has shape \(1,\); token_ids has \(2,\)"),
        ([1, 2], [0, 2], [0, 2], ValueError, r"token_type_ids must be in \[0, 2\)"),
    ],
)
def test_bad_calls_are_refused(token_ids, cu_seqlens, token_types, error, message):
    with pytest.raises(error, match=f"^TextEncoder: {message}"):
        build()(token_ids, cu_seqlens, token_types)

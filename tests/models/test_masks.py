"""Attention masks with padding anywhere, and the padding token inside texts, against transformers' encoders as recorded
by tests/data/record_masks.py."""

import numpy as np
import pytest

from pyattn import models
from tests.data.record_families import CASES as FAMILIES
from tests.data.record_masks import CASES, ENCODERS, FILE, MASK, inputs, padding_of
from tests.support.recorded import load, recorded, write

pytest.importorskip("safetensors.numpy")
from safetensors.numpy import load_file

TOLERANCE = 1e-5
LIVE = MASK == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model of a case, and the id of its padding; each is loaded once."""
    made = {}

    def of(case):
        if case not in made:
            config, tensors, _, _ = recorded(case)
            made[case] = load(write(tmp_path_factory.mktemp(case), config, tensors), case), padding_of(config)
        return made[case]

    return of


@pytest.mark.parametrize("kind", ["plain", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_tokens_keep_their_places(case, kind, model):
    encoder, padding = model(case)
    out = encoder(inputs(padding)[kind], attention_mask=MASK)
    if not FAMILIES[case][0]:
        assert not out[~LIVE].any()
        out = out[LIVE]
    assert abs(out - load_file(FILE)[f"{case}.{kind}"]).max() < TOLERANCE


@pytest.mark.parametrize("case", ENCODERS)
def test_the_padding_token_inside_packed_texts(case, model):
    """As in the first two rows, whose masks have no holes."""
    encoder, padding = model(case)
    ids, starts = inputs(padding)["padded"], np.array([0, 14, 21])
    hidden = load_file(FILE)[f"{case}.padded"][:21]
    packed = encoder(ids[:2][LIVE[:2]], starts)
    assert abs(packed - hidden).max() < TOLERANCE
    np.testing.assert_array_equal(encoder(ids[:2][LIVE[:2]], lengths=[14, 7]), packed)
    np.testing.assert_array_equal(encoder(ids[:2], lengths=[14, 7])[LIVE[:2]], packed)
    np.testing.assert_array_equal(encoder(ids[:2], attention_mask=MASK[:2])[LIVE[:2]], packed)


@pytest.mark.parametrize("case", ["bert", "roberta", "mpnet", "modernbert"])
def test_a_row_does_not_depend_on_the_others(case, model):
    encoder, padding = model(case)
    ids = inputs(padding)["padded"]
    out = encoder(ids, attention_mask=MASK)
    for row in range(len(MASK)):
        alone = encoder(ids[row : row + 1], attention_mask=MASK[row : row + 1])[0]
        np.testing.assert_allclose(alone, out[row], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("case", ["bert", "mpnet", "modernbert"])
def test_masks_of_models_of_fewer_bits(case, dtype, tmp_path):
    config, tensors, _, _ = recorded(case)
    encoder = load(write(tmp_path, config, tensors), case, dtype=dtype)
    out, exact = encoder(inputs(0)["plain"], attention_mask=MASK)[LIVE], load_file(FILE)[f"{case}.plain"]
    assert np.linalg.norm(out - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float32, np.float64])
def test_any_dtype_of_zeros_and_ones(dtype, model):
    encoder, padding = model("modernbert")
    ids = inputs(padding)["plain"]
    np.testing.assert_array_equal(
        encoder(ids, attention_mask=MASK.astype(dtype)), encoder(ids, attention_mask=MASK.tolist())
    )


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (MASK * 2, ValueError, "attention_mask must be 0 or 1, not from 0 to 2"),
        (MASK - 1, ValueError, "attention_mask must be 0 or 1, not from -1 to 0"),
        (MASK * 0.5, ValueError, "attention_mask must be 0 or 1, not from 0.0 to 0.5"),
        (np.where(LIVE, 0, -np.inf), ValueError, "attention_mask must be 0 or 1, not from -inf to 0.0"),
        (np.where(LIVE, 1, np.nan), ValueError, "attention_mask must be 0 or 1, not from nan to nan"),
        (MASK.astype(str), TypeError, "attention_mask has dtype <U21; booleans, or numbers 0 and 1 are needed"),
        (MASK[0], ValueError, r"attention_mask has shape \(14,\); token_ids has \(6, 14\)"),
        (MASK[:, None] & MASK[..., None], ValueError, r"attention_mask has shape \(6, 14, 14\); token_ids has"),
    ],
)
def test_other_masks_are_refused(mask, error, message, model):
    encoder, padding = model("bert")
    with pytest.raises(error, match=f"^TextEncoder: {message}"):
        encoder(inputs(padding)["plain"], attention_mask=mask)


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert"])
def test_a_sequence_without_tokens(case, model):
    encoder, padding = model(case)
    ids, mask = inputs(padding)["plain"], MASK.copy()
    mask[2] = 0
    out = encoder(ids, attention_mask=mask)
    assert not out[2].any()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(out[others], encoder(ids[others], attention_mask=MASK[others]), atol=TOLERANCE, rtol=0)
    assert encoder(ids[:0], attention_mask=mask[:0]).shape == (0, 14, 16)
    assert encoder(ids[:, :0], attention_mask=mask[:, :0]).shape == (6, 0, 16)


@pytest.mark.parametrize("case", ["bert-sequence-classification", "modernbert-sequence-classification"])
def test_a_sequence_without_tokens_has_no_class(case, model):
    encoder, padding = model(case)
    mask = MASK.copy()
    mask[4] = 0
    with pytest.raises(ValueError, match="^TaskModel: sequence 4 has no tokens"):
        encoder(inputs(padding)["plain"], attention_mask=mask)


def test_learned_positions_end(model):
    """Places of padding in front have positions of their own; the model has 40."""
    encoder, _ = model("bert")
    ids, mask = np.full((1, 45), 7), np.zeros((1, 45), bool)
    mask[:, 10:40] = True
    assert encoder(ids, attention_mask=mask)[mask].all()
    mask[:, 40] = True
    message = "a sequence has 41 tokens and places of padding; the model has positions for 40"
    with pytest.raises(ValueError, match=f"^TextEncoder: {message}"):
        encoder(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="^TextEncoder: a sequence has 41 tokens; the model has positions for 40"):
        encoder(np.full(41, 7), lengths=[41])


def test_the_padding_token_takes_no_position(model):
    """RoBERTa has 38 positions of tokens that are not padding."""
    encoder, padding = model("roberta")
    ids = np.where(np.arange(60) % 2, 7, padding)
    assert encoder(ids, [0, 60]).shape == (60, 16)
    with pytest.raises(ValueError, match="^TextEncoder: a sequence has 39 tokens; the model has positions for 38"):
        encoder(np.full((1, 39), 7), attention_mask=np.ones((1, 39)))


def test_a_model_that_generates_takes_lengths(tmp_path):
    config, tensors, _, _ = recorded("bart", FILE.parent / "generative")
    bart = models.load(write(tmp_path, config, tensors))
    ids, mask = np.full((1, 3), 5), np.ones((1, 3), bool)
    memory = bart.encode(ids)
    for call in (
        lambda: bart(ids, memory, attention_mask=mask),
        lambda: bart.encode(ids, attention_mask=mask),
        lambda: bart.generate([[5]], memory=memory, attention_mask=mask),
        lambda: bart.stream([[5]], memory=memory, attention_mask=mask),
    ):
        with pytest.raises(TypeError, match="attention_mask"):
            call()

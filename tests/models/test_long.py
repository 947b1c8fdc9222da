"""Rotary positions have no table that ends: sequences beyond max_position_embeddings, as transformers computes them."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


from pyattn import models
from pyattn.models.token_states import TokenStates
from pyattn.tasks.sentence import SentenceEncoder
from tests.data.record_generative import FOLDER as GENERATIVE
from tests.data.record_long import (
    DECODERS,
    ENCODERS,
    FILE,
    LENGTH,
    MAX_SEQ_LENGTH,
    NEW_TOKENS,
    TEXT,
    sampled,
    tokens,
    write_sentence,
)
from tests.support.recorded import recorded, write

RECORD = json.loads(FILE.read_text())
TOLERANCE = 1e-5


@pytest.mark.parametrize("case", ENCODERS)
def test_encoders(case, tmp_path):
    config, tensors, _, _ = recorded(case)
    model = models.load(write(tmp_path, config, tensors))
    assert model.config.max_position_embeddings == 40
    hidden = model(tokens())[0]
    np.testing.assert_allclose(sampled(hidden), RECORD[case]["numbers"], rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(model(tokens()[0], [0, LENGTH]), hidden)


@pytest.mark.parametrize("case", DECODERS)
def test_decoders(case, tmp_path):
    """All at once, in steps, and what is written."""
    config, tensors, _, _ = recorded(case, GENERATIVE)
    model = models.load(write(tmp_path, config, tensors))
    assert model.config.max_position_embeddings == 32
    logits = model(tokens())
    np.testing.assert_allclose(sampled(logits[0]), RECORD[case]["numbers"], rtol=0, atol=TOLERANCE)
    continuation = model.start(batch_size=1, capacity=LENGTH)
    continuation.reorder([0])
    for begin in (0, 30, 31, 60):
        end = {0: 30, 30: 31, 31: 60, 60: LENGTH}[begin]
        np.testing.assert_array_equal(continuation.step(tokens()[:, begin:end]), logits[:, end - 1])
    [result] = model.generate(tokens()[:, :10], max_new_tokens=NEW_TOKENS)
    assert result.tokens.tolist() == RECORD[case]["greedy"]


def test_frequencies_that_change_with_the_length_are_refused(tmp_path):
    config, tensors, _, _ = recorded("llama-dynamic", GENERATIVE)
    folder = write(tmp_path, config, tensors)
    model, states = models.load(folder), TokenStates.from_directory(folder)
    assert model.config.longest == states.config.longest == 32
    for call in (
        lambda: model(tokens()[:, :33]),
        lambda: model.start(batch_size=1, capacity=33).step(tokens()[:, :33]),
        lambda: model.generate(tokens()[:, :10], max_new_tokens=23),
        lambda: states(tokens()[0], [0, LENGTH]),
    ):
        with pytest.raises(ValueError, match=r'the model has positions for 32; rope_type "dynamic", whose'):
            call()
    assert model(tokens()[:, :32]).shape == (1, 32, 40)


@pytest.mark.filterwarnings("ignore:encode.*texts:UserWarning")  # the text is longer still
def test_texts_are_not_cut_where_a_directory_says_more(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_sentence(tmp_path / "model"))
    assert encoder.max_seq_length == MAX_SEQ_LENGTH
    expected = RECORD["sentence"]["numbers"]
    np.testing.assert_allclose(encoder.encode([TEXT])[0], expected, rtol=0, atol=TOLERANCE)
    encoder.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder.from_pretrained(tmp_path / "saved")
    assert again.max_seq_length == MAX_SEQ_LENGTH
    np.testing.assert_array_equal(again.encode([TEXT]), encoder.encode([TEXT]))
    again.max_seq_length = 99
    assert abs(again.encode([TEXT])[0] - expected).max() > 100 * TOLERANCE


def test_what_the_tokenizer_alone_says_is_bounded_by_the_positions(tmp_path):
    folder = write_sentence(tmp_path)
    (folder / "sentence_bert_config.json").unlink()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 500}))
    assert SentenceEncoder.from_pretrained(folder).max_seq_length == 32

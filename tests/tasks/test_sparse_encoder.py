"""Sparse vectors against those that sentence-transformers gave; products with many words against the formula."""

import json
from itertools import pairwise

import numpy as np
import pytest

import pyattn
from pyattn.layers.word_products import WordProducts
from pyattn.tasks.sparse_encoder import SparseEncoder

pytest.importorskip("tokenizers")
pytest.importorskip("scipy")
pytest.importorskip("safetensors")

from tests.support.sparse_vectors import CASES, RECORD, TEXTS, write

pytestmark = pytest.mark.filterwarnings("ignore:encode.*texts:UserWarning")  # TEXTS has one that is cut


def assert_near(found, pairs):
    assert found.dtype == np.float32 and found.shape[0] == len(pairs) and found.has_sorted_indices
    dense, expected = found.toarray(), np.zeros(found.shape)
    for row, words in zip(expected, pairs, strict=True):
        row[[i for i, _ in words]] = [x for _, x in words]
    np.testing.assert_allclose(dense, expected, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_vectors_of_sentence_transformers(name, tmp_path):
    encoder, answers = SparseEncoder.from_pretrained(write(tmp_path / "model", name)), CASES[name]["answers"]
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.words)
    assert_near(vectors, answers["vectors"])
    assert_near(encoder.encode_query(TEXTS), answers["query"])
    assert_near(encoder.encode_document(TEXTS), answers["document"])
    assert_near(encoder.encode(TEXTS, max_active_dims=RECORD["few"]), answers["few"])
    if "web" in answers:
        assert_near(encoder.encode(TEXTS, prompt_name="web"), answers["web"])
    np.testing.assert_allclose(encoder.similarity(vectors, vectors), answers["similarity"], atol=1e-4)


@pytest.mark.parametrize("name", ["max", "sum"])
def test_bits_do_not_depend_on_neighbours(name, tmp_path):
    encoder = SparseEncoder.from_pretrained(write(tmp_path / "model", name))
    texts = [" ".join(np.random.default_rng(i).choice(TEXTS[0].split(), i % 17)) for i in range(200)]
    vectors = encoder.encode(iter(texts), batch_tokens=1000).toarray()
    for batch_tokens in (1, 50):
        np.testing.assert_array_equal(encoder.encode(texts, batch_tokens=batch_tokens).toarray(), vectors)
    for i in (0, 16, 130):
        np.testing.assert_array_equal(encoder.encode([texts[i]]).toarray()[0], vectors[i])


def test_module_of_earlier_releases(tmp_path):
    modules = json.loads(json.dumps(CASES["max"]["files"]["modules.json"]))
    modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    modules[1]["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"
    folder = write(tmp_path / "model", "max", modules=modules, sentence_bert_config={"max_seq_length": 20})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": 17}
    (folder / "1_SpladePooling" / "config.json").write_text(json.dumps(pooling))
    assert_near(SparseEncoder.from_pretrained(folder).encode(TEXTS), CASES["max"]["answers"]["vectors"])


@pytest.mark.parametrize("words", [1, 47, 48, 49, 5000])
@pytest.mark.parametrize("width", [3, 32, 300])
def test_products_of_words(words, width):
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((words, width), np.float32), rng.standard_normal(words, np.float32)
    lengths = [3, 0, 1, 40, 9]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = rng.standard_normal((53, width), np.float32)
    logits = rows.astype(np.float64) @ weight.T + bias
    products = WordProducts(weight, bias)
    found = products.largest(rows, starts)
    largest = np.array([logits[a:b].max(0, initial=-np.inf) for a, b in pairwise(starts)])
    np.testing.assert_allclose(found, largest, atol=1e-4)
    summed = products.summed(rows, starts, np.abs)
    sums = np.array([abs(logits[a:b]).sum(0) for a, b in pairwise(starts)])
    np.testing.assert_allclose(summed, sums, atol=1e-3)
    for i, length in enumerate(lengths):
        part = rows[starts[i] : starts[i + 1]]
        np.testing.assert_array_equal(products.largest(part, np.array([0, length]))[0], found[i])


def test_nothing_and_bad_texts(tmp_path):
    encoder = SparseEncoder.from_pretrained(write(tmp_path / "model", "max"))
    assert encoder.encode([]).shape == (0, 17)
    assert encoder.similarity(encoder.encode([]), encoder.encode(TEXTS)).shape == (0, 6)
    for wrong in ("dog", ["dog", None], None, [b"dog"]):
        with pytest.raises(TypeError, match="encode: texts"):
            encoder.encode(wrong)
    with pytest.raises(ValueError, match="no prompt 'other'"):
        encoder.encode(["dog"], prompt_name="other")
    for most in (0, -1):
        with pytest.raises(ValueError, match="max_active_dims"):
            encoder.encode(["dog"], max_active_dims=most)
    with pytest.raises(ValueError, match="more than 20 tokens"):
        encoder.encode(TEXTS, truncate=False)
    with pytest.raises(TypeError, match="a must be a sparse array, not ndarray"):
        encoder.similarity(np.zeros((1, 17)), encoder.encode(TEXTS))
    with pytest.raises(ValueError, match="a has 16 words, b 17"):
        encoder.similarity(encoder.encode(TEXTS)[:, :16], encoder.encode(TEXTS))
    encoder.max_seq_length = 4
    assert encoder.max_seq_length == 4 and encoder.encode(["dog " * 3]).nnz


def test_what_directories_are_refused(tmp_path):
    def refused(message, **changes):
        with pytest.raises(ValueError, match=message):
            SparseEncoder.from_pretrained(write(tmp_path / "model", "max", **changes))

    refused(
        "holds a SentenceTransformer; use SentenceEncoder",
        config_sentence_transformers={"model_type": "SentenceTransformer"},
    )
    refused("holds a CrossEncoder; use Reranker", config_sentence_transformers={"model_type": "CrossEncoder"})
    refused("model_type 'Other' is not supported", config_sentence_transformers={"model_type": "Other"})
    refused(
        "similarity_fn_name must be one of 'dot', 'cosine'",
        config_sentence_transformers={"similarity_fn_name": "euclidean"},
    )
    refused("pooling_strategy must be one of", pooling={"pooling_strategy": "mean"})
    refused("activation_function must be one of", pooling={"activation_function": "gelu"})
    refused("other is not supported", pooling={"other": 1})
    modules = CASES["max"]["files"]["modules.json"]
    router = "sentence_transformers.sparse_encoder.modules.SparseStaticEmbedding"
    refused("SparseStaticEmbedding is not supported first", modules=[modules[0] | {"type": router}, modules[1]])
    refused("one SpladePooling is needed", modules=modules[:1])
    plain = write(tmp_path / "plain", "bert", config={"architectures": ["BertModel"]})
    with pytest.raises(ValueError, match="masked words, is needed|masked words is needed, not BertModel"):
        SparseEncoder.from_pretrained(plain)
    with pytest.raises(ValueError, match="this directory holds a SparseEncoder; use SparseEncoder"):
        pyattn.SentenceEncoder.from_pretrained(write(tmp_path / "model", "max"))

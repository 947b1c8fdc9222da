"""Vectors of tokens, and scores, against those that sentence-transformers gave; and what is refused."""

import numpy as np
import pytest

import pyattn
from pyattn.tasks.multi_vector import MultiVectorEncoder

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from tests.support.multi_vectors import CASES, DOCUMENTS, QUERIES, vectors, write

pytestmark = pytest.mark.filterwarnings("ignore:encode_.*cut:UserWarning")  # some are


def load(folder, name):
    return MultiVectorEncoder.from_pretrained(write(folder / "model", name))


@pytest.mark.parametrize("name", CASES)
def test_vectors_and_scores_of_sentence_transformers(name, tmp_path):
    encoder = load(tmp_path, name)
    assert encoder.prompts == CASES[name]["prompts"]
    queries, documents = encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)
    for found, expected in ((queries, vectors(name, "queries")), (documents, vectors(name, "documents"))):
        assert [x.shape for x in found] == [x.shape for x in expected]
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == np.float32
            np.testing.assert_allclose(x, y, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity(queries, documents), CASES[name]["scores"], atol=1e-4)


@pytest.mark.parametrize("name", ["fixed", "min", "plain"])
def test_bits_do_not_depend_on_neighbours(name, tmp_path):
    encoder = load(tmp_path, name)
    texts = [" ".join(np.random.default_rng(i).choice(DOCUMENTS[0].split(), i % 9)) for i in range(150)]
    for encode in (encoder.encode_query, encoder.encode_document):
        whole = encode(iter(texts))
        for batch_tokens in (1, 40):
            for x, y in zip(encode(texts, batch_tokens=batch_tokens), whole, strict=True):
                np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(encode([texts[8]])[0], whole[8])


def test_rank(tmp_path):
    encoder = load(tmp_path, "fixed")
    found = encoder.rank(QUERIES[0], DOCUMENTS)
    expected = np.array(CASES["fixed"]["scores"][0])
    assert [x["corpus_id"] for x in found] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose([x["score"] for x in found], np.sort(expected)[::-1], atol=1e-4)
    top = encoder.rank(QUERIES[0], DOCUMENTS, top_k=2, return_documents=True)
    assert [x["text"] for x in top] == [DOCUMENTS[x["corpus_id"]] for x in found[:2]]
    assert encoder.rank(QUERIES[0], []) == []


def test_nothing_and_bad_texts(tmp_path):
    encoder = load(tmp_path, "fixed")
    assert encoder.encode_query([]) == [] and encoder.encode_document([]) == []
    assert encoder.similarity([], encoder.encode_document(DOCUMENTS)).shape == (0, 6)
    assert encoder.similarity(encoder.encode_query(QUERIES), []).shape == (4, 0)
    for wrong in ("dog", ["dog", None], None, [b"dog"]):
        with pytest.raises(TypeError, match="encode_query: queries"):
            encoder.encode_query(wrong)
        with pytest.raises(TypeError, match="encode_document: documents"):
            encoder.encode_document(wrong)
    with pytest.raises(TypeError, match="query must be a str"):
        encoder.rank(None, DOCUMENTS)
    with pytest.raises(TypeError, match=r"rank: documents\[0\] must be a str"):
        encoder.rank("dog", [None])
    with pytest.raises(ValueError, match="no prompt 'other'"):
        encoder.encode_query(["dog"], prompt_name="other")
    with pytest.raises(ValueError, match=r"documents\[2\] has more than 20 tokens"):
        encoder.encode_document(DOCUMENTS, truncate=False)
    with pytest.raises(ValueError, match="maxsim: queries have 7 features, documents 8"):
        encoder.similarity([np.zeros((3, 7), np.float32)], encoder.encode_document(DOCUMENTS))


def test_document_without_vectors(tmp_path):
    """All of its tokens are skipped: it stands behind all others."""
    skipped = {"skiplist_words": ["?", "!", ".", "[CLS]", "[SEP]", "a"]}
    encoder = MultiVectorEncoder.from_pretrained(write(tmp_path / "model", "fixed", **{"2_MultiVectorMask": skipped}))
    found = encoder.encode_document(["?!", "dog"])
    assert [len(x) for x in found] == [0, 1]
    assert encoder.similarity(encoder.encode_query(QUERIES[:1]), found)[0, 0] == -np.inf
    assert [x["corpus_id"] for x in encoder.rank("dog", ["?!", "dog"])] == [1, 0]


def test_what_directories_are_refused(tmp_path):
    def refused(message, name="fixed", **changes):
        with pytest.raises(ValueError, match=message):
            MultiVectorEncoder.from_pretrained(write(tmp_path / name, name, **changes))

    for kind, ours in (("SentenceTransformer", "SentenceEncoder"), ("CrossEncoder", "Reranker")):
        refused(f"this directory holds a {kind}; use {ours}", config_sentence={"model_type": kind})
    refused("model_type 'Other' is not supported", config_sentence={"model_type": "Other"})
    refused("similarity_fn_name must be one of", config_sentence={"similarity_fn_name": "euclidean"})
    growth = CASES["fixed"]["files"]["sentence_bert_config.json"]["query_expansion"]
    for key, value, message in (
        ("strategy", "other", "strategy 'other' is not supported"),
        ("attend", 3, "attend 3 is not supported"),
        ("length", 0, "length must be an integer from 1 to 32"),
        ("length", 33, "length must be an integer from 1 to 32"),
        ("token", "[NONE]", r"has no token '\[NONE\]'"),
        ("other", 1, "other is not supported"),
    ):
        refused(message, sentence_bert={"query_expansion": growth | {key: value}})
    refused("query_length .9. is less than", sentence_bert={"query_length": 9})
    refused("document_length must be a positive integer", sentence_bert={"document_length": 0})
    refused("a length of queries or documents", sentence_bert={"document_length": 1000})
    mask = "2_MultiVectorMask"
    refused("keep_only_token_ids .*not supported", **{mask: {"keep_only_token_ids": [3]}})
    refused("skiplist_words must be a list of strings", **{mask: {"skiplist_words": "?"}})
    refused("skiplist_tasks must be of", **{mask: {"skiplist_tasks": ["other"]}})
    refused(
        "module_input_name must be 'token_embeddings'|reads sentence_embedding",
        **{"3_": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}},
    )
    modules = CASES["fixed"]["files"]["modules.json"]
    pooling = "sentence_transformers.multi_vector_encoder.modules.HierarchicalTokenPooling"
    refused("HierarchicalTokenPooling is not supported", modules=[*modules[:3], modules[3] | {"type": pooling}])
    refused("query_prefix must be a string", "pylate", config_sentence={"query_prefix": 3})
    refused(
        "a model of architecture HF_ColBERT is needed, not ..BertModel",
        "stanford",
        config={"architectures": ["BertModel"]},
    )
    with pytest.raises(ValueError, match="this directory holds a MultiVectorEncoder; use MultiVectorEncoder"):
        pyattn.SentenceEncoder.from_pretrained(write(tmp_path / "model", "fixed"))

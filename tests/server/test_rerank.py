"""POST /rerank, in both shapes: the bits of Reranker.predict, sorted; what is refused."""

import numpy as np
import pytest

import pyattn
from tests.support import rerankers
from tests.support.rerankers import DOCUMENTS, PAIRS
from tests.support.served import client_of, error_of

pytest.importorskip("pyattn.server", exc_type=ImportError)

from pyattn.server import application

pytestmark = pytest.mark.filterwarnings("ignore:.*are cut:UserWarning")

QUERY = PAIRS[0][0]
TEXTS = [*DOCUMENTS, DOCUMENTS[0], ""]
PATHS = ["/rerank", "/v1/rerank", "/v2/rerank"]


def ranked(reranker, **options):
    scores = reranker.predict([(QUERY, text) for text in TEXTS], **options)
    return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]


@pytest.mark.parametrize("path", PATHS)
def test_text_embeddings_inference(client, reranker, path):
    response = client.post(path, json={"query": QUERY, "texts": TEXTS})
    assert response.status_code == 200, response.text
    expected = ranked(reranker)
    assert response.json() == [{"index": i, "score": score} for i, score in expected]
    best = reranker.rank(QUERY, TEXTS)
    assert [(x["corpus_id"], x["score"]) for x in best] == expected
    response = client.post(path, json={"query": QUERY, "texts": TEXTS, "return_text": True})
    assert response.json() == [{"index": i, "score": score, "text": TEXTS[i]} for i, score in expected]


@pytest.mark.parametrize("path", PATHS)
def test_cohere(client, reranker, path):
    expected = ranked(reranker)
    body = {"query": QUERY, "documents": TEXTS, "model": "any"}
    answer = client.post(path, json=body).json()
    assert answer["results"] == [{"index": i, "relevance_score": score} for i, score in expected]
    assert answer["model"] == "pyattn"
    answer = client.post(path, json=body | {"top_n": 2, "return_documents": True}).json()
    assert answer["results"] == [
        {"index": i, "relevance_score": score, "document": {"text": TEXTS[i]}} for i, score in expected[:2]
    ]
    objects = body | {"documents": [{"text": text} for text in TEXTS], "top_n": 100}
    assert client.post(path, json=objects).json()["results"] == [
        {"index": i, "relevance_score": score} for i, score in expected
    ]


def test_raw_scores(client, reranker):
    """As the model's directory says; or logits, or numbers from 0 to 1."""
    for raw, activation in ((None, None), (True, "identity"), (False, "sigmoid")):
        answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "raw_scores": raw}).json()
        assert [(x["index"], x["score"]) for x in answer] == ranked(reranker, activation=activation)
    assert ranked(reranker, activation="identity") != ranked(reranker, activation="sigmoid")


def test_texts_beyond_the_length(client, reranker):
    body = {"query": QUERY, "texts": ["a", "the cat " * 200]}
    assert client.post("/rerank", json=body).status_code == 200
    error = error_of(client.post("/rerank", json=body | {"truncate": False}), 400)
    assert f"pairs[1] has more than {reranker.max_length} tokens" in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "texts", "either texts or documents must be given; neither is there"),
        ({"query": "a", "texts": ["b"], "documents": ["b"]}, "texts", "both are there"),
        ({"texts": ["a"]}, "query", "query is missing"),
        ({"query": None, "texts": ["a"]}, "query", "query is missing"),
        ({"query": 3, "texts": ["a"]}, "query", "query must be a string, not an integer"),
        ({"query": "a", "texts": []}, "texts", "it is empty"),
        ({"query": "a", "texts": None}, "texts", "texts is missing"),
        ({"query": "a", "texts": "b"}, "texts", "texts must be a list of strings, not a string"),
        ({"query": "a", "texts": ["b", None]}, "texts", "texts[1] must be a string, not null"),
        ({"query": "a", "texts": [{"text": "b"}]}, "texts", "texts[0] must be a string, not an object"),
        ({"query": "a", "documents": [{"text": "b", "id": 1}]}, "documents", "documents[0] must be a string, or an"),
        ({"query": "a", "documents": [{"text": 1}]}, "documents", "documents[0].text must be a string"),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n", "top_n must be a positive integer, not 0"),
        ({"query": "a", "documents": ["b"], "return_text": True}, "return_text", "'return_text' is not supported"),
        ({"query": "a", "texts": ["b"], "top_n": 1}, "top_n", "'top_n' is not supported; the keys are query,"),
        ({"query": "a", "texts": ["b"], "raw_scores": "no"}, "raw_scores", "must be true or false, not a string"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(client, body, param, message):
    error = error_of(client.post("/rerank", json=body), 400)
    assert error["type"] == "invalid_request_error" and error["param"] == param and message in error["message"]


def test_too_many_texts_at_once(client):
    for name in ("texts", "documents"):
        error = error_of(client.post("/rerank", json={"query": "a", name: ["b"] * 33}), 413)
        assert error["param"] == name and "33 elements; at most 32" in error["message"]


def test_a_server_without_a_reranker(encoder):
    with client_of(application(encoder)) as client:
        body = {"query": "a", "texts": ["b"]}
        assert "POST /v1/embeddings" in error_of(client.post("/rerank", json=body), 404)["message"]


def test_a_reranker_with_several_scores_is_refused(tmp_path):
    reranker = pyattn.Reranker.from_pretrained(rerankers.write(tmp_path / "model", "roberta"))
    with pytest.raises(ValueError, match="^application: the reranker gives 3 scores for a pair; one is needed"):
        application(reranker=reranker)

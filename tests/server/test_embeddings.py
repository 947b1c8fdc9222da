"""POST /v1/embeddings: the bits of SentenceEncoder.encode, in both encodings; what is refused."""

import base64

import numpy as np
import pytest

from tests.support.served import client_of, error_of

pytest.importorskip("pyattn.server", exc_type=ImportError)

from pyattn.server import application

pytestmark = pytest.mark.filterwarnings("ignore:.*are cut:UserWarning")

TEXTS = ["the cat sat on a mat", "", "find the root of a function.", "Dog", "the " * 30, "l'\u00e9t\u00e9 \U0001f600"]


def vectors_of(response):
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [x["index"] for x in data] == list(range(len(data))) and {x["object"] for x in data} == {"embedding"}
    rows = [x["embedding"] for x in data]
    if isinstance(rows[0], str):
        return np.array([np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in rows])
    return np.array(rows, np.float32)


def same(response, vectors):
    found = vectors_of(response)
    assert found.dtype == vectors.dtype and found.shape == vectors.shape and found.tobytes() == vectors.tobytes()


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_answers_have_the_bits_of_encode(client, encoder, encoding, path):
    response = client.post(path, json={"input": TEXTS, "model": "any", "user": "one", **encoding})
    same(response, encoder.encode(TEXTS))
    answer = response.json()
    assert list(answer) == ["object", "data", "model", "usage"] and answer["object"] == "list"
    tokens = sum(map(len, encoder.token_ids(TEXTS)))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for text in TEXTS:
        same(client.post(path, json={"input": text, **encoding}), encoder.encode([text]))


def test_token_ids_in_place_of_texts(client, encoder):
    ids = encoder.token_ids(TEXTS)
    response = client.post("/v1/embeddings", json={"input": ids})
    same(response, encoder.encode(TEXTS))
    assert response.json()["usage"]["prompt_tokens"] == sum(map(len, ids))
    same(client.post("/v1/embeddings", json={"input": ids[0]}), encoder.encode(TEXTS[:1]))


@pytest.mark.parametrize("dimensions", [1, 7, 24])
def test_dimensions_are_cut_and_made_unit_vectors_again(client, encoder, dimensions):
    response = client.post("/v1/embeddings", json={"input": TEXTS, "dimensions": dimensions})
    vectors = encoder.encode(TEXTS, normalize=True, truncate_dim=dimensions)
    same(response, vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors_of(response), axis=1), 1, rtol=1e-6)


def test_prompts(client, encoder, folder):
    for name in ("query", "place"):
        response = client.post("/v1/embeddings", json={"input": TEXTS, "prompt_name": name})
        same(response, encoder.encode(TEXTS, prompt_name=name))
    with client_of(application(folder, default_prompt_name="place")) as prompting:
        same(prompting.post("/v1/embeddings", json={"input": TEXTS}), encoder.encode(TEXTS, prompt_name="place"))
        response = prompting.post("/v1/embeddings", json={"input": TEXTS, "prompt_name": "query"})
        same(response, encoder.encode(TEXTS, prompt_name="query"))
        ids = encoder.token_ids(TEXTS)  # which are taken as they are
        same(prompting.post("/v1/embeddings", json={"input": ids}), encoder.encode(TEXTS))


def test_null_counts_as_absent(client, encoder):
    nothing = dict.fromkeys(("model", "encoding_format", "dimensions", "user", "prompt_name", "truncate"))
    same(client.post("/v1/embeddings", json={"input": TEXTS, **nothing}), encoder.encode(TEXTS))


def test_texts_beyond_the_length(client, folder, encoder):
    long = "the " * 30
    body = {"input": ["cat", long], "truncate": False}
    error = error_of(client.post("/v1/embeddings", json=body), 400)
    assert error["param"] == "input" and "texts[1] has more than 12 tokens" in error["message"]
    with client_of(application(folder, auto_truncate=False)) as strict:
        error_of(strict.post("/v1/embeddings", json={"input": long}), 400)
        same(strict.post("/v1/embeddings", json={"input": long, "truncate": True}), encoder.encode([long]))


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "input is missing"),
        ({"input": None}, "input", "input is missing"),
        ({"input": []}, "input", "it is empty"),
        ({"input": [[]]}, "input", "input[0] must be a list of token ids, which are integers; it is empty"),
        ({"input": ["a", None]}, "input", "input[1] must be a string, not null"),
        ({"input": ["a", 1]}, "input", "input[1] must be a string, not an integer"),
        ({"input": [1, "a"]}, "input", "input must be a list of token ids"),
        ({"input": [[1], "a"]}, "input", "input[1] must be a list of token ids"),
        ({"input": [1.5]}, "input", "input[0] must be a string, not a number"),
        ({"input": [True]}, "input", "input must be a list of token ids"),
        ({"input": {"a": 1}}, "input", "input must be a string, a list of strings, a list of token ids or a list of"),
        ({"input": 3}, "input", "not an integer"),
        ({"input": [2, 48, 3]}, "input", "has the id 48; the vocabulary is 0 to 47"),
        ({"input": [2, -1, 3]}, "input", "has the id -1; the vocabulary is 0 to 47"),
        ({"input": [2, 10**40]}, "input", "the vocabulary is 0 to 47"),
        ({"input": [2] * 13}, "input", "has 13 tokens; at most 12 are accepted"),
        ({"input": "a", "dimensions": 25}, "dimensions", "dimensions must be an integer from 1 to 24, not 25"),
        ({"input": "a", "dimensions": 0}, "dimensions", "an integer from 1 to 24, not 0"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "an integer from 1 to 24, not a string"),
        ({"input": "a", "dimensions": 8.0}, "dimensions", "an integer from 1 to 24, not a number"),
        ({"input": "a", "dimensions": True}, "dimensions", "an integer from 1 to 24, not a boolean"),
        ({"input": "a", "dimensions": 10**30}, "dimensions", "an integer from 1 to 24, not an integer"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "must be 'float' or 'base64'"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", "must be 'float' or 'base64', not an integer"),
        ({"input": "a", "model": 1}, "model", "model must be a string"),
        ({"input": "a", "user": []}, "user", "user must be a string, not a list"),
        ({"input": "a", "prompt_name": "x"}, "prompt_name", "the names are 'query', 'document', 'place'"),
        ({"input": [2, 3], "prompt_name": "query"}, "prompt_name", "token ids are taken as they are"),
        ({"input": "a", "truncate": 1}, "truncate", "truncate must be true or false, not an integer"),
        ({"input": "a", "input_type": "query"}, "input_type", "'input_type' is not supported; the keys are input,"),
        ({"input": "a", "\n" * 80: 1}, None, "is not supported; the keys are input,"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(client, body, param, message):
    error = error_of(client.post("/v1/embeddings", json=body), 400)
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert message in error["message"]


def test_too_many_texts_at_once(client, encoder):
    same(client.post("/v1/embeddings", json={"input": ["cat"] * 32}), encoder.encode(["cat"] * 32))
    for inputs in (["cat"] * 33, [[2, 3]] * 33):
        error = error_of(client.post("/v1/embeddings", json={"input": inputs}), 413)
        assert error["param"] == "input" and "33 elements; at most 32" in error["message"]


def test_numbers_that_json_lacks(client, encoder):
    encoder.encode_token_ids = lambda ids, **options: np.full((len(ids), 24), np.nan, np.float32)
    error = error_of(client.post("/v1/embeddings", json={"input": "a"}), 500)
    assert error["type"] == "server_error" and "base64" in error["message"]
    found = vectors_of(client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}))
    assert np.isnan(found).all()


def test_a_server_without_an_encoder(reranker):
    with client_of(application(reranker=reranker)) as client:
        assert "POST /rerank" in error_of(client.post("/v1/embeddings", json={"input": "a"}), 404)["message"]

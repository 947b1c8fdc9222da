"""Bodies: bounded before they are parsed, JSON that is strict, and whatever else a client may send."""

import asyncio
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.served import Call, body_of, client_of, error_of, running

pytest.importorskip("pyattn.server", exc_type=ImportError)

from pyattn.server import application

PATHS = ["/v1/embeddings", "/rerank"]
DEEP = 200_000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON that is accepted"),
        (b"{", "not JSON that is accepted"),
        (b'{"input": "a"} x', "not JSON that is accepted"),
        (b'{"input": "a",}', "not JSON that is accepted"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"input":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
        (b'{"input": NaN}', "NaN is no number of JSON"),
        (b'{"input": [1, -Infinity]}', "-Infinity is no number of JSON"),
        (b'{"input": "a", "input": "b"}', "a key stands twice"),
        (b'{"documents": [{"text": "a", "text": "b"}], "query": "c"}', "a key stands twice"),
        (b'{"dimensions": ' + b"9" * 100_000 + b"}", "not JSON that is accepted"),
        (b'{"input": "\xff"}', "not UTF-8 (byte 11)"),
        ('{"input": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"input": "a"}', "not JSON that is accepted"),
        (b"input=a&model=b", "not JSON that is accepted"),
        (b"null", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b"1e999", "must be a JSON object"),
    ],
    ids=lambda x: repr(x[:20]),
)
def test_what_is_no_object_of_json(client, path, body, message):
    error = error_of(client.post(path, content=body), 400)
    assert message in error["message"] and error["code"] == "invalid_json" and len(error["message"]) < 200


@pytest.mark.parametrize("half", ["\\ud800", "\\udc00x", "x\\udfff\\ud800"])
def test_half_a_surrogate_pair_is_no_text(client, half):
    for body in (f'{{"input": "{half}"}}', f'{{"input": ["a", "{half}"]}}', f'{{"input": "a", "user": "{half}"}}'):
        assert "half a surrogate pair" in error_of(client.post("/v1/embeddings", content=body), 400)["message"]
    for body in (f'{{"query": "{half}", "texts": ["a"]}}', f'{{"query": "a", "texts": ["{half}"]}}'):
        assert "half a surrogate pair" in error_of(client.post("/rerank", content=body), 400)["message"]
    error = error_of(client.post("/v1/embeddings", content=f'{{"{half}": 1, "input": "a"}}'), 400)
    assert error["code"] == "unknown_parameter"
    assert client.post("/v1/embeddings", content='{"input": "\\ud83d\\ude00"}').status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["input", "model", "encoding_format", "dimensions", "user", "prompt_name", "truncate", "query", "texts"]
KEYS += ["documents", "top_n", "return_text", "return_documents", "raw_scores", "x"]
LIKELY = st.sampled_from(["a", ["a", "b"], [2, 3], [[2, 3]], "float", "base64", 1, 24, True, None, "query"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), LIKELY | JSON, max_size=5), st.sampled_from(PATHS))
def test_any_object_is_answered_or_refused(client, values, path):
    response = client.post(path, content=json.dumps(values).encode())
    assert response.status_code in (200, 400, 413), (values, response.text)
    if response.status_code != 200:
        error_of(response, response.status_code)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40) | st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode))
def test_any_bytes_are_refused(client, body):
    error_of(client.post("/rerank", content=body), 400)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_beyond_the_bound(encoder, reranker, path):
    with client_of(application(encoder, reranker, payload_limit=1000)) as client:
        chunks = (b" " * 100 for _ in range(11))
        for content in (b" " * 1001, chunks):  # the second without Content-Length
            error = error_of(client.post(path, content=content), 413)
            assert "more than 1000 bytes, which payload_limit allows" in error["message"]
        full = body_of(input="a") + b" " * (1000 - len(body_of(input="a")))
        assert client.post("/v1/embeddings", content=full).status_code == 200
        assert client.post("/v1/embeddings", content=(x for x in (full[:500], full[500:]))).status_code == 200


def test_what_is_beyond_the_bound_is_not_read(encoder):
    """However it is sent: neither is it waited for, nor kept."""

    async def run():
        async with running(application(encoder, payload_limit=1000)) as app:
            call = Call(app, "/v1/embeddings", None, headers=[("Content-Length", "100000000000")])
            assert (await call.answer())[0] == 413
            call = Call(app, "/v1/embeddings", None)
            call.receive({"type": "http.request", "body": b"x" * 600, "more_body": True})
            call.receive({"type": "http.request", "body": b"x" * 600, "more_body": True})
            assert (await call.answer())[0] == 413
            assert (b"connection", b"close") in call.sent[0]["headers"]

    asyncio.run(run())


def test_a_body_that_does_not_end(encoder):
    async def run():
        async with running(application(encoder, body_timeout=0.05)) as app:
            call = Call(app, "/v1/embeddings", None)
            call.receive({"type": "http.request", "body": b"{", "more_body": True})
            status, body = await call.answer()
            assert status == 408 and b"within 0.05 seconds" in body

    asyncio.run(run())


def test_compressed_bodies_are_refused(client):
    headers = {"Content-Encoding": "gzip"}
    error_of(client.post("/rerank", content=gzip.compress(b"{}"), headers=headers), 415)


def test_a_strange_content_length_is_passed_over(encoder):
    async def run():
        async with running(application(encoder)) as app:
            for length in ("-1", "x", "\u00b2", ""):
                headers = [("Content-Length", length)]
                call = Call(app, "/v1/embeddings", body_of(input="a"), headers=headers)
                assert (await call.answer())[0] == 200

    asyncio.run(run())

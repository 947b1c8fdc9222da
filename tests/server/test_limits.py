"""What a server holds to: requests that wait, keys, clients that go, errors of the model, its settings."""

import asyncio
import json
import threading
import warnings

import numpy as np
import pytest

from tests.support.served import Call, Gate, body_of, client_of, error_of, running

pytest.importorskip("pyattn.server", exc_type=ImportError)

import pyattn
from pyattn.server import application

pytestmark = pytest.mark.filterwarnings("ignore:.*are cut:UserWarning")

EMBED = "/v1/embeddings"


async def entered(gate):
    await asyncio.to_thread(gate.entered.acquire)


async def turns():
    """So many turns of the event loop that each request has done what it can."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_requests_beyond_the_queue(encoder):
    async def run():
        async with running(application(encoder, max_concurrent_requests=3)) as app:
            gate = Gate(encoder, "encode_token_ids")
            calls = [Call(app, EMBED, body_of(input=text)) for text in ("cat", "dog", "mat")]
            await entered(gate)
            beyond = Call(app, EMBED, body_of(input="more"))
            status, body = await beyond.answer()
            error = json.loads(body)["error"]
            assert status == 429 and error["type"] == "rate_limit_error" and error["code"] == "rate_limit_exceeded"
            assert "3 requests are waiting already" in error["message"]
            assert (b"retry-after", b"1") in beyond.sent[0]["headers"]
            health = Call(app, "/health", method="GET")  # which is no work
            assert (await health.answer())[0] == 200
            gate.open()
            assert [(await call.answer())[0] for call in calls] == [200] * 3
            assert (await Call(app, EMBED, body_of(input="more")).answer())[0] == 200

    asyncio.run(run())


def test_bodies_that_wait_count_too(encoder):
    async def run():
        async with running(application(encoder, max_concurrent_requests=1)) as app:
            slow = Call(app, EMBED, None)
            await asyncio.sleep(0)
            assert (await Call(app, EMBED, body_of(input="a")).answer())[0] == 429
            slow.receive({"type": "http.request", "body": body_of(input="a"), "more_body": False})
            assert (await slow.answer())[0] == 200

    asyncio.run(run())


def test_the_work_of_a_client_that_goes_is_dropped(encoder, monkeypatch):
    monkeypatch.setattr("pyattn.server.service._LISTEN_AFTER", 0.0)

    async def run():
        async with running(application(encoder, max_concurrent_requests=3)) as app:
            gate = Gate(encoder, "encode_token_ids")
            first = Call(app, EMBED, body_of(input="cat"))
            await entered(gate)
            gone = Call(app, EMBED, body_of(input=["dog"] * 20))
            stays = Call(app, EMBED, body_of(input=["mat"] * 3))
            await turns()  # until clients are listened for
            gone.leave()
            assert (await gone.answer())[0] == 499
            room = Call(app, EMBED, body_of(input="mat"))  # in its place
            gate.open()
            assert [(await call.answer())[0] for call in (first, stays, room)] == [200] * 3
            assert gate.calls[0] == 1 and sum(gate.calls[1:]) == 4

            unread = Call(app, EMBED, None)
            unread.leave()  # before its body has come
            assert (await unread.answer())[0] == 499

    asyncio.run(run())


def test_a_cancelled_request_is_dropped_too(encoder):
    """As servers do that stop before all is answered."""

    async def run():
        async with running(application(encoder)) as app:
            gate = Gate(encoder, "encode_token_ids")
            first = Call(app, EMBED, body_of(input="cat"))
            await entered(gate)
            second = Call(app, EMBED, body_of(input="dog"))
            await turns()
            second.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second.task
            gate.open()
            assert (await first.answer())[0] == 200
            assert (await Call(app, EMBED, body_of(input=["mat", "cat"])).answer())[0] == 200
            assert gate.calls == [1, 2]

    asyncio.run(run())


def test_what_was_submitted_is_computed_before_the_end(encoder):
    async def run():
        async with running(application(encoder)) as app:
            gate = Gate(encoder, "encode_token_ids")
            calls = [Call(app, EMBED, body_of(input=text)) for text in ("cat", "dog")]
            await entered(gate)
            calls.append(Call(app, EMBED, body_of(input="mat")))
            await turns()
            asyncio.get_running_loop().call_later(0.05, gate.open)
        assert [(await call.answer())[0] for call in calls] == [200] * 3
        assert not any(thread.name == "pyattn-server" for thread in threading.enumerate())
        for path in (EMBED, "/health"):  # of an application that has ended
            call = Call(app, path, body_of(input="a"), method="POST" if path == EMBED else "GET")
            assert (await call.answer())[0] == 503

    asyncio.run(run())


def test_no_thread_begins_before_the_server(encoder, reranker):
    before = threading.active_count()
    app = application(encoder, reranker)
    assert threading.active_count() == before
    for _ in range(2):  # it may be started again
        with client_of(app) as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert any(thread.name == "pyattn-server" for thread in threading.enumerate())


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError("secret"), KeyError("secret")])
def test_a_failure_is_told_without_its_insides(encoder, error, caplog):
    with client_of(application(encoder)) as client:

        def fail(*arguments, **options):
            raise error

        right, encoder.encode_token_ids = encoder.encode_token_ids, fail
        told = error_of(client.post(EMBED, json={"input": "a"}), 500)
        assert told["type"] == "server_error" and "secret" not in told["message"] and "secret" in caplog.text
        encoder.encode_token_ids = right
        assert client.post(EMBED, json={"input": "a"}).status_code == 200


def test_who_shares_a_batch_with_a_mistake_is_answered(encoder):
    async def run():
        async with running(application(encoder)) as app:
            gate = Gate(encoder, "encode_token_ids")
            first = Call(app, EMBED, body_of(input="cat"))
            await entered(gate)
            inputs = [[2, 4, 3], [2, 99, 3], [2, 5, 3]]
            calls = [Call(app, EMBED, body_of(input=ids)) for ids in inputs]
            calls += [Call(app, EMBED, body_of(input=text, truncate=False)) for text in ("cat", "the " * 30, "dog")]
            await turns()
            gate.open()
            assert (await first.answer())[0] == 200
            assert [(await call.answer())[0] for call in calls] == [200, 400, 200] * 2

    asyncio.run(run())


def test_batches_hold_whole_requests_up_to_the_bound(encoder):
    async def run():
        async with running(application(encoder, max_batch_tokens=10)) as app:
            gate = Gate(encoder, "encode_token_ids")
            texts = ["the cat", ["dog"] * 2, "a", ["the cat sat on a mat"] * 4, "mat", "dog"]
            calls = [Call(app, EMBED, body_of(input=texts[0]))]
            await entered(gate)
            for text in texts[1:]:
                calls.append(Call(app, EMBED, body_of(input=text)))
                await turns()
            gate.open()
            for call, text in zip(calls, texts, strict=True):
                vectors = encoder.encode([text] if isinstance(text, str) else text)
                status, body = await call.answer()
                found = np.array([x["embedding"] for x in json.loads(body)["data"]], np.float32)
                assert status == 200 and found.tobytes() == vectors.tobytes()
            # 4 tokens; 6 and 3; 32, which are one request; 3 and 3
            assert gate.calls[:4] == [1, 3, 4, 2]

    asyncio.run(run())


def test_clients_that_come_again_are_waited_for(encoder):
    """As many as there were when the last batch ended; a lone one waits for nobody."""

    async def run():
        async with running(application(encoder, max_wait_ms=1e6)) as app:
            for text in ("cat", "dog"):
                assert (await Call(app, EMBED, body_of(input=text)).answer())[0] == 200
            gate = Gate(encoder, "encode_token_ids")
            first = Call(app, EMBED, body_of(input="cat"))
            await entered(gate)
            others = [Call(app, EMBED, body_of(input="dog")) for _ in range(2)]
            await turns()
            gate.open()
            await first.answer()
            await asyncio.sleep(0.05)
            assert not any(call.task.done() for call in others)  # for there were 3
            third = Call(app, EMBED, body_of(input="mat"))
            assert [(await call.answer())[0] for call in (*others, third)] == [200] * 3
            assert gate.calls == [1, 3]
            long = Call(app, EMBED, body_of(input=["the cat sat on a mat " * 40] * 32))  # enough without others
            assert (await long.answer())[0] == 200

    asyncio.run(run())


def test_the_api_key(encoder):
    body = {"input": "a"}
    with client_of(application(encoder, api_key="secret-1")) as client:
        for given in (
            None,
            "",
            "Bearer",
            "Bearer secret-2",
            "Bearer secret-1x",
            "Basic secret-1",
            "secret-1",
            "Bearer \u00e9",
        ):
            headers = {} if given is None else {"Authorization": given.encode("latin-1")}
            for send in (
                lambda headers: client.post(EMBED, json=body, headers=headers),
                lambda headers: client.get("/info", headers=headers),
            ):
                response = send(headers)
                error = error_of(response, 401)
                assert error["type"] == "authentication_error" and error["code"] == "invalid_api_key"
                assert "Authorization: Bearer KEY" in error["message"] and "secret" not in response.text
                assert response.headers["WWW-Authenticate"] == "Bearer"
        for given in ("Bearer secret-1", "bearer secret-1", "Bearer  secret-1 "):
            assert client.post(EMBED, json=body, headers={"Authorization": given}).status_code == 200
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200


def test_paths_and_methods_that_there_are_not(client):
    for path in ("/", "/v1/chat/completions", "/rerank/x"):
        assert "POST /v1/embeddings" in error_of(client.post(path, json={}), 404)["message"]
    for method, path in (("GET", EMBED), ("DELETE", "/rerank"), ("POST", "/health")):
        response = client.request(method, path)
        assert method in error_of(response, 405)["message"] and response.headers["Allow"]


def test_facts(encoder, reranker, folder, reranker_folder):
    with client_of(application(folder, reranker_folder, max_batch_tokens=99, auto_truncate=False)) as client:
        facts = client.get("/info").json()
        assert facts["embedding"] == {
            "model_id": "tiny-embedder",
            "dimensions": 24,
            "max_input_length": 12,
            "pooling": "mean",
            "similarity": "cosine",
            "prompt_names": list(encoder.prompts),
            "default_prompt_name": None,
        }
        assert facts["reranker"]["max_input_length"] == reranker.max_length
        assert (facts["version"], facts["max_batch_tokens"]) == (pyattn.__version__, 99)
        assert facts["auto_truncate"] is False and facts["threads"] == pyattn.get_num_threads()
        models = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["tiny-embedder", "tiny-reranker"]
        assert client.post(EMBED, json={"input": "a"}).json()["model"] == "tiny-embedder"
    with client_of(application(encoder, served_model_name="mine")) as client:
        assert client.post(EMBED, json={"input": "a", "model": "any"}).json()["model"] == "mine"


def test_metrics(client):
    from prometheus_client.parser import text_string_to_metric_families

    for body in ({"input": "a"}, {"input": ["a", "b", "c"]}, {}):
        client.post(EMBED, json=body)
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["pyattn_requests_total", EMBED, "200"] == 2 and samples["pyattn_requests_total", EMBED, "400"] == 1
    assert samples["pyattn_request_seconds_count", EMBED] == 3
    assert samples["pyattn_batch_texts_sum",] == 6 and samples["pyattn_batch_tokens_sum",] == 18  # two of the start
    assert samples["pyattn_requests_in_flight",] == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_batch_tokens": 0}, ValueError, "max_batch_tokens must be a positive integer"),
        ({"max_concurrent_requests": 1.5}, TypeError, "max_concurrent_requests must be a positive integer"),
        ({"payload_limit": "2MB"}, TypeError, "payload_limit must be a positive integer"),
        ({"auto_truncate": "no"}, TypeError, "auto_truncate must be"),
        ({"api_key": ""}, ValueError, "api_key must be of printable ASCII"),
        ({"api_key": "\u00e9"}, ValueError, "api_key must be of printable ASCII"),
        ({"api_key": 3}, TypeError, "api_key must be a str or None, not int"),
        ({"max_wait_ms": -1}, ValueError, "max_wait_ms must be a number from 0"),
        ({"body_timeout": None}, TypeError, "body_timeout must be a number, not NoneType"),
        ({"body_timeout": float("nan")}, ValueError, "body_timeout must be a number from 0"),
        ({"default_prompt_name": "x"}, ValueError, "there is no prompt 'x' for default_prompt_name; the names are"),
        ({"workers": 2}, TypeError, "there is no setting 'workers'; the names are max_batch_tokens,"),
        ({"reranker": 3}, TypeError, "reranker must be a Reranker or a path, not int"),
        ({"encoder": None}, ValueError, "give an encoder, a reranker or both"),
        ({"encoder": len}, TypeError, "encoder must be a SentenceEncoder or a path"),
    ],
)
def test_wrong_settings(encoder, settings, error, message):
    with pytest.raises(error, match=f"^application: .*{message}"):
        application(**{"encoder": encoder, **settings})


def test_the_prompt_of_the_encoder_must_be_there(encoder):
    encoder.default_prompt_name = "gone"
    with pytest.raises(ValueError, match="there is no prompt 'gone'"), client_of(application(encoder)):
        pass


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(ImportError, match=r'^pyattn.server needs the package orjson: pip install "pyattn\[serve\]"'):
        importlib.reload(sys.modules["pyattn.server"])


def test_nothing_is_said_of_texts_that_are_cut_more_than_once(encoder):
    with client_of(application(encoder)) as client, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert client.post(EMBED, json={"input": "the " * 30}).status_code == 200
    assert len([x for x in said if "are cut" in str(x.message)]) <= 1

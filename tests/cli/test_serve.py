"""`pyattn serve`: its arguments, and what it hands to the server."""

import signal

import pytest

from pyattn import cli
from tests.support.command import assert_one_line_error

pytest.importorskip("uvicorn")
pytest.importorskip("pyattn.server", exc_type=ImportError)


@pytest.fixture
def started(monkeypatch):
    """What the server would be started with."""
    calls = []
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("uvicorn.run", lambda application, **options: calls.append(options))
    monkeypatch.delenv("PYATTN_API_KEY", raising=False)
    yield calls
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def made(monkeypatch):
    """What the application would be made with."""
    calls = []

    def application(*arguments, **settings):
        calls.append((arguments, settings))

    monkeypatch.setattr("pyattn.server.application", application)
    return calls


DEFAULTS = {
    "dtype": "float32",
    "api_key": None,
    "served_model_name": None,
    "default_prompt_name": None,
    "auto_truncate": True,
    "max_batch_tokens": 16384,
    "max_concurrent_requests": 512,
    "max_client_batch_size": 32,
    "payload_limit": 2_000_000,
}


def test_defaults_are_those_of_the_application(run, started, made, model):
    from pyattn.server.settings import Settings

    assert run("serve", "--model", model) == (0, "", "")
    assert made == [((model, None), DEFAULTS)]
    assert (started[0]["host"], started[0]["port"]) == ("127.0.0.1", 8000)
    settings = Settings()
    assert {name: getattr(settings, name) for name in DEFAULTS if name != "dtype"} | {"dtype": "float32"} == DEFAULTS


def test_arguments_reach_the_application(run, started, made, monkeypatch):
    given = "--reranker R --dtype int8 --served-model-name N --default-prompt-name P --no-auto-truncate "
    given += "--max-batch-tokens 1 --max-concurrent-requests 2 --max-client-batch-size 3 --payload-limit 4KB --port 0"
    monkeypatch.setenv("PYATTN_API_KEY", "from environment")
    assert run("serve", *given.split(), "--host", "::1") == (0, "", "")
    changed = {"dtype": "int8", "served_model_name": "N", "default_prompt_name": "P", "auto_truncate": False}
    changed |= {"max_batch_tokens": 1, "max_concurrent_requests": 2, "max_client_batch_size": 3, "payload_limit": 4000}
    assert made == [((None, "R"), DEFAULTS | changed | {"api_key": "from environment"})]
    assert (started[0]["host"], started[0]["port"]) == ("::1", 0)
    run("serve", "--model", "M", "--api-key", "from argument")
    assert made[1][1]["api_key"] == "from argument"


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["--port", "65536"], "argument --port: must be an integer from 0 to 65535, not '65536'"),
        (["--port", "http"], "argument --port: must be an integer from 0 to 65535, not 'http'"),
        (["--payload-limit", "0"], "argument --payload-limit: must be a number of bytes, as 2MB or 500000, not '0'"),
        (["--payload-limit", "2 TB"], "argument --payload-limit: must be a number of bytes"),
        (["--max-batch-tokens", "-1"], "argument --max-batch-tokens: must be a positive integer, not '-1'"),
    ],
)
def test_arguments_that_do_not_parse_are_one_line(arguments, beginning, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["serve", *arguments])
    assert_one_line_error((exit.value.code, *capsys.readouterr()), f"pyattn serve: {beginning}")


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("2MB", 2_000_000), ("2MiB", 2**21), ("1 gb", 10**9)])
def test_sizes(run, started, made, text, size):
    run("serve", "--model", "M", "--payload-limit", text)
    assert made[0][1]["payload_limit"] == size


def test_errors_are_one_line(run, started, model, tmp_path):
    assert_one_line_error(run("serve"), "pyattn serve: give --model, --reranker or both (see pyattn serve --help)")
    assert_one_line_error(run("serve", "--model", tmp_path), "pyattn serve: ")
    message = "pyattn serve: application: there is no prompt 'x' for default_prompt_name"
    assert_one_line_error(run("serve", "--model", model, "--default-prompt-name", "x"), message)
    assert started == []

"""Small models, and applications of them."""

import pytest

from tests.support.served import client_of, needs_server
from tests.support.tiny_model import write_json, write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    needs_server()
    folder = write_model(tmp_path_factory.mktemp("served") / "tiny-embedder")
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "find the ", "place": "on a mat "}})
    return folder


@pytest.fixture(scope="session")
def reranker_folder(tmp_path_factory):
    needs_server()
    from tests.support import rerankers

    return rerankers.write(tmp_path_factory.mktemp("served") / "tiny-reranker", "bert")


@pytest.fixture
def encoder(folder):
    import pyattn

    return pyattn.SentenceEncoder.from_pretrained(folder)


@pytest.fixture
def reranker(reranker_folder):
    import pyattn

    return pyattn.Reranker.from_pretrained(reranker_folder)


@pytest.fixture
def client(encoder, reranker):
    from pyattn.server import application

    with client_of(application(encoder, reranker)) as client:
        yield client

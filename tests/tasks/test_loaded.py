"""A process loads an encoder once, whatever asks for it, and keeps few."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import pyattn
from pyattn.tasks import loaded as module
from pyattn.tasks.loaded import KEPT, loaded, name_of
from tests.support.tiny_model import write_model


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(module, "_encoders", {})


def test_many_threads_load_once():
    calls, barrier = [], threading.Barrier(8)

    def load(path, dtype):
        calls.append((path, dtype))
        time.sleep(0.1)
        return object()

    def ask(number):
        barrier.wait()
        return loaded(("model", "int8"), load)

    with ThreadPoolExecutor(8) as pool:
        encoders = set(pool.map(ask, range(8)))
    assert len(encoders) == 1 and calls == [("model", "int8")]


def test_a_failure_is_not_kept():
    def fail(path, dtype):
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        loaded(("model", "int8"), fail)
    assert str(loaded(("model", "int8"), lambda path, dtype: path + dtype)) == "modelint8"


def test_few_are_kept():
    def load(path, dtype):
        return object()

    encoders = [loaded((str(number), "int8"), load) for number in range(KEPT + 2)]
    assert len(module._encoders) == KEPT
    assert loaded((str(KEPT + 1), "int8"), load) is encoders[-1]
    assert loaded(("0", "int8"), load) is not encoders[0]


def test_a_forked_process_does_not_wait_for_what_its_parent_began(monkeypatch):
    asked = threading.Event()

    def never(path, dtype):
        asked.wait(60)
        return "parent's"

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(loaded, ("model", "int8"), never)
        while not module._encoders:
            time.sleep(0.001)
        with monkeypatch.context() as child:
            child.setattr("os.getpid", lambda: -1)
            assert str(loaded(("model", "int8"), lambda path, dtype: "child's")) == "child's"
        asked.set()
        assert str(pending.result()) == "parent's"


def test_names(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert name_of("f", "model", "int8") == (str(tmp_path / "model"), "int8")
    assert name_of("f", tmp_path / "model", {"*.fc1": "bfloat16"}) == (
        str(tmp_path / "model"),
        (("*.fc1", "bfloat16"),),
    )
    assert name_of("f", "owner/name", "float32") == ("owner/name", "float32")
    hash(name_of("f", "owner/name", {"*": "int8"}))
    with pytest.raises(TypeError, match="^f: model must be a directory or an id .*, not int"):
        name_of("f", 3, "int8")
    with pytest.raises(TypeError, match="^f: dtype must be"):
        name_of("f", "owner/name", "int4")


def test_the_encoder_is_the_one_of_from_pretrained(tmp_path):
    folder = write_model(tmp_path)
    encoder = loaded(name_of("f", folder, {"*": "int8"}))
    assert isinstance(encoder, pyattn.SentenceEncoder) and encoder is loaded(name_of("f", str(folder), {"*": "int8"}))
    assert set(encoder.model.weight_dtypes.values()) == {"int8"}


def test_a_directory_that_was_written_again_is_read_again(tmp_path):
    texts = ["the cat sat", "find the root"]
    name = name_of("f", write_model(tmp_path), "float32")
    first = loaded(name).encode(texts)
    assert loaded(name) is loaded(name)
    write_model(tmp_path, seed=1)
    second = loaded(name).encode(texts)
    assert abs(second - first).max() > 0.1 and len(module._encoders) == 1
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 24, "pooling_mode_cls_token": true}'
    )
    assert abs(loaded(name).encode(texts) - second).max() > 0.1

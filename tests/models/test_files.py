"""Model files: found, fetched, read; and refused with the file's name where they are not what they should be."""

import json
import sys

import numpy as np
import pytest

from pyattn._extras import import_extra
from pyattn.models.files import find_directory, read_json
from pyattn.models.tensors import read_tensors

pytest.importorskip("safetensors")


def anything(name):
    return True


def write_raw(path, header, data):
    """A safetensors file, byte by byte: the NumPy writer knows no bfloat16."""
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def test_tensors_are_read_in_float32_from_every_accepted_type(tmp_path):
    path = tmp_path / "model.safetensors"
    values = np.array([[1.5, -2.0, 0.0], [3.25, np.inf, -0.5]])  # exact in each type
    stored = {
        "F32": values.astype("<f4").tobytes(),
        "F16": values.astype("<f2").tobytes(),
        "BF16": (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
        "F64": values.astype("<f8").tobytes(),
    }
    header, data = {"__metadata__": {"format": "np"}}, b""
    for dtype, encoded in stored.items():
        header[dtype] = {"dtype": dtype, "shape": [2, 3], "data_offsets": [len(data), len(data) + len(encoded)]}
        data += encoded
    write_raw(path, header, data)
    tensors = read_tensors(path, anything)
    assert tensors.keys() == stored.keys()
    for tensor in tensors.values():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, values)


def test_only_wanted_tensors_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {
        "ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        "weight": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
    }
    write_raw(path, header, bytes(8) + np.float32(7).tobytes())
    tensors = read_tensors(path, lambda name: name == "weight")
    assert list(tensors) == ["weight"]
    assert tensors["weight"].shape == () and tensors["weight"] == 7
    with pytest.raises(ValueError, match=r"model\.safetensors: ids has type I64; accepted are F32, F16, BF16, F64"):
        read_tensors(path, anything)


@pytest.mark.parametrize("kept", [0, 7, 8, 40, -1])
def test_a_truncated_tensor_file_is_refused(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    write_raw(path, {"x": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}, bytes(256))
    read_tensors(path, anything)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        read_tensors(path, anything)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_tensors(path, anything)


@pytest.mark.parametrize("read", [lambda path: read_json(path, dict), lambda path: read_tensors(path, anything)])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"gone\.x is missing; a model directory holds config\.json"):
        read(tmp_path / "gone.x")


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"{", dict, "not valid JSON"),
        (b"", dict, "not valid JSON"),
        (b"\xff\xfe{}", dict, "not valid JSON"),
        (b"[" * 100_000, list, "not valid JSON"),
        (b"[" * 65 + b"]" * 65, list, "is nested more than 64 deep"),
        (b'{"a":' * 800 + b"1" + b"}" * 800, dict, "is nested more than 64 deep"),
        (b"[]", dict, "must hold a JSON object"),
        (b"{}", list, "must hold a JSON array"),
    ],
)
def test_bad_json_is_named(tmp_path, content, kind, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json.* {message}"):
        read_json(path, kind)


def test_json_of_some_depth_is_read(tmp_path):
    (tmp_path / "config.json").write_text("[" * 64 + "1" + "]" * 64)
    assert read_json(tmp_path / "config.json", list)


@pytest.mark.parametrize("shape", [[1] * 70, [0, 2**62], [0, 2**64 - 1]])
def test_a_shape_that_no_array_has_is_refused(tmp_path, shape):
    path = tmp_path / "model.safetensors"
    data = bytes(0 if 0 in shape else 4)
    write_raw(path, {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}}, data)
    with pytest.raises(ValueError, match=r"^load: .*model\.safetensors: x has a shape that no array has"):
        read_tensors(path, anything)


def test_a_local_directory_is_used_as_it_is(tmp_path):
    assert find_directory(tmp_path) == find_directory(str(tmp_path)) == tmp_path


def test_a_file_is_no_model_directory(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(NotADirectoryError, match="is a file; pass the directory"):
        find_directory(file)


@pytest.mark.parametrize("path", ["./gone", "/gone/away", "a/b/c", "~/gone-away", "../x", ""])
def test_what_looks_like_a_path_is_not_looked_up_on_the_hub(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    if path:
        with pytest.raises(FileNotFoundError, match="there is no directory"):
            find_directory(path)
    else:
        assert find_directory(path).resolve() == tmp_path.resolve()


def test_a_path_object_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no directory gone"):
        find_directory(type(tmp_path)("gone"))


def test_a_hub_id_is_fetched_without_pickles(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def snapshot_download(repository, allow_patterns):
        calls.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert find_directory("someone/some-model.v2") == tmp_path
    [(repository, patterns)] = calls
    assert repository == "someone/some-model.v2"
    assert {"config.json", "model.safetensors", "tokenizer.json", "modules.json"} <= set(patterns)
    assert not any("bin" in pattern or pattern.startswith("*") for pattern in patterns)


def test_a_failed_download_names_the_model(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(repository, allow_patterns):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(OSError, match=r"'some/model' is no directory here and could not be .*no route to host"):
        find_directory("some/model")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'huggingface_hub: pip install "pyattn\[models\]"'):
        find_directory("some/model")
    with pytest.raises(ImportError, match="reading x needs the package no_such_package"):
        import_extra("no_such_package", "reading x")

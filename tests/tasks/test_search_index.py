"""The index: its order, its file, and files that are not one."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

from pyattn.tasks import search_index
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import Hit, SearchIndex
from tests.support.mutations import Bomb, bomb, npy


def make(vectors):
    vectors = np.asarray(vectors, np.float32)
    passages = [Passage(f"text {i} ü\ud800", f"file{i}.py", i + 1, f"name{i}") for i in range(len(vectors))]
    return SearchIndex(passages, vectors, "some-model", "f1")


@pytest.fixture
def index():
    return make(np.random.default_rng(0).normal(size=(50, 8)))


@pytest.mark.parametrize("k", [1, 3, 49, 50, 51, 1000])
def test_search_finds_the_best_in_order(index, k):
    vector = np.random.default_rng(1).normal(size=8)
    scores = index.vectors.astype(np.float64) @ vector
    order = np.argsort(-scores)[:k]
    hits = index.search(vector, k)
    assert [hit.passage for hit in hits] == [index.passages[i] for i in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], rtol=1e-5)


def test_equal_scores_keep_the_order_of_the_passages():
    hits = make([[1, 0], [0, 1], [1, 0], [1, 0]]).search([1, 0], 3)
    assert [(hit.score, hit.passage.line) for hit in hits] == [(1, 1), (1, 3), (1, 4)]


@pytest.mark.parametrize("k", [1, 2, 7, 50, 99, 100, 250])
def test_ties_at_the_last_place_keep_the_order_of_the_passages(k):
    rng = np.random.default_rng(k)
    for values in (rng.integers(0, 4, 100), rng.integers(0, 40, 100), np.zeros(100)):
        hits = make(values[:, None]).search([1.0], k)
        best = sorted(range(100), key=lambda i: (-values[i], i))[:k]
        assert [hit.passage.line - 1 for hit in hits] == best


def test_k_and_vectors_of_any_numbers(index):
    expected = index.search(np.arange(8.0), 3)
    for vector in (list(range(8)), np.arange(8, dtype=">i2"), np.arange(8, dtype=np.float16)):
        assert index.search(vector, np.int8(3)) == expected


@pytest.mark.parametrize(
    ("vector", "k", "error", "message"),
    [
        (np.zeros(8), 1.0, TypeError, "search: k must be an integer, 1 or more, not 1.0"),
        (np.zeros(8), True, TypeError, "search: k must be an integer, 1 or more, not True"),
        (np.zeros(8), "1", TypeError, "search: k must be an integer, 1 or more, not '1'"),
        (np.full(8, np.nan), 3, ValueError, "search: a product of vector with one of the index is not finite"),
        (np.full(8, 3e38), 3, ValueError, "search: a product of vector with one of the index is not finite"),
        (np.full(8, 1e300), 3, ValueError, "search: a product of vector with one of the index is not finite"),
        (np.zeros(8, complex), 3, TypeError, "search: vector has dtype complex128; real numbers"),
        (np.zeros(8, bool), 3, TypeError, "search: vector has dtype bool"),
        (["a"] * 8, 3, TypeError, "search: vector has dtype <U1"),
        (np.ma.masked_equal(np.zeros(8), 0), 3, TypeError, r"search: vector is a masked array; vector.filled\("),
    ],
)
def test_searches_that_are_refused(vector, k, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make(np.ones((50, 8))).search(vector, k)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.zeros((3, 8)), TypeError, "vectors have dtype float64; float32 is needed"),
        (np.zeros((3, 8), np.int8), TypeError, "vectors have dtype int8"),
        (np.zeros((4, 8), np.float32), ValueError, r"3 passages, but vectors of shape \(4, 8\)"),
        (np.zeros(3, np.float32), ValueError, r"3 passages, but vectors of shape \(3,\)"),
        (np.full((3, 8), np.nan, np.float32), ValueError, "vectors are not all finite"),
        (np.ma.masked_less(np.zeros((3, 8), np.float32), 1), TypeError, "vectors is a masked array"),
    ],
)
def test_an_index_made_by_hand_is_checked(vectors, error, message):
    passages = [Passage("text", "file", 1, "name")] * 3
    with pytest.raises(error, match=f"^SearchIndex: {message}"):
        SearchIndex(passages, vectors, "model", "print")
    with pytest.raises(TypeError, match="^SearchIndex: fingerprint must be a string, not int"):
        SearchIndex(passages, np.zeros((3, 8), np.float32), "model", 3)


def test_an_empty_index_has_no_hits():
    assert make(np.zeros((0, 4))).search(np.zeros(4), 5) == []


@pytest.mark.parametrize("vector", [np.zeros(7), np.zeros((1, 8)), 1.0])
def test_a_vector_of_another_shape_is_refused(index, vector):
    with pytest.raises(ValueError, match=r"^search: vector has shape .*; the index's have \(8,\)"):
        index.search(vector, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(index, k):
    with pytest.raises(ValueError, match=f"^search: k must be an integer, 1 or more, not {k}"):
        index.search(np.zeros(8), k)


@pytest.mark.parametrize("name", ["index.npz", "any name"])
def test_what_is_saved_is_loaded(index, tmp_path, name):
    index.save(tmp_path / name)
    loaded = SearchIndex.load(str(tmp_path / name))
    assert loaded.passages == index.passages
    assert all(isinstance(passage, Passage) for passage in loaded.passages)
    assert (loaded.model, loaded.fingerprint) == ("some-model", "f1")
    assert loaded.vectors.dtype == np.float32
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    assert isinstance(loaded.search(index.vectors[0], 1)[0], Hit)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_an_empty_index_is_saved_and_loaded(tmp_path):
    make(np.zeros((0, 4))).save(tmp_path / "index.npz")
    assert SearchIndex.load(tmp_path / "index.npz").vectors.shape == (0, 4)


@pytest.mark.parametrize("failing", ["savez", "fsync"])
def test_a_failed_save_leaves_the_old_file(index, tmp_path, monkeypatch, failing):
    path = tmp_path / "index.npz"
    index.save(path)
    before = path.read_bytes()

    def fail(*arguments, **options):
        raise KeyboardInterrupt if failing == "savez" else OSError(28, "No space left on device")

    monkeypatch.setattr(*{"savez": (search_index.np, "savez"), "fsync": (search_index.os, "fsync")}[failing], fail)  # type: ignore[attr-defined]
    with pytest.raises((KeyboardInterrupt, OSError)):
        make(np.ones((2, 2))).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_save_into_a_folder_that_does_not_exist(index, tmp_path):
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "gone" / "index.npz")


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        SearchIndex.load(tmp_path / "gone.npz")


def archive(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def coded(header):
    return np.frombuffer(json.dumps(header).encode(), np.uint8)


HEADER = {
    "format": "pyattn search index 1",
    "model": "m",
    "fingerprint": "f",
    "passages": [["text", "file", 1, "name"]],
}
ONE = np.ones((1, 3), np.float32)
VECTORS = npy("<f4", (1, 3), ONE.tobytes())


def header():
    text = json.dumps(HEADER).encode()
    return npy("|u1", (len(text),), text)


def members(header, vectors):
    """An archive of members byte by byte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.npy", header)
        archive.writestr("vectors.npy", vectors)
    return file.getvalue()


@pytest.mark.parametrize("vectors", [ONE, np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))])
def test_the_header_below_is_a_good_one(tmp_path, vectors):
    passages = HEADER["passages"] * len(vectors)
    (tmp_path / "index.npz").write_bytes(archive(header=coded(HEADER | {"passages": passages}), vectors=vectors))
    index = SearchIndex.load(tmp_path / "index.npz")
    assert len(index.passages) == len(vectors)
    np.testing.assert_array_equal(index.vectors, vectors)


def test_the_members_below_are_good_ones(tmp_path):
    (tmp_path / "index.npz").write_bytes(members(header(), VECTORS))
    assert len(SearchIndex.load(tmp_path / "index.npz").passages) == 1


def test_memory_that_runs_out_is_not_the_file_s_fault(index, tmp_path, monkeypatch):
    index.save(tmp_path / "index.npz")

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(search_index.np, "frombuffer", fail)  # type: ignore[attr-defined]
    with pytest.raises(MemoryError):
        SearchIndex.load(tmp_path / "index.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"some text",
        b"PK\x03\x04 that goes no further",
        b"\x80\x04\x95 a pickle",
        archive(header=coded(HEADER), vectors=ONE)[:-30],
        archive(header=coded(HEADER), vectors=ONE).replace(b'"model"', b'"medol"'),  # the archive's checksum is wrong
        archive(vectors=ONE),
        archive(header=coded(HEADER)),
        archive(header=np.array([HEADER], object), vectors=ONE),
        archive(header=coded("text"), vectors=ONE),
        archive(header=np.frombuffer(b"{", np.uint8), vectors=ONE),
        archive(header=coded(HEADER | {"format": "pyattn search index 2"}), vectors=ONE),
        archive(header=coded(HEADER | {"model": None}), vectors=ONE),
        archive(header=coded(HEADER | {"fingerprint": 1}), vectors=ONE),
        archive(header=coded(HEADER | {"passages": "text"}), vectors=ONE),
        archive(header=coded(HEADER | {"passages": [["text", "file", "1", "name"]]}), vectors=ONE),
        archive(header=coded(HEADER | {"passages": [["text"]]}), vectors=ONE),
        archive(header=coded(HEADER | {"passages": []}), vectors=ONE),
        archive(header=coded(HEADER), vectors=ONE.astype(np.float64)),
        archive(header=coded(HEADER), vectors=ONE[0]),
        archive(header=coded(HEADER), vectors=np.ones((2, 3), np.float32)),
        archive(header=coded(HEADER), vectors=np.full((1, 3), np.nan, np.float32)),
        archive(header=coded(HEADER), vectors=np.array([[None]])),
        archive(np.savez_compressed, header=coded(HEADER), vectors=ONE),
        bomb(1),
        members(npy("|u1", (2**40,), b""), VECTORS),
        members(npy("|u1", (5,), b"null ", (3, 0)), VECTORS),
        members(npy("|u1", (5,), b"null ", text="(" * 6000), VECTORS),
        members(npy("|O", (1,), pickle.dumps(Bomb())), VECTORS),
        members(header(), npy("<f4", (1, 2**40), ONE.tobytes())),
        members(header(), npy("<f4", (2**62, 2**62), ONE.tobytes())),
        members(header(), npy("<f4", (1, 3), ONE.tobytes())[:-1]),
        members(header(), VECTORS).replace(struct.pack("<2I", *[len(VECTORS)] * 2), struct.pack("<2I", *[2**31] * 2)),
    ],
)
def test_a_file_that_is_no_index_is_refused(tmp_path, content):
    path = tmp_path / "index.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^load: .*index\.npz is not an index that `pyattn embed` wrote \(.+\)"):
        SearchIndex.load(path)

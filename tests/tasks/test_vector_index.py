"""The index in a directory: what it finds, how it grows and shrinks, what others see of it, and damaged ones."""

import json
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pyattn import VectorIndex
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import SearchIndex
from pyattn.tasks.vector_index import files as index_files
from tests.support.mutations import json_mutated


def needs_faiss():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's types, on Python 3.12 and later
        return pytest.importorskip("faiss")


def normal(n, width=8, seed=0):
    """Unit vectors around a few centres, as those of texts are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, width))
    vectors = centres[rng.integers(0, 12, n)] + rng.normal(scale=0.7, size=(n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def passages_of(n, first=0, per_file=5):
    return [Passage(f"text {i} ü\ud800", f"file{i // per_file}.py", i + 1, f"name{i}") for i in range(first, first + n)]


def create(path, n=0, width=8, exact=5000, seed=0):
    index = VectorIndex.create(path, model="some-model", fingerprint="f1", width=width, exact=exact)
    if n:
        index.add(passages_of(n), normal(n, width, seed))
        index.save()
    return index


def brute(passages, vectors):
    return SearchIndex(passages, np.asarray(vectors, np.float32), "some-model", "f1")


def same(hits, expected):
    assert [hit.passage for hit in hits] == [hit.passage for hit in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], rtol=1e-5, atol=1e-6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "project.index"


@pytest.mark.parametrize("k", [1, 3, 49, 50, 51, 1000])
def test_a_small_index_finds_what_the_search_index_finds(path, k):
    create(path, 50)
    index = VectorIndex.open(str(path))
    assert (len(index), index.width, index.model, index.fingerprint, index.deleted) == (50, 8, "some-model", "f1", 0)
    for query in (
        np.random.default_rng(1).normal(size=8),
        np.arange(8),
        list(range(8)),
        np.arange(8, dtype=np.float16),
    ):
        same(index.search(query, k), brute(passages_of(50), normal(50)).search(query, k))


def test_equal_scores_keep_the_order_of_the_passages(path):
    index = create(path, width=2)
    index.add(passages_of(4), np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32))
    assert [hit.passage.line for hit in index.search([1, 0], 3)] == [1, 3, 4]


def test_an_empty_index_has_no_hits(path):
    create(path)
    index = VectorIndex.open(path)
    assert index.search(np.zeros(8), 3) == [] and len(index) == 0 and index.files == []
    assert index.add([], np.zeros((0, 8), np.float32)) == range(0)


def recall(index, truth, queries, **options):
    found = [{hit.passage for hit in index.search(query, 10, **options)} for query in queries]
    best = [{hit.passage for hit in truth.search(query, 10)} for query in queries]
    return np.mean([len(a & b) / 10 for a, b in zip(found, best, strict=True)])


@pytest.mark.parametrize("width", [8, 33])
def test_the_graph_finds_nearly_all(path, width):
    needs_faiss()
    create(path, 3000, width, exact=100)
    assert list(path.glob("graph-*"))
    index, truth = VectorIndex.open(path), brute(passages_of(3000), normal(3000, width))
    queries = normal(50, width, seed=1)
    assert recall(index, truth, queries) > 0.98
    assert recall(index, truth, queries, candidates=10) < recall(index, truth, queries, candidates=400)
    for query in queries[:5]:
        same(index.search(query, 20, candidates=3000), truth.search(query, 20))
        same(index.search(query, 5000), truth.search(query, 5000))
        scores = {passage: score for score, passage in truth.search(query, 3000)}
        for hit in index.search(query, 10):  # of float32 vectors, not of those of 8 bits
            assert hit.score == pytest.approx(scores[hit.passage], abs=1e-6)


def test_it_grows_and_shrinks_without_being_made_anew(path):
    """After every step it finds what an index of what is left finds: saved or not, in the graph or beyond it."""
    needs_faiss()
    rng = np.random.default_rng(3)
    index = create(path, exact=150)
    passages, vectors, alive = [], np.zeros((0, 8), np.float32), np.zeros(0, bool)
    for step in range(8):
        new, rows = passages_of(120, len(passages)), normal(120, seed=step)
        assert index.add(new, rows) == range(len(passages), len(passages) + 120)
        passages, vectors, alive = (
            passages + new,
            np.concatenate([vectors, rows]),
            np.concatenate([alive, [True] * 120]),
        )
        gone = rng.choice(np.flatnonzero(alive), 15, replace=False)
        assert index.delete(gone) == 15
        alive[gone] = False
        file = passages[int(rng.choice(np.flatnonzero(alive)))].file
        of_file = np.array([passage.file == file for passage in passages]) & alive
        assert index.delete(files=[file]) == of_file.sum()
        alive &= ~of_file
        if step % 2:
            index.save()
            index = VectorIndex.open(path)
        truth = brute([p for p, is_alive in zip(passages, alive, strict=True) if is_alive], vectors[alive])
        assert (len(index), index.deleted) == (len(truth.passages), len(passages) - len(truth.passages))
        assert index.files == list(dict.fromkeys(passage.file for passage in truth.passages))
        queries = normal(20, seed=100 + step)
        for query in queries:
            same(index.search(query, 7, candidates=len(index)), truth.search(query, 7))
        assert recall(index, truth, queries) > 0.98
    assert list(path.glob("graph-*"))


def test_few_that_are_left_among_many_deleted_are_found(path):
    needs_faiss()
    index = create(path, 2000, exact=100)
    index.delete(range(1, 2000))
    query = normal(1)[0]
    same(index.search(query, 3), brute(passages_of(1), normal(2000)[:1]).search(query, 3))
    index.delete([0])
    assert index.search(normal(1)[0], 3) == [] and len(index) == 0


def test_compact_gives_back_the_place(path):
    needs_faiss()
    index = create(path, 3000, exact=100)
    before = sum(file.stat().st_size for file in path.iterdir())
    index.delete(range(0, 3000, 3), files=["file7.py"])
    index.compact()
    index.save()
    assert sum(file.stat().st_size for file in path.iterdir()) < 0.75 * before
    index = VectorIndex.open(path)
    kept = [i for i in range(3000) if i % 3 and i // 5 != 7]
    passages = passages_of(3000)
    truth = brute([passages[i] for i in kept], normal(3000)[kept])
    assert (len(index), index.deleted) == (len(kept), 0)
    for query in normal(5, seed=2):
        same(index.search(query, 10, candidates=5000), truth.search(query, 10))
    assert recall(index, truth, normal(30, seed=2)) > 0.98
    assert index.delete(files=["file8.py"]) == sum(i // 5 == 8 for i in kept)
    assert index.delete([0]) == 1 and passages_of(2)[1] not in [hit.passage for hit in index.search(normal(2)[1], 10)]


def test_notes_are_kept(path):
    index = create(path)
    index.notes["a.txt"] = [1, "two", None]
    index.save()
    other = VectorIndex.open(path)
    assert other.notes == {"a.txt": [1, "two", None]}
    other.notes["a.txt"] = {1, 2}
    with pytest.raises(ValueError, match="^save: notes cannot be written as JSON"):
        other.save()
    other.close()
    assert other.notes == VectorIndex.open(path).notes == {"a.txt": [1, "two", None]}


# --- what others see


def test_a_reader_keeps_what_it_opened(path):
    needs_faiss()
    writer = create(path, 300, exact=100)
    reader, query = VectorIndex.open(path), normal(1, seed=5)[0]
    expected = reader.search(query, 400)
    writer.delete(range(100))
    writer.add(passages_of(500, 300), normal(500, seed=1))
    assert (len(writer), len(VectorIndex.open(path))) == (700, 300)
    writer.compact()
    writer.save()
    assert reader.search(query, 400) == expected
    assert len(VectorIndex.open(path)) == 700


def test_one_process_writes(path):
    writer = create(path, 10)
    other, third = VectorIndex.open(path), VectorIndex.open(path)
    writer.delete([0])
    with pytest.raises(OSError, match="is being written by another process"):
        other.delete([1])
    assert len(other) == 10
    writer.save()
    for change in (lambda: other.delete([1]), lambda: other.add([], np.zeros((0, 8), np.float32)), other.compact):
        with pytest.raises(ValueError, match="has been changed since it was opened; open it again"):
            change()
    with VectorIndex.open(path) as writer:
        writer.delete([1])
    assert len(writer) == 9, "what was not saved is forgotten"
    with pytest.raises(ValueError, match="has been changed since"):
        third.save()


@pytest.mark.parametrize("failing", ["fsync", "write_index"])
def test_a_writer_that_dies_leaves_the_old_index(path, monkeypatch, failing):
    """It dies at each step on the way to the disk in turn; what it leaves is no hindrance to the next."""
    faiss = needs_faiss()
    create(path, 200, exact=100).close()
    expected = VectorIndex.open(path).search(normal(1)[0], 300)
    where = os if failing == "fsync" else faiss
    real = getattr(where, failing)
    for allowed in range(20):
        writer, left = VectorIndex.open(path), [allowed]

        def fail(*arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        writer.delete([allowed])
        writer.add(passages_of(150, 200), normal(150, seed=1))
        monkeypatch.setattr(where, failing, fail)
        try:
            writer.save()
        except OSError as error:
            assert error.errno == 28
            writer.close()
            if len(writer) == 349:  # the new index is in place; the directory, which names it, was not yet synchronized
                break
            assert len(writer) == 200
        else:
            monkeypatch.undo()
            break
        finally:
            monkeypatch.undo()
        assert VectorIndex.open(path).search(normal(1)[0], 300) == expected
    assert allowed > (5 if failing == "fsync" else 0)
    VectorIndex.open(path).save()  # removes what others left
    assert len(VectorIndex.open(path)) == 349
    assert sorted(file.name.split("-")[0] for file in path.iterdir()) == sorted(
        ["ends", "graph", "header.json", "live", "lock", "passages", "state", "vectors"]
    )


def test_who_opens_it_while_it_changes_sees_a_whole_index(path):
    """One of the states that were saved, never a part of the next."""
    needs_faiss()
    writer = create(path, 200, exact=100)
    states, failed = [{passage.line for passage in passages_of(200)}], []

    def change():
        try:
            for step in range(12):
                writer.delete([writer.add(passages_of(110, 1000 + 110 * step), normal(110, seed=step))[0]])
                if step % 4 == 3:
                    writer.compact()
                lines = {hit.passage.line for hit in writer.search(np.ones(8), 10**4, candidates=10**4)}
                states.append(lines)  # before others can see it
                writer.save()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    seen = set()
    while thread.is_alive() or not seen:
        index = VectorIndex.open(path)
        found = {hit.passage.line for hit in index.search(np.ones(8), 10**4, candidates=10**4)}
        assert len(found) == len(index) and found in states
        seen.add(len(found))
    thread.join()
    assert not failed and len(seen) > 1 and len(VectorIndex.open(path)) == 200 + 12 * 109


def test_threads_search_one_index(path):
    needs_faiss()
    create(path, 2000, exact=300)
    index, queries = VectorIndex.open(path), normal(200, seed=4)
    expected = [index.search(query, 5) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: index.search(query, 5), queries)) == expected


# --- what is refused


@pytest.mark.parametrize(
    ("vector", "k", "options", "error", "message"),
    [
        (np.zeros(8), 1.0, {}, TypeError, "search: k must be an integer, 1 or more, not 1.0"),
        (np.zeros(8), 0, {}, ValueError, "search: k must be an integer, 1 or more, not 0"),
        (np.zeros(8), 3, {"candidates": 2}, ValueError, "search: candidates must be an integer, 3 or more, not 2"),
        (np.zeros(8), 3, {"candidates": "9"}, TypeError, "search: candidates must be an integer, 3 or more, not '9'"),
        (np.zeros(7), 3, {}, ValueError, r"search: vector has shape \(7,\); the index's have \(8,\)"),
        (np.full(8, np.nan), 3, {}, ValueError, "search: vector is not all finite in float32"),
        (np.full(8, 3e38), 3, {}, ValueError, "search: of .*index, a product of vector with one of its vectors is"),
        (np.full(8, 1e300), 3, {}, ValueError, "search: vector is not all finite in float32"),
        (np.zeros(8, complex), 3, {}, TypeError, "search: vector has dtype complex128; real numbers"),
        (np.ma.masked_equal(np.zeros(8), 0), 3, {}, TypeError, "search: vector is a masked array"),
    ],
)
@pytest.mark.parametrize("exact", [100, 5000])
def test_searches_that_are_refused(path, exact, vector, k, options, error, message):
    if exact < 300:
        needs_faiss()
    index = create(path, 300, exact=exact)
    with pytest.raises(error, match=f"^{message}"):
        index.search(vector, k, **options)


@pytest.mark.parametrize(
    ("passages", "vectors", "error", "message"),
    [
        (passages_of(1), np.zeros((1, 8)), TypeError, "vectors have dtype float64; float32 is needed"),
        (
            passages_of(1),
            np.zeros((1, 7), np.float32),
            ValueError,
            r"vectors have shape \(1, 7\); .* \(1, 8\) is needed",
        ),
        (
            passages_of(2),
            np.zeros((1, 8), np.float32),
            ValueError,
            r"vectors have shape \(1, 8\); .* \(2, 8\) is needed",
        ),
        (passages_of(1), np.full((1, 8), np.inf, np.float32), ValueError, "vectors are not all finite"),
        ([("a", "b", "1", "")], np.zeros((1, 8), np.float32), TypeError, r"passages\[0\] is not \(text, file, line"),
        ([("a", "b", True, "")], np.zeros((1, 8), np.float32), TypeError, r"passages\[0\] is not \(text, file, line"),
        (["text"], np.zeros((1, 8), np.float32), TypeError, r"passages\[0\] is not \(text, file, line"),
    ],
)
def test_additions_that_are_refused(path, passages, vectors, error, message):
    index = create(path, 3)
    with pytest.raises(error, match=f"^add: {message}"):
        index.add(passages, vectors)
    assert len(index) == 3


def test_deletions_that_are_refused(path):
    index = create(path, 10)
    index.delete([3])
    for ids in ([0, 10], [-1], [3], [2**70]):
        with pytest.raises(ValueError, match=f"^delete: there is no passage {ids[-1]}$"):
            index.delete(ids)
    with pytest.raises(ValueError, match=r"^delete: there is no file 'gone.py' in the index"):
        index.delete(files=["file0.py", "gone.py"])
    with pytest.raises(TypeError, match=r"^delete: files must be a sequence of names, not the string 'file0.py'"):
        index.delete(files="file0.py")
    with pytest.raises(TypeError, match=r"^delete: an id must be an integer, not 1.5"):
        index.delete([1.5])
    assert len(index) == 9
    index.delete(files=["file0.py"])
    with pytest.raises(ValueError, match=r"^delete: there is no file 'file0.py'"):
        index.delete(files=["file0.py"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a string, not int"),
        ({"fingerprint": None}, TypeError, "fingerprint must be a string"),
        ({"width": 0}, ValueError, "width must be an integer, 1 or more, not 0"),
        ({"exact": 1.5}, TypeError, "exact must be an integer, 1 or more, not 1.5"),
    ],
)
def test_indexes_that_cannot_be_made(path, changes, error, message):
    with pytest.raises(error, match=f"^create: {message}"):
        VectorIndex.create(path, **({"model": "m", "fingerprint": "f", "width": 3} | changes))
    assert not path.exists()


def test_directories_of_something_else(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        VectorIndex.open(path)
    path.write_text("text")
    with pytest.raises(NotADirectoryError):
        VectorIndex.open(path)
    with pytest.raises(
        ValueError, match=r"^open: .* is not an index that `pyattn embed` wrote \(it has no header.json\)"
    ):
        VectorIndex.open(tmp_path)
    with pytest.raises(ValueError, match=r"^create: .* is not empty; VectorIndex.open opens an index"):
        create(tmp_path)


def test_without_faiss_small_ones_work(path, monkeypatch):
    index = create(path, 90, exact=100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert len(VectorIndex.open(path).search(normal(1)[0], 3)) == 3
    index.add(passages_of(20, 90), normal(20))
    assert len(index.search(normal(1)[0], 200)) == 110
    with pytest.raises(ImportError, match=r'needs the package faiss: pip install "pyattn\[index\]"'):
        index.save()
    index.close()
    assert len(index) == 90


# --- damaged files


def use(path):
    """All that reads files; afterwards the writer's lock is free."""
    index = VectorIndex.open(path)
    index.search(np.full(index.width, 0.1), 20)
    index.search(np.full(index.width, 0.1), 20, candidates=10**6)
    _ = index.files, index.notes


@pytest.mark.parametrize("prefix", ["vectors", "passages", "ends", "live", "state", "graph", "header.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "zeros"])
def test_damaged_files_are_named(path, prefix, damage):
    needs_faiss()
    create(path, 300, exact=100)
    [file] = path.glob(f"{prefix}*")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": content[:-1], "emptied": b"", "zeros": bytes(len(content))}[damage])
    if (prefix, damage) == ("vectors", "zeros"):
        return  # nothing says what vectors should be
    with pytest.raises(ValueError, match=r"^(open|search): .*project\.index.*"):
        use(path)


def test_any_changed_byte_of_the_graph_is_seen_before_faiss_reads_it(path):
    faiss = needs_faiss()
    create(path, 300, exact=100)
    [file] = path.glob("graph-*")
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 20):
        changed = bytes(content[:place]) + bytes([content[place] ^ 1 << rng.integers(8)]) + bytes(content[place + 1 :])
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged: its SHA-256 is not that of header.json"):
            VectorIndex.open(path)
    assert faiss.read_index  # the file that is put back is sound
    file.write_bytes(content)
    use(path)


def forge(path, write):
    """Puts another graph in the place of an index's, with the checksum of that one."""
    [file] = path.glob("graph-*")
    write(file)
    header = json.loads((path / "header.json").read_text())
    header["graph_sha256"] = index_files.sha256_of(file)
    (path / "header.json").write_text(json.dumps(header))


def test_graphs_of_strangers_are_refused(path, tmp_path):
    faiss = needs_faiss()
    create(path, 300, exact=100)
    for make, message in (
        (lambda: faiss.IndexFlatIP(8), "holds a IndexFlat"),
        (lambda: faiss.IndexHNSWSQ(8, faiss.ScalarQuantizer.QT_8bit, 16), "holds 0 vectors of 8, not 300 of 8"),
        (lambda: faiss.IndexHNSWSQ(9, faiss.ScalarQuantizer.QT_8bit, 16), "holds 0 vectors of 9, not 300 of 8"),
    ):
        forge(path, lambda file, make=make: faiss.write_index(make(), str(file)))
        with pytest.raises(ValueError, match=f"^open: .*{message}"):
            VectorIndex.open(path)
    forge(path, lambda file: file.write_bytes(b"IHNs and nothing"))
    with pytest.raises(ValueError, match=r"^open: .*graph-\w{8} cannot be read by faiss"):
        VectorIndex.open(path)


def test_links_that_lead_outside_the_graph_are_refused(path):
    """Checksums do not keep out who writes them; faiss looks at each link."""
    needs_faiss()
    create(path, 300, exact=100)
    [file] = path.glob("graph-*")
    content = file.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(len(content) // 4, len(content) // 2, 10) // 4 * 4:
        changed = content[:place] + b"\xff\xff\xff\x7f" * 8 + content[place + 32 :]
        forge(path, lambda file, changed=changed: file.write_bytes(changed))
        try:
            use(path)
        except ValueError as error:
            assert "cannot be read by faiss" in str(error)
            refused += 1
    assert refused >= 8


@pytest.mark.parametrize("name", ["header.json", "state"])
def test_mutated_headers_give_an_error_that_names_the_index(path, name):
    create(path, 30)
    [file] = path.glob(f"{name}*")
    sound, header = file.read_bytes(), (path / "header.json").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        file.write_bytes(json_mutated(rng, sound))
        if name == "state":
            values = json.loads(header)
            values["state_sha256"] = index_files.sha256_of(file)
            (path / "header.json").write_text(json.dumps(values))
        try:
            use(path)
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "../../etc"},
        {"state": "../x"},
        {"graph": "/dev/zero"},
        {"rows": 2**40},
        {"rows": -1},
        {"width": 2**47},
        {"width": True},
        {"rows": 3.0},
        {"graph_rows": 31, "graph": "0" * 8},
        {"format": "pyattn vector index 2"},
        {"model": None},
        {"other": 1},
        {"live_sha256": "0" * 64},
    ],
)
def test_headers_that_are_refused(path, changes):
    create(path, 30)
    header = json.loads((path / "header.json").read_text())
    (path / "header.json").write_text(json.dumps(header | changes))
    with pytest.raises(ValueError, match=r"^open: .*project\.index is not an index that `pyattn embed` wrote \(.+\)"):
        VectorIndex.open(path)


def test_a_passage_that_is_damaged_is_named(path):
    create(path, 3)
    [file] = path.glob("passages-*")
    file.write_bytes(file.read_bytes().replace(b"[", b"{", 1))
    with pytest.raises(ValueError, match=r"^search: of .*project\.index, passage 0 is damaged"):
        VectorIndex.open(path).search(np.ones(8), 3)

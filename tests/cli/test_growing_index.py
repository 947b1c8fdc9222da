"""`pyattn embed -o project.index`, --update and --append; `pyattn search` in it, and --rerank."""

import json
import os

import numpy as np
import pytest

from pyattn import Reranker, SentenceEncoder, VectorIndex
from pyattn.cli import growing
from tests.support import rerankers
from tests.support.command import assert_one_line_error
from tests.support.tiny_model import write_model

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


@pytest.fixture
def embed(run, folder, model):
    def embed(*arguments):
        return run("embed", *arguments, "-o", "docs.index", "--model", model)

    return embed


@pytest.fixture
def encoded(monkeypatch):
    """The texts that are encoded."""
    texts = []
    encode = SentenceEncoder.encode_document

    def recorded(self, batch, **options):
        texts.extend(text for text in batch if text != "a")  # which tells the width
        return encode(self, batch, **options)

    monkeypatch.setattr(SentenceEncoder, "encode_document", recorded)
    return texts


def found(run, model, query="a dog", *options):
    status, output, error = run("search", query, "--index", "docs.index", "--model", model, "--json", *options)
    assert (status, error) == (0, "")
    return json.loads(output)["results"]


def test_a_folder_gives_what_the_files_give(run, folder, model, embed):
    assert embed("docs") == (0, "docs.index: 3 passages of 2 files, 24 dimensions\n", "")
    from_files = run("search", "a dog", "docs", "--model", model)
    from_index = run("search", "a dog", "--index", "docs.index", "--model", model)
    assert from_index == from_files and from_index[0] == 0
    index = VectorIndex.open("docs.index")
    assert (index.model, index.files) == (model, ["docs/animals.md", "docs/solve.py"])


def test_update_encodes_what_has_changed(run, folder, model, embed, encoded):
    (folder / "docs" / "empty.md").write_text("x\n")
    embed("docs")
    assert len(encoded) == 3
    encoded.clear()
    assert embed("docs", "--update")[1].endswith("3 passages of 2 files, 24 dimensions (0 files read, 0 removed)\n")
    os.utime(folder / "docs" / "solve.py", ns=(1, 1))  # another time, the same content
    assert embed("docs", "--update")[1].endswith("(0 files read, 0 removed)\n")
    assert encoded == []

    (folder / "docs" / "animals.md").write_text("the dog sat on the cat again\n\na dog ran on a mat and ran and ran\n")
    (folder / "docs" / "new.txt").write_text("solve the equation of a function\n")
    assert embed("docs", "--update")[1].endswith("4 passages of 3 files, 24 dimensions (2 files read, 0 removed)\n")
    assert sorted(encoded) == [
        "a dog ran on a mat and ran and ran",
        "solve the equation of a function",
        "the dog sat on the cat again",
    ]
    (folder / "docs" / "solve.py").unlink()
    (folder / "docs" / "empty.md").unlink()
    encoded.clear()
    assert embed("docs", "--update")[1].endswith("3 passages of 2 files, 24 dimensions (0 files read, 2 removed)\n")
    assert encoded == []
    results = found(run, model)
    assert {result["text"] for result in results} == {
        "the dog sat on the cat again",
        "a dog ran on a mat and ran and ran",
        "solve the equation of a function",
    }
    run("embed", "docs", "-o", "docs.npz", "--model", model)
    anew = json.loads(run("search", "a dog", "--index", "docs.npz", "--model", model, "--json")[1])["results"]
    for result, expected in zip(results, anew, strict=True):
        assert result.pop("score") == pytest.approx(expected.pop("score"), abs=1e-5)
        assert result == expected


def test_append_deletes_nothing_else(run, folder, model, embed, encoded):
    embed("docs")
    (folder / "more.txt").write_text("the cat ran on the mat\n")
    (folder / "docs" / "solve.py").unlink()
    encoded.clear()
    assert embed("more.txt", "docs", "--append")[1].endswith(
        "4 passages of 3 files, 24 dimensions (1 files read, 0 removed)\n"
    )
    assert encoded == ["the cat ran on the mat"]
    (folder / "more.txt").write_text("the cat ran on the mats of dogs\n")
    assert embed("more.txt", "--append")[1].endswith("4 passages of 3 files, 24 dimensions (1 files read, 0 removed)\n")
    assert "the cat ran on the mat" not in [result["text"] for result in found(run, model)]


def test_the_first_update_makes_the_index(embed):
    assert embed("docs", "--update") == (0, "docs.index: 3 passages of 2 files, 24 dimensions\n", "")


def test_an_index_of_which_most_is_deleted_is_compacted(folder, embed):
    embed("docs")
    for word in ("one", "two", "three", "four"):
        (folder / "docs" / "animals.md").write_text(f"the cat sat on the {word} mat\n\na dog ran on a mat and {word}\n")
        assert embed("docs", "--update")[0] == 0
    index = VectorIndex.open("docs.index")
    assert len(index) == 3 and index.deleted <= 3


def test_a_corpus_of_many_batches(run, folder, model, embed, monkeypatch):
    monkeypatch.setattr(growing, "_BATCH", 2)
    for i in range(7):
        text = f"the cat sat on {'mat ' * (i + 3)}\n\nthe dog ran {'on ' * (i + 3)}\n"
        (folder / "docs" / f"{i}.txt").write_text(text)
    assert embed("docs")[1] == "docs.index: 17 passages of 9 files, 24 dimensions\n"
    from_files = run("search", "the cat", "docs", "--model", model, "-k", 17)
    assert run("search", "the cat", "--index", "docs.index", "--model", model, "-k", 17) == from_files


def test_what_fails_leaves_the_old_index_or_none(folder, embed, monkeypatch):
    def fail(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VectorIndex, "save", fail)
        assert embed("docs")[0] == 130
    assert not (folder / "docs.index").exists()
    embed("docs")
    (folder / "docs" / "animals.md").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(VectorIndex, "save", fail)
        assert embed("docs", "--update")[0] == 130
    assert len(VectorIndex.open("docs.index")) == 3
    (folder / "empty").mkdir()
    assert_one_line_error(embed("empty", "--update"), "pyattn embed: no passages in empty; folders are read for .txt")
    assert len(VectorIndex.open("docs.index")) == 3


def test_files_that_cannot_be_read_any_more_are_told(folder, embed):
    embed("docs")
    (folder / "docs" / "animals.md").write_bytes(b"\0")
    status, output, error = embed("docs", "--update")
    assert error == "pyattn embed: skipped docs/animals.md: not readable as text\n"
    assert (status, output.endswith("1 passages of 1 files, 24 dimensions (0 files read, 1 removed)\n")) == (0, True)


def test_errors_of_folders(run, folder, model, embed, encoded, tmp_path):
    embed("docs")
    assert_one_line_error(
        embed("docs"), "pyattn embed: docs.index exists: --update makes it what PATH holds now, --append"
    )
    other = str(write_model(tmp_path / "other", seed=1))
    for command in (
        ["embed", "docs", "--update", "-o"],
        ["embed", "docs", "--append", "-o"],
        ["search", "cat", "--index"],
    ):
        result = run(*command, "docs.index", "--model", other)
        assert_one_line_error(result, f"pyattn {command[0]}: docs.index was made with the model {model}, which is not")
    result = run("embed", "docs", "-o", "docs.npz", "--model", model, "--update")
    assert_one_line_error(result, "pyattn embed: docs.npz is written anew each time; --update and --append are for")
    result = run("embed", "docs", "-o", "docs", "--model", model)
    assert_one_line_error(result, "pyattn embed: cannot write docs: it must be a .npz file or a .index folder")
    (folder / "file.index").write_text("text")
    result = run("embed", "docs", "-o", "file.index", "--model", model)
    assert_one_line_error(result, "pyattn embed: cannot write file.index: it must be a .npz file or a .index folder")
    assert (folder / "file.index").read_text() == "text"
    result = run("search", "cat", "--index", "docs", "--model", model)
    assert_one_line_error(
        result, "pyattn search: open: docs is not an index that `pyattn embed` wrote (it has no header"
    )
    encoded.clear()
    (folder / "docs" / "new.txt").write_text("solve the equation of a function\n")
    assert_one_line_error(embed("docs", "gone.txt", "--update"), "pyattn embed: gone.txt: No such file or directory")
    assert encoded == []
    assert len(VectorIndex.open("docs.index")) == 3


# --- a second model


@pytest.fixture
def reranker(tmp_path):
    return str(rerankers.write(tmp_path / "reranker", "bert"))


@pytest.fixture(params=["paths", "docs.npz", "docs.index"])
def searched(request, run, folder, model):
    """What is searched, as arguments."""
    for i in range(4):
        (folder / "docs" / f"{i}.txt").write_text(f"the {['cat', 'dog', 'mat', 'root'][i]} ran on and on and on\n")
    if request.param == "paths":
        return ["docs"]
    assert run("embed", "docs", "-o", request.param, "--model", model)[0] == 0
    return ["--index", request.param]


def test_rerank_orders_the_candidates_anew(run, searched, model, reranker):
    def search(*options):
        status, output, error = run("search", "the dog ran", *searched, "--model", model, "--json", *options)
        assert (status, error) == (0, "")
        return json.loads(output)

    by_vectors = search("-k", 7)
    assert "reranker" not in by_vectors and "rerank_score" not in by_vectors["results"][0]
    answer = search("--rerank", reranker, "-k", 7)
    assert (answer["model"], answer["reranker"]) == (by_vectors["model"], reranker)
    score_of = {(result["file"], result["line"]): result["score"] for result in by_vectors["results"]}
    assert {(r["file"], r["line"]): r["score"] for r in answer["results"]} == score_of
    texts = [result["text"] for result in by_vectors["results"]]
    expected = Reranker.from_pretrained(reranker).rank("the dog ran", texts)
    assert [result["text"] for result in answer["results"]] == [texts[entry["corpus_id"]] for entry in expected]
    np.testing.assert_allclose([r["rerank_score"] for r in answer["results"]], [entry["score"] for entry in expected])

    few = search("--rerank", reranker, "-k", 2, "--candidates", 3)["results"]
    expected = Reranker.from_pretrained(reranker).rank("the dog ran", texts[:3], 2)
    assert [result["text"] for result in few] == [texts[entry["corpus_id"]] for entry in expected]
    assert [result["rank"] for result in few] == [1, 2]


def test_the_reranker_s_score_is_printed(run, folder, model, reranker):
    arguments = ["search", "a dog", "docs", "--model", model, "--rerank", reranker]
    first = json.loads(run(*arguments, "--json")[1])["results"][0]
    assert run(*arguments)[1].startswith(f" 1  {first['rerank_score']:.3f}  {first['file']}:{first['line']}")


def test_errors_of_rerank(run, folder, model, reranker):
    search = ["search", "cat", "docs", "--model", model]
    result = run(*search, "--candidates", 9)
    assert_one_line_error(result, "pyattn search: --candidates is the number of passages that --rerank MODEL reads")
    result = run(*search, "--candidates", 4, "--rerank", reranker)
    assert_one_line_error(result, "pyattn search: --candidates 4 is fewer than the 5 passages to print (--top)")
    assert_one_line_error(run(*search, "--rerank", "./gone"), "pyattn search: load: there is no directory gone")
    assert_one_line_error(run(*search, "--rerank", model), "pyattn search: ")

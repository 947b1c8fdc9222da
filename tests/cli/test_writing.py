"""`pyattn generate` and `pyattn translate`."""

import io
import sys

import pytest

import pyattn
from pyattn import cli
from tests.support.command import assert_one_line_error
from tests.support.tiny_generator import write_generator

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


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

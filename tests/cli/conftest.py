"""A model, a folder of texts, and the command as a function."""

import pytest

from pyattn import cli
from tests.support.tiny_model import write_model


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

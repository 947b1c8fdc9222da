"""What the examples judge by, and that the tables in their heads and in docs are those of the recorded runs."""

import doctest
import importlib
import re
import sys
import types

import numpy as np
import pytest

pytest.importorskip("sklearn")

from examples import report
from examples.serving import check_agreement, without_torch

SCRIPTS = [path for path in sorted(report.EXAMPLES.glob("*.py")) if "\ndef main(argv" in path.read_text()]


# All but those that are for torch
MODULES = [
    importlib.import_module(f"examples.{path.stem}")
    for path in sorted(report.EXAMPLES.glob("*.py"))
    if "\nimport torch\n" not in path.read_text()
]
EXAMPLES = [module for module in MODULES if any(test.examples for test in doctest.DocTestFinder().find(module))]


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_what_docstrings_say(module):
    """Measures such as NDCG, MASE, mean average precision and character error, of cases that are counted by hand."""
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_tables_in_heads_are_of_the_recorded_run(path):
    result = report.RESULTS / f"{path.stem}.json"
    assert result.exists()
    assert str(report.read_table(result)) in path.read_text()
    assert f"<!-- {path.stem} -->\n{report.read_table(result)}\n<!-- end -->" in report.PAGE.read_text()


def test_examples_that_serve_import_no_torch():
    for path in SCRIPTS:
        assert not re.search(r"^(import|from) (torch|examples\.(\w+_torch|training))\b", path.read_text(), re.M), path


def test_tables_are_written_where_they_are_announced(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    options = report.Options(quick=True, threads=1, out=tmp_path)
    report.finish("one", options, report.Table(["a", "b"], [["1", "2"]]), {})
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert report.with_tables("<!-- one -->\nold\n<!-- end -->\n") == f"<!-- one -->\n{table}\n<!-- end -->\n"
    head = '"""Head.\n\nFull run:\n\n{}\n\nWords.\n"""\n'
    assert report.with_tables(head.format("| old |"), "one") == head.format(table)
    assert report.with_tables(head.format("| old |"), "other") == head.format("| old |")


def test_the_command_line_refuses_no_threads(capsys):
    with pytest.raises(SystemExit):
        report.parse_options("", ["--threads", "0"])
    assert "positive" in capsys.readouterr().err


def test_served_answers_must_agree_with_the_trained_ones():
    trained = np.linspace(-1, 1, 5)
    check_agreement(trained + 1.9e-3, trained)
    for wrong in (2.1e-3, np.nan):
        with pytest.raises(ValueError, match="what was served is off by"):
            check_agreement(trained + wrong, trained)


def loads_torch():
    sys.modules["torch"] = types.ModuleType("torch")


@pytest.mark.slow
def test_a_process_without_torch_has_none():
    assert without_torch(abs, -3, threads=1) == 3
    with pytest.raises(RuntimeError, match="loads_torch has imported torch"):
        without_torch(loads_torch, threads=1)

"""What the examples judge by, and that the tables in their heads and in docs are those of the recorded runs."""

import pytest

from examples import report

SCRIPTS = [path for path in sorted(report.EXAMPLES.glob("*.py")) if "\ndef main(argv" in path.read_text()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_tables_in_heads_are_of_the_recorded_run(path):
    result = report.RESULTS / f"{path.stem}.json"
    assert result.exists()
    assert str(report.read_table(result)) in path.read_text()
    assert f"<!-- {path.stem} -->\n{report.read_table(result)}\n<!-- end -->" in report.PAGE.read_text()


def test_examples_that_serve_import_no_torch():
    for path in SCRIPTS:
        imports = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not any("torch" in line for line in imports), path


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

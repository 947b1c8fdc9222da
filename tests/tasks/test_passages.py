"""Passages of text and of Python source: their text, lines, names; and files that cannot be read."""

import os
import sys

import pytest

from pyattn.tasks.passages import Passage, read_passages

LONG = "a paragraph that is long enough"


def read(*paths):
    passages, skipped = read_passages(paths)
    assert skipped == []
    return passages


def test_paragraphs_with_their_lines(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text(f"\n\nfirst: {LONG}\n  goes on here  \n\n \t \n    second: {LONG}\n      indented\n\nthird: {LONG}")
    assert read(file) == [
        Passage(f"first: {LONG}\n  goes on here", str(file), 3),
        Passage(f"second: {LONG}\n  indented", str(file), 7),
        Passage(f"third: {LONG}", str(file), 10),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_are_counted_whatever_ends_them(tmp_path, newline):
    file = tmp_path / "notes.md"
    text = f"\ufeff# Title\n\n{LONG} one\x0c\u2028still line 3\n\n{LONG} two\n"
    file.write_bytes(text.replace("\n", newline).encode())
    assert [(passage.text[-4:], passage.line) for passage in read(file)] == [("ne 3", 3), (" two", 5)]


def test_passages_that_say_nothing_are_left_out(tmp_path):
    file = tmp_path / "notes.rst"
    file.write_text(f"short\n\n{'-' * 40}\n\n{'1 2_3 ' * 10}\n\n{'x' * 19}\n\n{'y' * 20}\n\n\n{'東京' * 10}\n")
    assert [passage.text[0] for passage in read(file)] == ["y", "東"]


def test_an_empty_file_has_no_passages(tmp_path):
    for name in ("a.txt", "b.py"):
        (tmp_path / name).write_text("")
    assert read(tmp_path, tmp_path / "a.txt") == []


SOURCE = '''\
"""The docstring of the module."""
import no_such_module

raise SystemExit("never run")


class Outer:
    r"""The docstring of Outer \\d

        keeps its relative indentation.
    And so on.
    """

    async def method(self):
        """The docstring of the method."""

        def inner():
            """The docstring of a function inside."""

    class Inner:
        "The docstring of Outer.Inner."

    def undocumented(self):
        return """A string that is no docstring at all"""


if True:
    try:
        pass
    except ImportError:

        def conditional():
            """The docstring of a conditional function."""


match 1:
    case 1:

        def matched():
            """The docstring of a matched function."""


def short():
    """Short."""
'''


def test_docstrings_with_their_names_and_lines(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    assert [(passage.name, passage.line, passage.file) for passage in read(file)] == [
        ("module", 1, str(file)),
        ("Outer", 8, str(file)),
        ("Outer.method", 15, str(file)),
        ("Outer.method.inner", 18, str(file)),
        ("Outer.Inner", 21, str(file)),
        ("conditional", 33, str(file)),
        ("matched", 40, str(file)),
    ]
    assert read(file)[1].text == "The docstring of Outer \\d\n\n    keeps its relative indentation.\nAnd so on."


@pytest.mark.parametrize(
    "section", ["Parameters\n    ----------\n    x : int", "Args:\n        x: a number", ":param x: a number"]
)
def test_docstrings_end_at_their_first_section(tmp_path, section):
    (tmp_path / "a.py").write_text(
        f'def f(x):\n    """Find the root of x.\n\n    At once: it is x.\n\n    {section}\n    """\n'
    )
    (tmp_path / "b.py").write_text(f'def f(x):\n    """Root.\n\n    {section}\n    """\n')
    first, second = read_passages([tmp_path])[0]
    assert first.text == "Find the root of x.\n\nAt once: it is x."
    assert "x" in second.text  # the prose alone says too little


def test_a_package_is_called_by_its_folder(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text('"""The docstring of the package."""')
    monkeypatch.chdir(tmp_path / "package")
    assert [passage.name for passage in read("__init__.py")] == ["package"]


def test_source_in_another_encoding_is_read(tmp_path):
    file = tmp_path / "latin.py"
    file.write_bytes('# coding: latin-1\n"""Größenordnungen sind wichtig."""'.encode("latin-1"))
    assert [passage.text for passage in read(file)] == ["Größenordnungen sind wichtig."]


def test_remarks_of_the_compiler_are_not_shown(tmp_path, recwarn):
    file = tmp_path / "old.py"
    file.write_text('"""The invalid escape \\d in a docstring."""\n1 is 1\n')
    assert len(read(file)) == 1
    assert not recwarn.list


def test_deep_expressions_do_not_matter(tmp_path):
    file = tmp_path / "deep.py"
    file.write_text('"""The docstring of the module."""\nx = ' + " + ".join(["1"] * 900))
    assert len(read(file)) == 1


def test_folders_are_walked_in_order(tmp_path):
    names = ["b.md", "a.TXT", "sub/c.rst", "sub/deeper/d.markdown", "sub/e.py", "zz/f.txt"]
    left_out = ["g.html", ".hidden.txt", ".git/h.txt", "sub/.cache/i.md", "Makefile"]
    for name in names + left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""{LONG}"""')
    files = [os.path.relpath(passage.file, tmp_path) for passage in read(tmp_path)]
    assert files == ["a.TXT", "b.md", "sub/c.rst", "sub/e.py", "sub/deeper/d.markdown", "zz/f.txt"]


def test_files_that_are_named_may_have_any_suffix_or_be_hidden(tmp_path):
    for name in ("g.html", ".hidden", "Makefile"):
        (tmp_path / name).write_text(LONG)
        assert len(read(tmp_path / name)) == 1


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    (tmp_path / ".notes").mkdir()
    (tmp_path / ".notes" / "a.txt").write_text(LONG)
    assert len(read(tmp_path / ".notes")) == 1


def test_a_file_is_read_once(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(LONG)
    (tmp_path / "link.txt").symlink_to(file)
    assert [passage.file for passage in read(tmp_path, file, str(file), tmp_path)] == [str(file)]


UNREADABLE = {
    "binary.txt": (b"text that is long enough\0", "is binary; it must be text in UTF-8"),
    "latin.md": ("Größenordnungen sind wichtig".encode("latin-1"), "must be text in UTF-8"),
    "wide.rst": (LONG.encode("utf-16"), "is binary"),
    "wrong.py": (b'"""The docstring of the module."""\ndef f(:\n', "does not parse as Python"),
    "binary.py": (b"x\0", "is binary"),
    "undecodable.py": (b'"""\xff is not UTF-8 at all."""', "does not parse as Python"),
    "nested.py": (b"(" * 5000 + b")" * 5000, "does not parse as Python"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_that_is_named_is_an_error(tmp_path, name):
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^read_passages: .*{name} {message}"):
        read_passages([tmp_path / name])


def test_unreadable_files_inside_folders_are_skipped_and_told(tmp_path):
    for name, (content, _) in UNREADABLE.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text(LONG)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone")
    passages, skipped = read_passages([tmp_path])
    assert [passage.text for passage in passages] == [LONG]
    assert skipped == sorted(str(tmp_path / name) for name in UNREADABLE)


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_passages([tmp_path / "gone.txt"])
    assert error.value.filename == str(tmp_path / "gone.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_inside_a_folder_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_without_permission(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    try:
        assert read_passages([tmp_path]) == ([], [str(locked)])
        with pytest.raises(PermissionError):
            read_passages([locked])
    finally:
        locked.chmod(0o700)

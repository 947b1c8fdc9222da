"""Passages of files and folders: paragraphs of text, and docstrings of Python source (parsed, never imported)."""

import ast
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

# Files in folders are read if they have one of these suffixes; a file that is named itself may have any.
SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".py")

_MIN_LENGTH = 20  # shorter passages are headings, rules and list markers, which answer no question
_LETTER = re.compile(r"[^\W\d_]")

# The prose of a docstring ends at NumPy's underlined sections, and at the fields of Google and Sphinx.
_SECTION = re.compile(
    r"^(?:[A-Z][\w ]*\n *(?:-{3,}|={3,}) *$|(?:Args|Arguments|Returns|Raises|Yields|Attributes):|:\w+)", re.M
)

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Other nodes that may contain definitions. Expressions cannot, and may be nested deeper than Python recurses.
_BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)


class Passage(NamedTuple):
    """A paragraph or a docstring: its text, its file, its first line (from 1), the name of the object it documents."""

    text: str
    file: str
    line: int
    name: str = ""


def read_passages(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Passage], list[str]]:
    """The passages of files and folders.

    In a folder, the .txt, .md, .markdown, .rst and .py files below it are read, sorted by name, but nothing hidden. A
    .py file gives the docstrings of its module, classes and functions, with their qualified names, each up to its first
    section ("Parameters", "Args:", ...); any other its paragraphs, which end at blank lines. Passages shorter than 20
    characters or without a letter are left out. A file that is reached twice is read once.

    Args:
        paths: files, of any suffix, and folders.

    Returns:
        The passages in order, and the files and folders inside the given folders that were skipped because they cannot
        be read, are not text in UTF-8, or are Python that does not parse.

    Raises:
        OSError: a path does not exist or cannot be read; the message names it.
        ValueError: a file that was named itself is binary, not UTF-8, or Python that does not parse.
    """
    passages: list[Passage] = []
    skipped: list[str] = []
    for file, is_named in files_of(paths, skipped.append):
        try:
            passages += read_file(file)
        except (OSError, ValueError):
            if is_named:
                raise
            skipped.append(str(file))
    return passages, skipped


def files_of(paths: Iterable[str | os.PathLike[str]], skip: Callable[[str], None]) -> Iterator[tuple[Path, bool]]:
    """The files that `read_passages` reads, each with whether it was named itself; `skip` gets unreadable folders."""
    seen: set[Path] = set()
    for path in map(Path, paths):
        is_folder = path.is_dir()
        for file in _files_below(path, skip) if is_folder else [path]:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file, not is_folder


def _files_below(folder: Path, skip: Callable[[str], None]) -> Iterator[Path]:
    next(folder.iterdir(), None)  # raises OSError for the folder itself, which os.walk would only pass to `skip`
    for parent, folders, files in os.walk(folder, onerror=lambda error: skip(error.filename)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(parent, name) for name in sorted(files) if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES and file.is_file():  # a pipe would block
                yield file


def read_file(file: Path) -> list[Passage]:
    """The passages of one file; OSError or ValueError where `read_passages` would skip it."""
    content = file.read_bytes()
    if b"\0" in content:
        raise ValueError(f"read_passages: {file} is binary; it must be text in UTF-8")
    found = _docstrings(content, file) if file.suffix.lower() == ".py" else _paragraphs(content, file)
    return [passage for passage in found if len(passage.text) >= _MIN_LENGTH and _LETTER.search(passage.text)]


def _paragraphs(content: bytes, file: Path) -> Iterator[Passage]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"read_passages: {file} must be text in UTF-8 ({error})") from error
    line = 1
    for is_blank, group in groupby(re.split(r"\r\n|\r|\n", text), key=lambda row: not row.strip()):
        rows = list(group)
        if not is_blank:
            yield Passage(textwrap.dedent("\n".join(rows)).rstrip(), str(file), line)
        line += len(rows)


def _docstrings(content: bytes, file: Path) -> Iterator[Passage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about the source, which is not ours
            module = ast.parse(content)  # bytes: the source may declare its encoding
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"read_passages: {file} does not parse as Python ({error})") from error
    name = file.absolute().parent.name if file.stem == "__init__" else file.stem
    return _docstrings_below(module, file, name, "")


def _docstrings_below(node: ast.AST, file: Path, name: str, prefix: str) -> Iterator[Passage]:
    """The docstring of a node called `name`, then those of the definitions inside it, named `prefix` + their names."""
    if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
        yield Passage(_prose(text), str(file), node.body[0].lineno, name)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_below(child, file, prefix + child.name, f"{prefix}{child.name}.")
        elif isinstance(child, _BLOCKS):
            yield from _docstrings_below(child, file, "", prefix)


def _prose(docstring: str) -> str:
    """The docstring up to its tables of parameters, which blur its meaning; all of it if little is left."""
    section = _SECTION.search(docstring)
    prose = docstring[: section.start()].rstrip() if section else docstring
    return prose if len(prose) >= _MIN_LENGTH else docstring

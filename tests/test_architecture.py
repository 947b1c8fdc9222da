"""CONTRIBUTING.md's picture of what imports what, and the build's own rules, as they are."""

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pyattn

ROOT = Path(__file__).parents[1]


def rooms():
    """The lines of the picture, from the top: each room's number of lines above it."""
    picture = (ROOT / "CONTRIBUTING.md").read_text().split("holds it):\n")[1].split("\n\n")[0]
    lines = [re.split(r" {2,}", line.strip())[0].split(", ") for line in picture.strip().splitlines()]
    return {room: number for number, line in enumerate(lines) for room in line}


def imported(file):
    """The rooms of pyattn that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyattn":
            yield from node.module.split(".")[1:2] or [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("pyattn."))


def test_modules_import_from_their_line_and_those_below():
    package = ROOT / "pyattn"
    names = [path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names.remove("__init__")
    lines = {name: number for room, number in rooms().items() for name in fnmatch.filter(names, room)}
    assert lines.keys() == set(names)
    for file in package.rglob("*.py"):
        room = file.relative_to(package).with_suffix("").parts[0]
        if room != "__init__":
            for other in imported(file):
                assert lines[other] >= lines[room], (str(file), other)


def test_every_file_of_the_kernels_is_described():
    table = (ROOT / "csrc" / "README.md").read_text()
    assert all(f"`{path.name}`" in table for path in (ROOT / "csrc").iterdir() if path.name != "README.md")
    instructions = re.compile(r"_mm\d*_|\bv[a-z]+q_[a-z]\d+|__AVX|__F16C__|__aarch64__")
    knowing = {path.name for path in (ROOT / "csrc").glob("*.[ch]") if instructions.search(path.read_text())}
    assert knowing == {"simd.h", "dispatch.c"}


def test_make_leaves_the_editable_package_in_place():
    for line in (ROOT / "Makefile").read_text().splitlines():
        if "pip install" in line and '".' in line:
            assert "--editable" in line, line
    project = (ROOT / "pyproject.toml").read_text()
    pinned = re.search(r"^lint = \[(.*)\]$", project, re.MULTILINE)[1]
    assert all("==" in linter for linter in pinned.split(", "))


def test_what_loads_at_first_use_is_listed():
    names = dir(pyattn)
    assert names == sorted(set(names)) and set(pyattn.__all__) <= set(names)
    code = "import pyattn; assert callable(pyattn.audio.read_wave), pyattn.audio"
    subprocess.run([sys.executable, "-c", code], check=True)

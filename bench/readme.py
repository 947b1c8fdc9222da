"""Writes the tables of README.md and docs/benchmarks.md from bench/results: python -m bench.readme, after make bench.

A table stands between `<!-- name -->` and `<!-- end -->`; what the results do not hold stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bench.options import title
from bench.report import RESULTS

ROOT = RESULTS.parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"]


def _rows(header: str, rows: list[list[str]]) -> str:
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _percent(part: float, decimals: int = 0) -> str:
    return f"{part:.{decimals}%}".replace("%", " %")


def _times(contenders: dict[str, Any], name: str) -> str:
    other = contenders.get(name)
    return f"{other['best_s'] / contenders['pyattn']['best_s']:.2f}" if other else "-"


def _best(contenders: dict[str, Any]) -> str:
    others = {name: x["best_s"] for name, x in contenders.items() if name not in ("pyattn", "numpy")}
    if not others:
        return "-"
    name = min(others, key=others.__getitem__)
    return f"{_times(contenders, name)} ({name})"


def _compared(found: dict[str, Any], title: str, others: dict[str, str]) -> str:
    """Of each case our speed, and how many times faster we are than others, by name; "" is the best one."""
    rows = []
    for result in found["results"]:
        contenders = result["contenders"]
        row = [result["case"], f"{contenders['pyattn']['gflops']:.0f}", _percent(contenders["pyattn"]["of_fma_peak"])]
        rows.append(row + [_times(contenders, name) if name else _best(contenders) for name in others])
    return _rows(f"| {title} | GFLOP/s | of peak | {' | '.join(f'than {x}' for x in others.values())} |", rows)


def attention(found: dict[str, Any]) -> str:
    others = {"": "the best peer", "torch": "torch", "numpy": "NumPy"}
    return _compared(found, "attention, float32 unless said", others)


def precision(found: dict[str, Any]) -> str:
    return _compared(found, "16 bits", {"openvino": "OpenVINO", "torch": "torch"})


def linear(found: dict[str, Any]) -> str:
    others = {"": "the best peer", "torch": "torch", "numpy": "NumPy"}
    return _compared(found, "rows x inputs x outputs", others)


def options(found: dict[str, Any]) -> str:
    rows = []
    for result in found["results"]:
        contenders = result["contenders"]
        over = contenders["pyattn"]["best_s"] / result["beside"]["plain"]["best_s"]
        rows.append([title(result["options"]), f"{over:.2f}", _percent(result["live"]), _best(contenders)])
    return _rows("| option | time over the plain call's | pairs that attend | than the best peer |", rows)


def padding(found: dict[str, Any]) -> str:
    (result,) = found["results"]
    fastest = result["contenders"]["pyattn varlen"]["best_s"]
    rows = [
        [name, f"{x['gflops']:.0f}", _percent(x["of_fma_peak"]), f"{x['best_s'] / fastest:.2f}"]
        for name, x in result["contenders"].items()
    ]
    return _rows(f"| {result['case']} | GFLOP/s on tokens | of peak | time over varlen's |", rows)


def decode(found: dict[str, Any]) -> str:
    read, rows = found["peaks"]["read_gbytes_per_s"], []
    for result in found["results"]:
        contenders = result["contenders"]
        speed = result["key_value_bytes"] / contenders["pyattn"]["best_s"] / 1e9
        others = [_times(contenders, name) for name in ("torch", "ort GQA")]
        rows.append([result["case"], f"{speed:.0f}", _percent(speed / read), *others])
    return _rows("| decoding | GB/s of K and V | of read bandwidth | than torch | than ONNX Runtime's GQA |", rows)


def encoder(found: dict[str, Any]) -> str:
    rows = []
    for name, x in found["contenders"].items():
        peak = found["peaks"].get(f"fma_gflops_{x['precision']}", float("nan"))
        figures = []
        for workload, speed in x["documents_per_s"].items():
            share = speed * found["gflop_per_document"][workload] / peak
            figures.append(f"{speed:.0f} ({_percent(share)})")
        rows.append([name, *figures, f"{x['single_s'] * 1e3:.2f}", f"{x['least_cosine']:.4f}"])
    workloads = " | ".join(found["gflop_per_document"])
    return _rows(f"| all-MiniLM-L6-v2 (of peak) | {workloads} | one sentence, ms | least cosine |", rows)


def images(found: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{speed:.1f}" for speed in x["images_per_s"].values()), f"{x['error']:.0e}"]
        for name, x in found["contenders"].items()
    ]
    batches = " | ".join(next(iter(found["contenders"].values()))["images_per_s"])
    return _rows(f"| ViT-S/14, images a second | {batches} | 1 - cosine |", rows)


def speech(found: dict[str, Any]) -> str:
    workloads = list(next(iter(found["contenders"].values()))["times_real_time"])
    rows = []
    for name, x in found["contenders"].items():
        speeds = [f"{x['times_real_time'][workload]:.1f}" for workload in workloads]
        rows.append([name, *speeds, _percent(x["word_error_rate"], 1)])
    return _rows(f"| Whisper tiny.en, times real time | {' | '.join(workloads)} | word errors |", rows)


def generate(found: dict[str, Any]) -> str:
    rows = []
    for name, x in found["contenders"].items():
        figures = [f"{x['prefill_s'] * 1e3:.0f} ms", _percent(x["prefill_of_peak"])]
        figures += [f"{x['step_s'] * 1e3:.2f} ms", _percent(x["step_of_read"])]
        rows.append([name, *figures])
    return _rows("| GPT-2, 124M | 512 tokens | of peak | a step | of read bandwidth |", rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    make.__name__: make
    for make in (attention, precision, linear, options, padding, decode, encoder, images, speech, generate)
}


def main() -> None:
    for page in PAGES:
        text = page.read_text()
        for name, make in TABLES.items():
            path = RESULTS / f"{name}.json"
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            if path.exists() and pattern.search(text):
                made = make(json.loads(path.read_text()))
                text = pattern.sub(lambda match, made=made: match[1] + made + "\n" + match[2], text)
        page.write_text(text)


if __name__ == "__main__":
    main()

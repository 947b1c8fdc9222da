"""Writes the tables of README.md and docs/benchmarks.md from bench/results: python -m bench.readme, after make bench.

A table stands between `<!-- name -->` and `<!-- end -->`; what the results do not hold stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from bench.report import RESULTS

ROOT = RESULTS.parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"]


def _rows(header: str, rows: list[list[str]]) -> str:
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _times(contenders: dict[str, Any], name: str, ours: str = "pyattn") -> str:
    other = contenders.get(name)
    return f"{other['best_s'] / contenders[ours]['best_s']:.2f}" if other else "-"


def _best(contenders: dict[str, Any]) -> str:
    others = {name: x["best_s"] for name, x in contenders.items() if name not in ("pyattn", "numpy")}
    name = min(others, key=others.__getitem__)
    return f"{_times(contenders, name)} ({name})"


def attention(found: dict[str, Any]) -> str:
    rows = []
    for result in found["results"]:
        ours = result["contenders"]["pyattn"]
        rows.append(
            [
                result["case"],
                f"{ours['gflops']:.0f}",
                f"{ours['of_fma_peak']:.0%}".replace("%", " %"),
                _best(result["contenders"]),
                _times(result["contenders"], "torch"),
                _times(result["contenders"], "numpy"),
            ]
        )
    header = "| attention, float32 unless said | GFLOP/s | of peak | than the best peer | than torch | than NumPy |"
    return _rows(header, rows)


def precision(found: dict[str, Any]) -> str:
    rows = []
    for result in found["results"]:
        ours, contenders = result["contenders"]["pyattn"], result["contenders"]
        figures = [f"{ours['gflops']:.0f}", f"{ours['of_fma_peak']:.0%}".replace("%", " %")]
        rows.append([result["case"], *figures, _times(contenders, "openvino"), _times(contenders, "torch")])
    return _rows("| 16 bits | GFLOP/s | of peak | than OpenVINO | than torch |", rows)


def decode(found: dict[str, Any]) -> str:
    read, rows = found["peaks"]["read_gbytes_per_s"], []
    for result in found["results"]:
        contenders = result["contenders"]
        speed = result["key_value_bytes"] / contenders["pyattn"]["best_s"] / 1e9
        figures = [
            f"{speed:.0f}",
            f"{speed / read:.0%}".replace("%", " %"),
            _times(contenders, "torch"),
            _times(contenders, "ort GQA"),
        ]
        rows.append([result["case"], *figures])
    return _rows("| decoding | GB/s of K and V | of read bandwidth | than torch | than ONNX Runtime's GQA |", rows)


def encoder(found: dict[str, Any]) -> str:
    rows = []
    for name, x in found["contenders"].items():
        peak = found["peaks"].get(f"fma_gflops_{x['precision']}", float("nan"))
        figures = []
        for workload, speed in x["documents_per_s"].items():
            share = speed * found["gflop_per_document"][workload] / peak
            figures.append(f"{speed:.0f} ({share:.0%})".replace("%", " %"))
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
        rows.append([name, *speeds, f"{x['word_error_rate']:.1%}".replace("%", " %")])
    return _rows(f"| Whisper tiny.en, times real time | {' | '.join(workloads)} | word errors |", rows)


def generate(found: dict[str, Any]) -> str:
    rows = []
    for name, x in found["contenders"].items():
        figures = [f"{x['prefill_s'] * 1e3:.0f} ms", f"{x['prefill_of_peak']:.0%}".replace("%", " %")]
        figures += [f"{x['step_s'] * 1e3:.2f} ms", f"{x['step_of_read']:.0%}".replace("%", " %")]
        rows.append([name, *figures])
    return _rows("| GPT-2, 124M | 512 tokens | of peak | a step | of read bandwidth |", rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "attention": attention,
    "precision": precision,
    "decode": decode,
    "encoder": encoder,
    "images": images,
    "speech": speech,
    "generate": generate,
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

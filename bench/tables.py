"""Writes the tables of docs from bench/results: python -m bench.tables, after make bench.

A table stands between `<!-- name -->` and `<!-- end -->`; what the results do not hold, or older ones do, stays as it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bench.__main__ import WITHOUT_ROWS
from bench.options import title
from bench.report import RESULTS, results_folder
from bench.scaling import HEADER, MODELS, model_rows
from bench.summary import Results, files, read, rows_of

ROOT = RESULTS.parents[1]
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "scaling", "torch")]


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
        row = [result["case"], f"{contenders['pyattn']['gflops']:.0f}", _percent(contenders["pyattn"]["of_roofline"])]
        rows.append(row + [_times(contenders, name) if name else _best(contenders) for name in others])
    return _rows(f"| {title} | GFLOP/s | of roofline | {' | '.join(f'than {x}' for x in others.values())} |", rows)


def machine(found: dict[str, Any]) -> str:
    told, peaks = found["environment"], found["peaks"]
    products = ", ".join(f"{x:.0f} in {key.rpartition('_')[2]}" for key, x in peaks.items() if key.startswith("fma"))
    return (
        f"{told['threads']} threads on an {told['cpu']} with {told['isa']}; peaks of all threads: multiply-adds, "
        f"GFLOP/s,\n{products}; reading memory, {peaks['read_gbytes_per_s']:.0f} GB/s."
    )


def attention(found: dict[str, Any]) -> str:
    others = {"": "the best peer", "torch": "torch", "numpy": "NumPy"}
    return _compared(found, "attention, float32 unless said", others)


def precision(found: dict[str, Any]) -> str:
    return _compared(found, "16 bits", {"openvino": "OpenVINO", "torch": "torch"})


def linear(found: dict[str, Any]) -> str:
    others = {"": "the best peer", "torch": "torch", "numpy": "NumPy"}
    return _compared(found, "rows x inputs x outputs", others)


def backward(found: dict[str, Any]) -> str:
    return _compared(found, "gradients", {"torch": "torch"})


def options(found: dict[str, Any]) -> str:
    rows = []
    for result in found["results"]:
        contenders = result["contenders"]
        ours, live = contenders["pyattn"], result["live"]
        over = ours["best_s"] / result["beside"]["plain"]["best_s"]
        figures = [f"{over:.2f}", _percent(live, 1 if live < 0.02 else 0), f"{over / live:.2f}"]
        rows.append([title(result["options"]), *figures, _percent(ours["of_roofline"]), _best(contenders)])
    return _rows(
        "| option | time over the plain call's | pairs that attend | a pair's | of roofline | than the best peer |",
        rows,
    )


def padding(found: dict[str, Any]) -> str:
    (result,) = found["results"]
    fastest = result["contenders"]["pyattn varlen"]["best_s"]
    rows = [
        [name, f"{x['gflops']:.0f}", _percent(x["of_roofline"]), f"{x['best_s'] / fastest:.2f}"]
        for name, x in result["contenders"].items()
    ]
    return _rows(f"| {result['case']} | GFLOP/s on tokens | of roofline | time over varlen's |", rows)


def decode(found: dict[str, Any]) -> str:
    rows = []
    for result in found["results"]:
        contenders = result["contenders"]
        speed = result["key_value_bytes"] / contenders["pyattn"]["best_s"] / 1e9
        others = [_times(contenders, name) for name in ("torch", "ort GQA")]
        fraction = f"{_percent(contenders['pyattn']['of_roofline'])} {result['bound']}"
        rows.append([result["case"], f"{speed:.0f}", fraction, *others])
    return _rows("| decoding | GB/s of K and V | of roofline | than torch | than ONNX Runtime's GQA |", rows)


def _judged(found: dict[str, Any], figure: Callable[[dict[str, Any], str], str]) -> tuple[list[str], list[list[str]]]:
    """The names of all calls; and of each contender, a figure of each call, and in brackets its fraction."""
    names = list(next(iter(found["contenders"].values()))["calls"])
    rows = []
    for label, x in found["contenders"].items():
        fractions = [f"({_percent(x['calls'][name]['of_roofline'])})" for name in names]
        rows.append([label, *(f"{figure(x, name)} {part}" for name, part in zip(names, fractions, strict=True))])
    return names, rows


def encoder(found: dict[str, Any]) -> str:
    def figure(x: dict[str, Any], name: str) -> str:
        speed = x["documents_per_s"][name]
        return f"{1e3 / speed:.2f} ms" if name == "one sentence" else f"{speed:.0f}"

    names, rows = _judged(found, figure)
    rows = [[*row, f"{x['least_cosine']:.4f}"] for row, x in zip(rows, found["contenders"].values(), strict=True)]
    return _rows(f"| all-MiniLM-L6-v2 (of roofline) | {' | '.join(names)} | least cosine |", rows)


def images(found: dict[str, Any]) -> str:
    names, rows = _judged(found, lambda x, name: f"{x['images_per_s'][name]:.1f}")
    rows = [[*row, f"{x['error']:.0e}"] for row, x in zip(rows, found["contenders"].values(), strict=True)]
    return _rows(f"| ViT-S/14, images a second (of roofline) | {' | '.join(names)} | 1 - cosine |", rows)


def speech(found: dict[str, Any]) -> str:
    names, rows = _judged(found, lambda x, name: f"{x['times_real_time'][name]:.1f}")
    rows = [
        [*row, _percent(x["word_error_rate"], 1)] for row, x in zip(rows, found["contenders"].values(), strict=True)
    ]
    return _rows(f"| Whisper tiny.en, times real time (of roofline) | {' | '.join(names)} | word errors |", rows)


def generate(found: dict[str, Any]) -> str:
    names, rows = _judged(found, lambda x, name: f"{x['calls'][name]['best_s'] * 1e3:.1f} ms")
    return _rows(f"| GPT-2, 124M (of roofline) | {' | '.join(names)} |", rows)


def neighbours(found: dict[str, Any]) -> str:
    loads = [f"{x['neighbours']}{', niced' * (x['nice'] > 0)}" for x in found["fair"]]
    rows = [["fair share", "", "", *(f"{x['slowdown']:.2f}" for x in found["fair"])]]
    for call, contenders in found["results"].items():
        for name, measured in contenders.items():
            alone, *beside = measured
            slower = [f"{x['mean_s'] / alone['mean_s']:.2f}" for x in beside]
            rows.append([call, name, f"{alone['mean_s'] * 1e3:.2f} ms", *slower])
    return _rows(f"| times as slow beside so many neighbours | | alone | {' | '.join(loads)} |", rows)


def threads(found: dict[str, Any]) -> str:
    rows = [
        [row["name"], f"{row['before_s'] * 1e3:.4g} ms", f"{row['now_s'] * 1e3:.4g} ms", f"{row['speedup']:.2f}"]
        for row in found["results"]
        if row["name"] in {model.name for model in MODELS}
    ]
    return _rows(f"| | 1 thread | {found['environment']['threads']} threads | speedup |", rows)


def torch(found: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for seconds in found["results"].values() for name in seconds))
    rows = []
    for program, seconds in found["results"].items():
        others = [f"{seconds['torch'] / seconds[name]:.2f}" if name in seconds else "-" for name in names[1:]]
        rows.append([program, f"{seconds['torch'] * 1e3:.3g} ms", *others])
    return _rows(f"| times as fast as torch | torch | {' | '.join(f'`{name}`' for name in names[1:])} |", rows)


def training(found: dict[str, Any]) -> str:
    rows = [
        [f"{model}: {part}", *(_percent(x[whose], 1) if whose in x else "-" for whose in ("torch", "pyattn"))]
        for model, parts in found["results"].items()
        for part, x in parts.items()
    ]
    return _rows("| part of torch's training step | torch's | pyattn's in its place |", rows)


def scaling_model(found: dict[str, Any]) -> str:
    return _rows(f"| {' | '.join(HEADER)} |", [[cell.replace("%", " %") for cell in row] for row in model_rows(found)])


def avx2(results: Results) -> str:
    rows = []
    for name, row in rows_of(results).items():
        over = f"{row['over_best_peer']:.2f} ({row['best_peer']})" if row["best_peer"] else "-"
        rows.append([name, f"{_percent(row['of_roofline'])} {row['bound']}", over])
    return _rows("| AVX2 | of roofline | than the best peer |", rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    make.__name__: make
    for make in (
        *(attention, precision, backward, linear, options, padding, decode, encoder, images, speech, generate),
        *(neighbours, threads, torch, training),
    )
}


def main() -> None:
    found = files(RESULTS)
    current = [name for name in TABLES if name in found and ("rows" in found[name] or name in WITHOUT_ROWS)]
    made = {name: TABLES[name](found[name]) for name in current}
    if "attention" in made:
        made["machine"] = machine(found["attention"])
    if "threads" in made:
        made["model"] = scaling_model(found["threads"])
    if lesser := read(results_folder("avx2")):
        made["avx2"] = avx2(lesser)
    for page in PAGES:
        text = page.read_text()
        for name, table in made.items():
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = pattern.sub(lambda match, table=table: match[1] + table + "\n" + match[2], text)
        page.write_text(text)


if __name__ == "__main__":
    main()

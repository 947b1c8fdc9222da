"""Run the benchmarks of pyattn one after another, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.report import add_options, results_folder
from bench.summary import all_rows, compared, read, recorded

BENCHMARKS = {
    "attention": "bench.bench_attention",
    "options": "bench.bench_options",
    "padding": "bench.bench_padding",
    "precision": "bench.bench_precision",
    "decode": "bench.bench_decode",
    "backward": "bench.bench_backward",
    "memory": "bench.bench_memory",
    "linear": "bench.bench_linear",
    "encoder": "bench.bench_encoder",
    "images": "bench.bench_images",
    "speech": "bench.bench_speech",
    "generate": "bench.bench_generate",
    "threads": "bench.bench_threads",
    "neighbours": "bench.bench_neighbours",
    "server": "bench.bench_server",
    "torch": "bench.bench_torch",
    "training": "bench.bench_training",
    "dask": "bench.bench_dask",
    "rerank": "bench.bench_rerank",
    "maxsim": "bench.bench_maxsim",
    "import": "bench.import_time",
    "picture": "bench.plot",
}

# Lesser instruction sets leave these out.
WITHOUT_ROWS = (
    "memory",
    "threads",
    "neighbours",
    "server",
    "torch",
    "training",
    "dask",
    "rerank",
    "maxsim",
    "import",
    "picture",
)

EXPLANATION = """\
benchmarks:
  attention   scaled_dot_product_attention over the shapes of bench/cases.py, GFLOP/s
  options     what each option costs over the plain call, 8 x 2048 x 2048 x 64, and sparse masks of random keys
  padding     sequences of different lengths: padded, packed and one by one, GFLOP/s on real tokens
  precision   bfloat16 and float16 beside float32, GFLOP/s
  decode      one and a few queries over 4096 keys, GB/s of keys and values
  backward    gradients of attention over several shapes and options, beside torch's, GFLOP/s
  memory      what a call needs beyond its inputs and results, MiB a thread; fails above 2
  linear      Linear layers of an encoder in float32, bfloat16 and int8, over a batch and over one sentence, GFLOP/s
  encoder     all-MiniLM-L6-v2 over 1,000 paragraphs, documents/s, and over one sentence
  images      a vision Transformer, ViT-S/14, over batches of 8 and one alone, images/s
  speech      Whisper tiny.en over short clips and over a minute, seconds of sound a second
  generate    GPT-2's sizes: a prompt, and steps after 512 and 8,192 tokens
  threads     pyattn on one thread and on all: speedups, and what a parallel region costs
  neighbours  all-MiniLM-L6-v2 and attention beside other processes that are busy on the cores: slowdowns
  server      pyattn serve under 8 clients beside encode_stream, texts/s and latency; needs wrk
  torch       programs of torch as they are, under pyattn.torch.enable() and after accelerate, times as fast
  training    where a training step of torch goes, and what pyattn's operators take of it
  dask        texts to vectors by workers of one thread, beside one process of as many threads
  rerank      passages and documents under one query, by an encoder and by a model of language
  import      what `import pyattn` costs over `import numpy`, ms
  picture     time and memory against the sequence length

Every peer that is installed takes part (pip install --group bench brings them); all run with the same number of
threads, each in a process of its own, take turns within one run, and are timed only after their answers have been
checked. All rows have their fraction of the roofline (bench/roofline.py); a table of all of them ends the run, and a
list of those that are slower than the committed results. options, padding, precision, decode, backward, memory,
neighbours, server, torch, dask and rerank have goals, which stand beside what was measured.

examples:
  python -m bench                       everything, results in bench/results
  python -m bench --only attention      one of them (may be repeated)
  python -m bench --quick --threads 1   a short look that writes no results
  python -m bench --isa avx2            all that have rows, all held to AVX2, results in bench/results/avx2
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run this benchmark (may be repeated)")
    given = parser.parse_args(argv)
    chosen = given.only or [name for name in BENCHMARKS if not given.isa or name not in WITHOUT_ROWS]
    folder = results_folder(given.isa)
    before, failed = recorded(folder), []
    with tempfile.TemporaryDirectory() as unkept:
        out = given.out or (Path(unkept) if given.quick else folder)
        options = ["--threads", str(given.threads), "--out", str(out), *["--quick"] * given.quick]
        options += ["--isa", given.isa] if given.isa else []
        for number, name in enumerate(chosen, 1):
            print(f"\n[{number}/{len(chosen)}] {name}", flush=True)
            if subprocess.run([sys.executable, "-m", BENCHMARKS[name], *options]).returncode:
                failed.append(name)
        found = read(out)
    now = {name: found[name] for name in chosen if name in found and name not in failed}
    print(f"\n{all_rows(now)}\n\n{compared(now, before)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

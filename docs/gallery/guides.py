"""
Guides: where a gene editor may cut, and a model of one's own
=============================================================

Cas9 cuts DNA where a guide of 20 letters finds its like, followed by NGG. It also cuts at places that are only nearly
alike: off-targets. A guide and 512 letters around a place go in, the probability of a cut there comes out.

The model is that of the Python package ``criscross``. It is of a kind that no library of models knows: two sequences
side by side, each attends to itself, and then each to the other. pyattn's layers are the parts of which it is built
here.
"""

# %%
# Three times four layers
# -----------------------
# Each layer attends, adds what it found to what it had, normalizes, and does the same with two matrix products. Where
# the keys are the other sequence, pyattn has no ready layer for attention alone without a self-attention before it:
# it is four parts.

import csv
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
import zstandard

import pyattn
import pyattn.explain
from examples.packages import package_files
from pyattn.layers import Layer, LayerNorm, Linear, MultiHeadAttention, TransformerEncoderLayer

WIDTH, HEADS, INNER, LAYERS = 512, 4, 2048, 3
SITE = slice(244, 267)  # of the 512 letters: the 23 that may be cut


class Cross(Layer):
    """From one sequence to another: each of the first's letters looks at those of the second."""

    def __init__(self):
        self.cross_attn = MultiHeadAttention(WIDTH, HEADS)
        self.norm1, self.norm2 = LayerNorm(WIDTH), LayerNorm(WIDTH)
        self.linear1, self.linear2 = Linear(WIDTH, INNER, activation="relu"), Linear(INNER, WIDTH)

    def __call__(self, x, other):
        x = self.norm1(x + self.cross_attn(x, other, other))
        return self.norm2(x + self.linear2(self.linear1(x)))


class Guides(Layer):
    """Logits (n,) of guides (n, 23), windows (n, 512) and strands (n,); letters are N A C G T = 0 1 2 3 4."""

    def __init__(self, tables):
        self._tables = tables  # embeddings
        self.positional_encoding, self.ot_positional_encoding = LayerNorm(WIDTH), LayerNorm(WIDTH)
        self.self_attention = [TransformerEncoderLayer(WIDTH, HEADS, INNER) for _ in range(LAYERS)]
        self.self_ot_attention = [TransformerEncoderLayer(WIDTH, HEADS, INNER) for _ in range(LAYERS)]
        self.cross_attention1 = [Cross() for _ in range(LAYERS)]
        self.cross_attention2 = [Cross() for _ in range(LAYERS)]
        self.out_proj = [Linear(WIDTH, WIDTH), Linear(WIDTH, 1)]

    def __call__(self, guides, windows, strands):
        tables = self._tables
        x = tables["target_embedding"][np.pad(triples(guides), ((0, 0), (1, 0)))]  # in front, a token that will answer
        x = x + tables["positional_encoding.position_embeddings"][: x.shape[1]]
        x = x + tables["positional_encoding.type_embedding"][[1] + [0] * (x.shape[1] - 1)]
        x = self.positional_encoding(x)
        kinds = np.zeros(windows.shape[1], int)
        kinds[SITE] = [1] * 20 + [2] * 3
        y = tables["ot_embedding"][triples(windows)] + tables["token_type_emb.token_type_emb"][kinds]
        y = y + tables["strand_embedding.strand_emb"][strands][:, None]
        y = self.ot_positional_encoding(y + tables["ot_positional_encoding.position_embeddings"])
        for i in range(LAYERS):
            x, y = self.self_attention[i](x), self.self_ot_attention[i](y)
            before, site = x, y[:, SITE]
            x = self.cross_attention1[i](x, site)
            if i < LAYERS - 1:
                y[:, SITE] = self.cross_attention2[i](site, before)
        return self.out_proj[1](np.tanh(self.out_proj[0](x[:, 0])))[:, 0]


def triples(letters):
    """Each letter with its neighbours, as one of 125 tokens."""
    around = np.pad(letters, ((0, 0), (1, 1)))
    return around[:, :-2] + 5 * around[:, 1:-1] + 25 * around[:, 2:]


# %%
# The weights are a compressed pickle, read so that nothing in it is run. Names are those of torch's modules; a few
# are changed to the ones that pyattn's layers have.

folder = package_files("criscross==0.1.8") / "criscross"
packed = (folder / "_weights/criscross_seqonly_finetuned.fp16.pt.zst").read_bytes()
file = io.BytesIO(zstandard.ZstdDecompressor().decompress(packed))
with torch.serialization.safe_globals([torch.torch_version.TorchVersion]):  # a string, in its notes
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
tables, parameters = {}, {}
for name, tensor in stored.items():
    for theirs, ours in {".mlp.0": ".linear1", ".mlp.3": ".linear2", "out_proj.3": "out_proj.1"}.items():
        name = name.replace(theirs, ours)
    for embedding in ("_embedding.", "_embeddings.", "_emb."):
        if embedding in name:
            tables[name.removesuffix(".weight")] = tensor.float().numpy()
    parameters[name.replace("positional_encoding.norm.", "positional_encoding.")] = tensor
model = Guides(tables)
model.load_state_dict(parameters, strict=False)
count = sum(x.size for x in model.state_dict().values()) + sum(x.size for x in tables.values())
print(f"{count / 1e6:.0f} million parameters")

# %%
# The package brings five places in the human genome that resemble one guide, in none of which a cut was seen:


def encoded(sequence):
    return np.array(["NACGT".index(letter) for letter in sequence])


def probability(logits):
    return 1 / (1 + np.exp(-logits))


with (folder / "data/sample_input.csv").open() as lines:
    rows = list(csv.DictReader(lines))
guide = encoded(rows[0]["Guide_sequence"])
windows = np.array([encoded(row["off_target_512nt"]) for row in rows])
strands = np.array([int(row["strand_id"]) for row in rows])
told = probability(model(np.tile(guide, (len(rows), 1)), windows, strands))
print(f"guide {rows[0]['Guide_sequence']}")
for window, row, p in zip(windows, rows, told, strict=True):
    print(f"place {row['off_target_512nt'][SITE]}  {(window[SITE] != guide).sum()} letters differ, probability {p:.3f}")

# %%
# How many letters may differ
# ---------------------------
# There are no cuts among these examples, so one is made: the guide's own letters are put into the first window, and
# then some of the 20 before the last three are changed at random.

rng = np.random.default_rng(0)


def changed(count, n):
    """(n, 23) sites with `count` letters that differ from the guide's, and where these are (n, 20)."""
    places = rng.permuted(np.tile(np.arange(20) < count, (n, 1)), axis=1)
    other = (guide[:20] - 1 + rng.integers(1, 4, places.shape)) % 4 + 1
    sites = np.tile(guide, (n, 1))
    sites[:, :20] = np.where(places, other, guide[:20])
    return sites, places


def judged(sites):
    window = np.tile(windows[0], (len(sites), 1))
    window[:, SITE] = sites
    batches = [slice(i, i + 20) for i in range(0, len(sites), 20)]
    return np.concatenate(
        [model(np.tile(guide, (len(window[x]), 1)), window[x], strands[[0] * len(window[x])]) for x in batches]
    )


for count in range(7):
    p = probability(judged(changed(count, 8)[0]))
    print(f"{count} letters differ: mean probability {p.mean():.3f}, from {p.min():.3f} to {p.max():.3f}")

# %%
# Counting decides most: up to two, the answer is yes, at six it is no. Between them it matters where they are. Of
# many sites that differ in three letters, here is the mean logit of those that differ at each place, beside all.

sites, places = changed(3, 120)
logits = judged(sites)
means = [logits[places[:, i]].mean() for i in range(20)]
figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.bar(np.arange(20), np.array(means) - logits.mean(), color="tab:blue")
ax.axhline(0, color="black", linewidth=0.8)
ax.set_xticks(range(20), rows[0]["Guide_sequence"][:20])
ax.set(xlabel="the letter of the guide that differs; NGG follows at the right", ylabel="mean logit minus that of all")

near, far = (logits[places[:, part].sum(axis=1) >= 2].mean() for part in (slice(10, 20), slice(0, 10)))
print(f"two or three of three in the half next to NGG: mean logit {near:.1f}; in the other half: {far:.1f}")

# %%
# The half next to NGG matters more, which experiments with Cas9 have long found: it reads from there. The last four
# letters should then matter most, and here they do not. This is what the model holds to be true, not what Cas9 does.
#
# Where the guide looks
# ---------------------
# Here is the first attention from the guide to the site, in all four heads; rows are the guide's letters, below the
# token that will answer.

with pyattn.explain.watch(model, lambda name: "cross_attention1" in name) as seen:
    judged(sites[:1])
names = ["answer", *rows[0]["Guide_sequence"]]
letters = ["NACGT"[letter] for letter in sites[0]]
figure = plt.figure(figsize=(9, 8.5))
pyattn.explain.plot_heads(seen[0].weights(), names, letters, columns=2, figure=figure)
for layer, attended in enumerate(seen):
    weights = attended.weights()[:, 1:]
    near = [np.mean([head[i, max(0, i - 1) : i + 2].sum() for i in range(23)]) for head in weights]
    print(f"layer {layer}: weight on the same letter and its neighbours:", *(f"{share:.2f}" for share in near))

# %%
# Nobody told the model that the first letter of the guide meets the first of the site: it learned to lay the two
# beside each other, and does so in its first layer. In the last, nothing of that is left: 0.13 is what even weights
# would give. The picture of the last layer alone would have said that letters are not compared. And even the diagonal
# says only what is compared; what comes of it, the bars above say, which needed no look inside.

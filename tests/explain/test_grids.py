"""Grids of weights: what is drawn is what was given, or what the layers' own weights sum to."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

import pyattn
from pyattn import explain
from tests.support.problems import normal

figure_module = pytest.importorskip("matplotlib.figure")

HEADS, WIDTH = 4, 32


def weights_of(heads, queries, keys, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(keys), (heads, queries))


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def drawn(figure):
    """Panels with an image, without the bar that explains colours; layout and labels are computed by drawing."""
    figure.draw_without_rendering()
    return [axes for axes in figure.axes if axes.images]


def watched(length, layers=3, batch=1):
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, rng=0), layers)
    with explain.watch(encoder) as seen:
        encoder(normal((batch, length, WIDTH), np.float32))
    return seen


# --- the heads of a layer


def test_heads_are_drawn_as_they_are_on_one_scale():
    weights = weights_of(6, 5, 5)
    weights[2] = np.eye(5)
    figure = explain.plot_heads(weights, list("abcde"))
    panels = drawn(figure)
    assert [axes.get_title() for axes in panels] == [f"head {i}" for i in range(6)]
    for axes, head in zip(panels, weights, strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), head)
        assert image.get_clim() == (0, 1) and image.get_cmap().name == "viridis" and image.origin == "upper"
    assert figure.axes[-1].get_ylabel() == "weight"


def test_labels_stand_at_the_margin_alone():
    panels = drawn(explain.plot_heads(weights_of(5, 3, 4), ["one", "two", "three"], list("abcd"), columns=2))
    for i, axes in enumerate(panels):
        assert labels_of(axes.yaxis) == (["one", "two", "three"] if i in (0, 2, 4) else [])
        assert labels_of(axes.xaxis) == (list("abcd") if i in (3, 4) else [])  # 3 has no panel below it
    assert panels[4].get_position().y1 < panels[2].get_position().y0


@pytest.mark.parametrize(("heads", "columns"), [(1, 1), (2, 2), (3, 3), (6, 3), (7, 3), (8, 4), (12, 4), (32, 8)])
def test_columns(heads, columns):
    panels = drawn(explain.plot_heads(weights_of(heads, 2, 2)))
    assert len(panels) == heads
    assert len({round(axes.get_position().x0, 6) for axes in panels}) == columns


def test_of_many_tokens_some_are_named():
    tokens = [f"t{i}" for i in range(600)]
    panel = drawn(explain.plot_heads(weights_of(1, 600, 600), tokens))[0]
    shown = [int(name[1:]) for name in labels_of(panel.xaxis)]
    assert shown[0] == 0 and 10 < len(shown) < 120 and len({*np.diff(shown)}) == 1
    np.testing.assert_array_equal(panel.get_xticks(), shown)
    boxes = [label.get_window_extent() for label in panel.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))


def test_all_of_a_sentence_is_named():
    tokens = ["the", "animal", "did", "not", "cross", "the", "street", "because", "it", "was", "too", "tired"]
    panel = drawn(explain.plot_heads(weights_of(12, len(tokens), len(tokens)), tokens))[8]
    for axis in (panel.xaxis, panel.yaxis):
        assert labels_of(axis) == tokens
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_tokens_are_no_markup_and_stand_on_a_line():
    tokens = ["$a$", "b\nc", "x" * 90, r"\frac"]
    panel = drawn(explain.plot_heads(weights_of(1, 4, 4), tokens, titles=["$x"]))[0]
    assert labels_of(panel.yaxis) == ["$a$", r"b\nc", "x" * 23 + "…", r"\frac"]
    assert not any(label.get_parse_math() for label in [*panel.get_xticklabels(), panel.title])


def test_long_matrices_fill_their_panels():
    flat, square = (
        drawn(explain.plot_heads(weights_of(1, 2, 300)))[0],
        drawn(explain.plot_heads(weights_of(1, 2, 5)))[0],
    )
    assert flat.get_aspect() == "auto" and square.get_aspect() == 1


def test_sums_and_other_types_are_drawn():
    told = watched(100)[0].statistics(pooled=(5, 6))
    panel = drawn(explain.plot_heads(told.pooled.astype(np.float16)))[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), told.pooled[0].astype(np.float16))
    assert panel.images[0].get_clim()[1] > 1
    assert drawn(explain.plot_heads(np.zeros((1, 2, 2), int)))[0].images[0].get_clim() == (0, 1)


def test_a_figure_that_is_given():
    figure = figure_module.Figure(layout="constrained")
    left, right = figure.subfigures(1, 2)
    assert explain.plot_heads(weights_of(2, 3, 3), figure=left) is figure
    assert explain.plot_layers(watched(5), figure=right) is figure
    assert [len(part.axes) for part in (left, right)] == [3, 2]
    own = figure_module.Figure()
    assert explain.plot_heads(weights_of(2, 3, 3), figure=own) is own


# --- all layers


def test_layers_are_shares_of_attention():
    seen = watched(23, batch=2)
    figure = explain.plot_layers(seen, 1, pooled=(4, 5))
    (axes,) = drawn(figure)
    assert len(axes.images) == 3 * HEADS
    rows, columns = (np.arange(n + 1) * 23 // n for n in (4, 5))
    for i, attended in enumerate(seen):
        weights = attended.weights(1)
        for head in range(HEADS):
            image = axes.images[i * HEADS + head]
            sums = np.add.reduceat(np.add.reduceat(weights[head], rows[:-1], 0), columns[:-1], 1)
            np.testing.assert_allclose(image.get_array(), sums / np.diff(rows)[:, None], rtol=1e-5)
            left, right, bottom, top = image.get_extent()
            assert head < left < right < head + 1 and i < top < bottom < i + 1
    assert labels_of(axes.xaxis) == ["0", "1", "2", "3"]
    assert labels_of(axes.yaxis) == ["layers.0", "layers.1", "layers.2"]
    assert {image.norm for image in axes.images} == {axes.images[0].norm}
    assert axes.images[0].norm.vmax == max(image.get_array().max() for image in axes.images)


def test_short_texts_have_a_block_for_each_token():
    seen = watched(5)
    image = drawn(explain.plot_layers(seen))[0].images[HEADS]
    np.testing.assert_allclose(image.get_array(), seen[1].weights()[0], rtol=1e-5)


@pytest.mark.parametrize("length", [33, 48, 63, 96])
def test_even_attention_has_no_stripes(length):
    """All blocks are of one size, but for one with a token less where the length is odd."""
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, rng=0), 1)
    with explain.watch(encoder) as seen:
        encoder(np.ones((1, length, WIDTH), np.float32))
    image = drawn(explain.plot_layers(seen))[0].images[0].get_array()
    assert 16 < len(image) <= 32
    assert (image < 0.99 * image.max()).any(axis=0).sum() <= length % 2


def test_chosen_heads_stand_in_that_order():
    seen = watched(6)
    (axes,) = drawn(explain.plot_layers(seen, heads=[2, 0]))
    assert len(axes.images) == 6 and labels_of(axes.xaxis) == ["2", "0"]
    np.testing.assert_allclose(axes.images[0].get_array(), seen[0].weights()[2], rtol=1e-5)


def test_layers_of_a_decoder_keep_what_tells_them_apart():
    decoder = pyattn.TransformerDecoder(pyattn.TransformerDecoderLayer(WIDTH, HEADS, 64, rng=0), 2)
    with explain.watch(decoder) as seen:
        decoder(normal((1, 5, WIDTH), np.float32), memory=normal((1, 40, WIDTH), np.float32, 1))
    (axes,) = drawn(explain.plot_layers(seen))
    names = ["layers.0.self_attn", "layers.0.multihead_attn", "layers.1.self_attn", "layers.1.multihead_attn"]
    assert labels_of(axes.yaxis) == names
    assert axes.images[HEADS].get_array().shape == (5, 20)
    (axes,) = drawn(explain.plot_layers(seen[:1]))
    assert labels_of(axes.yaxis) == names[:1]
    (axes,) = drawn(explain.plot_layers([seen[0], seen[2], seen[0]]))
    assert labels_of(axes.yaxis) == ["0: layers.0", "1: layers.1", "2: layers.0"]


def test_a_long_text_needs_little_memory():
    """3 layers of 4 heads of 4,000 x 4,000 weights would have 768 MB."""
    seen = watched(4_000)
    tracemalloc.start()
    explain.plot_layers(seen, pooled=(8, 8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((np.ones((2, 2)),), {}, ValueError, r"weights has shape \(2, 2\); accepted: \(H, L, S\), none of them 0"),
        ((np.ones((1, 0, 2)),), {}, ValueError, r"weights has shape \(1, 0, 2\)"),
        ((np.ones((1, 2, 2), complex),), {}, TypeError, "weights has dtype complex128; real numbers are needed"),
        (([[[0.5, -1]]],), {}, ValueError, r"weights must be finite numbers from 0, not -1.0 \(at index 0, 0, 1\)"),
        (([[[0.5, np.nan]]],), {}, ValueError, "weights must be finite numbers from 0, not nan"),
        (([[[0.5, np.inf]]],), {}, ValueError, "weights must be finite numbers from 0, not inf"),
        ((weights_of(1, 2, 2), ["a"]), {}, ValueError, "there are 1 tokens, and 2 queries"),
        ((weights_of(1, 2, 3), None, ["a"]), {}, ValueError, "there are 1 key_tokens, and 3 keys"),
        ((weights_of(1, 2, 2), "ab"), {}, TypeError, "tokens must be a list of strings, not str"),
        ((weights_of(1, 2, 2), [1, 2]), {}, TypeError, "tokens must be strings, not int"),
        ((weights_of(2, 2, 2),), {"titles": ["a"]}, ValueError, "there are 1 titles, and 2 heads"),
        ((weights_of(2, 2, 2),), {"columns": 0}, ValueError, "columns must be a positive integer, not 0"),
        ((weights_of(2, 2, 2),), {"columns": 1.5}, TypeError, "columns must be a positive integer"),
        ((weights_of(2, 2, 2),), {"figure": "x"}, TypeError, "figure must be a Figure or SubFigure .*, not str"),
    ],
)
def test_what_heads_refuse(arguments, options, error, words):
    with pytest.raises(error, match=f"^plot_heads: {words}"):
        explain.plot_heads(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"seen": []}, ValueError, "plot_layers: seen has no layers"),
        ({"seen": ["x"]}, TypeError, "plot_layers: seen must be what pyattn.explain.watch gives"),
        ({"sequence": 1}, ValueError, "Attended: sequence must be from 0 to 0, not 1"),
        ({"pooled": (0, 4)}, ValueError, r"plot_layers: pooled must be \(1 to 1024 \(blocks of queries\)"),
        ({"pooled": 4}, TypeError, "plot_layers: pooled must be"),
        ({"heads": [4]}, ValueError, r"plot_layers: heads must be in \[0, 4\)"),
        ({"heads": []}, TypeError, "plot_layers: heads"),
        ({"heads": [[0]]}, ValueError, r"plot_layers: heads has shape \(1, 1\)"),
        ({"figure": 1}, TypeError, "plot_layers: figure must be a Figure or SubFigure of matplotlib, not int"),
    ],
)
def test_what_layers_refuse(options, error, words):
    with pytest.raises(error, match=f"^{words}"):
        explain.plot_layers(**{"seen": watched(3), **options})


def test_an_empty_sequence_is_named():
    encoder = pyattn.TransformerEncoder(pyattn.TransformerEncoderLayer(WIDTH, HEADS, 64, rng=0), 1)
    with explain.watch(encoder) as seen:
        encoder(normal((2, 3, WIDTH), np.float32), key_mask=np.array([[1, 1, 1], [0, 0, 0]], bool))
    assert len(drawn(explain.plot_layers(seen, 0))) == 1
    with pytest.raises(ValueError, match=r"plot_layers: sequence 1 is empty in layers\.0\.self_attn"):
        explain.plot_layers(seen, 1)

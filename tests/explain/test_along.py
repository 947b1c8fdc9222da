"""Statistics along a document: each number is where it belongs, in blocks where there are many."""

from itertools import pairwise

import numpy as np
import pytest

import pyattn
from pyattn import explain

annotation = pytest.importorskip("matplotlib.text").Annotation


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def told_of(length=40, heads=3, seed=0, **options):
    query, key = np.random.default_rng(seed).standard_normal((2, heads, length, 16))
    return pyattn.attention_statistics(3 * query, key, **{"entropy": True, "received": True, **options})


def test_all_heads_along_a_document():
    told = told_of()
    ax = explain.plot_along(told)
    (breadth,) = ax.child_axes
    for panel, values in ((ax, told.received), (breadth, told.entropy)):
        np.testing.assert_allclose(panel.lines[0].get_xydata(), np.column_stack([np.arange(40), values.mean(axis=0)]))
        path = panel.collections[0].get_paths()[0].vertices
        for i in range(40):
            band = path[path[:, 0] == i][:, 1]
            assert (band.min(), band.max()) == pytest.approx((values[:, i].min(), values[:, i].max()))
    assert ax.get_yscale() == "log" and breadth.get_yscale() == "linear"
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 1)
    np.testing.assert_allclose(breadth.lines[1].get_ydata(), np.log(40))
    assert ax.get_title(loc="left") == "line: the mean over 3 heads; band: from the lowest to the highest"
    low, high = ax.get_ylim()
    assert low < told.received.min() and told.received.max() < high


def test_one_head_along_a_document():
    told = told_of()
    ax = explain.plot_along(told, head=2)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), told.received[2])
    np.testing.assert_allclose(ax.child_axes[0].lines[0].get_ydata(), told.entropy[2])
    assert ax.get_title(loc="left") == ""


def test_long_documents_are_drawn_in_blocks():
    told = told_of(1500, heads=1)
    ax = explain.plot_along(told)
    starts = np.arange(501) * 3
    blocks = [told.received[0, first:end] for first, end in pairwise(starts)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [block.mean() for block in blocks])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), (starts[:-1] + starts[1:] - 1) / 2)
    path = ax.collections[0].get_paths()[0].vertices
    assert path[:, 1].max() == told.received.max()
    assert "neighbours, 500 blocks of them" in ax.get_title(loc="left")


def test_the_keys_that_receive_most_are_named():
    told = told_of(300)
    tokens = [f"t{i}" for i in range(300)]
    ax = explain.plot_along(told, tokens=tokens)
    mean = told.received.mean(axis=0)
    named = [text for text in ax.texts if isinstance(text, annotation)]
    places = [int(text.xy[0]) for text in named]
    assert len(named) == 5 and [text.get_text() for text in named] == [tokens[i] for i in places]
    assert places[0] == mean.argmax() and np.diff(sorted(places)).min() >= 300 / 12
    np.testing.assert_allclose([text.xy[1] for text in named], mean[places])


def test_tokens_of_a_short_document_are_all_named():
    tokens = [f"t{i}" for i in range(40)]
    ax = explain.plot_along(told_of(), tokens=tokens)
    ax.figure.draw_without_rendering()
    assert labels_of(ax.child_axes[0].xaxis) == tokens
    assert not any(isinstance(text, annotation) for text in ax.texts)


def test_what_nobody_attends_to():
    told = told_of(query_range=(0, 0))
    ax = explain.plot_along(told)
    ax.figure.draw_without_rendering()
    assert ax.get_ylim() == (0.1, 10)
    one = pyattn.attention_statistics(np.ones((1, 1, 4)), np.ones((1, 1, 4)), entropy=True, received=True)
    explain.plot_along(one).figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("told", "options", "error", "words"),
    [
        (3, {}, TypeError, "statistics must be what attention_statistics returns, not int"),
        (told_of(entropy=False), {}, ValueError, "statistics lack entropy, which"),
        (told_of(entropy=False, received=False), {}, ValueError, "statistics lack received and entropy, which"),
        (told_of(), {"head": 3}, ValueError, "head must be an integer from 0 to 2, not 3"),
        (told_of(), {"tokens": ["a"]}, ValueError, "there are 1 tokens, and 40 keys"),
    ],
)
def test_what_is_refused(told, options, error, words):
    with pytest.raises(error, match=f"^plot_along: {words}"):
        explain.plot_along(told, **options)


def test_statistics_of_several_sequences_or_of_other_keys_are_refused():
    query, key = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 8))
    several = pyattn.attention_statistics(query, key, entropy=True, received=True)
    with pytest.raises(ValueError, match=r"plot_along: statistics.received has shape \(2, 3, 4\); accepted: \(H, n\)"):
        explain.plot_along(several)
    crossed = pyattn.attention_statistics(query[0, :, :1], key[0], entropy=True, received=True)
    with pytest.raises(ValueError, match="plot_along: statistics are of 1 queries and 4 keys"):
        explain.plot_along(crossed)

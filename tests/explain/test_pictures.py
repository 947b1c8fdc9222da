"""Pictures of weights beside a text, an image, a sound: what is drawn, and where; what all pictures have in common."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import pyattn
from pyattn import explain

figure_module = pytest.importorskip("matplotlib.figure")


def weights_of(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1])


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def segments_of(lines):
    return [path.vertices for path in lines.get_paths()]


def new_axes():
    return figure_module.Figure(layout="constrained").subplots()


# --- lines


def test_lines_are_as_strong_as_weights():
    weights = np.array([[0.04, 0.9, 0.06], [0.0, 0.0, 1.0]])
    ax = explain.plot_lines(weights, ["a", "b"], ["x", "y", "z"])
    (lines,) = ax.collections
    ys = dict(zip(labels_of(ax.yaxis), ax.get_yticks(), strict=True))
    ys |= dict(zip(labels_of(ax.child_axes[0].yaxis), ax.child_axes[0].get_yticks(), strict=True))
    ends = [((0, ys[query]), (1, ys[key])) for query, key in (("a", "z"), ("a", "y"), ("b", "z"))]  # the strongest last
    np.testing.assert_allclose(segments_of(lines), ends)
    strengths = np.array([0.06, 0.9, 1.0])
    np.testing.assert_allclose(lines.get_linewidth(), 0.5 + 3.5 * strengths)
    np.testing.assert_allclose(lines.get_edgecolor()[:, 3], 0.15 + 0.85 * strengths)
    assert {*map(tuple, lines.get_edgecolor()[:, :3])} == {(0.0, 0x72 / 255, 0xB2 / 255)}


def test_the_first_token_is_at_the_top_on_both_sides():
    ax = explain.plot_lines(weights_of(4, 4), list("abcd"))
    ax.figure.draw_without_rendering()
    for axis in (ax, ax.child_axes[0]):
        assert labels_of(axis.yaxis) == list("abcd")
        tops = [label.get_window_extent().y0 for label in axis.get_yticklabels()]
        assert tops == sorted(tops, reverse=True)
    lefts, rights = (axis.get_yticklabels()[0].get_window_extent() for axis in (ax, ax.child_axes[0]))
    assert lefts.x1 <= ax.bbox.x0 < ax.bbox.x1 <= rights.x0 and lefts.y0 == pytest.approx(rights.y0)


def test_least_leaves_out_what_is_weaker():
    weights = np.array([[0.25, 0.75], [0.0, 1.0]])
    for least, count in ((0, 3), (0.25, 3), (0.3, 2), (1, 1)):
        ax = explain.plot_lines(weights, ["a", "b"], least=least)
        assert len(segments_of(ax.collections[0])) == count


def test_of_many_tokens_some_are_named_on_both_sides():
    tokens = [f"t{i}" for i in range(500)]
    ax = explain.plot_lines(np.eye(500), tokens)
    ax.figure.draw_without_rendering()
    names = labels_of(ax.yaxis)
    assert 20 < len(names) < 250 and names == labels_of(ax.child_axes[0].yaxis)
    assert len(segments_of(ax.collections[0])) == 500


def test_computed_weights_may_pass_1_by_rounding():
    ax = explain.plot_lines(np.full((1, 1), 1.0000002, np.float32), ["a"])
    np.testing.assert_array_equal(ax.collections[0].get_linewidth(), 4)


# --- images


def test_heat_lies_over_the_whole_image():
    image, values = np.random.default_rng(0).random((28, 42, 3)), np.array([[0.0, 1, 2], [4, 3, 0]])
    ax = explain.plot_heat(image, values, alpha=0.6, label="share")
    under, heat = ax.images
    np.testing.assert_array_equal(under.get_array(), image)
    np.testing.assert_array_equal(heat.get_array(), values)
    assert [*under.get_extent()] == [*heat.get_extent()] == [-0.5, 41.5, 27.5, -0.5]
    np.testing.assert_allclose(heat.get_alpha(), 0.6 * values / 4)
    assert heat.get_clim() == (0, 4) and heat.get_zorder() >= under.get_zorder()
    assert ax.figure.axes[1].get_ylabel() == "share"


def test_patches_are_where_they_are():
    """Pixels of the picture: the one hot patch is yellow, all else is the black image."""
    figure = figure_module.Figure((4, 2), dpi=50)
    ax = explain.plot_heat(np.zeros((20, 40, 3)), [[0, 0, 0, 0], [0, 0, 1, 0]], alpha=1, ax=figure.subplots())
    figure.axes[1].remove()
    ax.set_position((0, 0, 1, 1))
    canvas = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    red, green, blue, _ = np.moveaxis(np.asarray(canvas.buffer_rgba()), -1, 0)
    rows, columns = np.nonzero((red > 200) & (green > 200) & (blue < 100))
    assert (rows.min(), rows.max()) == pytest.approx((50, 99), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((100, 149), abs=2)


@pytest.mark.parametrize(("number", "dtype", "share"), [(255, "uint8", 1), (51, "int64", 0.2), (0.2, "float16", 0.2)])
def test_colours_are_integers_to_255_or_numbers_to_1(number, dtype, share):
    under = explain.plot_heat(np.full((4, 6, 3), number, dtype), [[1.0]]).images[0]
    np.testing.assert_allclose(under.get_array(), share, rtol=1e-3)


def test_grey_images_have_any_units_and_values_any_sign():
    image, values = np.array([[-900.0, 3], [5, 7]]), np.array([[-1.0, 0, 3]])
    under, heat = explain.plot_heat(image, values).images
    assert under.get_cmap().name == "gray" and under.get_clim() == (-900, 7)
    assert heat.get_clim() == (-1, 3)
    np.testing.assert_allclose(heat.get_alpha(), [[0, 0.2, 0.8]])


def test_equal_values():
    for value, alpha in ((0, 0), (0.5, 0.8), (-2, 0)):
        ax = explain.plot_heat(np.zeros((2, 2)), np.full((2, 2), value))
        ax.figure.draw_without_rendering()
        np.testing.assert_array_equal(ax.images[1].get_alpha(), alpha)


# --- sounds


def test_an_alignment_stands_over_its_spectrogram_at_one_scale_of_time():
    spectrogram, weights = np.random.default_rng(0).standard_normal((8, 40)), weights_of(3, 20)
    ax = explain.plot_alignment(spectrogram, weights, ["go", "for", "ward"], seconds=2)
    ax.figure.draw_without_rendering()
    (sound,) = ax.child_axes
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    np.testing.assert_array_equal(sound.images[0].get_array(), spectrogram)
    assert [*ax.images[0].get_extent()] == [0, 2, 2.5, -0.5] and [*sound.images[0].get_extent()] == [0, 2, 0, 8]
    assert ax.get_xlim() == sound.get_xlim() == (0, 2)
    assert (ax.bbox.x0, ax.bbox.x1) == pytest.approx((sound.bbox.x0, sound.bbox.x1))
    assert sound.bbox.y1 == pytest.approx(ax.bbox.y0) and sound.bbox.height < ax.bbox.height
    assert labels_of(ax.yaxis) == ["go", "for", "ward"] and sound.get_xlabel() == "seconds"
    assert sound.images[0].origin == "lower"  # low bins are low tones


def test_each_peak_is_marked_twice():
    weights = np.array([[0.1, 0.6, 0.1, 0.2], [0.0, 0.1, 0.1, 0.8]])
    ax = explain.plot_alignment(np.zeros((5, 8)), weights, ["a", "b"])
    (dots,) = ax.lines
    np.testing.assert_array_equal(dots.get_xydata(), [[3, 0], [7, 1]])  # the middle of 2 of 8 frames
    (lines,) = ax.child_axes[0].collections
    np.testing.assert_array_equal([x[:, 0] for x in segments_of(lines)], [[3, 3], [7, 7]])
    assert ax.child_axes[0].get_xlabel() == "frame"


# --- all of them


LINES = (weights_of(2, 2), ["a", "b"])
HEAT = (np.zeros((2, 2)), np.ones((1, 1)))
SOUND = (np.zeros((2, 4)), *LINES)
STATISTICS = pyattn.attention_statistics(*np.ones((2, 1, 3, 4)), entropy=True, received=True)
PICTURES = {"plot_lines": LINES, "plot_heat": HEAT, "plot_alignment": SOUND, "plot_along": (STATISTICS,)}


@pytest.mark.parametrize("name", PICTURES)
def test_axes_are_those_that_are_given_or_new(name):
    plot, arguments, ax = getattr(explain, name), PICTURES[name], new_axes()
    assert plot(*arguments, ax=ax) is ax and ax.has_data()
    one, other = plot(*arguments), plot(*arguments)
    assert one.figure is not other.figure and one.figure.axes[0] is one
    with pytest.raises(TypeError, match=f"^{name}: ax must be Axes of matplotlib, not str"):
        plot(*arguments, ax="x")


def test_what_stands_below_keeps_to_the_room_of_its_axes():
    figure = figure_module.Figure((6, 6))
    above, under = figure.subplots(2)
    room = above.get_position().bounds
    explain.plot_alignment(*SOUND, ax=above)
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in (above, above.child_axes[0])]
    assert max(box.y1 for box in boxes) == pytest.approx(room[1] + room[3])
    assert min(box.y0 for box in boxes) == pytest.approx(room[1]) and room[1] > under.get_position().y1


def test_a_new_figure_is_shown_by_notebooks_and_pickled():
    figure = explain.plot_alignment(*SOUND).figure
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(pickle.loads(pickle.dumps(figure)).axes) == len(figure.axes)


def test_neither_matplotlib_nor_pyplot_is_imported_before_it_is_needed():
    code = """if True:
        import sys, numpy as np, pyattn.explain
        assert "matplotlib" not in sys.modules
        pyattn.explain.plot_heads(np.ones((1, 2, 2))).savefig(sys.stdout.buffer, format="png")
        assert "matplotlib.pyplot" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "arguments", "options", "error", "words"),
    [
        (
            "plot_lines",
            (weights_of(1, 2, 2), ["a", "b"]),
            {},
            ValueError,
            r"weights has shape \(1, 2, 2\); .* \(L, S\)",
        ),
        (
            "plot_lines",
            ([[0.5, 1.1]], ["a"], ["b", "c"]),
            {},
            ValueError,
            "weights must be .* from 0 to 1.001, not 1.1",
        ),
        ("plot_lines", (weights_of(2, 3), ["a", "b"]), {}, ValueError, "there are 2 tokens, and 3 keys; key_tokens"),
        ("plot_lines", (weights_of(2, 3), ["a"], list("xyz")), {}, ValueError, "there are 1 tokens, and 2 queries"),
        ("plot_lines", LINES, {"least": 2}, ValueError, "least must be from 0 to 1, not 2"),
        ("plot_lines", LINES, {"least": "x"}, TypeError, "least must be a real number, not str"),
        ("plot_heat", (np.zeros((2, 2, 4)), [[1]]), {}, ValueError, r"image has shape \(2, 2, 4\); .* and \(h, w, 3\)"),
        ("plot_heat", (np.full((2, 2, 3), 2.5), [[1]]), {}, ValueError, "image must be .* from 0 to 1, not 2.5"),
        ("plot_heat", (np.full((2, 2, 3), 256), [[1]]), {}, ValueError, "image must be .* from 0 to 255, not 256"),
        ("plot_heat", ([[np.nan]], [[1]]), {}, ValueError, "image must be finite numbers, not nan"),
        ("plot_heat", (np.zeros((2, 2)), [1, 2]), {}, ValueError, r"values has shape \(2,\); .* \(rows, columns\)"),
        ("plot_heat", HEAT, {"alpha": 1.5}, ValueError, "alpha must be from 0 to 1, not 1.5"),
        ("plot_heat", HEAT, {"label": 3}, TypeError, "label must be a string, not int"),
        ("plot_alignment", (np.zeros(4), *SOUND[1:]), {}, ValueError, r"spectrogram has shape \(4,\); .*\(bins, "),
        ("plot_alignment", (SOUND[0], [0.5], ["a"]), {}, ValueError, r"weights has shape \(1,\); .*\(tokens, "),
        ("plot_alignment", (*SOUND[:2], ["a"]), {}, ValueError, "there are 1 tokens, and 2 rows of weights"),
        ("plot_alignment", SOUND, {"seconds": 0}, ValueError, "seconds must be positive and finite, not 0"),
    ],
)
def test_what_is_refused(name, arguments, options, error, words):
    ax = new_axes()
    with pytest.raises(error, match=f"^{name}: {words}"):
        getattr(explain, name)(*arguments, **options, ax=ax)
    assert not (ax.images or ax.lines or ax.collections or ax.child_axes)  # nothing is drawn before


@pytest.mark.parametrize(("name", "arguments"), [("plot_heads", (weights_of(1, 2, 2),)), *PICTURES.items()])
def test_a_missing_matplotlib_is_named(name, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf'^{name} needs the package matplotlib: pip install "pyattn\[plot\]"'):
        getattr(explain, name)(*arguments)

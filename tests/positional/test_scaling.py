import numpy as np
import pytest

from pyattn import rotary_tables
from pyattn.positional import rotary_frequencies
from tests.support.recorded_positions import ROTARY, TENSORS

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}


def options(case):
    return {name: case[name] for name in ("base", "scaling", "sequence_length")}


@pytest.mark.parametrize("number", range(len(ROTARY)))
def test_frequencies_are_those_of_transformers(number):
    frequencies, factor = rotary_frequencies(16, **options(ROTARY[number]))
    assert frequencies.dtype == np.float64
    np.testing.assert_allclose(frequencies, TENSORS[f"rotary.{number}"], rtol=1e-6)
    assert factor == pytest.approx(ROTARY[number]["factor"], rel=1e-12)


def test_every_type_was_recorded_at_several_lengths():
    lengths = {}
    for case in ROTARY:
        lengths.setdefault(case["scaling"]["rope_type"], set()).add(case["sequence_length"])
    assert lengths.keys() == {"linear", "dynamic", "yarn", "llama3", "longrope"}
    assert len(lengths["dynamic"]) == len(lengths["longrope"]) == 4


def test_tables_are_of_these_frequencies():
    for case in ROTARY:
        frequencies, factor = rotary_frequencies(16, **options(case))
        cosines, sines = rotary_tables(5, 16, offset=7, dtype=np.float64, **options(case))
        angles = np.arange(7, 12)[:, None] * frequencies
        np.testing.assert_allclose(cosines, factor * np.cos(angles), atol=1e-15)
        np.testing.assert_allclose(sines, factor * np.sin(angles), atol=1e-15)


def test_tables_know_their_sequence():
    scaling = {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 10}
    short, long = rotary_tables(10, 4, scaling=scaling), rotary_tables(30, 4, scaling=scaling)
    np.testing.assert_array_equal(short, rotary_tables(10, 4))
    assert abs(long[1][:10] - short[1]).max() > 1e-3
    np.testing.assert_array_equal(rotary_tables(10, 4, scaling=scaling, sequence_length=30), np.array(long)[:, :10])
    np.testing.assert_array_equal(rotary_tables(3, 4, scaling=scaling, offset=27), np.array(long)[:, 27:])


def test_what_may_be_left_out():
    for scaling in (None, {}, {"rope_type": "default", "rope_theta": 10000.0}, {"type": "default", "factor": None}):
        np.testing.assert_allclose(rotary_frequencies(6, scaling=scaling)[0], 10000.0 ** (-np.arange(3) / 3))
    assert rotary_frequencies(0)[0].shape == (0,)
    dynamic = {"type": "dynamic", "factor": 2.0, "max_position_embeddings": 10}
    np.testing.assert_array_equal(rotary_frequencies(2, scaling=dynamic, sequence_length=90)[0], [1.0])
    ratio = {**YARN, "factor": None, "max_position_embeddings": 256}
    np.testing.assert_array_equal(rotary_frequencies(16, scaling=ratio)[0], rotary_frequencies(16, scaling=YARN)[0])


@pytest.mark.parametrize(
    ("scaling", "error", "message"),
    [
        ("linear", TypeError, "scaling must be a mapping or None, not str"),
        ({"rope_type": "fast"}, ValueError, "rope_type must be one of 'default', 'linear', .*, not 'fast'"),
        ({"type": "linear"}, ValueError, r"missing \['factor'\], unknown nothing"),
        ({"type": "linear", "factor": 0}, ValueError, "scaling's factor must be positive and finite, not 0"),
        ({"type": "linear", "factor": "2"}, TypeError, "scaling's factor must be positive and finite, not str"),
        ({"type": "linear", "factor": 2.0, "fast": 1}, ValueError, r"missing nothing, unknown \['fast'\]"),
        ({"type": "dynamic", "factor": 2.0}, ValueError, r"missing \['original_max_position_embeddings'\]"),
        ({**YARN, "rope_theta": 5.0}, ValueError, "scaling's rope_theta 5.0 must be base, 10000.0"),
        ({**YARN, "truncate": "no"}, TypeError, "scaling's truncate must be True or False"),
        ({**LLAMA}, ValueError, r"missing \['original_max_position_embeddings'\]"),
        (
            {**LLAMA, "low_freq_factor": 4, "original_max_position_embeddings": 9},
            ValueError,
            "low_freq_factor 4.0 must be below its high_freq_factor 4.0",
        ),
        (
            {"type": "longrope", "short_factor": [1, 2], "long_factor": [1], "original_max_position_embeddings": 9},
            ValueError,
            "scaling's short_factor must be width / 2 = 4 positive numbers",
        ),
    ],
)
def test_bad_scaling(scaling, error, message):
    for call in (rotary_frequencies, lambda width, scaling: rotary_tables(3, width, scaling=scaling)):
        with pytest.raises(error, match=message):
            call(8, scaling=scaling)


def test_yarn_needs_a_base_above_one():
    with pytest.raises(ValueError, match='^rotary_frequencies: base must be above 1 for "yarn", not 1.0'):
        rotary_frequencies(8, base=1, scaling=YARN)

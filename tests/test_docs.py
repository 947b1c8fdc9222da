"""The examples in docstrings run and give what they say."""

import doctest

import pytest

import pyattn
from pyattn import _info, activations, audio, cache, functional, generation, statistics
from pyattn.generation import options
from pyattn.layers import attention, decoder, encoder, linear, norm, transformer
from pyattn.positional import absolute, grid, relative, rotary, scaling
from pyattn.positional import attention as relative_attention

MODULES = [pyattn, _info, activations, audio, cache, functional, generation, options, statistics, attention, decoder]
MODULES += [encoder, linear, norm, transformer, absolute, grid, relative, rotary, scaling, relative_attention]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_every_public_name_has_a_docstring():
    for name in pyattn.__all__:
        thing = getattr(pyattn, name)
        assert thing.__doc__, name

"""The examples in docstrings run and give what they say."""

import doctest

import pytest

import pyattn
from pyattn import _info, activations, functional, positional, statistics
from pyattn.layers import attention, encoder, linear, norm

MODULES = [pyattn, _info, activations, functional, positional, statistics, attention, encoder, linear, norm]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_every_public_name_has_a_docstring():
    for name in pyattn.__all__:
        thing = getattr(pyattn, name)
        assert thing.__doc__, name

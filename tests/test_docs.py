"""The examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import pyattn

MODULES = [pyattn] + [
    importlib.import_module(found.name) for found in pkgutil.walk_packages(pyattn.__path__, "pyattn.")
]
EXAMPLES = [module for module in MODULES if any(test.examples for test in doctest.DocTestFinder().find(module))]


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda m: m.__name__)
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_every_public_name_has_a_docstring():
    for name in pyattn.__all__:
        thing = getattr(pyattn, name)
        assert thing.__doc__, name

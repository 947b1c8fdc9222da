"""Marks that several test modules give."""

import pytest

from pyattn._core import runtime

portable = pytest.mark.skipif(
    runtime.isa != runtime.isa_available[-1], reason="no instruction set changes it: runs under the best one alone"
)

"""What holds for all tests: a build of `make dev` runs those of float32 alone, and only where it is asked for."""

import os

import pytest

from pyattn._core import runtime

LEFT_OUT = "built by `make dev`"  # what a call says of a dtype that the build leaves out


def pytest_sessionstart():
    if runtime.float32_alone and not os.environ.get("PYATTN_DEV"):
        pytest.exit("pyattn was built by `make dev`: run `make t`, or `make test`, which builds all of it", 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    return (yield from skipping_what_was_left_out())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    return (yield from skipping_what_was_left_out())


def skipping_what_was_left_out():
    try:
        return (yield)
    except Exception as error:
        if runtime.float32_alone and any(LEFT_OUT in str(cause) for cause in chain(error)):
            pytest.skip("the build leaves out this dtype")
        raise


def chain(error):
    """An error, and those in whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
